//! Rule 12: one audit record per role and community, failures included.

use std::collections::BTreeMap;
use std::path::Path;

use ncp_ihe::ns::{HL7V3, RIM, XDSB};
use ncp_xml::Element;

use super::rules::{descendants, pairs, registry_response};
use super::{Finding, Message, Origin, Report};
use crate::pki::Error;

const SUCCESS: &str = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success";

/// The records (ATNA messages) of one gateway.
#[derive(Debug, Clone)]
pub struct Trail {
    /// Its homeCommunityId, bare.
    pub home: String,
    /// The messages.
    pub records: Vec<String>,
}

/// What the messages of one exchange say, the failure of any of them included.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Recorded {
    transaction: String,
    /// The other side's, bare.
    community: String,
    message_id: String,
    failed: bool,
}

/// Reads `audit/<homeCommunityId>/*.xml` of a folder of messages: a trail for each gateway.
///
/// # Errors
/// Files.
fn load_trails(folder: &Path) -> Result<Vec<Trail>, Error> {
    let mut trails = Vec::new();
    let Ok(gateways) = std::fs::read_dir(folder.join("audit")) else { return Ok(trails) };
    for gateway in gateways {
        let gateway = gateway?;
        let files = std::fs::read_dir(gateway.path())?;
        let records = files.map(|file| std::fs::read_to_string(file?.path())).collect::<Result<_, _>>()?;
        trails.push(Trail { home: gateway.file_name().to_string_lossy().into_owned(), records });
    }
    Ok(trails)
}

/// What a gateway answered: every request on the wire is recorded once, with its MessageID, by a gateway that it may be
/// for, with the community of one that may have asked (`asking`, bare).
pub fn check_answered(messages: &[Message], trails: &[Trail], asking: &[&str], report: &mut Report) {
    let mut recorded: BTreeMap<String, Vec<(&str, Recorded)>> = BTreeMap::new();
    for trail in trails {
        for exchange in exchanges(trail, "ServiceProvider", report) {
            recorded.entry(exchange.message_id.clone()).or_default().push((&trail.home, exchange));
        }
    }
    let mut carried: BTreeMap<String, Vec<&Message>> = BTreeMap::new();
    for request in messages.iter().filter(|m| m.is_request() && m.transaction.is_some()) {
        carried.entry(request.addressing("MessageID").unwrap_or_default()).or_default().push(request);
    }
    let answers = pairs(messages);
    for (id, requests) in carried {
        let records = recorded.remove(&id).unwrap_or_default();
        let (Some(request), Some(transaction)) = (requests.first(), requests.first().and_then(|r| r.transaction))
        else {
            continue;
        };
        let mine = |asked: &Message| requests.iter().any(|r| std::ptr::eq(asked, *r));
        let got: Vec<&Message> = answers.iter().filter(|(asked, _)| mine(asked)).map(|(_, answer)| *answer).collect();
        // What nobody answered and nobody recorded did not get through TLS.
        if got.is_empty() && records.is_empty() && request.origin != Origin::Gateway {
            continue;
        }
        let fits = if got.iter().any(|answer| failed(answer)) {
            records.iter().any(|(_, r)| r.failed)
        } else {
            // A stream that broke off later, and an answer that was not kept, may be a failure too.
            transaction.xop || got.is_empty() || records.iter().any(|(_, r)| !r.failed)
        };
        let home = asked(&request.body);
        let of_home = |own: &str| !trails.iter().any(|t| t.home == home) || own == home;
        let names_asker = |own: &str, community: &str| match crosses_border(transaction.name) {
            true => of_home(own) && community != own && asking.contains(&community),
            false => community == own,
        };
        let name = transaction.name;
        let broken = if records.len() != requests.len() {
            Some(format!("{} records of {} messages of {name}", records.len(), requests.len()))
        } else if records.iter().any(|(_, r)| r.transaction != name) {
            Some(format!("{name} is recorded as another transaction"))
        } else if !records.iter().all(|(own, r)| names_asker(own, &r.community)) {
            Some(format!("the record of {name} does not name who asked"))
        } else {
            (!fits).then(|| format!("the record of {name} does not say how it ended"))
        };
        report.judge(12, request, broken);
    }
}

/// What a gateway asked of others: as many exchanges are recorded of a transaction, a community and a failure as went over
/// the wire.
///
/// Where no answer was kept it is not known how they ended. Then a recorded failure may never have reached the wire, and
/// every other record has its message; RAD-75 may have several, the batches of a study.
pub fn check_asked(messages: &[Message], trail: &Trail, report: &mut Report) {
    let answers = pairs(messages);
    let crosses = |m: &&Message| m.is_request() && m.transaction.is_some_and(|t| crosses_border(t.name));
    let of = |request: &Message| -> Vec<&Message> {
        answers.iter().filter(|(asked, _)| std::ptr::eq(*asked, request)).map(|(_, answer)| *answer).collect()
    };
    let requests: Vec<&Message> = messages.iter().filter(crosses).collect();
    let kept = requests.iter().any(|request| !of(request).is_empty());
    let mut kinds: BTreeMap<(String, String), [usize; 4]> = BTreeMap::new();
    for request in &requests {
        let (found, name) = (of(request), request.transaction.map_or("", |t| t.name));
        let failed = kept && (found.is_empty() || found.iter().any(|answer| failed(answer)));
        kinds.entry((name.to_owned(), asked(&request.body))).or_default()[usize::from(failed)] += 1;
    }
    for exchange in exchanges(trail, "ServiceConsumer", report) {
        let kind = kinds.entry((exchange.transaction, exchange.community)).or_default();
        kind[2 + usize::from(exchange.failed)] += 1;
    }
    for ((name, community), [carried, carried_failed, recorded, recorded_failed]) in kinds {
        *report.judged.entry(12).or_default() += 1;
        let all = recorded + recorded_failed;
        let fits = match (kept, name.as_str()) {
            (true, _) => (carried, carried_failed) == (recorded, recorded_failed),
            (false, "RAD-75") => recorded <= carried && (carried == 0 || all > 0),
            (false, _) => (recorded..=all).contains(&carried),
        };
        if !fits {
            let what = format!(
                "{recorded} good and {recorded_failed} failed records of {carried} good and {carried_failed} failed \
                 exchanges of {name} with {community:?}"
            );
            report.findings.push(Finding { message: "audit".into(), rule: 12, what });
        }
    }
}

/// Judges the trails that lie beside the messages: what each gateway answered, and what it asked of the others.
pub(super) fn check(folder: &Path, messages: &[Message], report: &mut Report) -> Result<(), Error> {
    let trails = load_trails(folder)?;
    if trails.is_empty() {
        return Ok(());
    }
    let homes: Vec<&str> = trails.iter().map(|t| t.home.as_str()).collect();
    check_answered(messages, &trails, &homes, report);
    for trail in &trails {
        let theirs = |m: &&Message| m.origin == Origin::Gateway && asked(&m.body) != trail.home;
        let sent: Vec<Message> = messages.iter().filter(theirs).cloned().collect();
        check_asked(&sent, trail, report);
    }
    Ok(())
}

/// The exchanges of a trail in which the gateway had this role of the eHealth DSI. A retrieve of which a part failed has
/// two records of one exchange.
fn exchanges(trail: &Trail, role: &str, report: &mut Report) -> Vec<Recorded> {
    let mut exchanges: BTreeMap<String, Recorded> = BTreeMap::new();
    for (number, record) in trail.records.iter().enumerate() {
        let Ok(record) = ncp_audit::Message::read(record.as_bytes()) else {
            let what = "a record does not read".into();
            report.findings.push(Finding { message: "audit".into(), rule: 12, what });
            continue;
        };
        if let Some((exchange, recorded)) = recorded(&record, role) {
            let known = exchanges.entry(exchange.unwrap_or_else(|| number.to_string()));
            let failed = recorded.failed;
            known.or_insert(recorded).failed |= failed;
        }
    }
    exchanges.into_values().collect()
}

/// What a record says, where it is of a transaction and of this role.
fn recorded(record: &ncp_audit::Message, role: &str) -> Option<(Option<String>, Recorded)> {
    let transaction = record.types.first().map(|t| t.code.clone())?;
    super::load::TRANSACTIONS.iter().find(|t| t.name == transaction)?;
    // The gateway's own side bears the number of its process.
    let own = record.participants.iter().find(|p| {
        !p.alternative.is_empty() && p.alternative.bytes().all(|b| b.is_ascii_digit()) && !p.roles.is_empty()
    })?;
    own.roles.iter().find(|r| r.code == role)?;
    let exchange = record.objects.iter().find(|o| o.id_type.code == "ncp-exchange");
    let detail = |name: &str| {
        let found = exchange?.details.iter().find(|(kind, _)| kind == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let recorded = Recorded {
        transaction,
        community: detail("ncp:community").map(|home| bare(&home)).unwrap_or_default(),
        message_id: detail("wsa:MessageID").unwrap_or_default(),
        failed: record.outcome != 0,
    };
    Some((exchange.map(|o| o.id.clone()), recorded))
}

fn crosses_border(transaction: &str) -> bool {
    matches!(transaction, "ITI-38" | "ITI-39" | "ITI-55" | "RAD-75")
}

/// The community that a request is for, bare.
fn asked(body: &Element) -> String {
    let query = body.child(RIM, "AdhocQuery").and_then(|q| q.get("home")).map(bare);
    let receiver = || body.path(HL7V3, &["receiver", "device", "id"]).and_then(|id| id.get("root")).map(bare);
    let document = || descendants(body).find(|e| e.is(XDSB, "HomeCommunityId")).map(|e| bare(&e.trimmed()));
    query.or_else(receiver).or_else(document).unwrap_or_default()
}

fn bare(home: &str) -> String {
    home.strip_prefix("urn:oid:").unwrap_or(home).to_owned()
}

/// Whether an answer is anything but what was asked for.
fn failed(answer: &Message) -> bool {
    let refused = answer.body.path(HL7V3, &["acknowledgement", "typeCode"]).and_then(|e| e.get("code"));
    answer.is_fault()
        || descendants(&answer.body).any(|e| e.is(HL7V3, "actOrderRequired"))
        || refused.is_some_and(|code| code != "AA")
        || registry_response(&answer.body).is_some_and(|(status, _)| status != SUCCESS)
}
