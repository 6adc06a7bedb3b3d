//! Handshakes that a gateway must not complete: the TLS family, as seen from a client.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ncp_ihe::actions;
use ncp_tls::{Material, TlsConnector};
use openssl::ssl::{SslVerifyMode, SslVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Attacker, Finding, INTEGRITY, SERVED};
use crate::neighbour::{Neighbour, server_name};
use crate::pki::{Algorithm, CountryPki, Error, Odd, Use};

const REFUSED: &str = "handshake refused";

/// Versions and suites of TLS that are too weak, tried by any client.
///
/// # Errors
/// OpenSSL.
pub async fn versions(
    material: Option<&Material>,
    anchors: &Path,
    (host, port): (&str, u16),
) -> Result<Vec<Finding>, Error> {
    let mut out = Vec::new();
    for (id, input, version, ciphers) in [
        ("T-TLS-1", "TLS 1.0", SslVersion::TLS1, "ALL:@SECLEVEL=0"),
        ("T-TLS-1b", "TLS 1.1", SslVersion::TLS1_1, "ALL:@SECLEVEL=0"),
        (
            "T-TLS-2",
            "TLS 1.2 with CBC suites alone",
            SslVersion::TLS1_2,
            "ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:AES128-SHA",
        ),
    ] {
        let connector = client(material, anchors, Some((version, ciphers)))?;
        out.push(Finding::new(id, input, &[REFUSED], attempt(&connector, host, port).await));
    }
    Ok(out)
}

/// Tries each handshake against `host:port`.
///
/// # Errors
/// Files, keys.
pub async fn handshakes(
    attacker: &Attacker,
    anchors: &Path,
    (host, port): (&str, u16),
    revoked: Option<&str>,
) -> Result<Vec<Finding>, Error> {
    let (connects, _) = attacker.side.certificates();
    let file = |end: &str| attacker.pki.path(&format!("{connects}.{end}"));
    let good = Material::load(&file("pem"), &file("key"))?;
    let mut out = versions(Some(&good), anchors, (host, port)).await?;
    let connector = client(None, anchors, None)?;
    out.push(Finding::new("T-TLS-3", "no client certificate", &[REFUSED], attempt(&connector, host, port).await));
    let dir = tempfile::tempdir()?;
    let foreign = CountryPki::create(dir.path(), &attacker.pki.country, Algorithm::P256)?;
    let material = Material::load(&foreign.path("tls-client.pem"), &foreign.path("tls-client.key"))?;
    let connector = client(Some(&material), anchors, None)?;
    let got = attempt(&connector, host, port).await;
    out.push(Finding::new("T-TLS-4", "client certificate of a foreign CA, same names", &[REFUSED], got));
    for (id, input, odd) in [
        ("T-TLS-4b", "expired client certificate", Odd { from_days: -30, to_days: 0, ..Odd::default() }),
        ("T-TLS-4c", "client certificate not yet valid", Odd { from_days: 5, ..Odd::default() }),
    ] {
        let name = format!("attack-{id}");
        attacker.pki.odd_leaf(&name, Use::Client, Algorithm::P256, &odd)?;
        out.push(named(attacker, anchors, (host, port), id, input, &name).await?);
    }
    out.push(named(attacker, anchors, (host, port), "T-TLS-4d", "server certificate as client", "tls-server").await?);
    if let Some(name) = revoked {
        out.push(named(attacker, anchors, (host, port), "T-TLS-5", "revoked client certificate", name).await?);
    }
    out.push(Finding::new("T-TLS-6", "renegotiation", &["renegotiation refused"], renegotiate(attacker, host, port)?));
    let connector = client(Some(&good), anchors, None)?;
    out.push(Finding::new("T-TLS-good", "a good handshake", &["answered"], attempt(&connector, host, port).await));
    Ok(out)
}

/// What the country's authorities issue: the two certificates of each side, those of its services and of readers of its
/// trail.
const OTHERS: [&str; 8] =
    ["tls-client", "seal", "tls-server", "internal-client", "internal-server", "reader", "consumer", "xua"];

/// Keys that the country's authorities issued to somebody else than its NCP, against a gateway that names the peer's
/// certificates (`pin`): one of its TLS clients, one of its seals, both; and each of the others that lie in its folder.
///
/// # Errors
/// Files, keys, signing.
pub async fn other_names(
    attacker: &Attacker,
    anchors: &Path,
    (host, port): (&str, u16),
) -> Result<Vec<Finding>, Error> {
    let (client, seal) = ("attack-T-PIN-client", "attack-T-PIN-seal");
    let (own_client, own_seal) = attacker.side.certificates();
    attacker.pki.leaf(client, Use::Client, Algorithm::P256, 0, 90)?;
    attacker.pki.leaf(seal, Use::Seal, Algorithm::P256, 0, 90)?;
    let mut rows = vec![
        ("T-PIN-1", "TLS client of the country's authority, not its NCP".to_owned(), (client, own_seal), REFUSED),
        ("T-PIN-2", "signer of the country's authority, not its NCP".into(), (own_client, seal), INTEGRITY),
        ("T-PIN-3", "both".into(), (client, seal), REFUSED),
    ];
    let another = |name: &&str| *name != own_client && *name != own_seal;
    let others = OTHERS.into_iter().filter(another);
    let others = others.filter(|name| attacker.pki.path(&format!("{name}.key")).is_file());
    for name in others {
        rows.push(("T-PIN-4", format!("TLS by the country's {name}"), (name, own_seal), REFUSED));
        rows.push(("T-PIN-5", format!("signed by the country's {name}"), (own_client, name), INTEGRITY));
        rows.push(("T-PIN-6", format!("both by the country's {name}"), (name, name), REFUSED));
    }
    rows.push(("T-PIN-good", "the two that are named".into(), (own_client, own_seal), SERVED));
    let mut out = Vec::new();
    for (id, input, shown, expected) in rows {
        let home = attacker.neighbour.home.to_string();
        let neighbour = Neighbour::showing(&attacker.pki, &home, anchors, host, port, shown)?;
        let assertions = neighbour.assertions(&attacker.patient).await?;
        let query = Neighbour::find_documents(&attacker.patient).to_element();
        let message = attacker.signed_message(actions::ITI38_REQUEST, &assertions, query);
        let got = match attacker.ask(&neighbour, &message).await {
            Ok(told) => told,
            // What a client sees of a certificate that is not taken: the connection ends.
            Err(_) if expected == REFUSED => REFUSED.into(),
            Err(error) => format!("no answer: {error}"),
        };
        out.push(Finding::new(id, &input, &attacker.side.answers(&[expected]), got));
    }
    Ok(out)
}

async fn named(
    attacker: &Attacker,
    anchors: &Path,
    (host, port): (&str, u16),
    id: &str,
    input: &str,
    name: &str,
) -> Result<Finding, Error> {
    let file = |end: &str| attacker.pki.path(&format!("{name}.{end}"));
    let material = Material::load(&file("pem"), &file("key"))?;
    let connector = client(Some(&material), anchors, None)?;
    Ok(Finding::new(id, input, &[REFUSED], attempt(&connector, host, port).await))
}

fn client(
    material: Option<&Material>,
    anchors: &Path,
    version: Option<(SslVersion, &str)>,
) -> Result<TlsConnector, Error> {
    let mut builder = TlsConnector::builder()?;
    builder.set_ca_file(anchors)?;
    builder.set_verify(SslVerifyMode::PEER);
    if let Some((version, ciphers)) = version {
        builder.set_cipher_list(ciphers)?;
        builder.set_min_proto_version(Some(version))?;
        builder.set_max_proto_version(Some(version))?;
    }
    if let Some(material) = material {
        builder.set_certificate(material.leaf())?;
        builder.set_private_key(material.key())?;
        for link in &material.chain()[1..] {
            builder.add_extra_chain_cert(link.clone())?;
        }
    }
    Ok(TlsConnector::of(builder))
}

/// With TLS 1.3 the client learns of a refusal at its first exchange, so one is tried.
async fn attempt(connector: &TlsConnector, host: &str, port: u16) -> String {
    let Ok(mut stream) = ncp_tls::connect(connector, host, port, server_name(host), Duration::from_secs(5)).await
    else {
        return REFUSED.into();
    };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let _ = stream.flush().await;
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut out)).await;
    if out.starts_with(b"HTTP/1.1 ") { "answered".into() } else { REFUSED.into() }
}

/// OpenSSL's own client asks for a renegotiation at the line `R`.
fn renegotiate(attacker: &Attacker, host: &str, port: u16) -> Result<String, Error> {
    let (connects, _) = attacker.side.certificates();
    let file = |end: &str| attacker.pki.path(&format!("{connects}.{end}"));
    let mut child = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &format!("{host}:{port}"), "-cert"])
        .arg(file("pem"))
        .arg("-key")
        .arg(file("key"))
        .arg("-cert_chain")
        .arg(file("pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    std::thread::sleep(Duration::from_millis(500));
    stdin.write_all(b"R\n")?;
    stdin.flush()?;
    std::thread::sleep(Duration::from_millis(500));
    drop(stdin);
    let out = child.wait_with_output()?;
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(match (said.contains("RENEGOTIATING"), said.to_lowercase().contains("no renegotiation")) {
        (true, true) => "renegotiation refused".into(),
        (true, false) => "renegotiated".into(),
        (false, _) => "no connection".into(),
    })
}
