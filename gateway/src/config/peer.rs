//! `[[peer]]`: another country, and what its NCP needs that the profiles do not ask for.

use std::path::PathBuf;
use std::time::Duration;

use ncp_ihe::{HomeCommunityId, Oid};
use ncp_tls::Country;
use serde::Deserialize;

use super::ConfigProblem;
use super::pin::{PeerNames, Pin};
use super::trust::RevocationSources;
use super::values::{country, duration, home, homes, maybe_duration, oids};

/// Longest wait for the root of an answer of OpenNCP, whose first answer after its start takes up to nine seconds.
const INCUMBENT_DEADLINE: Duration = Duration::from_secs(30);

/// The class codes of imaging that OpenNCP knows. Its server needs at least one.
const INCUMBENT_CLASS_CODES: [&str; 2] = ["18748-4^^2.16.840.1.113883.6.1", "x-clinical-image^^2.16.840.1.113883.6.1"];

/// `[[peer]]`: another country.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    /// Two letters.
    #[serde(deserialize_with = "country")]
    pub country: Country,
    /// What people call it.
    pub name: String,
    /// The software of the peer's NCP. It sets the defaults of the single settings below, each of which may be given too.
    #[serde(default)]
    pub kind: PeerKind,
    /// Its homeCommunityId.
    #[serde(deserialize_with = "home")]
    pub home_community_id: HomeCommunityId,
    /// Further ids under which it is known.
    #[serde(default, deserialize_with = "homes")]
    pub aliases: Vec<HomeCommunityId>,
    /// Where its ITI-55 answers; none: it is not asked for patients.
    pub xcpd: Option<String>,
    /// Where its ITI-38 and ITI-39 answer.
    pub xca: Option<String>,
    /// Where its RAD-75 answers.
    pub xcai: Option<String>,
    /// Whether addresses that are not given here come from the SMP.
    #[serde(default)]
    pub smp: bool,
    /// Longest wait for the root of any of its answers, in place of the times in `[limits]`.
    #[serde(default, deserialize_with = "maybe_duration")]
    deadline: Option<Duration>,
    /// Assigning authorities whose ids its patients carry: a search by such an id goes there.
    #[serde(default, deserialize_with = "oids")]
    pub patient_roots: Vec<Oid>,
    verify_hash: Option<bool>,
    orcd: Option<bool>,
    orcd_only: Option<bool>,
    class_codes: Option<Vec<String>>,
    addressing_optional: Option<bool>,
    errors_as_warnings: Option<bool>,
    next_of_kin_any_subject: Option<bool>,
    /// AuthnContext classes of its logins that are taken besides the two-factor ones of SAML: the country vouches for them.
    #[serde(default)]
    pub authn_classes: Vec<String>,
    /// Instances asked for in one RAD-75.
    #[serde(default = "sixty_four")]
    pub batch: usize,
    /// Anchors of its TLS certificates, PEM.
    pub tls_anchors: PathBuf,
    /// Anchors of its seal, PEM.
    pub seal_anchors: PathBuf,
    /// Which certificates under these anchors are the peer's, by use.
    #[serde(default)]
    pub pin: Pin<PeerNames>,
    /// CRLs of both, PEM.
    pub crls: Option<PathBuf>,
    /// WS-Addressing asynchronous exchange with it; none: every answer comes and goes on its request's connection.
    pub asynchronous: Option<Asynchronous>,
    /// Further sources of revocation, and how stale they may be.
    #[serde(default)]
    pub revocation: RevocationSources,
    /// Where security refusals go: in the `body` as OpenNCP does, or as a SOAP `fault` as IHE XUA asks.
    #[serde(default)]
    pub security_errors: SecurityErrors,
}

/// The software of a peer's NCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// A gateway that follows the profiles of IHE.
    #[default]
    Ncp,
    /// OpenNCP, whose departures from the profiles are known.
    Openncp,
}

/// `[peer.asynchronous]`
#[derive(Debug, Clone, Deserialize)]
pub struct Asynchronous {
    /// Our address that requests to the peer name in ReplyTo; none: we ask it synchronously.
    pub own_reply_to: Option<String>,
    /// The one address at which the peer may want our answers; none: only on its connection.
    pub peer_reply_to: Option<String>,
    /// How long an answer may take.
    #[serde(default = "one_minute", deserialize_with = "duration")]
    pub wait: Duration,
}

/// How security refusals are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityErrors {
    /// In the transaction's response.
    #[default]
    Body,
    /// As a WS-Security fault.
    Fault,
}

impl Peer {
    /// Whether the homeCommunityId is the peer's or an alias of it.
    pub fn is_known_as(&self, home: &HomeCommunityId) -> bool {
        self.home_community_id == *home || self.aliases.contains(home)
    }

    /// Longest wait for the root of any of its answers; none: the times in `[limits]`.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline.or_else(|| (self.kind == PeerKind::Openncp).then_some(INCUMBENT_DEADLINE))
    }

    /// Whether hash and size of retrieved documents must fit the metadata; OpenNCP announces others than it sends.
    pub fn verify_hash(&self) -> bool {
        self.verify_hash.unwrap_or(self.kind != PeerKind::Openncp)
    }

    /// Whether it is offered OrCD views of reports and key images.
    pub fn orcd(&self) -> bool {
        self.orcd.unwrap_or(self.kind == PeerKind::Openncp)
    }

    /// Whether a query that names no formatCode is answered with the OrCD views alone, because the peer's portal can
    /// show nothing else.
    pub fn orcd_only(&self) -> bool {
        self.orcd() && self.orcd_only.unwrap_or(self.kind == PeerKind::Openncp)
    }

    /// Class codes, as `code^^scheme`, that an ITI-38 names where its caller named none; empty: a query may have none.
    pub fn class_codes(&self) -> Vec<&str> {
        match &self.class_codes {
            Some(codes) => codes.iter().map(String::as_str).collect(),
            None if self.kind == PeerKind::Openncp => INCUMBENT_CLASS_CODES.to_vec(),
            None => Vec::new(),
        }
    }

    /// Whether its requests may lack the header blocks of WS-Addressing: the action is then taken from the Content-Type,
    /// or from path and body element.
    pub fn addressing_optional(&self) -> bool {
        self.addressing_optional.unwrap_or(self.is_incumbent())
    }

    /// Whether errors beside documents are sent with severity Warning, because the peer discards the documents at any
    /// severity Error.
    pub fn errors_as_warnings(&self) -> bool {
        self.errors_as_warnings.unwrap_or(self.is_incumbent())
    }

    /// Whether a next-of-kin assertion of the peer may name any subject: it is bound by its AssertionIDRef and its signer
    /// alone, because OpenNCP's token service writes a literal text as subject.
    pub fn next_of_kin_any_subject(&self) -> bool {
        self.next_of_kin_any_subject.unwrap_or(self.kind == PeerKind::Openncp)
    }

    /// OrCD views exist for OpenNCP only, so a peer with `orcd = true` is answered as one; what it is asked, how long it is
    /// waited for, and what of its answers is verified, changes with `kind` alone.
    fn is_incumbent(&self) -> bool {
        self.kind == PeerKind::Openncp || self.orcd == Some(true)
    }

    pub(super) fn pin_problem(&self, asking: bool) -> Option<String> {
        let addressed = self.smp || [&self.xcpd, &self.xca, &self.xcai].into_iter().any(Option::is_some);
        self.pin.problem(asking && addressed)
    }

    pub(super) fn check_class_codes(&self, at: &str) -> Option<ConfigProblem> {
        let plain = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':'))
        };
        let good = |code: &String| code.split_once("^^").is_some_and(|(code, scheme)| plain(code) && plain(scheme));
        let wrong = self.class_codes.iter().flatten().any(|code| !good(code));
        wrong.then(|| ConfigProblem::new(at, "expected code^^scheme, as \"18748-4^^2.16.840.1.113883.6.1\"".into()))
    }
}

fn sixty_four() -> usize {
    64
}
fn one_minute() -> Duration {
    Duration::from_secs(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(lines: &str) -> Peer {
        let text = format!(
            "country = \"SE\"\nname = \"Sweden\"\nhome_community_id = \"urn:oid:2.999.752\"\n\
             tls_anchors = \"a\"\nseal_anchors = \"a\"\n{lines}"
        );
        toml::from_str(&text).expect("a peer")
    }

    #[test]
    fn kind_openncp_sets_everything_that_the_incumbent_needs() {
        let one = peer("kind = \"openncp\"");
        assert!(one.orcd() && one.orcd_only() && one.addressing_optional() && one.errors_as_warnings());
        assert!(one.next_of_kin_any_subject() && !one.verify_hash());
        assert_eq!((one.class_codes().len(), one.deadline()), (2, Some(INCUMBENT_DEADLINE)));
        let other = peer("");
        assert!(!other.orcd() && !other.orcd_only() && !other.addressing_optional() && !other.errors_as_warnings());
        assert!(!other.next_of_kin_any_subject() && other.verify_hash());
        assert_eq!((other.class_codes().len(), other.deadline()), (0, None));
    }

    #[test]
    fn each_setting_of_a_kind_may_be_given_by_itself() {
        let lines = "kind = \"openncp\"\nverify_hash = true\norcd = false\nclass_codes = []\naddressing_optional = false\n\
                     errors_as_warnings = false\nnext_of_kin_any_subject = false\ndeadline = \"5s\"";
        let one = peer(lines);
        assert!(!one.orcd() && !one.orcd_only() && !one.addressing_optional() && !one.errors_as_warnings());
        assert!(!one.next_of_kin_any_subject() && one.verify_hash());
        assert_eq!((one.class_codes().len(), one.deadline()), (0, Some(Duration::from_secs(5))));
    }

    #[test]
    fn orcd_alone_is_answered_as_the_incumbent_and_still_verified() {
        let one = peer("orcd = true");
        assert!(one.orcd() && !one.orcd_only() && one.addressing_optional() && one.errors_as_warnings());
        assert!(one.verify_hash() && !one.next_of_kin_any_subject() && one.class_codes().is_empty());
        assert_eq!(one.deadline(), None, "how long it is waited for is no matter of what it is offered");
    }

    #[test]
    fn a_class_code_cannot_end_its_string() {
        for bad in ["18748-4", "^^1.2", "1'^^2", "1,2^^3", "(1^^2)"] {
            assert!(peer(&format!("class_codes = [\"{bad}\"]")).check_class_codes("x").is_some(), "{bad}");
        }
        assert!(peer("class_codes = [\"x-clinical-image^^2.16\"]").check_class_codes("x").is_none());
    }
}
