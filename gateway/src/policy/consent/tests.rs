//! Blocks and permissions, each read and asked.

use super::*;
use crate::identity::Identity;
use crate::policy::facts::Description;

mod days;
mod permissions;

fn fi() -> Country {
    Country::parse("FI").expect("a country")
}

fn se() -> Country {
    Country::parse("SE").expect("a country")
}

fn report() -> (Facts, Vec<String>) {
    let description = Description { service_date: Some("20260102101500".into()), ..Description::none() };
    let facts = Facts {
        kind: "manifest",
        confidentiality: Some(vec!["N".into(), "NORS".into()]),
        author_organisations: Some(vec!["2.999.9".into()]),
        descriptions: vec![description],
        ..Facts::default()
    };
    let uuid = "urn:uuid:0a0a0a0a-0000-4000-8000-000000000001";
    (facts, vec!["2.999.1".into(), "2.999.2".into(), uuid.into()])
}

/// Each condition closes when it fits, opens when it does not, and all must fit.
#[test]
fn every_condition_counts() {
    let identity =
        Identity { organisation_id: Some("urn:oid:2.999.20".into()), ..crate::policy::engine::tests::radiologist() };
    let now: Timestamp = "2026-11-01T00:00:00Z".parse().expect("a time");
    let closes = |block: Block| {
        let directives = Directives { blocks: vec![block], ..Directives::default() };
        let (facts, keys) = report();
        directives.closes(&facts, &keys, &identity, now)
    };
    let one = Block::default;
    let period = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
    let past = Some("2026-10-01T00:00:00Z".parse().expect("a time"));
    assert!(closes(one()));
    for block in [
        Block { unit: Some("2.999.2".into()), ..one() },
        Block { author_organisation: Some("2.999.9".into()), ..one() },
        Block { period: period("20260101", "20260102"), ..one() },
        Block { confidentiality: Some("NORS".into()), ..one() },
        Block { imaging: true, ..one() },
        Block { countries: vec![se(), fi()], ..one() },
        Block { requesters: vec!["Hospital".into()], ..one() },
        Block { requesters: vec!["2.999.20".into()], ..one() },
        Block { author_organisation: Some("urn:oid:2.999.9".into()), ..one() },
        Block { unit: Some("urn:uuid:0A0A0A0A-0000-4000-8000-000000000001".into()), ..one() },
        Block { professionals: vec!["u1".into()], ..one() },
        Block { valid: (past, None), ..one() },
    ] {
        assert!(closes(block.clone()), "{block:?}");
    }
    for block in [
        Block { unit: Some("2.999.3".into()), ..one() },
        Block { author_organisation: Some("2.999.8".into()), ..one() },
        Block { period: period("20260103", "20261231"), ..one() },
        Block { confidentiality: Some("R".into()), ..one() },
        Block { countries: vec![se()], ..one() },
        Block { requesters: vec!["Clinic".into()], ..one() },
        Block { professionals: vec!["u2".into()], ..one() },
        Block { valid: (None, past), ..one() },
        Block { unit: Some("2.999.2".into()), countries: vec![se()], ..one() },
    ] {
        assert!(!closes(block.clone()), "{block:?}");
    }
    let (facts, keys) = report();
    let opted_out = Directives { service: ServiceConsent::OptedOut, ..Directives::default() };
    assert!(opted_out.closes(&facts, &keys, &identity, now));
    assert!(!Directives::default().closes(&facts, &keys, &identity, now));
}

/// A condition that asks for what nobody told closes.
#[test]
fn se_02_an_unknown_fact_closes() {
    let identity = crate::policy::engine::tests::radiologist();
    let now: Timestamp = "2026-11-01T00:00:00Z".parse().expect("a time");
    let asks = [
        Block { period: Some(("19000101".into(), "19001231".into())), ..Block::default() },
        Block { confidentiality: Some("R".into()), ..Block::default() },
        Block { author_organisation: Some("2.999.8".into()), ..Block::default() },
    ];
    let undated = Description { service_date: None, ..Description::none() };
    let unknown =
        Facts { confidentiality: None, author_organisations: None, descriptions: vec![undated], ..report().0 };
    let partial = Facts { incomplete: true, ..report().0 };
    for block in asks {
        let directives = Directives { blocks: vec![block.clone()], ..Directives::default() };
        let closes = |facts: &Facts| directives.closes(facts, &report().1, &identity, now);
        assert!(!closes(&report().0), "{block:?}");
        assert!(closes(&unknown), "{block:?}");
        assert!(closes(&partial), "a registry that is down may have the fact: {block:?}");
    }
}
