//! `pin`: which certificates are a peer's or a consumer's. An authority vouches for a name; which names have a task is
//! said here.

use std::fmt;
use std::marker::PhantomData;

use ncp_tls::Names;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What is accepted of the certificates under the configured anchors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Pin<N> {
    /// Nothing was configured: none is accepted, and the configuration is refused.
    #[default]
    Unnamed,
    /// `"anchor"`: every certificate under the anchors. `check-config` warns of it.
    Anchor,
    /// The certificates that are named, by use.
    Names(N),
}

/// Names of a peer's certificates by use. An empty list admits nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerNames {
    /// Who connects to us.
    pub tls_client: Names,
    /// Whom we connect to.
    pub tls_server: Names,
    /// Who signs HCP, TRC and next-of-kin assertions.
    pub seal: Names,
}

/// Names of national consumers' certificates by use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumerNames {
    /// Who connects to us.
    pub tls_client: Names,
    /// Who signs XUA and TRC assertions.
    pub seal: Names,
}

impl<N> Pin<N> {
    /// The names of one use, as [`ncp_tls::Anchors::pinned`] takes them.
    pub fn of(&self, of_use: impl Fn(&N) -> &Names) -> Option<Names> {
        match self {
            Self::Unnamed => Some(Names::default()),
            Self::Anchor => None,
            Self::Names(names) => Some(of_use(names).clone()),
        }
    }
}

impl Pin<PeerNames> {
    /// What is wrong with the names of a peer that is `asked` by us or not.
    pub(super) fn problem(&self, asked: bool) -> Option<String> {
        let Self::Names(names) = self else {
            return (*self == Self::Unnamed).then(|| {
                "is missing: the names of its certificates, as pin = { tls_client = [\"common name\"], tls_server = [\"…\"], \
                 seal = [\"…\"] } (`ncp cert doctor` shows them); or pin = \"anchor\", which takes every certificate under its \
                 anchors, as version 0.1 did"
                    .to_owned()
            });
        };
        let (client, seal) = (names.tls_client.is_empty(), names.seal.is_empty());
        if client != seal {
            return Some("tls_client and seal go together: a peer that asks us connects and signs".into());
        }
        if client && names.tls_server.is_empty() {
            return Some("names nobody".into());
        }
        (asked && names.tls_server.is_empty())
            .then(|| "tls_server is needed: this peer has addresses that we ask".into())
    }
}

impl Pin<ConsumerNames> {
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Self::Unnamed => Some(
                "is missing: the names of the consumers' certificates and of those who sign assertions, as pin = { tls_client = \
                 [\"common name\"], seal = [\"…\"] }; or pin = \"anchor\", which takes every certificate under the anchors, as \
                 version 0.1 did"
                    .into(),
            ),
            Self::Names(names) if names.tls_client.is_empty() || names.seal.is_empty() => {
                Some("tls_client and seal are both needed".into())
            }
            _ => None,
        }
    }
}

impl<'de, N: Deserialize<'de>> Deserialize<'de> for Pin<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PinVisitor(PhantomData))
    }
}

struct PinVisitor<N>(PhantomData<N>);

impl<'de, N: Deserialize<'de>> Visitor<'de> for PinVisitor<N> {
    type Value = Pin<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"anchor\" or a table of names by use")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Pin<N>, E> {
        match text {
            "anchor" => Ok(Pin::Anchor),
            _ => Err(E::custom(format!("expected \"anchor\" or a table of names by use, not {text:?}"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Pin<N>, A::Error> {
        N::deserialize(MapAccessDeserializer::new(map)).map(Pin::Names)
    }
}
