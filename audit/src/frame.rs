//! Frames on disk: `length u32 | crc32 u32 | nonce 12 | AES-256-GCM ciphertext | tag 16`, big-endian.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use openssl::rand::rand_bytes;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};

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
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let crc = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if !(NONCE + TAG..=LONGEST).contains(&length) {
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

/// Whether what stands from `offset` on is the beginning of one frame, as a torn write leaves it, or nothing.
pub(crate) fn is_tail(file: &mut File, offset: u64) -> std::io::Result<bool> {
    let left = file.metadata()?.len().saturating_sub(offset);
    file.seek(SeekFrom::Start(offset))?;
    let mut head = [0; HEAD];
    if read_full(file, &mut head)? < HEAD {
        return Ok(true);
    }
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    Ok((NONCE + TAG..=LONGEST).contains(&length) && left < (HEAD + length) as u64)
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
