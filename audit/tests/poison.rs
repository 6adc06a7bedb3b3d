//! SE-01, CO-17: a record that a receiver does not take is set apart, and the next one is delivered, over every way of
//! delivery.

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::receivers::{
    By, Manner, Ours, StandIn, apart, channel, config, count, delivered, delivery, options, rules, until, write,
};
use common::{Cluster, Pki};
use ncp_audit::server::Engine;
use ncp_audit::*;
use ncp_proto::audit::Record;
use ncp_proto::audit::audit_feed_client::AuditFeedClient;

const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";

/// One record of twenty is not taken: by name, without a word, or with a failure that looks like any other.
async fn refuses_one(by: By, manner: Manner) {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let receiver = StandIn::new(manner);
    let port = by.of(&receiver, &pki).await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    write(&sink, 0..20).await;
    let sending = by.spawn(&sink, &pki, port, "/fhir");
    let began = Instant::now();
    delivered(&sink).await;
    assert!(began.elapsed() < Duration::from_secs(20), "the next is delivered within seconds");
    let tries = receiver.tries.load(Ordering::Relaxed);
    assert!(tries < 60, "{tries} tries: a hot loop");
    let set_apart = apart(dir.path(), by.receiver());
    assert_eq!((set_apart.len(), delivery(&sink).apart), (1, 1), "{set_apart:?}");
    assert_eq!(rules(&set_apart[0].xml), [7].into());
    assert_eq!((set_apart[0].epoch, set_apart[0].seq), (1, 8));
    assert!(receiver.text().contains("NCP-APART"), "a note goes in its place");
    // What comes after goes on as if nothing had been.
    write(&sink, 20..25).await;
    delivered(&sink).await;
    let expected: BTreeSet<usize> = (0..25).filter(|n| *n != 7).collect();
    assert_eq!(receiver.rules(), expected);
    count(&format!("a repository refuses one record ({by:?}, {manner:?})"), 25, &receiver.rules(), &set_apart);
    sending.abort();
    drop(sink);
    // A restart neither sends it again nor forgets it.
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let sending = by.spawn(&sink, &pki, port, "/fhir");
    write(&sink, 25..27).await;
    delivered(&sink).await;
    assert_eq!(delivery(&sink).apart, 1);
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn se_01_a_refused_record_is_set_apart_and_the_next_is_delivered() {
    for by in By::ALL {
        for manner in [Manner::Names, Manner::Ends, Manner::Fails] {
            refuses_one(by, manner).await;
        }
    }
}

/// A spool as releases before 0.2 wrote it: three records, of which the second holds 24 MB.
fn old_spool(dir: &Path) {
    let message = |n: usize, more: &str| {
        format!(
            "<AuditMessage><EventIdentification EventActionCode=\"E\" EventDateTime=\"2026-11-23T09:14:11.950Z\" \
             EventOutcomeIndicator=\"8\"><EventID csd-code=\"110112\" codeSystemName=\"DCM\" originalText=\"Query\"/>\
             <EventOutcomeDescription>rule {n}.</EventOutcomeDescription></EventIdentification><ActiveParticipant UserID=\"x\" \
             UserIsRequestor=\"true\"/><AuditSourceIdentification AuditSourceID=\"ncp-no\"/>{more}</AuditMessage>"
        )
    };
    let poison = format!(
        "<ParticipantObjectIdentification ParticipantObjectID=\"q\" ParticipantObjectTypeCode=\"2\" \
         ParticipantObjectTypeCodeRole=\"24\"><ParticipantObjectIDTypeCode csd-code=\"ITI-38\" codeSystemName=\"IHE Transactions\" \
         originalText=\"Cross Gateway Query\"/><ParticipantObjectQuery>{}</ParticipantObjectQuery></ParticipantObjectIdentification>",
        "eHh4".repeat(6 << 20)
    );
    let record = |n: usize, more: &str| {
        serde_json::json!({
            "event_time_us": 1_795_425_251_950_000_i64, "xml": message(n, more), "exchange_id": format!("x{n}"),
            "transaction": "ITI-38", "role": "responder", "outcome": 8, "patient": PATIENT, "user": "dr",
            "organisation": "x".repeat(if n == 1 { 3 << 20 } else { 3 }), "country": "FI", "purpose": "TREATMENT", "studies": [],
        })
    };
    let spool = dir.join("spool");
    std::fs::create_dir_all(&spool).expect("a folder");
    std::fs::write(spool.join("epoch"), "1\n").expect("writes");
    let mut file = std::fs::File::create(spool.join("segment-000000000001.spool")).expect("a file");
    for (n, more) in [(0, ""), (1, poison.as_str()), (2, "")] {
        let records = serde_json::json!({ "closes": null, "epoch": 1, "first_seq": n + 1, "records": [record(n, more)], "ended": [0, 0] });
        let plain = serde_json::json!({ "Records": records }).to_string();
        file.write_all(&sealed(plain.as_bytes())).expect("writes");
    }
}

/// A frame: `length | crc32 | nonce | ciphertext | tag`.
fn sealed(plain: &[u8]) -> Vec<u8> {
    let (nonce, mut tag) = ([7; 12], [0; 16]);
    let cipher = openssl::symm::Cipher::aes_256_gcm();
    let cipher = openssl::symm::encrypt_aead(cipher, &[0xab; 32], Some(&nonce), &[], plain, &mut tag).expect("seals");
    let body = [nonce.as_slice(), &cipher, &tag].concat();
    let length = u32::try_from(body.len()).expect("short");
    [length.to_be_bytes().as_slice(), &crc32fast::hash(&body).to_be_bytes(), &body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn se_01_a_restart_gets_past_the_record_that_an_earlier_release_left() {
    for by in By::ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::create(&dir.path().join("pki"));
        let ours = Ours::start(config(dir.path(), &pki, Engine::Files, by));
        old_spool(dir.path());
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        write(&sink, 3..6).await;
        let port = ours.port(by);
        let sending = by.spawn(&sink, &pki, port, "");
        delivered(&sink).await;
        let set_apart = apart(dir.path(), by.receiver());
        assert_eq!((set_apart.len(), delivery(&sink).apart), (1, 1));
        assert!(set_apart[0].reason.contains("more than the"), "{}", set_apart[0].reason);
        assert!(set_apart[0].xml.len() > 20 << 20, "it is kept whole");
        let all = ours.found(&pki, Filter::default()).await.concat();
        count(&format!("a poison record in an old spool ({by:?})"), 6, &rules(&all), &set_apart);
        // The patient's trail shows that there was something, under its own number.
        let hers = ours.found(&pki, Filter { patient: PATIENT.into(), ..Filter::default() }).await;
        assert!(hers.iter().any(|xml| xml.contains("NCP-APART")), "{hers:?}");
        let state = gaps(ours.query(&pki)).await.expect("answers");
        assert!(state.gaps.is_empty(), "{:?}", state.gaps);
        sending.abort();
        ours.stop().await;
    }
}

/// What the feed cannot read is named; what came before it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn se_01_our_repository_names_what_it_cannot_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let ours = Ours::start(config(dir.path(), &pki, Engine::Files, By::Feed));
    until("it listens", 20, || std::net::TcpStream::connect(ours.config.feed).is_ok()).await;
    let record = |seq, bytes: usize| Record { epoch: 1, seq, message: vec![b'x'; bytes], ..Record::default() };
    let mut client = AuditFeedClient::new(channel(&pki, "ncp-no", ours.config.feed.port()));
    let records = vec![record(1, 10), record(2, 10), record(3, 17 << 20), record(4, 10)];
    let mut acks = client.append(tokio_stream::iter(records)).await.expect("a stream").into_inner();
    let mut seen = Vec::new();
    let end = loop {
        match acks.message().await {
            Ok(Some(ack)) => seen.push(ack),
            end => break end,
        }
    };
    let refused = seen.iter().find_map(|ack| ack.refused.clone()).expect("named");
    assert_eq!((refused.epoch, refused.seq, refused.next), (1, 2, true), "the one after the second");
    assert!(end.is_err(), "no end that could be taken for success");
    let state = gaps(ours.query(&pki)).await.expect("answers");
    let source = state.sources.iter().find(|s| s.source == "ncp-no").expect("the source");
    assert_eq!((source.records, source.last_seq), (2, 2));
    ours.stop().await;
}

/// A text that PostgreSQL does not index, and a batch around it: all is stored, and found by what is long.
#[tokio::test(flavor = "multi_thread")]
async fn se_01_long_names_pass_postgresql() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start();
    let pki = Pki::create(&dir.path().join("pki"));
    let ours = Ours::start(config(dir.path(), &pki, Engine::Postgres(cluster.url()), By::Feed));
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    // Nothing that compresses: an index row is at most a third of a page.
    let mut state = 1u64;
    let mut long = || -> String {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (state >> 40) as u8 % 26)
        };
        (0..4096).map(|_| next()).collect()
    };
    let (user_name, organisation) = (long(), long());
    let user = HumanRequestor {
        user_name: user_name.clone(),
        organisation: organisation.clone(),
        ..HumanRequestor::default()
    };
    write(&sink, 0..3).await;
    let assertion = "_a\u{0}b".to_owned();
    sink.event(&Event::HcpIssued { user, assertion }, "x").await.expect("stored");
    write(&sink, 3..6).await;
    let sending = By::Feed.spawn(&sink, &pki, ours.config.feed.port(), "");
    delivered(&sink).await;
    assert_eq!(delivery(&sink).apart, 0);
    assert_eq!(rules(&ours.found(&pki, Filter::default()).await.concat()), (0..6).collect());
    for filter in [Filter { organisation, ..Filter::default() }, Filter { user: user_name, ..Filter::default() }] {
        assert_eq!(ours.found(&pki, filter).await.len(), 1);
    }
    sending.abort();
    ours.stop().await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.expect("stops");
}
