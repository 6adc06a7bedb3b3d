//! The initiating role: servers that are not who they should be, answers that speak for another country (SE-09 for
//! homeCommunityId).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use ncp_gateway::initiating::{Call, Caller, Treatment, discover, query, retrieve};
use ncp_gateway::outcome::GatewayError;
use ncp_ihe::{
    Content, DocumentRequest, DocumentResponse, FindDocuments, HomeCommunityId, Oid, PatientId, RetrieveResponse,
    Status, StoredQuery, actions,
};
use ncp_tests::attack::{Finding, report};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::{Algorithm, CountryPki, Odd, Use};
use ncp_tls::{ClientAuth, Material};
use tokio::net::TcpListener;

use crate::world::{Gateway, PATIENT, World};

/// What a refused call is for the user: the country cannot be reached.
const REFUSED: &str = "outgoing call refused";
const TAKEN: &str = "taken";

/// A server with a leaf of Finland that answers every request with the same message.
async fn server(pki: &CountryPki, leaf: &str, anchors: &std::path::Path, answer: Bytes) -> SocketAddr {
    let file = |end: &str| pki.path(&format!("{leaf}.{end}"));
    let material = Material::load(&file("pem"), &file("key")).expect("material");
    let acceptor = material.acceptor(ClientAuth::Required, &[anchors.to_owned()], b"\x08http/1.1").expect("acceptor");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(5)).await else { return };
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let _ = request.into_body().collect().await;
                        let kind = "application/soap+xml; charset=UTF-8";
                        hyper::Response::builder().header("content-type", kind).body(Full::new(answer))
                    }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn call(gateway: &Gateway, claims: ncp_saml::HcpClaims) -> Call {
    let snapshot = gateway.app.snapshot.load_full();
    let peer = snapshot.peers.iter().find(|p| p.country.as_str() == "FI").expect("Finland").clone();
    let now = Timestamp::now();
    let id = || format!("_{}", uuid::Uuid::new_v4());
    let treatment = Treatment {
        patient: PatientId::parse_cx(PATIENT).expect("a CX"),
        trc_id: id(),
        issued: now,
        until: now + SignedDuration::from_hours(1),
    };
    let caller = Caller { share: "abuse".into(), claims, hcp_id: id(), issued: now };
    Call { app: gateway.app.clone(), snapshot, peer, caller, treatment: Some(treatment), wait: None }
}

/// Norway's gateway with Finland at an address.
async fn asking(world: &World, name: &str, at: SocketAddr) -> Gateway {
    let endpoint = format!("https://localhost:{}", at.port());
    world
        .start(name, |text| {
            let home = "home_community_id = \"urn:oid:2.999.246\"\n";
            let with = format!("{home}xcpd = \"{endpoint}/xcpd\"\nxca = \"{endpoint}/xca\"\n");
            text.replace(home, &with)
        })
        .await
}

fn claims(gateway: &Gateway, world: &World) -> ncp_saml::HcpClaims {
    ncp_saml::HcpClaims {
        country: ncp_tls::Country::parse("NO").expect("NO"),
        home_community_id: "urn:oid:2.999.47".into(),
        ..world.neighbour("fi", gateway).claims()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_against_an_initiating_gateway() {
    let world = World::new();
    let finland = world.pki("fi");
    let anchors = world.no.path("anchors.pem");
    for (name, odd) in [
        ("wrong-name", Odd { host: Some("elsewhere.example".into()), ..Odd::default() }),
        ("expired", Odd { from_days: -30, to_days: 0, ..Odd::default() }),
        ("staple", Odd { must_staple: true, ..Odd::default() }),
    ] {
        finland.odd_leaf(name, Use::Server, Algorithm::P256, &odd).expect("a leaf");
    }
    let mut findings = Vec::new();
    for (id, input, leaf, expected) in [
        ("T-TLS-7", "server certificate for another name", "wrong-name", REFUSED),
        ("T-TLS-8", "expired server certificate", "expired", REFUSED),
        ("T-TLS-9", "revoked server certificate", "revoked-server", REFUSED),
        ("T-TLS-10", "certificate promises a stapled OCSP answer, none comes", "staple", REFUSED),
        ("T-TLS-10b", "client certificate as server", "tls-client", REFUSED),
        ("T-TLS-server-good", "a good server", "tls-server", "reached"),
    ] {
        let at = server(&finland, leaf, &anchors, Bytes::from_static(b"no soap")).await;
        let gateway = asking(&world, leaf, at).await;
        let call = call(&gateway, claims(&gateway, &world));
        let sought = discover::Sought { ids: vec![PatientId::parse_cx(PATIENT).expect("a CX")], ..Default::default() };
        let got = match discover::discover(&call, sought).await {
            Err(GatewayError::Peer(ncp_gateway::initiating::PeerError::Unreachable(_))) => REFUSED.to_owned(),
            Err(GatewayError::Peer(_)) => "reached".into(),
            other => format!("{:?}", other.is_ok()),
        };
        findings.push(Finding::new(id, input, &[expected], got));
        gateway.stop().await;
    }

    // A real answer, stamped for this and for that community.
    let responding = world.start("source", |text| text).await;
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let neighbour = world.neighbour("fi", &responding);
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let body = Neighbour::find_documents(&patient).to_element();
    let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
    let text = String::from_utf8(answer.envelope.to_vec()).expect("text");
    let text = without(&text, "RelatesTo");
    assert!(text.contains("ExtrinsicObject"), "the source lists documents");
    for (id, input, home, expected) in [
        ("T-BND-18", "documents stamped with another country's homeCommunityId", "urn:oid:2.999.752", "dropped"),
        ("T-BND-18-good", "documents of the community that was asked", "urn:oid:2.999.246", TAKEN),
    ] {
        let at = server(&finland, "tls-server", &anchors, text.replace("urn:oid:2.999.47", home).into()).await;
        let gateway = asking(&world, &format!("stamped-{id}"), at).await;
        let call = call(&gateway, claims(&gateway, &world));
        let wanted = StoredQuery::FindDocuments(FindDocuments::of_patient(patient.clone()));
        let got = match query::query(&call, wanted).await {
            Ok(found) if found.objects.entries.is_empty() && found.unusable > 0 => "dropped".to_owned(),
            Ok(found) if !found.objects.entries.is_empty() && found.unusable == 0 => TAKEN.into(),
            Ok(found) => format!("{} entries, {} unusable", found.objects.entries.len(), found.unusable),
            Err(error) => error.to_string(),
        };
        findings.push(Finding::new(id, input, &[expected], got));
        gateway.stop().await;
    }
    findings.extend(stamped_documents(&world, &finland, &patient).await);
    let file = crate::report_folder().join("abuse-initiating.md");
    std::fs::write(&file, report("initiating, in process", &findings)).expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    drop(Arc::new(responding));
}

/// The same for a document of ITI-39: community, repository and document together name it.
async fn stamped_documents(world: &World, finland: &CountryPki, patient: &PatientId) -> Vec<Finding> {
    let home = |oid: &str| HomeCommunityId::parse(oid).ok();
    let repository = |oid: &str| Oid::parse(oid).expect("an OID");
    let asked =
        DocumentRequest { home: home("2.999.246"), repository: repository("2.999.246.21.1"), document: "1.2".into() };
    let mut findings = Vec::new();
    for (id, input, sent, expected) in [
        (
            "T-BND-18b",
            "a document stamped with another country's homeCommunityId",
            DocumentRequest { home: home("2.999.752"), ..asked.clone() },
            "dropped",
        ),
        ("T-BND-18c", "a document without homeCommunityId", DocumentRequest { home: None, ..asked.clone() }, "dropped"),
        (
            "T-BND-18d",
            "a document of another repository",
            DocumentRequest { repository: repository("2.999.246.21.2"), ..asked.clone() },
            "dropped",
        ),
        (
            "T-BND-18e",
            "another document of the repository",
            DocumentRequest { document: "1.3".into(), ..asked.clone() },
            "dropped",
        ),
        ("T-BND-18b-good", "the document that was asked for", asked.clone(), TAKEN),
    ] {
        let document = DocumentResponse {
            request: sent,
            new_document: None,
            media_type: "text/xml".into(),
            content: Content::Inline(Bytes::from_static(b"<a/>")),
        };
        let body = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![document] };
        let headers = ncp_soap::Addressing::response(actions::ITI39_RESPONSE, None).to_headers();
        let answer = ncp_soap::Envelope { headers, body: body.to_element() }.write();
        let at = server(finland, "tls-server", &world.no.path("anchors.pem"), answer.into()).await;
        let gateway = asking(world, &format!("document-{id}"), at).await;
        let call = call(&gateway, claims(&gateway, world));
        let call = Call { treatment: call.treatment.map(|t| Treatment { patient: patient.clone(), ..t }), ..call };
        let wanted = retrieve::Wanted { request: asked.clone(), expected: Default::default() };
        let got = match retrieve::retrieve(&call, &wanted).await {
            Ok(_) => TAKEN.to_owned(),
            Err(GatewayError::Peer(ncp_gateway::initiating::PeerError::Mismatch)) => "dropped".into(),
            Err(error) => error.to_string(),
        };
        findings.push(Finding::new(id, input, &[expected], got));
        gateway.stop().await;
    }
    findings
}

/// The text without the element of that local name.
fn without(text: &str, local: &str) -> String {
    let Some(name) = text.find(local) else { return text.to_owned() };
    let begin = text[..name].rfind('<').unwrap_or(name);
    let end = text[name..].find(&format!("{local}>")).map_or(name, |at| name + at + local.len() + 1);
    format!("{}{}", &text[..begin], &text[end..])
}
