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

/// The attacked gateway, and what is known of it.
#[derive(Args)]
#[command(after_long_help = ANSWERS)]
pub(crate) struct Attack {
    /// The gateway, `host:port`; default: Norway's of a running demonstration.
    #[arg(long, requires_all = ["anchors", "pki"])]
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
    pub(crate) patient: String,
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
    /// PKI of a third country (`ncp pki`) that the gateway has as a peer too, for what one country shows of another; with
    /// --gateway.
    #[arg(long, requires_all = ["third_country", "third_home"])]
    third_pki: Option<PathBuf>,
    /// Its two letters.
    #[arg(long)]
    third_country: Option<String>,
    /// Its homeCommunityId.
    #[arg(long)]
    third_home: Option<String>,
    /// Configuration of the gateway's audit repository (audit.toml), which is asked by everybody whom it does not name.
    #[arg(long, requires = "audit_pki")]
    audit: Option<PathBuf>,
    /// Folder with the certificates that are shown to it, reader.pem among them (`ncp pki`); with --audit.
    #[arg(long)]
    audit_pki: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) callers: Callers,
    /// Folder of the demonstration; default NCP_DEMO_DIR or ~/.ncp-demo.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The report, Markdown.
    #[arg(long, default_value = "attack-report.md")]
    out: PathBuf,
}

/// True when every row held.
pub(crate) async fn run(mut attack: Attack) -> Result<bool, Error> {
    let dir = data_dir(attack.dir.clone())?;
    let demo = attack.gateway.is_none() && !attack.callers.are_given() && attack.audit.is_none();
    if demo {
        attack.gateway = Some(format!("127.0.0.1:{}", offset(NORWAY.code) + 443));
        attack.pki.get_or_insert(dir.join(FINLAND.code).join("pki"));
        attack.anchors.get_or_insert(dir.join(NORWAY.code).join("pki/anchors.pem"));
        attack.blocked_document.get_or_insert("2.999.47.21.1/2.999.47.30.2".into());
        attack.callers = Callers::of_demo(&dir);
        attack.audit.get_or_insert(dir.join(NORWAY.code).join("audit.toml"));
        attack.audit_pki.get_or_insert(dir.join(NORWAY.code).join("pki"));
    }
    let mut findings = attack.as_peer().await?;
    findings.extend(attack.as_consumer().await?);
    findings.extend(attack.as_clinician().await?);
    if let (Some(config), Some(pki)) = (&attack.audit, &attack.audit_pki) {
        findings.extend(attack_trail::rows(config, pki).await?);
    }
    let addresses = [&attack.gateway, &attack.callers.consumers, &attack.callers.clinicians];
    let addresses: Vec<&str> = addresses.into_iter().flatten().map(String::as_str).collect();
    let unsent = attack.unsent();
    let of_unsent =
        if unsent.is_empty() { String::new() } else { format!("\nNot sent:\n\n- {}\n", unsent.join("\n- ")) };
    std::fs::write(&attack.out, report(&addresses.join(", "), &findings) + &of_unsent)?;
    let failed: Vec<_> = findings.iter().filter(|f| !f.held).collect();
    for finding in &failed {
        println!("FAILED  {}: {}: expected {}, got {}", finding.id, finding.input, finding.expected, finding.got);
    }
    println!("{} rows, {} failed; report in {}", findings.len(), failed.len(), attack.out.display());
    unsent.iter().for_each(|what| println!("not sent: {what}"));
    Ok(failed.is_empty())
}

impl Attack {
    /// What no option gave the means for, and the options that do.
    fn unsent(&self) -> Vec<String> {
        let messages = self.gateway.is_some() || self.callers.consumers.is_some();
        let missing = [
            (self.gateway.is_none(), "what a peer sends: --gateway, --anchors, --pki"),
            (
                self.callers.consumers.is_none(),
                "what a national consumer sends: --consumers, --national-pki, --own-anchors",
            ),
            (
                self.callers.clinicians.is_none(),
                "what a clinician's system sends: --clinicians, --issuer, --issuer-key, --own-anchors",
            ),
            (
                self.gateway.is_some() && self.third_pki.is_none(),
                "what one country shows of another (T-KEY-8, T-BND-5, T-BND-17, T-BND-17b, T-TIM-8): --third-pki, \
                 --third-country, --third-home",
            ),
            (
                messages && self.blocked_document.is_none(),
                "what a patient has closed (T-CNS-1, T-CNS-1b, T-CNS-7, T-CNS-7b): --blocked-document",
            ),
            (messages && self.opted_out.is_none(), "a person who opted out (T-CNS-5 to T-CNS-6b): --opted-out"),
            (self.audit.is_none(), "what is sent to an audit repository (T-AUD-10 to T-AUD-15): --audit, --audit-pki"),
        ];
        missing.into_iter().filter(|(is_missing, _)| *is_missing).map(|(_, what)| what.to_owned()).collect()
    }

    async fn as_peer(&self) -> Result<Vec<Finding>, Error> {
        let Some(address) = &self.gateway else { return Ok(Vec::new()) };
        let pki = self.pki.as_ref().ok_or("give --pki with --gateway")?;
        let anchors = self.anchors.as_ref().ok_or("give --anchors with --gateway")?;
        let pki = CountryPki::open(pki, &self.country)?;
        self.through_messages(Side::Peer, (pki, &self.home), anchors, address).await
    }

    /// Handshakes, certificates of other names, and every row that is a message.
    pub(crate) async fn through_messages(
        &self,
        side: Side,
        (pki, home): (CountryPki, &str),
        anchors: &Path,
        address: &str,
    ) -> Result<Vec<Finding>, Error> {
        let (host, port) = host_and_port(address)?;
        let at = (host.as_str(), port);
        let third = match (side, &self.third_pki, &self.third_country, &self.third_home) {
            (Side::Peer, Some(pki), Some(country), Some(home)) => Some((CountryPki::open(pki, country)?, home)),
            _ => None,
        };
        let third_neighbour = third.as_ref().map(|(pki, home)| Neighbour::new(pki, home, anchors, at.0, at.1));
        let attacker = Attacker {
            side,
            neighbour: Neighbour::showing(&pki, home, anchors, at.0, at.1, side.certificates())?,
            pki,
            third_neighbour: third_neighbour.transpose()?,
            third: third.map(|(pki, _)| pki),
            target: HomeCommunityId::parse(&self.target)?,
            patient: PatientId::parse_cx(&self.patient)?,
            other: PatientId::parse_cx(&self.other)?,
            foreign_document: unit(&self.foreign_document)?,
            blocked_document: self.blocked_document.as_deref().map(unit).transpose()?,
            opted_out: self.opted_out.as_deref().map(PatientId::parse_cx).transpose()?,
        };
        attacker.until_served().await?;
        let mut findings = handshakes(&attacker, anchors, at, None).await?;
        findings.extend(other_names(&attacker, anchors, at).await?);
        for row in attacker.rows().await? {
            findings.push(attacker.run(&row).await);
        }
        Ok(findings)
    }
}

fn unit(text: &str) -> Result<(String, String), Error> {
    let (repository, document) = text.split_once('/').ok_or("a document is repositoryUniqueId/uniqueId")?;
    Ok((repository.to_owned(), document.to_owned()))
}

pub(crate) fn host_and_port(address: &str) -> Result<(String, u16), Error> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} is no host:port"))?;
    Ok((host.to_owned(), port.parse()?))
}
