//! Everything that fits a search: a repository gives a page at a time.

use std::collections::HashSet;

use ncp_proto::audit::Found;

use crate::Error;

/// Records of one page at most: as many as a repository gives.
const PAGE: u32 = 1000;

/// Records, and how many there are in all.
pub(super) struct Matched {
    pub(super) records: Vec<Found>,
    /// How many fit; at least so many, where they were not counted.
    pub(super) matching: usize,
}

/// How far is counted what is not taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Matching {
    /// To the end.
    All,
    /// Until it is known whether there are more.
    OneMore,
}

/// Asks for one page after the other, by its size and by how many come before it. Records that come in meanwhile move the
/// others on, so that one may be seen twice; it is taken once.
pub(super) async fn all(
    most: usize,
    matching: Matching,
    page: impl AsyncFn(u32, u32) -> Result<Vec<Found>, Error>,
) -> Result<Matched, Error> {
    let size = match matching {
        Matching::All => PAGE,
        Matching::OneMore => u32::try_from(most.saturating_add(1)).map_or(PAGE, |size| size.min(PAGE)),
    };
    let (mut records, mut seen, mut skip) = (Vec::new(), HashSet::new(), 0);
    loop {
        let found = page(size, skip).await?;
        let is_last = found.len() < size as usize;
        for one in found {
            if seen.insert(identity(&one)) && records.len() < most {
                records.push(one);
            }
        }
        if is_last || (matching == Matching::OneMore && seen.len() > most) {
            return Ok(Matched { records, matching: seen.len() });
        }
        skip += size;
    }
}

/// A digest of what makes a record this one.
fn identity(found: &Found) -> [u8; 32] {
    let record = found.record.clone().unwrap_or_default();
    let numbers = [record.epoch, record.seq].map(u64::to_be_bytes).concat();
    let parts = [found.source.as_bytes(), &numbers, &record.message];
    let mut hasher = openssl::sha::Sha256::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use ncp_proto::audit::Record;

    use super::*;

    fn record(number: u64) -> Found {
        let record = Record { epoch: 1, seq: number, ..Record::default() };
        Found { source: "ncp".into(), record: Some(record), ..Found::default() }
    }

    /// A repository into which a record comes with each page, newest first.
    async fn taken(kept: u64, most: usize, matching: Matching) -> Matched {
        let arrived = std::cell::Cell::new(kept);
        let page = async |size: u32, skip: u32| {
            let newest = arrived.get();
            arrived.set(newest + 1);
            let numbers = (1..=newest).rev().skip(skip as usize).take(size as usize);
            Ok(numbers.map(record).collect())
        };
        all(most, matching, page).await.expect("answers")
    }

    fn numbers(matched: &Matched) -> Vec<u64> {
        matched.records.iter().filter_map(|found| found.record.as_ref()).map(|record| record.seq).collect()
    }

    /// TR-09, SK-13: all that was there, once each, whatever comes in meanwhile.
    #[tokio::test]
    async fn tr_09_every_page_is_asked_for() {
        for kept in [0, 1, 999, 1000, 1001, 2345, 5663] {
            let matched = taken(kept, usize::MAX, Matching::All).await;
            assert_eq!(numbers(&matched), (1..=kept).rev().collect::<Vec<_>>());
            assert_eq!(matched.matching, matched.records.len());
        }
    }

    #[tokio::test]
    async fn tr_09_what_is_left_out_is_counted() {
        let matched = taken(2345, 100, Matching::All).await;
        assert_eq!((matched.records.len(), matched.matching), (100, 2345));
        let matched = taken(126, 100, Matching::OneMore).await;
        assert!(matched.records.len() == 100 && matched.matching > 100, "there are more");
        let matched = taken(100, 100, Matching::OneMore).await;
        assert_eq!((matched.records.len(), matched.matching), (100, 100));
    }
}
