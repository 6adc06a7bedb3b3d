//! Whole translated documents in Redis: encrypted, short-lived, and never needed.
//!
//! The key names the document by an HMAC of its digest, the snapshot, the policy and the language, so that a swap makes
//! old entries unreachable by itself. Values are AES-256-GCM under a key of this service; whatever does not decrypt, and
//! every failure of Redis, is a miss. Single codes are not cached: a local lookup is faster than a round trip.

use std::sync::Arc;
use std::time::Duration;

use ncp_proto::translation as pb;
use openssl::symm::Cipher;
use prost::Message;
use redis::AsyncCommands;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::document::Task;

/// Channel on which a replica says which snapshot it has put in place.
pub const ANNOUNCEMENTS: &str = "ncp:terminology:snapshot";
/// Longest wait for Redis.
const PATIENCE: Duration = Duration::from_millis(100);
/// Largest answer that is kept.
const LARGEST: usize = 8 << 20;

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// From the document, the snapshot, the policy and the language.
    pub fn new(bytes: &[u8], media_type: &str, snapshot: &[u8; 32], task: &Task) -> Self {
        let mut hash = openssl::sha::Sha256::new();
        hash.update(&openssl::sha::sha256(bytes));
        hash.update(snapshot);
        hash.update(&openssl::sha::sha256(format!("{media_type}\n{task:?}").as_bytes()));
        hash.update(env!("CARGO_PKG_VERSION").as_bytes());
        Self(hash.finish())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(message, repeated, tag = "1")]
    events: Vec<pb::DocumentEvent>,
}

struct Redis {
    connection: ConnectionManager,
    key: [u8; 32],
    seconds: u64,
}

/// The cache, or none.
#[derive(Clone, Default)]
pub struct Cache(Option<Arc<Redis>>);

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({})", if self.0.is_some() { "redis" } else { "none" })
    }
}

impl Cache {
    /// Without Redis.
    pub fn none() -> Self {
        Self(None)
    }

    /// With Redis; it need not be there yet.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub fn redis(url: &str, key: [u8; 32], life: Duration) -> Result<Self, redis::RedisError> {
        let client = redis::Client::open(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_lazy_with_config(client, config)?;
        Ok(Self(Some(Arc::new(Redis { connection, key, seconds: life.as_secs().max(1) }))))
    }

    /// The answer to the same question, if it is still there.
    pub async fn get(&self, key: &Key) -> Option<Vec<pb::DocumentEvent>> {
        let redis = self.0.as_ref()?;
        let mut connection = redis.connection.clone();
        let name = redis.name(key);
        let call = connection.get::<_, Option<Vec<u8>>>(&name);
        let sealed = tokio::time::timeout(PATIENCE, call).await.ok()?.ok()??;
        let plain = redis.opened(&name, &sealed)?;
        Kept::decode(plain.as_slice()).ok().map(|k| k.events)
    }

    /// Keeps an answer for a while; failures are of no account.
    pub async fn put(&self, key: &Key, events: &[pb::DocumentEvent]) {
        let Some(redis) = self.0.as_ref() else { return };
        let kept = Kept { events: events.to_vec() };
        if kept.encoded_len() > LARGEST {
            return;
        }
        let name = redis.name(key);
        let Some(sealed) = redis.sealed(&name, &kept.encode_to_vec()) else { return };
        let mut connection = redis.connection.clone();
        let call = connection.set_ex::<_, _, ()>(&name, sealed, redis.seconds);
        if !matches!(tokio::time::timeout(PATIENCE, call).await, Ok(Ok(()))) {
            tracing::debug!("translated document is not cached");
        }
    }

    /// Says that a snapshot is in place.
    pub async fn announce(&self, digest: &[u8; 32]) {
        let Some(redis) = self.0.as_ref() else { return };
        let mut connection = redis.connection.clone();
        let call = connection.publish::<_, _, ()>(ANNOUNCEMENTS, hex::encode(digest));
        let _ = tokio::time::timeout(PATIENCE, call).await;
    }
}

impl Redis {
    /// A name that tells nothing about the document to somebody who does not have the key.
    fn name(&self, key: &Key) -> Vec<u8> {
        let mut hash = openssl::sha::Sha256::new();
        hash.update(&self.key);
        hash.update(b"name");
        hash.update(&key.0);
        // Hashed twice, so that nothing can be appended to the secret.
        format!("ncp:translated:{}", hex::encode(openssl::sha::sha256(&hash.finish()))).into_bytes()
    }

    fn sealed(&self, name: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let (mut nonce, mut tag) = ([0; 12], [0; 16]);
        openssl::rand::rand_bytes(&mut nonce).ok()?;
        let body =
            openssl::symm::encrypt_aead(Cipher::aes_256_gcm(), &self.key, Some(&nonce), name, plain, &mut tag).ok()?;
        Some([&nonce[..], &tag[..], &body[..]].concat())
    }

    fn opened(&self, name: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(12)?;
        let (tag, body) = rest.split_at_checked(16)?;
        openssl::symm::decrypt_aead(Cipher::aes_256_gcm(), &self.key, Some(nonce), name, body, tag).ok()
    }
}

#[cfg(test)]
mod tests;
