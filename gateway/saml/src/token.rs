//! The seal key in a PKCS#11 token: it signs SignedInfo there and never leaves it.
//!
//! libxmlsec1 canonicalizes, digests, and signs with a stand-in key of the same kind; what that signature was made of goes
//! to the token, and the token's value takes the stand-in's place. Each value is verified with the seal's certificate before
//! it is used.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private, Public};
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::sign::Verifier;

use crate::AssertionError as E;
use crate::ffi::{self, Key};

/// A key in a token.
#[derive(Debug, Clone)]
pub struct TokenKey {
    /// The PKCS#11 module, a shared library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the private key (CKA_LABEL).
    pub key: String,
    /// File with the user PIN, mode 0600.
    pub pin_file: PathBuf,
}

/// Modules are initialized once a process and stay.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Pkcs11>>> = LazyLock::new(Mutex::default);

/// A worker's session with the key.
pub(crate) struct TokenSigner {
    options: TokenKey,
    public: PKey<Public>,
    session: Session,
    key: ObjectHandle,
    stand_in: Key,
}

impl TokenSigner {
    /// Logs in, finds the key, and has it sign once: a key that is not the certificate's is no seal.
    pub(crate) fn open(options: &TokenKey, public: PKey<Public>) -> Result<Self, String> {
        let (session, key) = log_in(options)?;
        let stand_in = stand_in(&public).map_err(|e| e.to_string())?;
        let pem = stand_in.private_key_to_pem_pkcs8().map_err(|e| e.to_string())?;
        let stand_in = Key::private(&pem).map_err(|e| e.to_string())?;
        let signer = Self { options: options.clone(), public, session, key, stand_in };
        signer.value(b"probe").map_err(|e| format!("key does not sign as the certificate's would: {e}"))?;
        Ok(signer)
    }

    /// Signs the template as [`ffi::sign`] does.
    pub(crate) fn sign(&mut self, template: &str) -> Result<String, E> {
        let (signed, input) = ffi::sign(template, &[], &[1], &mut self.stand_in)?;
        let value = match self.value(&input) {
            Ok(value) => value,
            // The token may have been taken out or have forgotten us.
            Err(_) => {
                (self.session, self.key) = log_in(&self.options).map_err(|_| E::Unavailable("token"))?;
                self.value(&input).map_err(|_| E::Unavailable("token"))?
            }
        };
        // Nothing that could hold this text stands before it: Issuer and SignedInfo are ours.
        let name = "SignatureValue>";
        let from = signed.find(name).map(|at| at + name.len()).ok_or(E::Unavailable("signature value"))?;
        let to = signed.get(from..).and_then(|rest| rest.find('<')).ok_or(E::Unavailable("signature value"))?;
        let value = openssl::base64::encode_block(&value);
        let (before, after) = (signed.get(..from), signed.get(from + to..));
        let (before, after) = before.zip(after).ok_or(E::Unavailable("signature value"))?;
        Ok([before, &value, after].concat())
    }

    /// The value over these bytes as XML-DSig writes it: PKCS#1 v1.5, or r and s of 32 bytes each.
    fn value(&self, input: &[u8]) -> Result<Vec<u8>, String> {
        let said = |e: Error| e.to_string();
        let value = match self.public.id() {
            Id::EC => self.session.sign(&Mechanism::Ecdsa, self.key, &sha256(input)).map_err(said)?,
            _ => self.session.sign(&Mechanism::Sha256RsaPkcs, self.key, input).map_err(said)?,
        };
        match self.holds(input, &value) {
            Ok(true) => Ok(value),
            _ => Err("value does not verify".into()),
        }
    }

    fn holds(&self, input: &[u8], value: &[u8]) -> Result<bool, openssl::error::ErrorStack> {
        if self.public.id() != Id::EC {
            return Verifier::new(MessageDigest::sha256(), &self.public)?.verify_oneshot(value, input);
        }
        let Some((r, s)) = value.split_at_checked(32).filter(|(_, s)| s.len() == 32) else { return Ok(false) };
        let signature = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
        let key: EcKey<Public> = self.public.ec_key()?;
        signature.verify(&sha256(input), &key)
    }
}

/// A key like the seal's, made for this process.
fn stand_in(public: &PKey<Public>) -> Result<PKey<Private>, openssl::error::ErrorStack> {
    match public.id() {
        Id::EC => {
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
            PKey::from_ec_key(EcKey::generate(&group)?)
        }
        _ => PKey::from_rsa(Rsa::generate(2048)?),
    }
}

fn log_in(options: &TokenKey) -> Result<(Session, ObjectHandle), String> {
    let said = |e: Error| e.to_string();
    let module = module(options).map_err(said)?;
    let slots = module.get_slots_with_initialized_token().map_err(said)?;
    let named = |slot: &_| module.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == options.token);
    let slot = slots.into_iter().find(named).ok_or("no token of that label")?;
    let session = module.open_ro_session(slot).map_err(said)?;
    let pin = std::fs::read_to_string(&options.pin_file).map_err(|e| format!("pin_file: {e}"))?;
    let pin = AuthPin::new(pin.trim_end().to_owned().into());
    match session.login(UserType::User, Some(&pin)) {
        // A login holds for all sessions of a process.
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
        Err(error) => return Err(error.to_string()),
    }
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(options.key.clone().into_bytes())];
    let found = session.find_objects(&wanted).map_err(said)?;
    match found.as_slice() {
        [key] => Ok((session, *key)),
        [] => Err("no private key of that label".into()),
        _ => Err("several private keys of that label".into()),
    }
}

fn module(options: &TokenKey) -> Result<Pkcs11, Error> {
    let mut modules = MODULES.lock().unwrap_or_else(|p| p.into_inner());
    if let Some(module) = modules.get(&options.module) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(&options.module)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(error),
    }
    modules.insert(options.module.clone(), module.clone());
    Ok(module)
}
