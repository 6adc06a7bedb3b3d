//! The acts against the trails: every disclosure on the trails of both countries, and none that nobody asked for.
//!
//! A clinician's acts do not overlap, so that a record of her belongs to the act within which its exchange began. A
//! neighbour's acts have the MessageID of their request, as have the records of a message in both countries.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use ncp_audit::{Filter, Message};
use ncp_proto::audit::Found;

use super::journal::{Act, Ended};
use crate::trail::{facts, message_ids};
use crate::{Error, audit};

/// Records are read by windows of this length, so that the records of one window are held at once.
const WINDOW_US: i64 = 30_000_000;
/// How long the last records may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// EventOutcomeIndicator from which nothing was disclosed.
const SERIOUS: i32 = 8;

/// A disclosure on a trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) transaction: String,
    pub(crate) at: i64,
    /// Number of the caller in the user's name.
    pub(crate) caller: Option<usize>,
    /// MessageIDs; several where a request was repeated because the other country was busy.
    pub(crate) messages: Vec<String>,
}

impl Record {
    /// Its messages, each with the transaction.
    fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.messages.iter().map(|id| (id.as_str(), self.transaction.as_str()))
    }
}

/// What the comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Disclosures by the acts: each must be on the trail of the country that gave, a clinician's on that of hers too.
    pub(crate) disclosed: usize,
    /// Records of the asking and of the giving country.
    pub(crate) asking: usize,
    pub(crate) giving: usize,
    /// Acts that came whole without their record.
    pub(crate) lost: Vec<String>,
    /// Records that no act explains.
    pub(crate) too_many: Vec<String>,
}

/// Compares the acts with what the asking country (as initiator) and the giving one (as responder) recorded.
pub(crate) fn compare(acts: &[Act], asking: &[Record], giving: &[Record]) -> Compared {
    let mut out = Compared { asking: asking.len(), giving: giving.len(), ..Compared::default() };
    let mut of_caller: BTreeMap<usize, Vec<&Act>> = BTreeMap::new();
    for act in acts.iter().filter(|act| act.message.is_none()) {
        of_caller.entry(act.caller).or_default().push(act);
    }
    for own in of_caller.values_mut() {
        own.sort_by_key(|act| act.began);
    }
    // What the asking country recorded, by the act that it belongs to.
    let mut recorded: BTreeMap<(usize, i64), Vec<&Record>> = BTreeMap::new();
    for record in asking {
        let own = record.caller.and_then(|caller| of_caller.get(&caller)).map_or(&[][..], Vec::as_slice);
        // A record tells milliseconds.
        let at = own.partition_point(|act| act.began / 1000 * 1000 <= record.at);
        match at.checked_sub(1).map(|at| own[at]).filter(|act| record.at <= act.began + act.took) {
            Some(act) => recorded.entry((act.caller, act.began)).or_default().push(record),
            None => out.too_many.push(format!("asking: {} at {} of no act", record.transaction, record.at)),
        }
    }
    for act in acts.iter().filter(|act| act.message.is_none()) {
        let records = recorded.remove(&(act.caller, act.began)).unwrap_or_default();
        let count = |wanted: Option<&str>| records.iter().filter(|r| Some(r.transaction.as_str()) == wanted).count();
        let (own, beside) = (count(act.kind.discloses()), count(act.kind.beside()));
        let whole = act.ended == Ended::Whole;
        let must = usize::from(whole && act.kind.discloses().is_some());
        out.disclosed += must;
        if own < must {
            out.lost.push(format!("asking: {} at {}", act.kind.name(), act.began));
        }
        if own > 1 || beside > 1 || own + beside < records.len() {
            out.too_many.push(format!("asking: {} records of one {} at {}", records.len(), act.kind.name(), act.began));
        }
    }
    // Each message that was answered is on the giving country's trail, and nothing else is.
    let mut sent: BTreeMap<&str, &str> = BTreeMap::new();
    sent.extend(asking.iter().flat_map(Record::names));
    let by_neighbours = acts.iter().filter_map(|act| Some((act, act.message.as_deref()?, act.kind.discloses()?)));
    sent.extend(by_neighbours.clone().map(|(_, message, transaction)| (message, transaction)));
    let given: BTreeSet<(&str, &str)> = giving.iter().flat_map(Record::names).collect();
    for record in giving {
        let is_sent = |id: &String| sent.get(id.as_str()) == Some(&record.transaction.as_str());
        if !record.messages.iter().any(is_sent) {
            out.too_many.push(format!("giving: {} at {} of nobody", record.transaction, record.at));
        }
    }
    for (act, message, transaction) in by_neighbours.filter(|(act, ..)| act.ended == Ended::Whole) {
        out.disclosed += 1;
        if !given.contains(&(message, transaction)) {
            out.lost.push(format!("giving: {} at {}", act.kind.name(), act.began));
        }
    }
    for record in asking {
        if !record.names().any(|name| given.contains(&name)) {
            out.lost.push(format!("giving: {} at {} asked for by the other country", record.transaction, record.at));
        }
    }
    out
}

/// Reads both trails until they explain the acts, or no longer than some time.
pub(crate) async fn read_and_compare(dir: &Path, acts: &[Act], (from, to): (i64, i64)) -> Result<Compared, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let asking = disclosures(dir, "fi", "initiator", (from, to)).await?;
        let giving = disclosures(dir, "no", "responder", (from, to)).await?;
        let compared = compare(acts, &asking, &giving);
        if compared.lost.is_empty() || Instant::now() > until {
            return Ok(compared);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The disclosures that a country recorded in a role, one for each exchange.
async fn disclosures(dir: &Path, country: &str, role: &str, (from, to): (i64, i64)) -> Result<Vec<Record>, Error> {
    let mut out = Vec::new();
    let mut exchanges = BTreeSet::new();
    let mut begin = from;
    while begin < to {
        let end = (begin + WINDOW_US).min(to);
        let filter = Filter { role: role.into(), from_us: begin, to_us: end, ..Filter::default() };
        for one in &audit::every(dir, country, &filter).await? {
            let Some(facts) = facts(one).filter(|facts| facts.outcome < SERIOUS) else { continue };
            // A retrieve of which a part fails has two records.
            if exchanges.insert(facts.exchange_id.clone()) {
                out.push(record(one, &facts.transaction, &facts.user)?);
            }
        }
        begin = end;
    }
    Ok(out)
}

fn record(found: &Found, transaction: &str, user: &str) -> Result<Record, Error> {
    let record = found.record.as_ref().ok_or("a record without content")?;
    let message = Message::read(&record.message).map_err(|e| e.to_string())?;
    let caller = user.split_once(super::SUBJECT).map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit));
    Ok(Record {
        transaction: transaction.to_owned(),
        at: record.event_time_us,
        caller: caller.and_then(|digits| digits.collect::<String>().parse().ok()),
        messages: message_ids(message).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::journal::Kind;
    use super::*;

    fn act(kind: Kind, began: i64, message: Option<&str>, ended: Ended) -> Act {
        let message = message.map(ToOwned::to_owned);
        Act { kind, caller: 1, patient: 0, began: began * 1000, took: 10_000, message, ended }
    }

    fn record(transaction: &str, at: i64, message: &str) -> Record {
        Record { transaction: transaction.into(), at: at * 1000, caller: Some(1), messages: vec![message.into()] }
    }

    /// A search, a study with its manifest, a search that was answered from memory, and a neighbour's query.
    fn good() -> (Vec<Act>, Vec<Record>, Vec<Record>) {
        let acts = vec![
            act(Kind::Match, 100, None, Ended::Whole),
            act(Kind::Study, 200, None, Ended::Whole),
            act(Kind::Search, 300, None, Ended::Whole),
            act(Kind::List, 400, None, Ended::Busy),
            act(Kind::Iti38, 105, Some("m4"), Ended::Whole),
        ];
        let asking = vec![record("ITI-55", 101, "m1"), record("ITI-39", 202, "m2"), record("RAD-75", 205, "m3")];
        let mut giving = asking.clone();
        giving.push(record("ITI-38", 106, "m4"));
        (acts, asking, giving)
    }

    #[test]
    fn what_is_lost_and_what_is_too_much_is_seen() {
        let (acts, asking, giving) = good();
        let whole = compare(&acts, &asking, &giving);
        assert!(whole.lost.is_empty() && whole.too_many.is_empty(), "{whole:?}");
        assert_eq!((whole.disclosed, whole.asking, whole.giving), (3, 3, 4));
        // Each record of the giving country, and each that an act must have in the asking one, is missed.
        for missing in 0..4 {
            let mut giving = giving.clone();
            giving.remove(missing);
            assert_eq!(compare(&acts, &asking, &giving).lost.len(), 1, "{missing}");
        }
        for missing in [0, 2] {
            let mut asking = asking.clone();
            asking.remove(missing);
            let compared = compare(&acts, &asking, &giving);
            assert_eq!((compared.lost.len(), compared.too_many.len()), (1, 1), "{missing}: {compared:?}");
        }
        // A record outside every act, a second one of the same act, one of somebody else, one of a kind that fits no act.
        for more in [record("ITI-55", 111, "m1"), record("ITI-55", 103, "m1"), record("ITI-38", 206, "m1")] {
            let mut asking = asking.clone();
            asking.push(more.clone());
            assert!(!compare(&acts, &asking, &giving).too_many.is_empty(), "{more:?}");
        }
        let mut giving = giving;
        giving.push(record("RAD-75", 207, "m5"));
        assert_eq!(compare(&acts, &asking, &giving).too_many.len(), 1);
    }
}
