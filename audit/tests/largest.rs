//! SE-01: the largest records that are made of each transaction and role, by every way into a repository on PostgreSQL and out
//! again by a search and by ITI-81.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::receivers::{By, Ours, config, delivered, delivery, options};
use common::{Cluster, Pki};
use http_body_util::{BodyExt, Empty};
use ncp_audit::bounds::{QUERY, RECORD, TEXT};
use ncp_audit::server::Engine;
use ncp_audit::*;
use serde_json::Value;

/// Messages of one page of ITI-81.
const PAGE: usize = 16 << 20;

fn intent(transaction: Transaction, role: Role, number: usize) -> Intent {
    Intent {
        exchange_id: format!("exchange-{number}"),
        transaction,
        role,
        peer: PeerFacts { country: "FI".into(), home_community_id: "urn:oid:2.999.246".into(), ..PeerFacts::default() },
        own_endpoint: "https://ncp.no.example/xca".into(),
        own_address: "192.0.2.1".into(),
        trace: String::new(),
        began: "2026-11-23T09:14:11.950Z".parse().expect("an instant"),
    }
}

/// Everything about a user, and a query, as long as they may be.
fn decision() -> Decision {
    let text = |c: char| String::from(c).repeat(TEXT);
    let decision = Decision {
        message_id: "urn:uuid:5b2f0c1e-0000-4000-8000-00000000aaaa".into(),
        user: Some(HumanRequestor {
            user_name: text('a'),
            display: text('b'),
            role: (text('c'), text('d'), text('e')),
            organisation: text('f'),
        }),
        patient: Some("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO".into()),
        purpose: "TREATMENT".into(),
        query: Some(QueryObject { id: "q".into(), bytes: vec![b'x'; QUERY], class_codes: Vec::new() }),
        ..Decision::default()
    };
    assert_eq!(decision.check(), Ok(()), "this is accepted");
    decision
}

/// One record of each transaction and role; how many there are.
async fn write(sink: &AuditSink) -> usize {
    let both = |transaction| [(transaction, Role::Initiator), (transaction, Role::Responder)];
    let all: Vec<_> = Transaction::ALL.into_iter().flat_map(both).collect();
    // Twice, so that they are more than a page holds.
    for (number, (transaction, role)) in all.iter().chain(&all).enumerate() {
        let mut exchange = sink.intent(intent(*transaction, *role, number)).await.expect("stored");
        exchange.decided(decision()).await.expect("stored");
        exchange.finish(Outcome::new(OutcomeIndicator::Success, "")).await.expect("stored");
    }
    2 * all.len()
}

/// All pages of ITI-81: how many entries, and how long the longest is.
async fn pages(pki: &Pki, port: u16) -> (usize, usize, usize) {
    let connector = pki.leaf("auditor").connector(b"\x08http/1.1").expect("connector");
    let client = ncp_tls::http_client(connector, None, Duration::from_secs(10));
    let mut next = Some("/AuditEvent?date=ge2026-01-01&source=ncp-no&_count=900".to_owned());
    let (mut pages, mut entries, mut longest) = (0, 0, 0);
    while let Some(path) = next {
        let request = http::Request::get(format!("https://localhost:{port}{path}")).header("x-audit-reason", "review");
        let answer = client.request(request.body(Empty::<Bytes>::new()).expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let bundle: Value = serde_json::from_slice(&body).expect("JSON");
        (pages, longest) = (pages + 1, longest.max(body.len()));
        entries += bundle["entry"].as_array().map_or(0, Vec::len);
        let links = bundle["link"].as_array().cloned().unwrap_or_default();
        let link = links.iter().find(|link| link["relation"] == "next").and_then(|link| link["url"].as_str());
        next = link.and_then(|url| url.find("/AuditEvent").map(|at| url[at..].to_owned()));
    }
    (pages, entries, longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn se_01_the_largest_record_of_each_transaction_is_stored_and_shown() {
    for by in By::ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let cluster = Cluster::start();
        let pki = Pki::create(&dir.path().join("pki"));
        let ours = Ours::start(config(dir.path(), &pki, Engine::Postgres(cluster.url()), by));
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        let made = write(&sink).await;
        let records = read_spool(&options(dir.path())).expect("is read").records;
        assert_eq!(records.len(), made);
        let largest = records.iter().map(|(_, _, xml)| xml.len()).max().expect("records");
        assert!(largest > RECORD / 2 && largest <= RECORD, "{largest} bytes");
        let sending = by.spawn(&sink, &pki, ours.port(by), "");
        delivered(&sink).await;
        assert_eq!(delivery(&sink).apart, 0, "{by:?}: all are taken");
        let found = ours.found(&pki, Filter { source: "ncp-no".into(), ..Filter::default() }).await;
        assert_eq!(found.len(), made, "{by:?}");
        let (pages, entries, longest) = pages(&pki, ours.port(By::Fhir)).await;
        assert_eq!(entries, made, "{by:?}: each is on one page");
        assert!(pages > 1 && longest <= 2 * PAGE, "{by:?}: {pages} pages, the longest of {longest} bytes");
        sending.abort();
        ours.stop().await;
        tokio::task::spawn_blocking(move || drop(cluster)).await.expect("stops");
    }
}
