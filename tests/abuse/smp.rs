//! Service metadata that must not be believed (T-SMP): the last good copy stays in force, nothing but the SMP is asked.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, Uri};
use ncp_gateway::config::{self, Config, Peer};
use ncp_gateway::smp::{Service, Source};
use ncp_saml::Verifier;
use ncp_tests::attack::{Finding, report};
use ncp_tests::pki::{Algorithm, Odd, Use};
use ncp_tls::Country;

use crate::world::{Gateway, World};

const GOOD: &str = "https://ncp.example.fi/services/XCA_Service";
const DOCUMENT: &str = "urn:ehealth:RequestOfData::XCA::CrossGatewayQuery##ITI-38";
const NAMESPACE: &str = "http://docs.oasis-open.org/bdxr/ns/SMP/2016/05";

type Answer = (StatusCode, HeaderMap, Vec<u8>);

/// An SMP that answers everything alike and remembers what it was asked.
struct Smp {
    url: String,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Smp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Smp {
    async fn start() -> Self {
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new((StatusCode::NOT_FOUND, HeaderMap::new(), Vec::new())));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answers, seen) = (answer.clone(), asked.clone());
        let routes = axum::Router::new().fallback(move |uri: Uri| {
            seen.lock().expect("no panic").push(uri.path().to_owned());
            std::future::ready(answers.lock().expect("no panic").clone())
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/smp", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.expect("serves") });
        Self { url, answer, asked, task }
    }

    fn serve(&self, body: impl Into<Vec<u8>>) {
        *self.answer.lock().expect("no panic") = (StatusCode::OK, HeaderMap::new(), body.into());
    }

    fn redirect(&self, to: &str) {
        let headers = HeaderMap::from_iter([(http::header::LOCATION, to.parse().expect("a header"))]);
        *self.answer.lock().expect("no panic") = (StatusCode::FOUND, headers, Vec::new());
    }
}

/// What metadata say, and who signs them.
struct Metadata<'a> {
    participant: &'a str,
    document: &'a str,
    endpoint: &'a str,
    /// Country and leaf of the endpoint's certificate.
    certificate: (&'a str, &'a str),
    expires: &'a str,
    signer: (&'a str, &'a str),
    transforms: &'a str,
}

const ENVELOPED: &str = r#"<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>"#;
const XSLT: &str = r#"<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"/>"#;

impl Default for Metadata<'_> {
    fn default() -> Self {
        Self {
            participant: "urn:ehealth:fi:ncp-idp",
            document: DOCUMENT,
            endpoint: GOOD,
            certificate: ("fi", "tls-server"),
            expires: "2099-01-01T00:00:00+02:00",
            signer: ("no", "smp"),
            transforms: ENVELOPED,
        }
    }
}

impl Metadata<'_> {
    fn content(&self, world: &World) -> String {
        let (code, leaf) = self.certificate;
        let pem = std::fs::read(world.path(&format!("{code}/{leaf}.pem"))).expect("reads");
        let der = openssl::x509::X509::from_pem(&pem).and_then(|c| c.to_der()).expect("a certificate");
        format!(
            "<ServiceMetadata>\n <ServiceInformation>\
             <ParticipantIdentifier scheme=\"ehealth-participantid-qns\">{}</ParticipantIdentifier>\
             <DocumentIdentifier scheme=\"ehealth-resid-qns\">{}</DocumentIdentifier><ProcessList><Process>\
             <ProcessIdentifier scheme=\"ehealth-procid-qns\">urn:XCA::CrossGatewayQuery</ProcessIdentifier>\
             <ServiceEndpointList><Endpoint transportProfile=\"urn:ihe:iti:2013:xcpd\"><EndpointURI>{}</EndpointURI>\
             <RequireBusinessLevelSignature>false</RequireBusinessLevelSignature>\
             <ServiceActivationDate>2016-06-06T11:06:02.000+02:00</ServiceActivationDate>\
             <ServiceExpirationDate>{}</ServiceExpirationDate><Certificate>{}</Certificate>\
             <ServiceDescription>XCA</ServiceDescription><TechnicalContactUrl>https://ncp.example.fi</TechnicalContactUrl>\
             </Endpoint></ServiceEndpointList></Process></ProcessList></ServiceInformation>\n</ServiceMetadata>",
            self.participant,
            self.document,
            self.endpoint,
            self.expires,
            openssl::base64::encode_block(&der)
        )
    }

    fn signed(&self, world: &World) -> String {
        self.sign(world, &self.content(world))
    }

    /// Signed by xmlsec1 with inclusive canonicalization, as the SMPs of the field do.
    fn sign(&self, world: &World, content: &str) -> String {
        let template = format!(
            "<SignedServiceMetadata xmlns=\"{NAMESPACE}\">{content}<ds:Signature \
             xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"><ds:SignedInfo><ds:CanonicalizationMethod \
             Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/><ds:SignatureMethod \
             Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256\"/><ds:Reference URI=\"\"><ds:Transforms>{}\
             </ds:Transforms><ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"/><ds:DigestValue/>\
             </ds:Reference></ds:SignedInfo><ds:SignatureValue/><ds:KeyInfo><ds:X509Data><ds:X509Certificate/>\
             </ds:X509Data></ds:KeyInfo></ds:Signature></SignedServiceMetadata>",
            self.transforms
        );
        let (code, leaf) = self.signer;
        let file = |end: &str| world.path(&format!("{code}/{leaf}.{end}"));
        let (unsigned, one) = (world.path("template.xml"), world.path("signer.pem"));
        std::fs::write(&unsigned, template).expect("writes");
        let chain = std::fs::read_to_string(file("pem")).expect("reads");
        let end = chain.find("-----END CERTIFICATE-----").expect("PEM") + "-----END CERTIFICATE-----\n".len();
        std::fs::write(&one, &chain[..end]).expect("writes");
        let key = format!("{},{}", file("key").display(), one.display());
        let out = Command::new("xmlsec1").args(["--sign", "--privkey-pem", &key]).arg(&unsigned).output();
        let out = out.expect("xmlsec1 is installed");
        assert!(out.status.success(), "xmlsec1: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    }
}

fn world() -> World {
    let world = World::new();
    world.no.leaf("smp", Use::Seal, Algorithm::Rsa2048, 0, 90).expect("a leaf");
    world.no.leaf("other", Use::Seal, Algorithm::Rsa2048, 0, 90).expect("a leaf");
    let past = Odd { from_days: -90, to_days: 0, ..Odd::default() };
    world.no.odd_leaf("past", Use::Seal, Algorithm::Rsa2048, &past).expect("a leaf");
    world
}

/// The section, and Finland's address left to it.
fn with_smp(text: String, smp: &Smp, signer: &str, more: &str) -> String {
    let home = "home_community_id = \"urn:oid:2.999.246\"\n";
    let section = format!(
        "[smp]\nurl = \"{}\"\nsigner_anchors = \"no/anchors.pem\"\nsigner = \"{signer}.ncp.no\"\ncache = \"smp\"\n{more}\n",
        smp.url
    );
    text.replace(home, &format!("{home}smp = true\n")).replacen("[[peer]]", &format!("{section}[[peer]]"), 1)
}

fn loaded(world: &World, name: &str, smp: &Smp, signer: &str) -> Config {
    let file = world.config(name, |text| with_smp(text, smp, signer, ""));
    config::load(&file).unwrap_or_else(|problems| panic!("{problems:?}"))
}

async fn ask(source: &Source, peer: &Peer, verifier: &Verifier) -> String {
    match source.fetch(peer, Service::Xca, verifier).await {
        Ok(known) => known.endpoint,
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_hold_leaves_the_last_good_copy() {
    let (world, smp, elsewhere) = (world(), Smp::start().await, Smp::start().await);
    let verifier = Verifier::start(1).expect("starts");
    let config = loaded(&world, "smp", &smp, "smp");
    let past = loaded(&world, "smp-past", &smp, "past");
    let (finland, source) = (&config.peer[0], Source::new(config.smp.as_ref().expect("a section")).expect("a source"));
    let good = Metadata::default().signed(&world);
    smp.serve(good.clone());
    assert_eq!(ask(&source, finland, &verifier).await, GOOD);
    elsewhere.serve(good.clone());

    let close = good.find("<ds:Signature").expect("a signature");
    let (content, signature) = good.split_at(close);
    let (signature, end) = signature.split_at(signature.find("</SignedServiceMetadata>").expect("an end"));
    let redirect = format!(
        "<ServiceMetadata><Redirect href=\"{}\"><CertificateUID>1</CertificateUID></Redirect></ServiceMetadata>",
        elsewhere.url
    );
    let bad = |change: Metadata<'_>| change.signed(&world).into_bytes();
    let changed = |from: &str, to: &str| good.replacen(from, to, 1).into_bytes();
    let or = Metadata::default;
    let rows: Vec<(&str, &str, &str, Vec<u8>)> = vec![
        ("T-SMP-1", "unsigned", "signature.missing", format!("{content}{end}").into()),
        ("T-SMP-1b", "signature in front", "metadata.children", {
            let start = content.find("<ServiceMetadata>").expect("content");
            format!("{}{signature}{}{end}", &content[..start], &content[start..]).into()
        }),
        ("T-SMP-1c", "signature inside the content", "signature.missing", {
            let start = content.find("<ServiceInformation>").expect("content");
            format!("{}{signature}{}{end}", &content[..start], &content[start..]).into()
        }),
        ("T-SMP-1d", "second ServiceMetadata", "metadata.children", {
            let forged = Metadata { endpoint: "https://evil.example", ..or() }.content(&world);
            changed("<ServiceMetadata>", &format!("{forged}<ServiceMetadata>"))
        }),
        (
            "T-SMP-2",
            "signed by another",
            "not the configured signer",
            bad(Metadata { signer: ("no", "other"), ..or() }),
        ),
        ("T-SMP-2b", "signed under other anchors", "", bad(Metadata { signer: ("se", "seal"), ..or() })),
        ("T-SMP-2c", "address changed after signing", "does not verify", changed("ncp.example.fi/s", "evil.example/s")),
        ("T-SMP-2d", "Reference to a part", "reference.uri", changed("URI=\"\"", "URI=\"#a\"")),
        ("T-SMP-2e", "XSLT transform", "transform", changed(ENVELOPED, &format!("{ENVELOPED}{XSLT}"))),
        ("T-SMP-2f", "RSA-SHA1", "algorithm", changed("2001/04/xmldsig-more#rsa-sha256", "2000/09/xmldsig#rsa-sha1")),
        (
            "T-SMP-3",
            "for another country",
            "of another",
            bad(Metadata { participant: "urn:ehealth:se:ncp-idp", ..or() }),
        ),
        ("T-SMP-3b", "for another service", "of another", bad(Metadata { document: "urn:x##ITI-55", ..or() })),
        (
            "T-SMP-3c",
            "certificate of another country",
            "of another",
            bad(Metadata { certificate: ("se", "tls-server"), ..or() }),
        ),
        ("T-SMP-4", "endpoint expired", "in its time", bad(Metadata { expires: "2020-01-01T00:00:00Z", ..or() })),
        ("T-SMP-5b", "redirect in signed metadata", "redirect", or().sign(&world, &redirect).into_bytes()),
        ("T-SMP-5c", "http address", "EndpointURI", bad(Metadata { endpoint: "http://ncp.example.fi/x", ..or() })),
        (
            "T-SMP-5d",
            "user in the address",
            "EndpointURI",
            bad(Metadata { endpoint: "https://a@evil.example", ..or() }),
        ),
        (
            "T-SMP-6",
            "10 MB",
            "too large",
            changed("ServiceDescription>XCA", &format!("ServiceDescription>{}", " ".repeat(10 << 20))),
        ),
        (
            "T-SMP-6b",
            "DOCTYPE",
            "xml",
            format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{}", good.replace("<?xml version=\"1.0\"?>", "")).into(),
        ),
        ("T-SMP-6c", "nothing", "xml", Vec::new()),
    ];
    let mut findings = Vec::new();
    let mut note = |id: &str, input: &str, rule: &str, got: String, kept: Option<String>| {
        let held = got != GOOD && !got.starts_with("https://") && got.contains(rule) && kept.as_deref() == Some(GOOD);
        let got = format!("{got}; in force: {}", kept.unwrap_or_default());
        findings.push(Finding { id: id.into(), input: input.into(), expected: format!("{rule}; kept"), got, held });
    };
    for (id, input, rule, body) in rows {
        smp.serve(body);
        let got = ask(&source, finland, &verifier).await;
        note(id, input, rule, got, kept(&source, &config, &verifier).await);
    }
    smp.redirect(&elsewhere.url);
    let got = ask(&source, finland, &verifier).await;
    note("T-SMP-5", "HTTP redirect to another server", "HTTP 302", got, kept(&source, &config, &verifier).await);
    smp.serve(Metadata { signer: ("no", "past"), ..or() }.signed(&world));
    let expired = Source::new(past.smp.as_ref().expect("a section")).expect("a source");
    let got = ask(&expired, finland, &verifier).await;
    note("T-SMP-4b", "signer's certificate expired", "expired", got, kept(&source, &config, &verifier).await);
    // A kept copy is believed no more than one that comes.
    let file = world.path("smp/FI-xca.xml");
    std::fs::write(&file, changed("ncp.example.fi/s", "evil.example/s")).expect("writes");
    assert_eq!(kept(&source, &config, &verifier).await, None);

    assert!(elsewhere.asked.lock().expect("no panic").is_empty(), "another server was asked");
    let path = "/smp/ehealth-participantid-qns%3A%3Aurn%3Aehealth%3Afi%3Ancp-idp/services/ehealth-resid-qns%3A%3Aurn%3A\
                ehealth%3ARequestOfData%3A%3AXCA%3A%3ACrossGatewayQuery%23%23ITI-38";
    assert!(smp.asked.lock().expect("no panic").iter().all(|asked| asked == path));
    std::fs::write(crate::report_folder().join("abuse-smp.md"), report("smp", &findings)).expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn kept(source: &Source, config: &Config, verifier: &Verifier) -> Option<String> {
    let known = source.kept(&config.peer, verifier).await;
    let finland = Country::parse("FI").expect("FI");
    known.get(&(finland, Service::Xca)).map(|known| known.endpoint.clone())
}

fn address(gateway: &Gateway) -> Option<String> {
    let snapshot = gateway.app.snapshot.load();
    snapshot.peers.by_country(Country::parse("FI").expect("FI")).and_then(|peer| peer.xca.clone())
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not come to be");
}

/// A running gateway takes the address, keeps it while the SMP lies or is gone, starts with the kept copy, and gives it up
/// when it is too old.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_takes_keeps_and_gives_up_an_address() {
    let (world, smp) = (world(), Smp::start().await);
    smp.serve(Metadata::default().signed(&world));
    let gateway = world.start("smp-run", |text| with_smp(text, &smp, "smp", "refresh = \"1s\"")).await;
    until("the address", || address(&gateway).as_deref() == Some(GOOD)).await;
    gateway.app.metrics.services(&gateway.app.services.load());
    let text = gateway.app.metrics.render();
    assert!(text.contains("ncp_smp_age_seconds{country=\"FI\",service=\"xca\"}"), "{text}");
    smp.serve(Metadata { signer: ("no", "other"), ..Metadata::default() }.signed(&world));
    let failures = gateway.app.metrics.smp_failures.get();
    until("a refused copy", || gateway.app.metrics.smp_failures.get() > failures + 3).await;
    assert_eq!(address(&gateway).as_deref(), Some(GOOD));
    let file = gateway.stop().await;
    drop(smp);

    let again = Gateway::start(file.clone()).await;
    assert_eq!(address(&again).as_deref(), Some(GOOD), "not started from the kept copy");
    again.stop().await;
    let text = std::fs::read_to_string(&file).expect("reads").replace("refresh", "max_age = \"1s\"\nrefresh");
    std::fs::write(&file, text).expect("writes");
    let later = Gateway::start(file).await;
    until("an end of the old copy", || address(&later).is_none()).await;
    later.stop().await;
}
