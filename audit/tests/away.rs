//! CO-03: a receiver that cannot store takes nothing for delivered, and gets everything later, over every way of delivery.
//! SK-04: one that is interrupted again and again gets it soon.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::receivers::{
    By, Manner, Ours, StandIn, apart, config, count, delivered, delivery, fhir_repository, options, rules, until, write,
};
use common::{Cluster, Pki};
use ncp_audit::server::Engine;
use ncp_audit::*;

/// A receiver that takes nothing for a while: nothing is set apart, everything comes.
#[tokio::test(flavor = "multi_thread")]
async fn co_03_a_receiver_that_cannot_store_gets_everything_later() {
    for by in By::ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::create(&dir.path().join("pki"));
        let receiver = StandIn::new(Manner::Down(12));
        let port = by.of(&receiver, &pki).await;
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        write(&sink, 0..20).await;
        let sending = by.spawn(&sink, &pki, port, "/fhir");
        tokio::time::sleep(Duration::from_millis(300)).await;
        write(&sink, 20..40).await;
        until("everything is delivered", 60, || receiver.rules().len() == 40 && delivery(&sink).waiting == 0).await;
        let set_apart = apart(dir.path(), by.receiver());
        assert!(set_apart.is_empty(), "{by:?}: {set_apart:?}");
        count(&format!("a repository cannot store ({by:?})"), 40, &receiver.rules(), &[]);
        sending.abort();
    }
}

/// PostgreSQL stops and comes back under every way of delivery: the repository says that it is not ready, takes nothing for
/// delivered, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn co_03_nothing_is_lost_while_postgresql_is_away() {
    for by in By::ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let cluster = Arc::new(Cluster::start());
        let pki = Pki::create(&dir.path().join("pki"));
        let ours = Ours::start(config(dir.path(), &pki, Engine::Postgres(cluster.url()), by));
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        let port = ours.port(by);
        let sending = by.spawn(&sink, &pki, port, "");
        write(&sink, 0..20).await;
        delivered(&sink).await;
        assert_eq!(ours.readiness().await, 200);
        control(&cluster, "stop").await;
        write(&sink, 20..40).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(delivery(&sink).waiting, 20, "{by:?}: what cannot be stored was taken for delivered");
        assert_eq!(ours.readiness().await, 503);
        control(&cluster, "start").await;
        until("everything is delivered", 60, || delivery(&sink).waiting == 0).await;
        assert_eq!(ours.readiness().await, 200);
        let all = rules(&ours.found(&pki, Filter::default()).await.concat());
        count(&format!("PostgreSQL away ({by:?})"), 40, &all, &[]);
        assert_eq!(all, (0..40).collect());
        sending.abort();
        ours.stop().await;
        tokio::task::spawn_blocking(move || drop(cluster)).await.expect("stops");
    }
}

async fn control(cluster: &Arc<Cluster>, what: &'static str) {
    let cluster = cluster.clone();
    tokio::task::spawn_blocking(move || cluster.control(what)).await.expect("runs");
}

/// A syslog receiver that is told to stop takes nothing for received that it has not read.
#[tokio::test(flavor = "multi_thread")]
async fn co_03_a_repository_that_stops_takes_nothing_unread_for_received() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let config = config(dir.path(), &pki, Engine::Files, By::Syslog);
    let mut ours = Ours::start(config.clone());
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let sending = By::Syslog.spawn(&sink, &pki, config.syslog.expect("an address").port(), "");
    for round in 0..4 {
        write(&sink, round * 100..(round + 1) * 100).await;
        ours.stop().await;
        ours = Ours::start(config.clone());
    }
    delivered(&sink).await;
    let all = rules(&ours.found(&pki, Filter { limit: 1000, ..Filter::default() }).await.concat());
    count("a repository stops and starts while syslog comes", 400, &all, &[]);
    sending.abort();
    ours.stop().await;
}

/// SK-04: two of three streams break off before anything is acknowledged, again and again. Each record that is acknowledged
/// in between shows that the receiver is there: the pauses stay short.
#[tokio::test(flavor = "multi_thread")]
async fn sk_04_a_feed_that_is_interrupted_again_and_again_resumes_soon() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let receiver = StandIn::new(Manner::Third);
    let port = receiver.feed(&pki).await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let sending = By::Feed.spawn(&sink, &pki, port, "");
    // With pauses that double from one interruption to the next these take ten minutes.
    let each = async {
        for n in 0..8 {
            write(&sink, n..n + 1).await;
            delivered(&sink).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), each).await.expect("delivery resumes within seconds");
    count("a feed that is interrupted again and again", 8, &receiver.rules(), &[]);
    sending.abort();
}

/// SK-04 by FHIR: every second record fails once.
#[tokio::test(flavor = "multi_thread")]
async fn sk_04_what_was_taken_before_a_failure_shows_that_the_receiver_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let tries = Arc::new(AtomicUsize::new(0));
    let answer =
        move |_: &str| if tries.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { (201, 0) } else { (500, 0) };
    let (port, posted) = fhir_repository(&pki, answer).await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    write(&sink, 0..12).await;
    let sending = By::Fhir.spawn(&sink, &pki, port, "/fhir");
    tokio::time::timeout(Duration::from_secs(60), delivered(&sink)).await.expect("delivery resumes within seconds");
    let posted = posted.lock().expect("no panic").clone();
    let taken: String = posted.into_iter().filter(|one| one.status == 201).map(|one| one.body).collect();
    count("a FHIR repository fails every second time", 12, &rules(&taken), &[]);
    sending.abort();
}
