//! `ncp attack`: the attack set against one's own gateway, as a report that an auditor reads.

use std::path::{Path, PathBuf};

use clap::Args;
use ncp_ihe::{HomeCommunityId, PatientId};
use ncp_tests::attack::{Attacker, Finding, Side, handshakes, other_names, report};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::CountryPki;

use crate::attack_callers::Callers;
use crate::demo::{FINLAND, NORWAY, data_dir, offset};
use crate::{Error, attack_trail};

/// What no client can send, and where it is tried.
const ANSWERS: &str = "\
Hostile answers of an archive or of another country's gateway are not sent: whoever sends them does not see what the \
gateway hands on. `cargo test --release --test national` (attack, unsound, odd_archive, mime, xds) gives them to every \
connector, `--test abuse` (initiating) and `--test initiating` (bound, mime, losses, odd, told) to a gateway that asks. Rows \
that need a gateway in a state of its own (revocation lists, OCSP, rates, restarts, metadata of an SMP) are `--test abuse` \
(states, crl, rollover, smp), and slow or broken connections `--test responding` (hazards).";

/// Sends what must be refused and writes what came back. Nothing is disclosed that the test patient does not have.
///
/// As a peer to the gateway's port for peers, as a national consumer to its port for consumers, as a clinician's system to its
/// port for clinicians; in a demonstration to all three and to its audit repository. Against a gateway of your own each needs
/// what makes it known there: a test country as a peer (--gateway), consumer.pem and xua.pem of a test PKI (--consumers), the
/// key of a test issuer (--clinicians). Ids are those of docs/threats.md.
#[derive(Args)]
#[command(after_long_help = ANSWERS)]
pub(crate) struct Attack {
    /// The gateway, `host:port`; default: Norway's of a running demonstration.
    #[arg(long)]
    gateway: Option<String>,
    /// Anchors of the gateway's certificate, PEM; with --gateway.
    #[arg(long)]
    anchors: Option<PathBuf>,
    /// PKI of a test country (`ncp pki`) that the gateway has as a peer; with --gateway.
    #[arg(long)]
    pki: Option<PathBuf>,
    /// Its two letters.
    #[arg(long, default_value = "FI")]
    country: String,
    /// Its homeCommunityId.
    #[arg(long, default_value = FINLAND.home)]
    home: String,
    /// homeCommunityId of the gateway.
    #[arg(long, default_value = NORWAY.home)]
    target: String,
    /// A test patient, CX.
    #[arg(long, default_value = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")]
    patient: String,
    /// Another one.
    #[arg(long, default_value = "01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")]
    other: String,
    /// A document of the other one, `repositoryUniqueId/uniqueId`.
    #[arg(long, default_value = "2.999.47.21.1/2.999.47.30.404")]
    foreign_document: String,
    /// A document that the first one has blocked.
    #[arg(long)]
    blocked_document: Option<String>,
    /// A test person who opted out of the service, CX.
    #[arg(long)]
    opted_out: Option<String>,
    #[command(flatten)]
    callers: Callers,
    /// Folder of the demonstration; default NCP_DEMO_DIR or ~/.ncp-demo.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The report, Markdown.
    #[arg(long, default_value = "attack-report.md")]
    out: PathBuf,
}

/// True when every row held.
pub(crate) async fn run(attack: Attack) -> Result<bool, Error> {
    let demo = attack.gateway.is_none();
    let (host, port) = match &attack.gateway {
        None => ("127.0.0.1".to_owned(), offset(NORWAY.code) + 443),
        Some(address) => host_and_port(address)?,
    };
    let dir = data_dir(attack.dir.clone())?;
    let pki = attack.pki.clone().unwrap_or_else(|| dir.join("fi/pki"));
    let anchors = attack.anchors.clone().unwrap_or_else(|| dir.join("no/pki/anchors.pem"));
    let pki = CountryPki::open(&pki, &attack.country)?;
    let unit = |text: &str| {
        let (repository, document) = text.split_once('/').ok_or("a document is repositoryUniqueId/uniqueId")?;
        Ok::<_, Error>((repository.to_owned(), document.to_owned()))
    };
    let blocked = match (&attack.blocked_document, demo) {
        (Some(text), _) => Some(unit(text)?),
        (None, true) => Some(("2.999.47.21.1".into(), "2.999.47.30.2".into())),
        (None, false) => None,
    };
    let attacker = Attacker {
        side: Side::Peer,
        neighbour: Neighbour::new(&pki, &attack.home, &anchors, &host, port)?,
        pki,
        third: None,
        third_neighbour: None,
        target: HomeCommunityId::parse(&attack.target)?,
        patient: PatientId::parse_cx(&attack.patient)?,
        other: PatientId::parse_cx(&attack.other)?,
        foreign_document: unit(&attack.foreign_document)?,
        blocked_document: blocked,
        opted_out: attack.opted_out.as_deref().map(PatientId::parse_cx).transpose()?,
    };
    let mut findings = through_messages(&attacker, &anchors, (&host, port)).await?;
    let callers = if demo { attack.callers.of_demo(&dir) } else { attack.callers };
    findings.extend(callers.rows(attacker).await?);
    if demo {
        findings.extend(attack_trail::rows(&dir, NORWAY.code).await?);
    } else {
        println!(
            "the audit repository is not tried: its ports are known of a demonstration only (T-AUD-10 to T-AUD-15)"
        );
    }
    std::fs::write(&attack.out, report(&format!("{host}:{port}"), &findings))?;
    let failed: Vec<_> = findings.iter().filter(|f| !f.held).collect();
    for finding in &failed {
        println!("FAILED  {}: {}: expected {}, got {}", finding.id, finding.input, finding.expected, finding.got);
    }
    println!("{} rows, {} failed; report in {}", findings.len(), failed.len(), attack.out.display());
    Ok(failed.is_empty())
}

/// Handshakes, certificates of other names, and every row that is a message.
pub(crate) async fn through_messages(
    attacker: &Attacker,
    anchors: &Path,
    at: (&str, u16),
) -> Result<Vec<Finding>, Error> {
    let mut findings = handshakes(attacker, anchors, at, None).await?;
    findings.extend(other_names(attacker, anchors, at).await?);
    for row in attacker.rows().await? {
        findings.push(attacker.run(&row).await);
    }
    Ok(findings)
}

pub(crate) fn host_and_port(address: &str) -> Result<(String, u16), Error> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} is no host:port"))?;
    Ok((host.to_owned(), port.parse()?))
}
