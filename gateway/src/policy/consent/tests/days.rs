//! Days of directives are days of the patient's calendar, of which the zone is not known: around midnight whatever closes
//! more counts.

use serde_json::{Value, json};

use super::permissions::{bundle, patient};
use super::*;

fn closes(directives: &Directives, date: &str, now: &str) -> bool {
    let identity = crate::policy::engine::tests::radiologist();
    let now: Timestamp = now.parse().expect("a time");
    let (mut facts, keys) = report();
    facts.descriptions[0].service_date = Some(date.into());
    let closed = directives.closes(&facts, &keys, &identity, now);
    let out = directives.participation(&identity, now) != ServiceConsent::Given;
    assert!(closed || !out, "who does not take part has no documents");
    closed
}

fn directives(elements: &Value, required: bool) -> Directives {
    let page = bundle(elements.clone()).to_string();
    read_page(page.as_bytes(), &patient(), required).expect("read")
}

fn act(code: &str) -> Value {
    json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": code }] })
}

/// A Consent of 29 November alone, at instants around both of its midnights in all countries that exchange: before it,
/// perhaps in it, in it, perhaps behind it, behind it.
#[test]
fn se_03_a_day_is_one_of_the_patients_calendar() {
    let instants = [
        "2026-11-28T19:59:59Z",
        "2026-11-28T20:00:00Z",
        "2026-11-29T03:59:59Z",
        "2026-11-29T04:00:00Z",
        "2026-11-29T19:59:59Z",
        "2026-11-29T20:00:00Z",
        "2026-11-30T03:59:59Z",
        "2026-11-30T04:00:00Z",
    ];
    let day = json!({ "start": "2026-11-29", "end": "2026-11-29" });
    let deny = json!([{ "type": "deny" }]);
    let (open, closed) = (false, true);
    let outside_or_perhaps = [closed, closed, closed, open, open, closed, closed, closed];
    let inside_or_perhaps = [open, closed, closed, closed, closed, closed, closed, open];
    for (what, elements, required, right) in [
        (
            "a permit inside an opt-out",
            json!({ "policyRule": act("OPTOUT"), "provision": { "provision": [{ "type": "permit", "period": day }] } }),
            false,
            outside_or_perhaps,
        ),
        (
            "a permit that is required",
            json!({ "policyRule": act("OPTIN"), "provision": { "period": day } }),
            true,
            outside_or_perhaps,
        ),
        ("an opt-out", json!({ "policyRule": act("OPTOUT"), "period": day }), false, inside_or_perhaps),
        (
            "a denial inside an opt-in",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny", "period": day } }),
            false,
            inside_or_perhaps,
        ),
        (
            "an opt-in of that day with a denial in it",
            json!({ "policyRule": act("OPTIN"), "provision": { "period": day, "provision": deny } }),
            false,
            inside_or_perhaps,
        ),
        (
            "a denial with a permit of that day in it",
            json!({ "provision": { "type": "deny", "provision": [{ "type": "permit", "period": day }] } }),
            false,
            outside_or_perhaps,
        ),
    ] {
        let directives = directives(&elements, required);
        let got = instants.map(|now| closes(&directives, "20260102", now));
        assert_eq!(got, right, "{what}");
    }
    // An instant is one whatever day it is.
    let until = json!({ "policyRule": act("OPTOUT"), "period": { "end": "2026-11-29T00:00:00+01:00" } });
    let got =
        ["2026-11-28T22:59:59Z", "2026-11-28T23:00:00Z"].map(|now| closes(&directives(&until, false), "2026", now));
    assert_eq!(got, [closed, open]);
}

/// Which days a period of data has: the wider reading for who is denied, the narrower for who is permitted.
#[test]
fn se_03_a_period_of_data_has_the_days_that_it_has_whole() {
    let of = |kind: &str, base: &str, period: &Value| {
        let provision = json!({ "provision": [{ "type": kind, "dataPeriod": period }] });
        directives(&json!({ "policyRule": act(base), "provision": provision }), false)
    };
    for (start, end, perhaps, whole) in [
        ("2026-01-02", "2026-01-04", (2, 4), (2, 4)),
        ("2026-01-02T00:00:00+01:00", "2026-01-04T23:59:59+01:00", (2, 4), (2, 4)),
        ("2026-01-02T10:00:00+01:00", "2026-01-04T15:00:00+01:00", (2, 4), (3, 3)),
        // As a server writes what began at midnight in Oslo and ends at one.
        ("2026-01-01T23:00:00Z", "2026-01-04T23:00:00Z", (1, 5), (3, 3)),
        ("2026-01-02T12:00:00Z", "2026-01-04T12:00:00Z", (2, 4), (3, 3)),
    ] {
        let period = json!({ "start": start, "end": end });
        let (denied, permitted) = (of("deny", "OPTIN", &period), of("permit", "OPTOUT", &period));
        for day in 1..=6 {
            let date = format!("202601{day:02}");
            let now = "2026-11-30T12:00:00Z";
            let within = |(first, last): (i32, i32)| first <= day && day <= last;
            assert_eq!(closes(&denied, &date, now), within(perhaps), "deny {start} to {end}: {date}");
            assert_eq!(!closes(&permitted, &date, now), within(whole), "permit {start} to {end}: {date}");
        }
    }
}

/// A file has no moments without a zone: a day in the place of one is no row.
#[test]
fn se_14_a_file_tells_its_instants_with_a_zone() {
    for (text, right) in [
        ("valid_from = \"2026-01-01T00:00:00+01:00\"", 0),
        ("valid_from = \"2026-01-01\"", 1),
        ("valid_until = \"2026-01-01T00:00:00\"", 1),
        ("valid_until = 2026-01-01", 1),
    ] {
        let file = format!("[[block]]\npatient = \"1^^^&2.999.1&ISO\"\n{text}\n");
        let (_, wrong) = ConsentFile::read_rows(&file, &ConsentFile::default()).expect("TOML");
        assert_eq!((wrong.len(), wrong.iter().all(|row| row.closes)), (right, true), "{text}");
    }
}
