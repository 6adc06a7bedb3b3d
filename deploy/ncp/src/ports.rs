//! Every certificate of the demonstration at every port that asks for one: the named pairs pass, and nobody else.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use ncp_gateway::config::{Config, Pin};
use ncp_proto::audit::audit_feed_client::AuditFeedClient;
use ncp_proto::translation::CoverageRequest;
use ncp_proto::translation::translation_client::TranslationClient;
use ncp_tls::{CertificateFacts, Material};
use serde_json::{Value, json};

use crate::Error;
use crate::check::ensure;
use crate::demo::Demo;

const PATIENCE: Duration = Duration::from_secs(10);

/// What is tried at a port.
#[derive(Clone, Copy)]
enum Probe {
    /// Any answer of HTTP at all.
    Http,
    /// Sending audit events.
    Send,
    /// Searching audit events.
    Read,
    /// The feed of the audit repository.
    Feed,
    /// The search of the audit repository.
    Query,
    /// The terminology service.
    Translate,
}

/// A port, and whether the configuration names a certificate for it.
struct Port<'a> {
    name: &'static str,
    address: SocketAddr,
    probe: Probe,
    names: Box<dyn Fn(&CertificateFacts) -> bool + 'a>,
}

/// A certificate with its key, by country and file.
struct Shown {
    name: String,
    material: Material,
    facts: CertificateFacts,
}

/// Tries all pairs of one country's ports with the certificates of both countries.
pub(crate) async fn run(demo: &Demo, country: &str) -> Result<Value, Error> {
    let own = demo.dir.join(country);
    let said = |problems: Vec<String>| -> Error { problems.join("; ").into() };
    let gateway = ncp_gateway::config::load(&own.join("gateway.toml"));
    let gateway = gateway.map_err(|problems| said(problems.iter().map(ToString::to_string).collect()))?;
    let audit = ncp_audit::server::load(&own.join("audit.toml")).map_err(said)?;
    let translation = ncp_translation::config::load(&own.join("translation.toml")).map_err(said)?;
    ensure(gateway.warnings().is_empty(), format!("{:?}", gateway.warnings()))?;
    let ports = ports(&gateway, &audit, &translation);
    let mut all = certificates(&demo.dir.join("no/pki"), "NO")?;
    all.extend(certificates(&demo.dir.join("fi/pki"), "FI")?);
    ensure(all.len() >= 16, format!("{} certificates", all.len()))?;

    let mut table = format!("{:<22}", "");
    for port in &ports {
        write!(table, "{:<12}", port.name)?;
    }
    let (mut passed, mut wrong) = (Vec::new(), Vec::new());
    for shown in &all {
        write!(table, "\n{:<22}", shown.name)?;
        for port in &ports {
            let passes = passes(port, shown, &own.join("pki/anchors.pem")).await?;
            write!(table, "{:<12}", if passes { "yes" } else { "-" })?;
            passed.extend(passes.then(|| format!("{} {}", port.name, shown.name)));
            if passes != (port.names)(&shown.facts) {
                wrong.push(format!("{} at {}: {passes}", shown.name, port.name));
            }
        }
    }
    std::fs::write(own.join("ports.txt"), table + "\n")?;
    ensure(wrong.is_empty(), wrong.join("; "))?;
    // Each port has somebody, but for the one of which the demonstration has no sender.
    let used = ports.iter().filter(|port| passed.iter().any(|pair| pair.starts_with(&format!("{} ", port.name))));
    ensure(used.count() + 1 == ports.len(), passed.join("; "))?;
    Ok(json!({ "pairs": all.len() * ports.len(), "passed": passed }))
}

fn ports<'a>(
    gateway: &'a Config,
    audit: &'a ncp_audit::server::Config,
    translation: &'a ncp_translation::config::Config,
) -> Vec<Port<'a>> {
    let port =
        |name, address, probe, names: Box<dyn Fn(&CertificateFacts) -> bool + 'a>| Port { name, address, probe, names };
    let peers = |facts: &CertificateFacts| {
        gateway.peer.iter().any(|peer| matches!(&peer.pin, Pin::Names(names) if names.tls_client.admit(facts)))
    };
    let writes = |facts: &CertificateFacts| audit.writers.contains_key(&facts.common_name);
    let mut ports = vec![
        port("peers", gateway.listener.peers, Probe::Http, Box::new(peers)),
        port("feed", audit.feed, Probe::Feed, Box::new(writes)),
        port("query", audit.query, Probe::Query, Box::new(|facts| audit.readers.admit(facts))),
        port("terms", translation.listen, Probe::Translate, Box::new(|facts| translation.clients.admit(facts))),
    ];
    ports.extend(gateway.consumer.iter().map(|side| {
        let names = |facts: &CertificateFacts| matches!(&side.pin, Pin::Names(n) if n.tls_client.admit(facts));
        port("consumers", side.listen, Probe::Http, Box::new(names))
    }));
    if let Some(address) = audit.fhir {
        ports.push(port("fhir-read", address, Probe::Read, Box::new(|facts| audit.readers.admit(facts))));
        ports.push(port("fhir-send", address, Probe::Send, Box::new(|facts| audit.senders.admit(facts))));
    }
    ports
}

fn certificates(pki: &Path, country: &str) -> Result<Vec<Shown>, Error> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(pki)? {
        let path = entry?.path();
        let key = path.with_extension("key");
        if path.extension().is_none_or(|end| end != "pem") || !key.is_file() {
            continue;
        }
        let material = Material::load(&path, &key)?;
        let facts = CertificateFacts::of(material.leaf())?;
        let name = format!("{country} {}", path.file_stem().unwrap_or_default().to_string_lossy());
        all.push(Shown { name, material, facts });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

async fn passes(port: &Port<'_>, shown: &Shown, anchors: &Path) -> Result<bool, Error> {
    let connector = |alpn| shown.material.connector(&[anchors.to_owned()], alpn);
    let channel = || {
        let endpoint = format!("https://{}", port.address);
        Ok::<_, Error>(ncp_tls::channel(&endpoint, "localhost", connector(b"\x02h2")?)?)
    };
    let tried = async {
        Ok::<_, Error>(match port.probe {
            Probe::Feed => AuditFeedClient::new(channel()?).append(futures_util::stream::empty()).await.is_ok(),
            Probe::Query => ncp_audit::gaps(channel()?).await.is_ok(),
            Probe::Translate => TranslationClient::new(channel()?).coverage(CoverageRequest::default()).await.is_ok(),
            Probe::Http | Probe::Read | Probe::Send => {
                let client = ncp_tls::http_client(connector(b"\x08http/1.1")?, None, PATIENCE);
                let path = if matches!(port.probe, Probe::Http) { "/" } else { "/AuditEvent?date=ge2026-01-01" };
                let method = if matches!(port.probe, Probe::Send) { "POST" } else { "GET" };
                let uri = format!("https://localhost:{}{path}", port.address.port());
                let request = hyper::Request::builder().method(method).uri(uri).body(Empty::<Bytes>::new())?;
                client.request(request).await.is_ok_and(|answer| answer.status() != hyper::StatusCode::FORBIDDEN)
            }
        })
    };
    tokio::time::timeout(PATIENCE, tried).await?
}
