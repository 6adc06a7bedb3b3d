//! `ncp audit`: reading a trail.

use std::path::{Path, PathBuf};

use ncp_audit::Filter;
use ncp_tls::TlsFiles;
use serde_json::json;

use crate::Error;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Lists records, newest first. The reading itself goes on the trail.
    List {
        /// Country of the demonstration: no or fi.
        #[arg(long, default_value = "no")]
        country: String,
        /// Folder of the demonstration; default NCP_DEMO_DIR or ~/.ncp-demo.
        #[arg(long)]
        dir: Option<PathBuf>,
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
        /// Why you look; recorded.
        #[arg(long, default_value = "")]
        reason: String,
        /// One JSON object a line, with the audit message.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(command: Command) -> Result<(), Error> {
    let Command::List { country, dir, patient, user, purpose, study, transaction, reason, json } = command;
    let filter = Filter { patient, user, purpose, study, transaction, reason, ..Filter::default() };
    for found in search(&crate::demo::data_dir(dir)?, &country, filter).await? {
        let record = found.record.unwrap_or_default();
        let facts = record.facts.unwrap_or_default();
        let at = jiff::Timestamp::from_microsecond(record.event_time_us)?;
        if json {
            let message = String::from_utf8_lossy(&record.message);
            println!(
                "{}",
                json!({ "source": found.source, "epoch": record.epoch, "seq": record.seq, "time": at.to_string(),
                "transaction": facts.transaction, "role": facts.role, "outcome": facts.outcome, "user": facts.user,
                "country": facts.country, "purpose": facts.purpose, "studies": facts.studies,
                "exchange": facts.exchange_id, "message": message })
            );
        } else {
            println!(
                "{at:.0} {:<12} {:<11} outcome {:<2} {} {} {}",
                facts.transaction, facts.role, facts.outcome, facts.country, facts.purpose, facts.user
            );
        }
    }
    Ok(())
}

/// Searches the repository of a country of the demonstration.
pub(crate) async fn search(dir: &Path, country: &str, filter: Filter) -> Result<Vec<ncp_proto::audit::Found>, Error> {
    let pki = dir.join(country).join("pki");
    let files = TlsFiles {
        cert_chain: pki.join("internal-client.pem"),
        key: pki.join("internal-client.key"),
        anchors: pki.join("anchors.pem"),
        crls: None,
    };
    let endpoint = format!("https://127.0.0.1:{}", crate::demo::offset(country) + 448);
    let channel = ncp_tls::channel(&endpoint, "localhost", files.connector(b"\x02h2")?)?;
    Ok(ncp_audit::search(channel, filter).await?)
}
