//! The memory that replicas share: Redis, one server, Sentinel or Cluster.
//!
//! One pipeline a message: for each id `SET … NX PX` of one key and `GET` of both, and the epoch; `WAIT` where there are
//! replicas. Values are authenticated: whoever can write into Redis cannot make a binding fit. The epoch is the instant at
//! which this memory began, set once: when it was emptied there is a new one, and assertions issued before it are refused
//! unless this process bound them itself.
//!
//! Keys are by id alone, as releases before 0.2 have them, until `migrate` has set a mark in Redis; from then on they are by
//! id and issuer. Whoever writes the one looks up the other too, so that gateways that know of the mark and others, which
//! do not yet, refuse what either of them bound.
//! All keys of a country carry one hash tag, so that a pipeline meets one slot of a cluster.
//!
//! Where a replica may take over, every one that is connected holds a binding before it is answered for: Sentinel goes by
//! offsets that are seconds old and may choose any of them.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::sentinel::{SentinelClient, SentinelServerType};
use ::redis::{Client, Pipeline, Value};
use jiff::Timestamp;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;

use super::{Binding, Fill, Key, Local, ReplayError, Written, until};

/// After a failure Redis is left alone for so long, and requests are answered at once.
const PAUSE: Duration = Duration::from_millis(500);
/// The key whose value says that no release before 0.2 shares this memory.
const MARK: &str = "issuers";

/// What happens without Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLoss {
    /// Refuse (several replicas).
    #[default]
    Refuse,
    /// The memory of this process decides (a single node, or peers that always reach the same one).
    Local,
}

/// Where Redis is and how it is used.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// `redis://…`, `rediss://…`, `redis+sentinel://host:port,…/master`, `redis+cluster://host:port,…`.
    pub url: String,
    /// Country, for the prefix of keys.
    pub tenant: String,
    /// Authenticates values; the same in all replicas.
    pub key: [u8; 32],
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// With one or more, all connected replicas, and no fewer than these, must hold what is bound before an answer, so
    /// that a failover forgets nothing (`WAIT`).
    pub replicas: u32,
    /// Without Redis.
    pub on_loss: OnLoss,
}

/// The shared set, and the process's own besides.
pub struct RedisSet {
    options: RedisOptions,
    mac: PKey<Private>,
    servers: Servers,
    connection: tokio::sync::Mutex<Option<Connection>>,
    state: Mutex<State>,
    local: Local,
}

#[derive(Default)]
struct State {
    down_until: Option<Instant>,
    /// When the shared memory began, milliseconds since 1970.
    epoch: i64,
    /// Replicas that were connected when it last answered.
    connected: i64,
    /// By the mark, as it was last seen.
    written: Written,
}

enum Servers {
    Single(Box<Client>),
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
    Plain(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisSet {
    /// Reads the address; nothing is connected.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(options: &RedisOptions, local: Local) -> Result<Self, String> {
        let wrong = |e: &dyn std::fmt::Display| format!("replay.redis: {e}");
        let urls = |list: &str| list.split(',').map(|host| format!("redis://{host}")).collect::<Vec<_>>();
        let url = options.url.as_str();
        let servers = if let Some(hosts) = url.strip_prefix("redis+cluster://") {
            Servers::Cluster(Box::new(ClusterClient::new(urls(hosts)).map_err(|e| wrong(&e))?))
        } else if let Some(rest) = url.strip_prefix("redis+sentinel://") {
            let (hosts, master) = rest.split_once('/').ok_or_else(|| wrong(&"sentinel without /master"))?;
            let client = SentinelClient::build(urls(hosts), master.to_owned(), None, SentinelServerType::Master)
                .map_err(|e| wrong(&e))?;
            Servers::Sentinel(Box::new(tokio::sync::Mutex::new(client)))
        } else {
            Servers::Single(Box::new(Client::open(url).map_err(|e| wrong(&e))?))
        };
        let mac = PKey::hmac(&options.key).map_err(|e| wrong(&e))?;
        let options = options.clone();
        Ok(Self { options, mac, servers, connection: Default::default(), state: Default::default(), local })
    }

    pub(super) fn fill(&self) -> Fill {
        self.local.fill()
    }

    pub(super) async fn is_there(&self) -> bool {
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("GET").arg(self.key("epoch"));
        self.options.on_loss == OnLoss::Local || self.replicated(&pipeline, 1).await.is_ok()
    }

    pub(super) async fn bind(
        &self,
        peer: &str,
        bindings: &[Binding],
        now: Timestamp,
    ) -> Result<Vec<bool>, ReplayError> {
        // The process's own memory is asked first: it outlives a Redis that was emptied, and knows the peer's share.
        self.local.check(peer, bindings, now)?;
        match self.shared(bindings, now).await {
            Ok(shared) => {
                let began = self.state().epoch;
                let before = |b: &Binding| b.issued.is_some_and(|issued| issued.as_millisecond() < began);
                if bindings.iter().any(|b| before(b) && !self.local.knows(b, now)) {
                    self.take_back(shared.into_iter().flatten()).await;
                    return Err(ReplayError::Forgotten);
                }
                if let Err(error) = self.local.bind(peer, bindings, now) {
                    self.take_back(shared.into_iter().flatten()).await;
                    return Err(error);
                }
                Ok(shared.iter().map(Option::is_some).collect())
            }
            Err(Failed::Refused(error)) => Err(error),
            Err(Failed::Lost(reason)) => {
                tracing::error!(reason, "redis is lost; replay set as configured");
                match self.options.on_loss {
                    OnLoss::Refuse => Err(ReplayError::Unreachable),
                    OnLoss::Local => self.local.bind(peer, bindings, now),
                }
            }
        }
    }

    /// For each binding the key under which it is new.
    async fn shared(&self, bindings: &[Binding], now: Timestamp) -> Result<Vec<Option<Key>>, Failed> {
        let written = self.state().written;
        let mut pipeline = ::redis::pipe();
        for binding in bindings {
            let key = binding.key(written);
            let milliseconds = u64::try_from(until(binding.until, now).as_millis()).unwrap_or(1000);
            let set = pipeline.cmd("SET").arg(self.name(&key)).arg(self.value(&key, binding)?);
            set.arg("NX").arg("PX").arg(milliseconds);
            for key in [key, binding.key(written.other())] {
                pipeline.cmd("GET").arg(self.name(&key));
            }
        }
        let epoch = self.key("epoch");
        let fresh = self.epoch_value(now.as_millisecond())?;
        pipeline.cmd("SET").arg(&epoch).arg(&fresh).arg("NX");
        pipeline.cmd("GET").arg(&epoch);
        match written {
            Written::ById => pipeline.cmd("GET").arg(self.key(MARK)),
            // Who knows of the mark says it again: a memory that was emptied has none.
            Written::ByIssuer => pipeline.cmd("SET").arg(self.key(MARK)).arg(self.mark()?),
        };
        let answers = self.replicated(&pipeline, bindings.len() * 3 + 3).await?;
        let (answers, _) = answers.as_chunks::<3>();
        let Some(([_, epoch, mark], answers)) = answers.split_last() else { return Err(Failed::Lost("no epoch")) };
        let held = text(epoch).ok_or(Failed::Lost("no epoch"))?;
        let began = held.split('.').next().and_then(|ms| ms.parse().ok()).ok_or(Failed::Lost("no epoch"))?;
        if held != self.epoch_value(began)? {
            return Err(Failed::Lost("epoch was forged"));
        }
        self.began(began);
        if text(mark).is_some_and(|held| self.mark().is_ok_and(|mark| mark == held)) {
            self.state().written = Written::ByIssuer;
        }
        let mut new = Vec::with_capacity(bindings.len());
        for (binding, [set, own, other]) in bindings.iter().zip(answers) {
            let is_set = matches!(set, Value::Okay);
            let (own_key, other_key) = (binding.key(written), binding.key(written.other()));
            // Set a moment ago and gone: evicted. Who cannot remember cannot answer.
            let own = text(own).ok_or(Failed::Lost("an entry vanished"))?;
            let other_fits = text(other).map(|held| self.value(&other_key, binding).map(|value| value == held));
            let other_fits = other_fits.transpose()?;
            if own != self.value(&own_key, binding)? || other_fits == Some(false) {
                // What was set beside a binding under the other key would refuse that binding's owner.
                self.take_back(is_set.then_some(own_key)).await;
                return Err(Failed::Refused(binding.refused()));
            }
            new.push((is_set && other_fits.is_none()).then_some(own_key));
        }
        Ok(new)
    }

    /// Sets the mark after which keys name the issuer.
    pub(super) async fn give_up_the_way_back(&self) -> Result<(), String> {
        let set = async {
            let mut pipeline = ::redis::pipe();
            pipeline.cmd("SET").arg(self.key(MARK)).arg(self.mark()?);
            self.replicated(&pipeline, 1).await
        };
        match set.await {
            Ok(_) => Ok(()),
            Err(Failed::Lost(reason)) => Err(format!("replay.redis: {reason}")),
            Err(Failed::Refused(error)) => Err(format!("replay.redis: {error}")),
        }
    }

    /// Runs what writes; its answers come when the replicas hold what was written. How many those are is known from the
    /// last time: `WAIT` counts what its own connection wrote, so that it must go with it. When there are more it is run
    /// once more, and what was new the first time is new.
    async fn replicated(&self, writes: &Pipeline, answers: usize) -> Result<Vec<Value>, Failed> {
        let least = i64::from(self.options.replicas);
        if least == 0 {
            return self.run(writes, answers).await;
        }
        let patience = u64::try_from(self.options.timeout.as_millis() / 2).unwrap_or(1);
        let mut first: Option<Vec<Value>> = None;
        loop {
            let asked = least.max(self.state().connected);
            let mut pipeline = writes.clone();
            pipeline.cmd("ROLE");
            pipeline.cmd("WAIT").arg(asked).arg(patience);
            let ran = self.run(&pipeline, answers + 2).await;
            if ran.is_err() {
                self.state().connected = 0;
            }
            let mut values = ran?;
            let holding = values.pop();
            let connected = values.pop().as_ref().and_then(replicas_of).ok_or(Failed::Lost("redis is no master"))?;
            self.state().connected = connected;
            let needed = least.max(connected);
            let again = first.is_some();
            let set = first.get_or_insert_with(|| values.clone());
            if matches!(holding, Some(Value::Int(holding)) if holding >= needed) {
                // A `SET` and two `GET` each.
                values.iter_mut().zip(set).step_by(3).for_each(|(now, then)| std::mem::swap(now, then));
                return Ok(values);
            }
            if again || asked >= needed {
                return Err(Failed::Lost("too few replicas hold it"));
            }
        }
    }

    /// What a refused message bound anew must not stand in the way of its owner.
    async fn take_back(&self, keys: impl IntoIterator<Item = Key>) {
        let mut pipeline = ::redis::pipe();
        let mut count = 0;
        for key in keys {
            pipeline.cmd("DEL").arg(self.name(&key));
            count += 1;
        }
        if count > 0 && self.run(&pipeline, count).await.is_err() {
            tracing::warn!("redis keeps the binding of a refused message");
        }
    }

    fn began(&self, epoch: i64) {
        let mut state = self.state();
        if state.epoch != 0 && state.epoch != epoch {
            tracing::error!("redis was emptied: assertions issued before are refused");
        }
        state.epoch = state.epoch.max(epoch);
    }

    fn epoch_value(&self, began: i64) -> Result<String, Failed> {
        Ok(format!("{began}.{}", self.authenticated(&[b"epoch", &began.to_be_bytes()])?))
    }

    /// One pipeline within the time limit; the connection is made anew after a failure.
    async fn run(&self, pipeline: &Pipeline, answers: usize) -> Result<Vec<Value>, Failed> {
        let down = self.state().down_until;
        if down.is_some_and(|until| Instant::now() < until) {
            return Err(Failed::Lost("left alone after a failure"));
        }
        let work = async {
            let mut connection = self.connected().await?;
            match &mut connection {
                Connection::Plain(c) => c.req_packed_commands(pipeline, 0, answers).await,
                Connection::Cluster(c) => c.req_packed_commands(pipeline, 0, answers).await,
            }
        };
        let failed = match tokio::time::timeout(self.options.timeout, work).await {
            Ok(Ok(values)) if values.len() == answers && !values.iter().any(|v| matches!(v, Value::ServerError(_))) => {
                return Ok(values);
            }
            Ok(Ok(_)) => "redis refused a command",
            Ok(Err(_)) => "redis connection failed",
            Err(_) => "redis did not answer in time",
        };
        if let Ok(mut held) = self.connection.try_lock() {
            *held = None;
        }
        self.state().down_until = Some(Instant::now() + PAUSE);
        Err(Failed::Lost(failed))
    }

    async fn connected(&self) -> ::redis::RedisResult<Connection> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let made = match &self.servers {
            Servers::Single(client) => Connection::Plain(client.get_multiplexed_async_connection().await?),
            Servers::Sentinel(client) => Connection::Plain(client.lock().await.get_async_connection().await?),
            Servers::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        };
        *held = Some(made.clone());
        Ok(made)
    }

    fn key(&self, name: &str) -> String {
        format!("{{ncp:{}}}:{name}", self.options.tenant)
    }

    fn name(&self, key: &Key) -> String {
        self.key(&hex::encode(key))
    }

    fn value(&self, key: &Key, binding: &Binding) -> Result<String, Failed> {
        self.authenticated(&[key, &binding.to])
    }

    fn mark(&self) -> Result<String, Failed> {
        self.authenticated(&[MARK.as_bytes()])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// HMAC over parts of fixed length.
    fn authenticated(&self, parts: &[&[u8]]) -> Result<String, Failed> {
        let failed = |_| Failed::Lost("no hmac");
        let mut signer = Signer::new(MessageDigest::sha256(), &self.mac).map_err(failed)?;
        for part in parts {
            signer.update(part).map_err(failed)?;
        }
        Ok(hex::encode(signer.sign_to_vec().map_err(failed)?))
    }
}

enum Failed {
    Refused(ReplayError),
    Lost(&'static str),
}

/// Connected replicas in a master's answer to `ROLE`.
fn replicas_of(role: &Value) -> Option<i64> {
    match role {
        Value::Array(parts) => match parts.as_slice() {
            [name, _, Value::Array(replicas)] if text(name) == Some("master") => i64::try_from(replicas.len()).ok(),
            _ => None,
        },
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
