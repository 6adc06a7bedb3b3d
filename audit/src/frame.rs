//! Frames on disk: `length u32 | crc32 u32 | nonce 12 | AES-256-GCM ciphertext | tag 16`, big-endian.
//!
//! A write that was interrupted leaves the beginning of a frame at the end of a file, or space without content; it was
//! never acknowledged. Everything else that is no whole frame is damage. It makes only itself unreadable: the next whole
//! frame is looked for at every byte, and no byte is cut away.

mod whole;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use openssl::rand::rand_bytes;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};

use crate::AuditError;

/// Bytes of one frame at most.
pub(crate) const LONGEST: usize = 64 << 20;
const HEAD: usize = 8;
const NONCE: usize = 12;
const TAG: usize = 16;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Unreadable.
    #[error("cannot read {0}: {1}")]
    Read(String, std::io::Error),
    /// Readable for others.
    #[error("{0} is readable for others: chmod 600")]
    Mode(String),
    /// Not 32 bytes in hex.
    #[error("{0} does not hold 32 bytes in hex")]
    Form(String),
}

/// A key of 32 bytes.
#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn load(path: &Path) -> Result<Self, KeyFileError> {
        let name = path.display().to_string();
        let read = |e| KeyFileError::Read(name.clone(), e);
        let mode = std::fs::metadata(path).map_err(read)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Mode(name));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let bytes = hex::decode(text.trim()).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
        bytes.map(Self).ok_or(KeyFileError::Form(name))
    }

    /// HMAC-SHA-256 under this key, hex.
    #[cfg(feature = "server")]
    pub(crate) fn hmac(&self, text: &str) -> String {
        let pkey = openssl::pkey::PKey::hmac(&self.0);
        let signed = pkey.and_then(|key| {
            let mut signer = openssl::sign::Signer::new(openssl::hash::MessageDigest::sha256(), &key)?;
            signer.update(text.as_bytes())?;
            signer.sign_to_vec()
        });
        // Memory is the only thing that can fail here; an empty value matches nothing.
        signed.map(hex::encode).unwrap_or_default()
    }
}

/// Encrypts and frames.
pub(crate) fn seal(key: &Key, plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut nonce = [0; NONCE];
    let mut tag = [0; TAG];
    rand_bytes(&mut nonce).map_err(std::io::Error::other)?;
    let cipher = encrypt_aead(Cipher::aes_256_gcm(), &key.0, Some(&nonce), &[], plain, &mut tag)
        .map_err(std::io::Error::other)?;
    let length = NONCE + cipher.len() + TAG;
    let mut out = Vec::with_capacity(HEAD + length);
    out.extend_from_slice(&u32::try_from(length).map_err(std::io::Error::other)?.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&cipher);
    out.extend_from_slice(&tag);
    let crc = crc32fast::hash(&out[HEAD..]);
    out[4..8].copy_from_slice(&crc.to_be_bytes());
    Ok(out)
}

/// The content of a frame that lies elsewhere than in a file.
#[cfg(feature = "server")]
pub(crate) fn open(key: &Key, frame: &[u8]) -> Result<Vec<u8>, crate::AuditError> {
    let sealed = frame.get(HEAD..).filter(|sealed| sealed.len() >= NONCE + TAG).ok_or(crate::AuditError::OtherKey)?;
    let (nonce, rest) = sealed.split_at(NONCE);
    let (cipher, tag) = rest.split_at(rest.len() - TAG);
    decrypt_aead(Cipher::aes_256_gcm(), &key.0, Some(nonce), &[], cipher, tag).map_err(|_| crate::AuditError::OtherKey)
}

/// What stands at a place.
pub(crate) enum Found {
    /// A frame's content and where the next begins.
    Frame(Vec<u8>, u64),
    /// The end.
    End,
    /// Bytes that are no whole frame: a torn write.
    Torn,
}

/// Reads the frame at `offset`.
pub(crate) fn read_at(file: &mut File, key: &Key, offset: u64) -> std::io::Result<Result<Found, ()>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut head = [0; HEAD];
    match read_full(file, &mut head)? {
        0 => return Ok(Ok(Found::End)),
        HEAD => {}
        _ => return Ok(Ok(Found::Torn)),
    }
    let Some((length, crc)) = self::head(&head) else { return Ok(Ok(Found::Torn)) };
    if file.metadata()?.len() < offset + (HEAD + length) as u64 {
        return Ok(Ok(Found::Torn));
    }
    let mut sealed = vec![0; length];
    if read_full(file, &mut sealed)? != length || crc32fast::hash(&sealed) != crc {
        return Ok(Ok(Found::Torn));
    }
    let (nonce, rest) = sealed.split_at(NONCE);
    let (cipher, tag) = rest.split_at(rest.len() - TAG);
    let plain = decrypt_aead(Cipher::aes_256_gcm(), &key.0, Some(nonce), &[], cipher, tag);
    Ok(plain.map(|plain| Found::Frame(plain, offset + (HEAD + length) as u64)).map_err(|_| ()))
}

/// What comes next in a file of frames.
pub(crate) enum Next {
    /// A frame: where it begins, its content, and where it ends.
    Frame(u64, Vec<u8>, u64),
    /// No more frames; more may be written here.
    End(u64),
    /// From here on stands what an interrupted write left: it was never acknowledged, and may be cut.
    Torn(u64),
}

/// The next whole frame from `offset` on. Damage is passed over and named in the log.
pub(crate) fn next(file: &mut File, path: &Path, key: &Key, offset: u64) -> Result<Next, AuditError> {
    match read_at(file, key, offset)?.map_err(|()| AuditError::OtherKey)? {
        Found::Frame(plain, next) => return Ok(Next::Frame(offset, plain, next)),
        Found::End => return Ok(Next::End(offset)),
        Found::Torn => {}
    }
    let file_name = path.display();
    match whole::behind(file, offset)? {
        whole::Behind::Torn => Ok(Next::Torn(offset)),
        whole::Behind::Frame(at) => {
            // Who reads what another writes may have come while it was written.
            if at > offset {
                tracing::error!(file = %file_name, offset, bytes = at - offset, "damaged: what stands behind is read");
            }
            match read_at(file, key, at)?.map_err(|()| AuditError::OtherKey)? {
                Found::Frame(plain, next) => Ok(Next::Frame(at, plain, next)),
                Found::End | Found::Torn => Err(AuditError::Damaged(file_name.to_string(), at)),
            }
        }
        whole::Behind::Nothing(end) => {
            tracing::error!(file = %file_name, offset, bytes = end - offset, "damaged to its end; nothing is cut");
            Ok(Next::End(end))
        }
    }
}

/// The length and the checksum that stand here, if a frame can have them.
fn head(bytes: &[u8]) -> Option<(usize, u32)> {
    let ([a, b, c, d, crc @ ..], _) = bytes.split_first_chunk::<HEAD>()?;
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    (NONCE + TAG..=LONGEST).contains(&length).then(|| (length, u32::from_be_bytes(*crc)))
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read(&mut buffer[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}
