//! `ncp cert`: what certificates say, in plain words, and when they must be renewed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use ncp_gateway::app::{Learned, Snapshot};
use ncp_gateway::config::{self, Config, Peer};
use ncp_gateway::smp::{Services, Source};
use ncp_gateway::snapshot::NamedCertificate;
use ncp_saml::Verifier;
use ncp_tls::{Anchors, CertificateFacts, Country, Freshness, Material, Purpose, Revocation};
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::x509::X509;

use crate::Error;

/// Days before the end at which a certificate is pointed out.
const WARN_DAYS: i64 = 60;

#[derive(Subcommand)]
pub(crate) enum Cert {
    /// Shakes hands with each peer and says what is right and what is not: name, chain, revocation, days left, what the
    /// peer sees of us, and what the SMP says of it.
    ///
    /// Example: ncp cert doctor FI --config gateway.toml
    Doctor {
        /// Country; default all.
        peer: Option<String>,
        /// Configuration of the gateway.
        #[arg(long)]
        config: PathBuf,
    },
    /// Writes the ends of all certificates as a calendar (ICS), with alarms 60, 30, 14, 7 and 1 days before.
    Calendar {
        /// Configuration of the gateway.
        #[arg(long)]
        config: PathBuf,
        /// The calendar.
        #[arg(long, default_value = "certificates.ics")]
        out: PathBuf,
    },
}

/// False when something must be done.
pub(crate) async fn run(command: Cert) -> Result<bool, Error> {
    let path = match &command {
        Cert::Doctor { config, .. } | Cert::Calendar { config, .. } => config.clone(),
    };
    let config = config::load(&path).map_err(|problems| said(&problems))?;
    let verifier = Verifier::start(1)?;
    let services = match &config.smp {
        Some(section) => Source::new(section)?.kept(&config.peer, &verifier).await,
        None => Services::new(),
    };
    let learned = Learned { services, ..Learned::default() };
    let snapshot = Snapshot::load(&config, &learned).map_err(|problems| said(&problems))?;
    match command {
        Cert::Doctor { peer, .. } => doctor(&config, &snapshot, (&learned.services, &verifier), peer.as_deref()).await,
        Cert::Calendar { out, .. } => {
            std::fs::write(&out, calendar(&snapshot.certificates)?)?;
            println!("{} certificates in {}", snapshot.certificates.len(), out.display());
            Ok(true)
        }
    }
}

fn said(problems: &[impl std::fmt::Display]) -> Error {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into()
}

async fn doctor(
    config: &Config,
    snapshot: &Snapshot,
    (kept, verifier): (&Services, &Verifier),
    only: Option<&str>,
) -> Result<bool, Error> {
    let mut well = true;
    for warning in config.warnings() {
        println!("{warning}");
    }
    println!("Ours, as other countries see them");
    for named in snapshot.certificates.iter().filter(|c| !c.name.starts_with("peer ")) {
        well &= describe(&named.name, &named.certificate, Some(config.gateway.country))?;
    }
    for peer in snapshot.peers.iter().filter(|p| only.is_none_or(|wanted| p.country.as_str() == wanted)) {
        println!("\n{} ({})", peer.name, peer.country);
        let name = |c: &&NamedCertificate| c.name.starts_with(&format!("peer {} ", peer.country));
        for named in snapshot.certificates.iter().filter(name) {
            well &= describe(&named.name, &named.certificate, None)?;
        }
        expected_of(peer);
        well &= published(config, peer, kept, verifier).await?;
        well &= handshake(config, snapshot, peer).await?;
    }
    Ok(well)
}

/// What the peer's assertions must say besides being signed by it: where they say something else, every request is refused.
fn expected_of(peer: &Peer) {
    let homes: Vec<String> =
        std::iter::once(&peer.home_community_id).chain(&peer.aliases).map(ToString::to_string).collect();
    println!("  its assertions: homeCommunityId {} (more: aliases)", homes.join(" or "));
    let more =
        if peer.authn_classes.is_empty() { String::new() } else { format!(", {}", peer.authn_classes.join(", ")) };
    println!("  its logins: two-factor classes of SAML{more} (more: authn_classes)");
}

/// Whether the peer's certificate leads to its anchors without what it sends beside it.
fn has_path_alone(peer: &Peer, leaf: &X509) -> Result<bool, Error> {
    let anchors = Anchors::load(&peer.tls_anchors, Revocation::none(), Purpose::TlsServer)?;
    Ok(anchors.verify(leaf, &[]).is_ok())
}

/// One line a fact; false when something must be done.
fn describe(name: &str, certificate: &X509, country: Option<Country>) -> Result<bool, Error> {
    let facts = CertificateFacts::of(certificate)?;
    let days = days_left(certificate.not_after())?;
    println!("  {name}: {} issued by {}, {}", facts.common_name, facts.issuer, remaining(days));
    let mut well = days > WARN_DAYS;
    if let Some(country) = country
        && facts.country != Some(country)
    {
        println!("    WRONG: subject C is {:?}, our country is {country}: every peer will refuse it", facts.country);
        well = false;
    }
    Ok(well)
}

fn remaining(days: i64) -> String {
    match days {
        ..0 => format!("ENDED {} days ago", -days),
        0..=WARN_DAYS => format!("{days} days left: RENEW"),
        _ => format!("{days} days left"),
    }
}

/// What the SMP says of the peer now, and what was kept of what it said.
async fn published(config: &Config, peer: &Peer, kept: &Services, verifier: &Verifier) -> Result<bool, Error> {
    let Some(section) = config.smp.as_ref().filter(|_| peer.smp) else { return Ok(true) };
    let source = Source::new(section)?;
    let mut well = true;
    for service in source.services(peer) {
        let (name, copy) = (service.as_str(), kept.get(&(peer.country, service)));
        let error = match source.ask(peer, service, verifier).await {
            Ok((_, endpoint)) => {
                println!("  service metadata {name}: {endpoint}");
                if let Some(copy) = copy.filter(|copy| copy.endpoint != endpoint) {
                    println!("    the kept copy still says {}", copy.endpoint);
                }
                continue;
            }
            Err(error) => error,
        };
        well = false;
        println!("  service metadata {name}: FAILED: {error}");
        match copy.map(|copy| (copy, copy.age())) {
            Some((copy, age)) if age <= section.max_age => {
                println!("    the last good copy, {} h old, is used: {}", age.as_secs() / 3600, copy.endpoint);
            }
            Some((_, age)) => println!("    the last good copy, {} h old, is too old to be used", age.as_secs() / 3600),
            None => println!("    none was kept: only an address of the configuration is used"),
        }
    }
    Ok(well)
}

/// What happens when we call the peer.
async fn handshake(config: &Config, snapshot: &Snapshot, peer: &Peer) -> Result<bool, Error> {
    let Some(url) = [&peer.xcpd, &peer.xca, &peer.xcai].into_iter().flatten().next() else {
        println!("  call: no address is configured, so it is never asked");
        return Ok(true);
    };
    let Some(client) = &config.client else {
        println!("  call: no [client] certificate, so it is never asked");
        return Ok(true);
    };
    let uri: hyper::Uri = url.parse()?;
    let (host, port) = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(443));
    let connector = Material::load(&client.certificate, &client.key)?
        .connector(std::slice::from_ref(&peer.tls_anchors), b"\x08http/1.1")?;
    let stream = match ncp_tls::connect(&connector, &host, port, &host, Duration::from_secs(5)).await {
        Ok(stream) => stream,
        Err(error) => {
            println!("  call to {host}:{port}: FAILED: {error}");
            println!("    {}", advice(&error.to_string()));
            return Ok(false);
        }
    };
    let ssl = stream.ssl();
    let cipher = ssl.current_cipher().map_or("-", |c| c.name());
    println!("  call to {host}:{port}: {} with {cipher}", ssl.version_str());
    let (Some(leaf), sent) = (ssl.peer_certificate(), ssl.peer_cert_chain()) else {
        println!("    WRONG: it shows no certificate");
        return Ok(false);
    };
    let sent: Vec<X509> = sent.map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
    let mut well = describe("its certificate", &leaf, None)?;
    for name in leaf.subject_alt_names().into_iter().flatten().filter_map(|n| n.dnsname().map(ToOwned::to_owned)) {
        println!("    answers to {name}");
    }
    let country = CertificateFacts::of(&leaf)?.country;
    if country != Some(peer.country) {
        println!("    WRONG: subject C is {country:?}, configured is {}: calls are refused", peer.country);
        well = false;
    }
    let staple = ssl.ocsp_status().map(<[u8]>::to_vec);
    println!("    stapled OCSP answer: {}", if staple.is_some() { "yes" } else { "no" });
    let Some(anchors) = snapshot.server_anchors.get(&peer.country) else { return Ok(false) };
    let facts = CertificateFacts::of(&leaf)?;
    println!("    its names for pin.tls_server: {:?} or \"sha256:{}\"", facts.common_name, facts.fingerprint);
    match peer.pin.of(|names| &names.tls_server) {
        None => println!("    pin = \"anchor\": every certificate under tls_anchors would do; name this one"),
        Some(names) if names.admit(&facts) => println!("    pin.tls_server names it"),
        Some(_) => {
            println!("    WRONG: pin.tls_server does not name it: calls are refused");
            well = false;
        }
    }
    if !sent.is_empty() && anchors.verify(&leaf, &sent).is_ok() && !has_path_alone(peer, &leaf)? {
        println!(
            "    by tls_anchors alone it has no path: it is taken as long as the intermediate comes with it; ADD IT"
        );
    }
    let revocation = if anchors.revocation().is_configured() { "checked" } else { "NOT CHECKED: no crls, no ocsp_url" };
    match anchors.verify_online(&leaf, &sent, staple.as_deref()).await {
        Ok(Freshness::Current) => println!("    chain of {} leads to an anchor; revocation {revocation}", sent.len()),
        Ok(Freshness::Stale) => {
            println!(
                "    chain leads to an anchor; revocation data are past their time, within the grace: FETCH NEW ONES"
            );
            well = false;
        }
        Err(error) => {
            println!("    WRONG: {error}: calls are refused");
            println!("    {}", advice(&error.to_string()));
            well = false;
        }
    }
    Ok(well)
}

/// What usually helps.
fn advice(error: &str) -> &'static str {
    let error = error.to_ascii_lowercase();
    for (word, help) in [
        ("hostname", "the host in the configured address is none of the certificate's names"),
        ("expired", "ask the peer for its renewed certificate; check the clock of this machine"),
        ("revoked", "the peer must replace the certificate; do not go around this"),
        ("local issuer", "tls_anchors lacks the root or an intermediate of the peer"),
        (
            "verify failed",
            "tls_anchors lacks the root or an intermediate of the peer, or the certificate is out of time",
        ),
        ("alert", "the peer refuses our certificate: it needs our anchors, or ours is expired or revoked there"),
        ("refused", "nothing listens there: check address, firewall and the peer's state"),
        ("timed out", "no answer: check address, firewall and routes"),
        ("promises a stapled", "the peer must switch OCSP stapling on, or get a certificate without must-staple"),
    ] {
        if error.contains(word) {
            return help;
        }
    }
    "see the reason above"
}

fn days_left(end: &Asn1TimeRef) -> Result<i64, Error> {
    let span = Asn1Time::days_from_now(0)?.diff(end)?;
    Ok(i64::from(span.days) - i64::from(span.secs < 0))
}

/// RFC 5545, one event a certificate.
fn calendar(certificates: &[NamedCertificate]) -> Result<String, Error> {
    let mut out = String::from("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//ncp//certificates//EN\r\n");
    let now = jiff::Timestamp::now();
    for named in certificates {
        let facts = CertificateFacts::of(&named.certificate)?;
        let end = now + jiff::SignedDuration::from_hours(24 * days_left(named.certificate.not_after())?);
        let text = |s: &str| s.replace('\\', "\\\\").replace([',', ';'], " ").replace(['\r', '\n'], " ");
        write!(
            out,
            "BEGIN:VEVENT\r\nUID:{}@ncp\r\nDTSTAMP:{}\r\nDTSTART;VALUE=DATE:{}\r\nSUMMARY:{} ends\r\nDESCRIPTION:{}\r\n",
            &facts.fingerprint[..32],
            now.strftime("%Y%m%dT%H%M%SZ"),
            end.strftime("%Y%m%d"),
            text(&facts.common_name),
            text(&named.name),
        )?;
        for days in [60, 30, 14, 7, 1] {
            write!(
                out,
                "BEGIN:VALARM\r\nACTION:DISPLAY\r\nDESCRIPTION:{days} days left\r\nTRIGGER:-P{days}D\r\nEND:VALARM\r\n"
            )?;
        }
        out.push_str("END:VEVENT\r\n");
    }
    out.push_str("END:VCALENDAR\r\n");
    Ok(out)
}
