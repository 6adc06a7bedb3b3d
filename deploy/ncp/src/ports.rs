//! Every certificate of the demonstration at every port that asks for one: the named pairs pass, and nobody else.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::StatusCode;
use ncp_gateway::config::{Config, Pin};
use ncp_proto::audit::audit_feed_client::AuditFeedClient;
use ncp_proto::translation::CoverageRequest;
use ncp_proto::translation::translation_client::TranslationClient;
use ncp_tls::{CertificateFacts, Material};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Error;
use crate::check::ensure;
use crate::demo::Demo;

const PATIENCE: Duration = Duration::from_secs(10);

/// Ports at which the demonstration names no certificate: a clinician's system shows a token there, the admin ports are plain
/// HTTP on loopback, and nobody but the gateway sends audit records.
const NOBODY: [&str; 6] = ["clinicians", "admin", "audit-admin", "terms-admin", "syslog", "fhir-send"];

/// What is tried at a port.
#[derive(Clone, Copy)]
pub(crate) enum Probe {
    /// Any answer of HTTP but a refusal.
    Http,
    /// A search as a clinician's system, without a token.
    Clinician,
    /// The end of a connection of syslog, which the repository acknowledges.
    Syslog,
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
pub(crate) struct Shown {
    pub(crate) name: String,
    material: Material,
    pub(crate) facts: CertificateFacts,
}

/// Tries all pairs of one country's ports with the certificates of both countries.
pub(crate) async fn run(demo: &Demo, country: &str) -> Result<Value, Error> {
    let own = demo.dir.join(country);
    let said = |problems: Vec<String>| -> Error { problems.join("; ").into() };
    let gateway = ncp_gateway::config::load(&own.join("gateway.toml"));
    let gateway = gateway.map_err(|problems| said(problems.iter().map(ToString::to_string).collect()))?;
    let audit = ncp_audit::server::load(&own.join("audit.toml")).map_err(said)?;
    let translation = ncp_translation::config::load(&own.join("translation.toml")).map_err(said)?;
    let warnings = [gateway.warnings(), audit.warnings(), translation.warnings()].concat();
    ensure(warnings.is_empty(), format!("{warnings:?}"))?;
    let ports = ports(&gateway, &audit, &translation);
    let mut all = certificates(&demo.dir.join("no/pki"))?;
    all.extend(certificates(&demo.dir.join("fi/pki"))?);
    ensure(all.len() >= 16, format!("{} certificates", all.len()))?;

    let mut table = format!("{:<22}", "");
    for port in &ports {
        write!(table, "{:<13}", port.name)?;
    }
    let (mut passed, mut wrong) = (Vec::new(), Vec::new());
    for shown in &all {
        write!(table, "\n{:<22}", shown.name)?;
        for port in &ports {
            let passes = passes(port.address, port.probe, shown, &own.join("pki/anchors.pem")).await?;
            write!(table, "{:<13}", if passes { "yes" } else { "-" })?;
            passed.extend(passes.then(|| format!("{} {}", port.name, shown.name)));
            if passes != (port.names)(&shown.facts) {
                wrong.push(format!("{} at {}: {passes}", shown.name, port.name));
            }
        }
    }
    std::fs::write(own.join("ports.txt"), table + "\n")?;
    ensure(wrong.is_empty(), wrong.join("; "))?;
    let unused = |port: &&Port<'_>| !passed.iter().any(|pair| pair.starts_with(&format!("{} ", port.name)));
    let unused: Vec<&str> = ports.iter().filter(unused).map(|port| port.name).collect();
    ensure(unused.len() == NOBODY.len() && unused.iter().all(|name| NOBODY.contains(name)), unused.join("; "))?;
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
        port("admin", gateway.listener.admin, Probe::Http, Box::new(|_| false)),
        port("audit-admin", audit.admin, Probe::Http, Box::new(|_| false)),
        port("terms-admin", translation.admin, Probe::Http, Box::new(|_| false)),
    ];
    ports.extend(
        gateway.clinician.iter().map(|side| port("clinicians", side.listen, Probe::Clinician, Box::new(|_| false))),
    );
    ports.extend(gateway.consumer.iter().map(|side| {
        let names = |facts: &CertificateFacts| matches!(&side.pin, Pin::Names(n) if n.tls_client.admit(facts));
        port("consumers", side.listen, Probe::Http, Box::new(names))
    }));
    if let Some(address) = audit.syslog {
        ports.push(port("syslog", address, Probe::Syslog, Box::new(|facts| audit.senders.admit(facts))));
    }
    if let Some(address) = audit.fhir {
        ports.push(port("fhir-read", address, Probe::Read, Box::new(|facts| audit.readers.admit(facts))));
        ports.push(port("fhir-send", address, Probe::Send, Box::new(|facts| audit.senders.admit(facts))));
    }
    ports
}

/// The certificates of a folder that have their keys beside them.
pub(crate) fn certificates(pki: &Path) -> Result<Vec<Shown>, Error> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(pki)? {
        let path = entry?.path();
        let key = path.with_extension("key");
        if path.extension().is_none_or(|end| end != "pem") || !key.is_file() {
            continue;
        }
        let material = Material::load(&path, &key)?;
        let facts = CertificateFacts::of(material.leaf())?;
        let country = facts.country.map(|country| country.to_string()).unwrap_or_default();
        let name = format!("{country} {}", path.file_stem().unwrap_or_default().to_string_lossy());
        all.push(Shown { name, material, facts });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Whether a certificate gets something done at a port.
pub(crate) async fn passes(address: SocketAddr, probe: Probe, shown: &Shown, anchors: &Path) -> Result<bool, Error> {
    let connector = |alpn| shown.material.connector(&[anchors.to_owned()], alpn);
    let channel = || {
        let endpoint = format!("https://{}", address);
        Ok::<_, Error>(ncp_tls::channel(&endpoint, "localhost", connector(b"\x02h2")?)?)
    };
    let tried = async {
        Ok::<_, Error>(match probe {
            Probe::Feed => AuditFeedClient::new(channel()?).append(futures_util::stream::empty()).await.is_ok(),
            Probe::Query => ncp_audit::gaps(channel()?).await.is_ok(),
            Probe::Translate => TranslationClient::new(channel()?).coverage(CoverageRequest::default()).await.is_ok(),
            Probe::Syslog => {
                let (host, number) = (address.ip().to_string(), address.port());
                match ncp_tls::connect(&connector(b"")?, &host, number, "localhost", PATIENCE).await {
                    Ok(mut stream) => {
                        stream.shutdown().await.is_ok() && stream.read_to_end(&mut Vec::new()).await.is_ok()
                    }
                    Err(_) => false,
                }
            }
            Probe::Http | Probe::Clinician | Probe::Read | Probe::Send => {
                let client = ncp_tls::http_client(connector(b"\x08http/1.1")?, None, PATIENCE);
                let path = match probe {
                    Probe::Http => "/",
                    Probe::Clinician => "/p/x/fhir/DocumentReference",
                    _ => "/AuditEvent?date=ge2026-01-01",
                };
                let method = if matches!(probe, Probe::Send) { "POST" } else { "GET" };
                let uri = format!("https://localhost:{}{path}", address.port());
                let request =
                    hyper::Request::builder().method(method).uri(uri).header("x-audit-reason", "check of ports");
                let request = request.body(Empty::<Bytes>::new())?;
                let answer = client.request(request).await;
                answer.is_ok_and(|answer| !matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
            }
        })
    };
    tokio::time::timeout(PATIENCE, tried).await?
}
