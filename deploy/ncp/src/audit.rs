//! `ncp audit`: reading a trail. Every reading goes on the trail itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use ncp_audit::{Filter, Message, Site, SpoolOptions};
use ncp_proto::audit::Found;
use ncp_tls::TlsFiles;
use serde_json::{Value, json};
use tonic::transport::Channel;

use self::pages::{Matched, Matching};
use crate::Error;
use crate::demo::Country;

mod long;
mod pages;

/// Which repository.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// Country of the demonstration: no or fi.
    #[arg(long, default_value = "no")]
    country: String,
    /// Folder of the demonstration; default NCP_DEMO_DIR or ~/.ncp-demo.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What is searched.
#[derive(clap::Args)]
pub(crate) struct What {
    /// Patient, as id^^^&OID&ISO.
    #[arg(long, default_value = "")]
    patient: String,
    /// User, as alias<user@issuer>.
    #[arg(long, default_value = "")]
    user: String,
    /// TREATMENT or EMERGENCY.
    #[arg(long, default_value = "")]
    purpose: String,
    /// Study Instance UID.
    #[arg(long, default_value = "")]
    study: String,
    /// Transaction, as RAD-75.
    #[arg(long, default_value = "")]
    transaction: String,
    /// The other country, two letters.
    #[arg(long, default_value = "")]
    with: String,
    /// Organisation of the professional.
    #[arg(long, default_value = "")]
    organisation: String,
    /// Name in the sender's certificate, or AuditSourceID.
    #[arg(long, default_value = "")]
    source: String,
    /// 0, 4, 8 or 12.
    #[arg(long)]
    outcome: Option<i32>,
    /// Only emergency access.
    #[arg(long)]
    emergency: bool,
    /// Events from this instant on, as 2026-11-23T00:00:00Z.
    #[arg(long)]
    since: Option<jiff::Timestamp>,
    /// Events before this instant.
    #[arg(long)]
    until: Option<jiff::Timestamp>,
    /// Entries at most; not given: 100, and all where they are exported.
    #[arg(long)]
    limit: Option<usize>,
    /// Why you look; recorded.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: String,
}

/// Form of an export.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Form {
    /// The messages as they were received, one a file.
    Xml,
    /// A FHIR Bundle of AuditEvent resources.
    Fhir,
    /// One row a record.
    Csv,
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Lists exchanges, newest first; the records of one are folded into a line.
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        what: What,
        /// One JSON object a record, with the audit message.
        #[arg(long)]
        json: bool,
    },
    /// Searches single records, newest first.
    Search {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        what: What,
        /// One JSON object a record, with the audit message.
        #[arg(long)]
        json: bool,
    },
    /// Shows the messages of one exchange.
    Show {
        #[command(flatten)]
        target: Target,
        /// Exchange id, as `list` prints it.
        exchange: String,
        /// Why you look; recorded.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        reason: String,
    },
    /// What each source sent, what is missing, who is silent, what was refused. Exit code 1 when something is missing.
    Gaps {
        #[command(flatten)]
        target: Target,
    },
    /// Writes records to a folder or file: all, or exit code 1 and what is missing.
    Export {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        what: What,
        /// Form.
        #[arg(long, value_enum, default_value = "fhir")]
        format: Form,
        /// File, or folder for xml.
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes the index again from the records; the repository must not run.
    Reindex {
        /// Configuration of ncp-audit.
        #[arg(long)]
        config: PathBuf,
    },
    /// What lies in a gateway's spool and what each receiver lacks.
    Spool {
        /// Folder of the spool.
        #[arg(long)]
        spool: PathBuf,
        /// Its key.
        #[arg(long)]
        key: PathBuf,
    },
    /// Records that a receiver does not take and that were set apart: when, how long, why. Exit code 1 when there are any.
    Apart {
        /// Folder of the spool.
        #[arg(long)]
        spool: PathBuf,
        /// Its key.
        #[arg(long)]
        key: PathBuf,
        /// Only those of this receiver, as `ncp audit spool` names it.
        #[arg(long)]
        receiver: Option<String>,
        /// Writes the messages to this folder, one a file.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Sends one record of the greatest length to each foreign repository of a gateway's configuration and says what must
    /// have arrived. Exit code 1 when a receiver does not take it.
    TryLength {
        /// Configuration of the gateway.
        #[arg(long)]
        config: PathBuf,
    },
    /// Prints records as the repository keeps them, until Ctrl-C.
    Watch {
        #[command(flatten)]
        target: Target,
        /// Why you look; recorded.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        reason: String,
    },
}

/// Runs a command; false when there is a finding.
pub(crate) async fn run(command: Command) -> Result<bool, Error> {
    match command {
        Command::List { target, what, json: true } | Command::Search { target, what, json: true } => {
            for found in first(&target, what).await? {
                println!("{}", object(&found));
            }
        }
        Command::List { target, what, .. } => list(first(&target, what).await?),
        Command::Search { target, what, .. } => {
            first(&target, what).await?.iter().for_each(|found| println!("{}", line(found)))
        }
        Command::Show { target, exchange, reason } => {
            let filter = Filter { exchange_id: exchange, reason, limit: 1000, ..Filter::default() };
            for found in search(&crate::demo::data_dir(target.dir)?, &target.country, filter).await?.iter().rev() {
                println!("{}", line(found));
                println!("{}", String::from_utf8_lossy(&found.record.clone().unwrap_or_default().message));
            }
        }
        Command::Gaps { target } => return gaps(&target).await,
        Command::Export { target, what, format, out } => {
            let (most, matching) = (what.limit.unwrap_or(usize::MAX), Matching::All);
            return export(&found(&target, what, most, matching).await?, format, &out);
        }
        Command::Reindex { config } => {
            let program = std::env::current_exe()?.with_file_name("ncp-audit");
            let status = std::process::Command::new(program).arg("reindex").arg("--config").arg(config).status()?;
            return Ok(status.success());
        }
        Command::Spool { spool, key } => {
            let content = ncp_audit::read_spool(&SpoolOptions::new(spool, key, Site::default()))?;
            let (segments, bytes) = content.size;
            println!(
                "{} records in {segments} segments, {bytes} bytes; {} exchanges without an end",
                content.records.len(),
                content.open
            );
            for (receiver, waiting) in content.waiting {
                let apart = content.apart.get(&receiver).map_or(0, Vec::len);
                println!("{receiver}: {waiting} records not acknowledged, {apart} set apart");
            }
        }
        Command::Apart { spool, key, receiver, out } => {
            let content = ncp_audit::read_spool(&SpoolOptions::new(spool, key, Site::default()))?;
            return apart(content, receiver.as_deref(), out.as_deref());
        }
        Command::TryLength { config } => return long::run(&config).await,
        Command::Watch { target, reason } => {
            let mut stream =
                ncp_audit::watch(channel(&crate::demo::data_dir(target.dir)?, &target.country)?, reason).await?;
            while let Some(found) = stream.message().await? {
                println!("{}", line(&found));
            }
        }
    }
    Ok(true)
}

/// Prints what was set apart, and writes the messages where a folder is given; whether there is nothing.
fn apart(content: ncp_audit::SpoolContent, only: Option<&str>, out: Option<&Path>) -> Result<bool, Error> {
    if let Some(folder) = out {
        std::fs::create_dir_all(folder)?;
    }
    let mut nothing = true;
    for (receiver, records) in content.apart.into_iter().filter(|(name, _)| only.is_none_or(|only| only == name)) {
        for (index, one) in records.into_iter().enumerate() {
            nothing = false;
            let digest = hex::encode(openssl::sha::sha256(one.xml.as_bytes()));
            let (epoch, seq, bytes) = (one.epoch, one.seq, one.xml.len());
            println!("{receiver} epoch {epoch} seq {seq} at {} {bytes} bytes SHA-256 {digest}: {}", one.at, one.reason);
            if let Some(folder) = out {
                std::fs::write(folder.join(format!("{receiver}-{index:04}-{epoch}-{seq}.xml")), one.xml)?;
            }
        }
    }
    Ok(nothing)
}

/// The first of what fits, said so where there is more.
async fn first(target: &Target, what: What) -> Result<Vec<Found>, Error> {
    let most = what.limit.unwrap_or(100);
    let found = found(target, what, most, Matching::OneMore).await?;
    if found.matching > found.records.len() {
        eprintln!("stopped at {}, there are more: --limit", found.records.len());
    }
    Ok(found.records)
}

async fn found(target: &Target, what: What, most: usize, matching: Matching) -> Result<Matched, Error> {
    let us = |at: Option<jiff::Timestamp>| at.map_or(0, jiff::Timestamp::as_microsecond);
    let filter = Filter {
        patient: what.patient,
        user: what.user,
        purpose: what.purpose,
        study: what.study,
        transaction: what.transaction,
        country: what.with,
        organisation: what.organisation,
        source: what.source,
        outcome: what.outcome,
        emergency: what.emergency,
        from_us: us(what.since),
        to_us: us(what.until),
        reason: what.reason,
        ..Filter::default()
    };
    let dir = crate::demo::data_dir(target.dir.clone())?;
    pages::all(most, matching, |limit, skip| search(&dir, &target.country, Filter { limit, skip, ..filter.clone() }))
        .await
}

/// Text from outside as a terminal may show it.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// AuditSourceID as the message has it. The certificate's name, which is shown beside it, is the one that was checked.
fn claimed(found: &Found) -> String {
    found.record.as_ref().and_then(Message::of_record).map(|message| message.source).unwrap_or_default()
}

fn line(found: &Found) -> String {
    let record = found.record.clone().unwrap_or_default();
    let says = claimed(found);
    let facts = record.facts.unwrap_or_default();
    let at = jiff::Timestamp::from_microsecond(record.event_time_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let text = format!(
        "{at:.0} {:<12} {:<11} outcome {:<2} {} {} {} {} from {} as {says}",
        facts.transaction,
        facts.role,
        facts.outcome,
        facts.country,
        facts.purpose,
        facts.user,
        facts.exchange_id,
        found.source
    );
    shown(&text)
}

/// One line an exchange: what it was, how it ended at worst, how many records it has.
fn list(found: Vec<Found>) {
    let mut order = Vec::new();
    let mut exchanges: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for one in found {
        let record = one.record.as_ref();
        let id = record.and_then(|r| r.facts.as_ref()).map(|f| f.exchange_id.clone()).unwrap_or_default();
        // What belongs to no exchange stands alone.
        let key = if id.is_empty() {
            format!("{}/{}/{}", one.source, record.map_or(0, |r| r.epoch), record.map_or(0, |r| r.seq))
        } else {
            id
        };
        if !exchanges.contains_key(&key) {
            order.push(key.clone());
        }
        exchanges.entry(key).or_default().push(one);
    }
    for key in order {
        let records = &exchanges[&key];
        let is_exchange =
            |f: &&Found| f.record.as_ref().and_then(|r| r.facts.as_ref()).is_some_and(|f| f.role != "application");
        let Some(head) = records.iter().find(is_exchange).or(records.first()) else { continue };
        let others: Vec<String> = records
            .iter()
            .filter(|f| !std::ptr::eq(*f, head))
            .filter_map(|f| f.record.as_ref()?.facts.as_ref().map(|f| format!("{} ({})", f.transaction, f.outcome)))
            .collect();
        println!(
            "{}{}",
            line(head),
            if others.is_empty() { String::new() } else { shown(&format!(" + {}", others.join(", "))) }
        );
    }
}

fn object(found: &Found) -> Value {
    let says = claimed(found);
    let record = found.record.clone().unwrap_or_default();
    let facts = record.facts.unwrap_or_default();
    let at = jiff::Timestamp::from_microsecond(record.event_time_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    json!({ "source": found.source, "claimed_source": says, "epoch": record.epoch, "seq": record.seq, "time": at.to_string(),
        "transaction": facts.transaction, "role": facts.role, "outcome": facts.outcome, "user": facts.user,
        "country": facts.country, "purpose": facts.purpose, "studies": facts.studies, "exchange": facts.exchange_id,
        "message": String::from_utf8_lossy(&record.message) })
}

async fn gaps(target: &Target) -> Result<bool, Error> {
    let reply = ncp_audit::gaps(channel(&crate::demo::data_dir(target.dir.clone())?, &target.country)?).await?;
    for s in &reply.sources {
        let last = jiff::Timestamp::from_microsecond(s.last_received_us)?;
        // IHE Consistent Time asks for a median error below one second.
        let clock =
            if s.ahead_us > 1_000_000 { format!(", clock {} ms ahead", s.ahead_us / 1000) } else { String::new() };
        // Everything of a prompt source comes within a second; what always comes late has a slow clock or way.
        let clock = match s.behind_us > 60_000_000 {
            true => format!("{clock}, clock {} ms behind or nothing came promptly", s.behind_us / 1000),
            false => clock,
        };
        let (source, epoch, records, first, to, twice) =
            (shown(&s.source), s.epoch, s.records, s.first_seq, s.last_seq, s.duplicated);
        println!(
            "{source} epoch {epoch}: {records} records, {first} to {to}, {twice} came again, last {last:.0}{clock}"
        );
    }
    for gap in &reply.gaps {
        println!("MISSING {} epoch {}: {} to {}", shown(&gap.source), gap.epoch, gap.first_seq, gap.last_seq);
    }
    for source in &reply.silent {
        println!("SILENT {}", shown(source));
    }
    for refused in &reply.rejected {
        let at = jiff::Timestamp::from_microsecond(refused.received_us)?;
        println!("REFUSED {at:.0} {}: {}", shown(&refused.source), shown(&refused.reason));
    }
    Ok(reply.gaps.is_empty())
}

/// Whether everything that fits was written.
fn export(matched: &Matched, format: Form, out: &Path) -> Result<bool, Error> {
    let found = matched.records.as_slice();
    let mut written = found.len();
    match format {
        Form::Xml => {
            std::fs::create_dir_all(out)?;
            for (index, found) in found.iter().enumerate() {
                let record = found.record.clone().unwrap_or_default();
                let extension = if record.media_type == "application/xml" { "xml" } else { "json" };
                std::fs::write(out.join(format!("{index:06}.{extension}")), &record.message)?;
            }
        }
        Form::Fhir => {
            let entries: Vec<Value> =
                found.iter().filter_map(ncp_audit::shown).map(|event| json!({ "resource": event })).collect();
            written = entries.len();
            // A Bundle of this type says how much there is (FHIR R4, bdl-1).
            let total = matched.matching;
            let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "total": total, "entry": entries });
            std::fs::write(out, serde_json::to_vec_pretty(&bundle)?)?;
        }
        Form::Csv => {
            let mut file = std::fs::File::create(out)?;
            writeln!(
                file,
                "time,transaction,role,outcome,country,purpose,user,organisation,exchange,studies,source,claimed_source"
            )?;
            for found in found {
                let says = claimed(found);
                let record = found.record.clone().unwrap_or_default();
                let facts = record.facts.unwrap_or_default();
                let at = jiff::Timestamp::from_microsecond(record.event_time_us)?;
                let cells = [
                    at.to_string(),
                    facts.transaction,
                    facts.role,
                    facts.outcome.to_string(),
                    facts.country,
                    facts.purpose,
                    facts.user,
                    facts.organisation,
                    facts.exchange_id,
                    facts.studies.join(" "),
                    found.source.clone(),
                    says,
                ];
                writeln!(file, "{}", cells.map(|cell| quoted(&cell)).join(","))?;
            }
        }
    }
    println!("{written} records");
    if found.len() < matched.matching {
        eprintln!("stopped at {} of {}", found.len(), matched.matching);
    }
    if written < found.len() {
        eprintln!("{} records have no form as AuditEvent: export them as xml", found.len() - written);
    }
    Ok(written == matched.matching)
}

/// A cell that a spreadsheet takes for text, not for a formula.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@']);
    format!("\"{}{}\"", if formula { "'" } else { "" }, shown(cell).replace('"', "\"\""))
}

/// Searches the repository of a country of the demonstration, whose own checks give no reason.
pub(crate) async fn search(dir: &Path, country: &str, filter: Filter) -> Result<Vec<Found>, Error> {
    let reason = if filter.reason.is_empty() { "check of the demonstration".to_owned() } else { filter.reason };
    let filter = Filter { reason, ..filter };
    Ok(ncp_audit::search(channel(dir, country)?, filter).await?)
}

/// Keeps the records of the exchanges of a country of the demonstration beside the messages of a capture, for
/// `check-messages`.
pub(crate) async fn keep(dir: &Path, country: &Country, into: &Path) -> Result<usize, Error> {
    let into = into.join("audit").join(country.home);
    std::fs::create_dir_all(&into)?;
    let to_us = jiff::Timestamp::now().as_microsecond();
    let mut kept = 0;
    for role in ["initiator", "responder"] {
        let filter = Filter { role: role.into(), to_us, ..Filter::default() };
        for one in every(dir, country.code, &filter).await? {
            let message = one.record.map(|record| record.message).unwrap_or_default();
            std::fs::write(into.join(format!("{kept:06}.xml")), message)?;
            kept += 1;
        }
    }
    Ok(kept)
}

/// Every record of a country of the demonstration that a filter finds, each once.
pub(crate) async fn every(dir: &Path, country: &str, filter: &Filter) -> Result<Vec<Found>, Error> {
    let page = async |limit, skip| search(dir, country, Filter { limit, skip, ..filter.clone() }).await;
    Ok(pages::all(usize::MAX, pages::Matching::All, page).await?.records)
}

/// How many numbered records never came to the repository of a country of the demonstration.
pub(crate) async fn missing(dir: &Path, country: &str) -> Result<u64, Error> {
    let reply = ncp_audit::gaps(channel(dir, country)?).await?;
    Ok(reply.gaps.iter().map(|gap| gap.last_seq - gap.first_seq + 1).sum())
}

pub(crate) fn channel(dir: &Path, country: &str) -> Result<Channel, Error> {
    let query = ([127, 0, 0, 1], crate::demo::offset(country) + 448).into();
    channel_to(&dir.join(country).join("pki"), query)
}

/// A channel to a repository with the reader's certificate of a folder.
pub(crate) fn channel_to(pki: &Path, query: SocketAddr) -> Result<Channel, Error> {
    let files = TlsFiles {
        cert_chain: pki.join("reader.pem"),
        key: pki.join("reader.key"),
        anchors: pki.join("internal-anchors.pem"),
        crls: None,
    };
    Ok(ncp_tls::channel(&format!("https://{query}"), "localhost", files.connector(b"\x02h2")?)?)
}

#[cfg(test)]
mod tests;
