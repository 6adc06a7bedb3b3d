//! `ncp explain MESSAGE.xml`: each check in order, with its rule and configuration line. Nothing is fetched, sent or
//! disclosed.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use ncp_gateway::app::{Learned, Snapshot};
use ncp_gateway::config::{self, Config, Peer};
use ncp_gateway::policy::cases::Case;
use ncp_ihe::{CrossGatewayQueryRequest, PatientId, StoredQuery, actions};
use ncp_saml::{SecurityHeader, SignerIdentity, SignerTrust, Verifier};
use ncp_soap::{Addressing, Envelope};
use ncp_tls::{Anchors, CertificateFacts, Country};
use ncp_xml::Limits;
use openssl::x509::X509Ref;

use crate::Error;

/// Explains what the gateway would decide about a request that another country sent.
#[derive(Args)]
pub(crate) struct Explain {
    /// The SOAP envelope.
    message: PathBuf,
    /// Configuration of the gateway.
    #[arg(long)]
    config: PathBuf,
    /// Country whose TLS certificate it came with; default: the one that the assertions name.
    #[arg(long)]
    peer: Option<String>,
    /// Instant to judge it at; default: now.
    #[arg(long)]
    at: Option<Timestamp>,
}

struct Trust {
    anchors: Arc<Anchors>,
    country: Country,
    audiences: Vec<String>,
    kin_by_reference: bool,
}

impl SignerTrust for Trust {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        // A responder is not asked here: the path, and what CRLs say, must do.
        match self.anchors.verify(certificate, &[]) {
            Ok(_) | Err(ncp_tls::TlsError::StatusNeeded) => {}
            Err(error) => return Err(error.to_string()),
        }
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        let country = facts.country.filter(|c| *c == self.country).ok_or("signer is of another country")?;
        let (fingerprint, common_name) = (facts.fingerprint, facts.common_name);
        Ok(SignerIdentity { country, fingerprint, common_name, stale: false })
    }

    fn audiences(&self) -> &[String] {
        &self.audiences
    }

    fn kin_by_reference(&self) -> bool {
        self.kin_by_reference
    }
}

/// What was said so far.
struct Lines {
    config: PathBuf,
    text: String,
}

impl Lines {
    fn say(&self, held: Result<String, String>, rule: &str, key: &str) -> Result<(), ()> {
        let place = self.place(key);
        match held {
            Ok(what) => println!("ok       {rule}: {what}{place}"),
            Err(why) => {
                println!("REFUSED  {rule}: {why}{place}");
                return Err(());
            }
        }
        Ok(())
    }

    /// File and line of a key; for a peer, `[country] key`.
    fn place(&self, key: &str) -> String {
        let mut after = String::new();
        let (section, key) = key.split_once(' ').unwrap_or(("", key));
        for (number, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("country = ") || line.trim_start().starts_with('[') {
                after = line.to_owned();
            }
            if !key.is_empty() && line.trim_start().starts_with(key) && after.contains(section) {
                return format!("   ({}:{})", self.config.display(), number + 1);
            }
        }
        String::new()
    }
}

/// True when the request would be admitted.
pub(crate) async fn run(explain: Explain) -> Result<bool, Error> {
    let config =
        config::load(&explain.config).map_err(|p| p.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let snapshot = Snapshot::load(&config, &Learned::default()).map_err(|p| p.join("\n"))?;
    let bytes = std::fs::read(&explain.message)?;
    let lines = Lines { config: explain.config.clone(), text: std::fs::read_to_string(&explain.config)? };
    let now = explain.at.unwrap_or_else(Timestamp::now);
    Ok(steps(&lines, &config, &snapshot, &bytes, explain.peer.as_deref(), now).await.is_ok())
}

async fn steps(
    lines: &Lines,
    config: &Config,
    snapshot: &Snapshot,
    bytes: &[u8],
    peer: Option<&str>,
    now: Timestamp,
) -> Result<(), ()> {
    let limits = Limits { bytes: config.limits.message_bytes, ..Limits::REQUEST };
    let envelope = Envelope::read(bytes, &limits).map_err(|e| e.to_string());
    let read = envelope.as_ref().map(|_| format!("{} bytes", bytes.len())).map_err(Clone::clone);
    lines.say(read, "envelope within limits, no DOCTYPE", "[limits] message_bytes")?;
    let Ok(envelope) = envelope else { return Err(()) };
    let addressing = Addressing::read(&envelope).map_err(|e| e.to_string());
    lines.say(addressing.as_ref().map(|a| a.action.clone()).map_err(Clone::clone), "WS-Addressing", "")?;
    let Ok(addressing) = addressing else { return Err(()) };

    let text = String::from_utf8_lossy(bytes);
    let named = text.split("urn:idp:").nth(1).and_then(|rest| rest.get(..2));
    let found = peer.or(named).and_then(|c| Country::parse(c).ok()).and_then(|c| snapshot.peers.by_country(c)).cloned();
    let said = found.as_ref().map(|p| format!("{} ({})", p.name, p.country)).ok_or("no configured country".to_owned());
    let key = found.as_ref().map(|p| format!("\"{}\" country", p.country)).unwrap_or_default();
    lines.say(said, "the country is a peer", &key)?;
    let Some(peer) = found else { return Err(()) };

    let header = assertions(lines, config, snapshot, bytes, &peer, now).await?;
    identity(lines, &header, &peer)?;
    login(lines, &header, &peer)?;
    let patient = patient(lines, &addressing, &envelope, &header)?;
    let purpose = purpose(lines, &header)?;
    policy(lines, snapshot, &addressing, &header, (&peer, purpose))?;
    let consent = match &patient {
        None => Ok("no patient yet".to_owned()),
        Some(patient) => match snapshot.policy.directives(patient, &peer.country).await {
            Ok(directives) => Ok(format!("{:?}, {} blocks", directives.service, directives.blocks.len())),
            Err(error) => Err(error.to_string()),
        },
    };
    lines.say(consent, "consent and blocks (applied to each document)", "[policy] consent_file")?;
    println!("ADMITTED: documents and studies are then decided one by one");
    Ok(())
}

async fn assertions(
    lines: &Lines,
    config: &Config,
    snapshot: &Snapshot,
    bytes: &[u8],
    peer: &Peer,
    now: Timestamp,
) -> Result<SecurityHeader, ()> {
    let key = format!("\"{}\" seal_anchors", peer.country);
    let Some(anchors) = snapshot.seal_anchors.get(&peer.country).cloned() else {
        lines.say(Err("no anchors".into()), "seal anchors", &key)?;
        return Err(());
    };
    let audiences = vec![config.gateway.home_community_id.to_string()];
    let kin_by_reference = peer.next_of_kin_any_subject();
    let trust = Arc::new(Trust { anchors, country: peer.country, audiences, kin_by_reference });
    let verified = match Verifier::start(1) {
        Ok(verifier) => verifier.verify(bytes.to_vec().into(), trust, now).await,
        Err(error) => Err(error),
    };
    let header = verified.map_err(|e| e.to_string());
    let said = header.as_ref().map(|h| {
        let signer = h.hcp.signer();
        format!("signed by {} of {}, until {}", signer.common_name, signer.country, h.hcp.not_on_or_after)
    });
    let rule = "signature profile, signer's path and revocation, signature, times, audience, content, TRC's link";
    lines.say(said.map_err(Clone::clone), rule, &key)?;
    header.map_err(|_| ())
}

fn identity(lines: &Lines, header: &SecurityHeader, peer: &Peer) -> Result<(), ()> {
    let home = header.hcp.home_community_id.clone().unwrap_or_default();
    let known = home.is_empty() || ncp_ihe::HomeCommunityId::parse(&home).is_ok_and(|home| peer.is_known_as(&home));
    let foreign = || format!("{home} is not the peer's: where it is, list it under its aliases");
    let said = if known { Ok(peer.home_community_id.to_string()) } else { Err(foreign()) };
    lines.say(said, "one identity: homeCommunityId", &format!("\"{}\" home_community_id", peer.country))
}

/// A login that is none of the two-factor classes stays refused, unless the country vouches for its class.
fn login(lines: &Lines, header: &SecurityHeader, peer: &Peer) -> Result<(), ()> {
    let class = &header.hcp.authn_class;
    let said = if is_taken(header, peer) {
        Ok(class.clone())
    } else {
        Err(format!("{class} is no two-factor class: where the country vouches for it, list it under authn_classes"))
    };
    lines.say(said, "class of the login (4702)", &format!("\"{}\" authn_classes", peer.country))
}

fn is_taken(header: &SecurityHeader, peer: &Peer) -> bool {
    header.hcp.strongly_authenticated || peer.authn_classes.contains(&header.hcp.authn_class)
}

/// The purpose that counts: the treatment's where it is more specific than the login's.
fn purpose(lines: &Lines, header: &SecurityHeader) -> Result<&'static str, ()> {
    let (login, treatment) = (header.hcp.purpose, header.trc.as_ref().and_then(|trc| trc.purpose));
    let purpose = login.narrowed(treatment).map(ncp_saml::Purpose::as_str);
    let said =
        purpose.map(ToOwned::to_owned).ok_or("the treatment's is less specific than the login's (1002)".to_owned());
    lines.say(said, "purpose", "")?;
    purpose.ok_or(())
}

fn patient(
    lines: &Lines,
    addressing: &Addressing,
    envelope: &Envelope,
    header: &SecurityHeader,
) -> Result<Option<PatientId>, ()> {
    if addressing.action == actions::ITI55_REQUEST {
        return Ok(None);
    }
    let Some(trc) = &header.trc else {
        lines.say(Err("no TRC assertion (1001)".into()), "treatment relationship", "")?;
        return Err(());
    };
    let patient = PatientId::parse_cx(&trc.patient).map_err(|_| "patient of the TRC is no CX".to_owned());
    lines.say(patient.as_ref().map(|_| format!("until {}", trc.not_on_or_after)).map_err(Clone::clone), "TRC", "")?;
    let Ok(patient) = patient else { return Err(()) };
    let named = header.hcp.patient.as_ref();
    if named.is_some_and(|named| PatientId::parse_cx(named).ok().as_ref() != Some(&patient)) {
        lines.say(Err("the HCP assertion names another patient than the TRC (4206)".into()), "resource-id", "")?;
    }
    if addressing.action == actions::ITI38_REQUEST {
        let query = CrossGatewayQueryRequest::read(&envelope.body).map_err(|e| e.to_string());
        let said = query.and_then(|q| match q.query {
            StoredQuery::FindDocuments(find) if find.patient_id != patient => {
                Err("the query names another patient than the TRC (4206)".to_owned())
            }
            _ => Ok("the query names no other patient".to_owned()),
        });
        lines.say(said, "patient binding", "")?;
    }
    Ok(Some(patient))
}

fn policy(
    lines: &Lines,
    snapshot: &Snapshot,
    addressing: &Addressing,
    header: &SecurityHeader,
    (peer, purpose): (&Peer, &str),
) -> Result<(), ()> {
    let transaction = match addressing.action.as_str() {
        actions::ITI55_REQUEST => "ITI-55",
        actions::ITI38_REQUEST => "ITI-38",
        actions::ITI39_REQUEST => "ITI-39",
        actions::RAD75_REQUEST => "RAD-75",
        _ => return lines.say(Err("no transaction of ours".into()), "action", ""),
    };
    let hcp = &header.hcp;
    let known = ncp_gateway::policy::roles::is_known(&hcp.role.system, &hcp.role.code, &hcp.role.display);
    let role = format!("{} {}", hcp.role.code, hcp.role.display);
    lines.say(if known { Ok(role.clone()) } else { Err(role) }, "role is of the list (4703)", "")?;
    let case = Case {
        purpose: purpose.to_owned(),
        login_purpose: Some(hcp.purpose.as_str().to_owned()),
        strong: is_taken(header, peer),
        ..Case::of(transaction, hcp, header.nok.is_some())
    };
    let said = case.ask(snapshot.policy.engine()).map_err(|e| e.to_string());
    let said = said.and_then(|said| match said.verdict {
        "permit" => Ok(format!("permit by {}", said.rules)),
        verdict => Err(format!("{verdict} by {}", said.rules)),
    });
    lines.say(said, "policy", "[policy] folder")
}
