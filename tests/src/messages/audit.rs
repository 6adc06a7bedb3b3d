//! Rule 12: one audit record per role and community, failures included.

use std::collections::BTreeMap;

use ncp_ihe::ns::{HL7V3, RIM, XDSB};
use ncp_xml::Element;

use super::rules::{descendants, pairs, registry_response};
use super::{Finding, Message, Report};

const SUCCESS: &str = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success";

/// On which side of the exchanges the gateway stood whose records are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side<'a> {
    /// It asked; the communities are those that its requests name.
    Asked,
    /// It answered one community, this one (bare).
    Answered(&'a str),
}

/// What is counted: transaction, community of the other side where the record has one, whether it failed.
type Kind = (String, String, bool);

/// Holds the records of one gateway (ATNA messages) against the exchanges that it had with others on one side: as many
/// exchanges are recorded of a transaction, a community and a failure as went over the wire. A retrieve of which a part
/// failed has two records of one exchange.
pub fn check_audit(messages: &[Message], records: &[String], side: Side<'_>, report: &mut Report) {
    let mut found = |what: String| {
        report.findings.push(Finding { message: "audit".into(), rule: 12, what });
    };
    let mut kinds: BTreeMap<Kind, (usize, usize)> = BTreeMap::new();
    for kind in carried(messages, side) {
        kinds.entry(kind).or_default().0 += 1;
    }
    let mut exchanges: BTreeMap<String, Kind> = BTreeMap::new();
    for (number, record) in records.iter().enumerate() {
        let Ok(record) = ncp_audit::Message::read(record.as_bytes()) else {
            found("a record does not read".into());
            continue;
        };
        if let Some((exchange, kind)) = recorded(&record, side) {
            let exchange = exchange.unwrap_or_else(|| number.to_string());
            let known = exchanges.entry(exchange).or_insert_with(|| kind.clone());
            known.2 |= kind.2;
        }
    }
    for kind in exchanges.into_values() {
        kinds.entry(kind).or_default().1 += 1;
    }
    for ((name, community, failed), (carried, recorded)) in &kinds {
        if carried != recorded {
            let failed = if *failed { "failed " } else { "" };
            found(format!("{recorded} records of {carried} {failed}exchanges of {name} with {community:?}"));
        }
    }
    *report.judged.entry(12).or_default() += kinds.len();
}

/// The exchanges of the wire.
fn carried<'a>(messages: &'a [Message], side: Side<'a>) -> impl Iterator<Item = Kind> + 'a {
    let answers = pairs(messages);
    messages.iter().filter(|m| m.is_request()).filter_map(move |request| {
        let name = request.transaction?.name;
        let mut answers = answers.iter().filter(|(asked, _)| std::ptr::eq(*asked, request)).peekable();
        let failed = answers.peek().is_none() || answers.any(|(_, answer)| failed(answer));
        let community = match side {
            Side::Asked => asked(&request.body),
            Side::Answered(home) if names_asker(name) => home.to_owned(),
            Side::Answered(_) => String::new(),
        };
        Some((name.to_owned(), community, failed))
    })
}

/// What a record says, where it is of a transaction and of this side.
fn recorded(record: &ncp_audit::Message, side: Side<'_>) -> Option<(Option<String>, Kind)> {
    let name = record.types.first().map(|t| t.code.clone())?;
    super::load::TRANSACTIONS.iter().find(|t| t.name == name)?;
    // The gateway's own side bears the number of its process.
    let own = record.participants.iter().find(|p| {
        !p.alternative.is_empty() && p.alternative.bytes().all(|b| b.is_ascii_digit()) && !p.roles.is_empty()
    })?;
    let role = if side == Side::Asked { "ServiceConsumer" } else { "ServiceProvider" };
    own.roles.iter().find(|r| r.code == role)?;
    let mut details = record.objects.iter().flat_map(|o| &o.details);
    let home = details.find(|(kind, _)| kind.to_ascii_lowercase().ends_with("homecommunityid"));
    let home = home.map(|(_, value)| bare(&String::from_utf8_lossy(value))).unwrap_or_default();
    let failed = record.outcome != 0;
    let community = match side {
        // A message that was refused before its query was read has a record that names no community.
        Side::Answered(asking) if names_asker(&name) && failed && home.is_empty() => asking.to_owned(),
        Side::Answered(_) if !names_asker(&name) => String::new(),
        _ => home,
    };
    let exchange = record.objects.iter().find(|o| o.id_type.code == "ncp-exchange").map(|o| o.id.clone());
    Some((exchange, (name, community, failed)))
}

/// A retrieve's record names the community of the documents, not that of the one who asks.
fn names_asker(transaction: &str) -> bool {
    matches!(transaction, "ITI-38" | "ITI-55")
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
