//! `ncp audit try-length`: whether a foreign repository takes a record of the greatest length whole. Syslog acknowledges
//! nothing, so that the operator is told what to look for.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ncp_audit::{
    AuditSink, Decision, Intent, Outcome, OutcomeIndicator, PeerFacts, QueryObject, Role, SpoolLimits, SpoolOptions,
    Transaction, bounds,
};
use ncp_gateway::config::{self, Config};
use tokio::task::JoinHandle;

use crate::Error;

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a record has beside its query, and syslog before it, at most.
const BESIDE: usize = 8 << 10;

/// Whether every receiver took it, as far as can be known.
pub(super) async fn run(file: &Path) -> Result<bool, Error> {
    let config = config::load(file)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let mut well = true;
    for target in config.audit.syslog_targets()? {
        let (name, most) = (target.name.clone(), target.max_record_bytes);
        well &= one(&config, &name, most, |sink| tokio::spawn(ncp_audit::syslog(sink, target))).await?;
    }
    for target in config.audit.fhir_targets()? {
        let (name, most) = (target.name.clone(), target.max_record_bytes);
        well &= one(&config, &name, most, |sink| tokio::spawn(ncp_audit::fhir_feed(sink, target))).await?;
    }
    if config.audit.syslog.is_empty() && config.audit.fhir.is_empty() {
        println!("no foreign repository is configured");
    }
    Ok(well)
}

async fn one(
    config: &Config,
    name: &str,
    most: usize,
    send: impl FnOnce(AuditSink) -> JoinHandle<()>,
) -> Result<bool, Error> {
    // A spool of its own: the gateway's may be in use.
    let dir = tempfile::tempdir()?;
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, hex::encode(uuid::Uuid::new_v4().as_bytes().repeat(2)))?;
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600))?;
    let limits = SpoolLimits { reserve: 0, second: None, ..SpoolLimits::default() };
    let home = config.gateway.home_community_id.to_string();
    let of_gateway = config.audit.spool_of("ncp".into(), String::new(), home);
    let options = SpoolOptions { dir: dir.path().join("spool"), key_file, limits, ..of_gateway };
    let sink = AuditSink::open(&options).await?;
    let mut exchange = sink.intent(intent()).await?;
    let query = QueryObject { id: "test".into(), bytes: query(most).into_bytes(), class_codes: Vec::new() };
    exchange.decided(Decision { query: Some(query), ..Decision::default() }).await?;
    exchange
        .finish(Outcome::new(OutcomeIndicator::Minor, "a test of the length of a record: nothing was asked"))
        .await?;
    let records = ncp_audit::read_spool(&options)?.records;
    let record = records.last().map(|(_, _, xml)| xml.clone()).unwrap_or_default();
    let sending = send(sink.clone());
    let began = Instant::now();
    let taken = loop {
        match sink.deliveries().into_iter().next() {
            Some(delivery) if delivery.apart > 0 => break false,
            Some(delivery) if delivery.waiting == 0 => break true,
            _ if began.elapsed() > PATIENCE => break false,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    sending.abort();
    let (bytes, digest) = (record.len(), hex::encode(openssl::sha::sha256(record.as_bytes())));
    match taken {
        true => println!(
            "{name}: sent one record of {bytes} bytes, SHA-256 {digest}; whole there: one message from \"<?xml\" to \
             \"</AuditMessage>\""
        ),
        false => println!("{name}: WRONG: a record of {bytes} bytes is not taken within {} s", PATIENCE.as_secs()),
    }
    Ok(taken)
}

/// An exchange that never took place.
fn intent() -> Intent {
    Intent {
        exchange_id: format!("test-of-length-{}", uuid::Uuid::new_v4()),
        transaction: Transaction::Iti38,
        role: Role::Initiator,
        peer: PeerFacts::default(),
        own_endpoint: String::new(),
        own_address: String::new(),
        trace: String::new(),
        began: jiff::Timestamp::now(),
    }
}

/// A query so long that its record, where it stands in base64, comes near what the receiver takes and what is ever sent.
fn query(most: usize) -> String {
    let room = most.min(bounds::RECORD).saturating_sub(BESIDE) / 4 * 3;
    let text = "A test of the length of a record: no question was asked. ";
    text.chars().cycle().take(room.min(bounds::QUERY)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn co_21_the_query_fits_the_receiver() {
        for most in [0, 8 << 10, 64 << 10, 576 << 10, 16 << 20] {
            let query = query(most);
            assert!(query.len().div_ceil(3) * 4 + BESIDE <= most.clamp(BESIDE, bounds::RECORD), "{most}");
        }
        assert_eq!(query(16 << 20).len(), bounds::QUERY);
    }
}
