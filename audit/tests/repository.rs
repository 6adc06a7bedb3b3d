//! One suite over both engines: segment files with SQLite, and PostgreSQL.

#![allow(clippy::print_stdout)]

mod common;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, Pki};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use ncp_audit::server::{Config, Engine, Repository};
use ncp_audit::*;
use ncp_proto::audit::audit_query_client::AuditQueryClient;
use ncp_proto::audit::{Facts, GapsReply, GapsRequest, Record, SearchRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn record(epoch: u64, seq: u64) -> Record {
    // What the message says itself is not said beside it.
    let facts = Facts { role: "responder".into(), country: "FI".into(), ..Facts::default() };
    let purpose = if seq.is_multiple_of(10) { "EMERGENCY" } else { "TREATMENT" };
    let message = common::message("ncp-no", &format!("x{epoch}-{seq}"), seq % 5, &format!("2.999.{seq}"), purpose);
    Record {
        epoch,
        seq,
        event_time_us: seq as i64,
        media_type: "application/xml".into(),
        message,
        facts: Some(facts),
        ..Record::default()
    }
}

/// Numbered records: once each, out of order too; what is missing is named; the index is made again identically.
fn numbered(config: &Config) {
    let mut repository = Repository::open(config).expect("opens");
    repository.keep("ncp-no", (1..=40).map(|n| record(1, n)).collect()).expect("keeps");
    repository.keep("ncp-no", (30..=44).map(|n| record(1, n)).collect()).expect("keeps");
    repository.keep("ncp-no", vec![record(1, 48), record(1, 46), record(2, 1)]).expect("keeps");
    repository.keep("ncp-no", vec![record(1, 47), record(1, 47)]).expect("a late one is kept, once");
    // Epoch 3 says that epoch 2 went to 4: three records at its end are lost.
    repository.keep("ncp-no", vec![Record { ended_epoch: 2, ended_seq: 4, ..record(3, 1) }]).expect("keeps");
    // A source whose counter was lost begins at 1 again: the record must not pass for the old one.
    let twice = Record { message: record(4, 2).message, ..record(1, 2) };
    repository.keep("ncp-no", vec![twice]).expect("keeps apart");
    let before = repository.dump().expect("dumps");
    assert_eq!(
        before.iter().filter(|row| row.contains("\"responder\"")).count(),
        49,
        "44 + 46, 47, 48 + epochs 2 and 3"
    );
    assert!(!before.concat().contains("^^^&2.999.1&"), "no patient identifier in the index");
    drop(repository);
    // A second opening finds everything; the index made again is the same.
    let mut repository = Repository::open(config).expect("opens");
    assert!(repository.dump().expect("dumps") == before, "opened again");
    repository.reindex().expect("reindexes");
    assert!(repository.dump().expect("dumps") == before, "made again");
}

fn frame(content: &[u8]) -> Vec<u8> {
    let head = b"<85>1 2026-11-23T09:14:11Z host app 1 IHE+RFC-3881 - ";
    let mut out = format!("{} ", head.len() + content.len()).into_bytes();
    out.extend_from_slice(head);
    out.extend_from_slice(content);
    out
}

fn example(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/audit").join(name);
    std::fs::read(path).expect("an example")
}

struct Client {
    pki: Pki,
    config: Config,
}

impl Client {
    /// Sends bytes over one connection, in chunks, and closes it in order or just drops it.
    async fn syslog(&self, name: &str, bytes: &[u8], step: usize, orderly: bool) {
        let address = self.config.syslog.expect("an address");
        let connector = self.pki.leaf(name).connector(b"").expect("connector");
        let mut stream =
            ncp_tls::connect(&connector, "127.0.0.1", address.port(), "localhost", Duration::from_secs(10))
                .await
                .expect("connects");
        for chunk in bytes.chunks(step) {
            if stream.write_all(chunk).await.is_err() {
                return;
            }
            stream.flush().await.expect("flushes");
        }
        if orderly {
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 16]).await;
        }
    }

    async fn fhir(&self, name: &str, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        self.fhir_as(name, method, path, body, None).await
    }

    async fn fhir_as(
        &self,
        name: &str,
        method: Method,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> (StatusCode, Value) {
        let (status, _, answer) = self.sent(name, method, path, body, token).await;
        (status, answer)
    }

    /// Status, `Location` and body.
    async fn sent(
        &self,
        name: &str,
        method: Method,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> (StatusCode, Option<String>, Value) {
        let connector = self.pki.leaf(name).connector(b"\x08http/1.1").expect("connector");
        let client = ncp_tls::http_client(connector, None, Duration::from_secs(10));
        let address = self.config.fhir.expect("an address");
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = Request::builder();
        match token {
            Some(token) => request = request.header("authorization", format!("Bearer {token}")),
            None => request = request.header("x-audit-reason", "review"),
        }
        let request = request
            .method(method)
            .uri(format!("https://localhost:{}{path}", address.port()))
            .header("content-type", "application/fhir+json")
            .body(Full::new(body))
            .expect("a request");
        let answer = client.request(request).await.expect("an answer");
        let status = answer.status();
        let location = answer.headers().get("location").map(|url| url.to_str().expect("text").to_owned());
        let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, location, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn query(&self) -> AuditQueryClient<tonic::transport::Channel> {
        let connector = self.pki.leaf("tool").connector(b"\x02h2").expect("connector");
        let endpoint = format!("https://127.0.0.1:{}", self.config.query.port());
        AuditQueryClient::new(ncp_tls::channel(&endpoint, "localhost", connector).expect("channel"))
    }

    async fn state(&self) -> GapsReply {
        self.query().await.gaps(GapsRequest {}).await.expect("answers").into_inner()
    }

    async fn until(&self, what: &str, holds: impl Fn(&GapsReply) -> bool) -> GapsReply {
        for _ in 0..200 {
            let state = self.state().await;
            if holds(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {:?}", self.state().await);
    }
}

fn of<'a>(state: &'a GapsReply, source: &str) -> Option<&'a ncp_proto::audit::SourceState> {
    state.sources.iter().find(|s| s.source == source && s.epoch == 0)
}

/// Foreign senders: both dialects and RFC 3881; the certificate says who it is; duplicates once; what is no message apart.
async fn foreign(client: &Client) {
    let rfc3881 = br#"<AuditMessage><EventIdentification EventOutcomeIndicator="0" EventDateTime="2010-01-13T00:24:02Z" EventActionCode="U"><EventID codeSystemName="DCM" displayName="Patient Record" code="110110"/></EventIdentification><ActiveParticipant UserID="forged"/><AuditSourceIdentification AuditSourceID="forged"/></AuditMessage>"#;
    let mut bom = b"\xef\xbb\xbf".to_vec();
    bom.extend(example("ihe/rad-75-responder.xml"));
    let mut good = frame(&bom);
    good.extend(frame(&example("ehdsi/iti-39-responder.xml")));
    good.extend(frame(rfc3881));
    // Split at every third octet, then the same again at once: stored once.
    client.syslog("opennc", &good, 3, true).await;
    client.syslog("opennc", &good, good.len(), true).await;
    let state = client
        .until("three messages, each twice", |s| of(s, "opennc").is_some_and(|s| s.records == 3 && s.duplicated == 3))
        .await;
    assert!(!state.sources.iter().any(|s| s.source == "forged"), "the certificate decides");

    let no_message: [(&[u8], &str); 4] = [
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><AuditMessage>&a;</AuditMessage>", "xml"),
        (b"<AuditMessage>\xff\xfe</AuditMessage>", "xml"),
        (b"\x1b[31m<AuditMessage/>", "xml"),
        (b"<AuditMessage/>", "EventIdentification is missing"),
    ];
    let bytes: Vec<u8> = no_message.iter().flat_map(|(content, _)| frame(content)).collect();
    client.syslog("bad", &bytes, 1000, true).await;
    // Framing errors end the connection; what follows them is never a record.
    let after = frame(&example("ihe/iti-38-responder.xml"));
    let framing: [(&[u8], &str); 6] = [
        (b"0 ", "zero"),
        (b"007 abcdefg", "leading zero"),
        (b"99999999 <85>1 ", "longer"),
        (b"16777216 <85>1 ", "longer"),
        (b"<85>1 2026-11-23T09:14:11Z h a 1 M - <AuditMessage/>\n", "octet count"),
        (b"-1 x", "octet count"),
    ];
    for (bytes, _) in framing {
        client.syslog("bad", &[bytes, &after].concat(), 4096, true).await;
    }
    // A connection that ends inside a frame.
    client.syslog("bad", &after[..after.len() / 2], 4096, false).await;
    let state = client.until("eleven refused", |s| s.rejected.iter().filter(|r| r.source == "bad").count() == 11).await;
    assert!(of(&state, "bad").is_none(), "nothing of it is a record");
    for reason in no_message.iter().map(|(_, r)| *r).chain(framing.iter().map(|(_, r)| *r)).chain(["ended inside"]) {
        assert!(state.rejected.iter().any(|r| r.reason.contains(reason)), "{reason}: {:?}", state.rejected);
    }
    let first = state.rejected.iter().rfind(|r| r.source == "bad").expect("the first");
    let at =
        ncp_proto::audit::RejectedRequest { segment: first.segment, offset: first.offset, reason: "review".into() };
    let kept = client.query().await.rejected(at).await.expect("answers").into_inner();
    assert!(
        kept.record.is_some_and(|r| r.message.starts_with(b"<85>1") || r.message.starts_with(b"<!DOCTYPE")),
        "as it came"
    );
}

/// The FHIR feed, and ITI-81 over everything that came.
async fn fhir(client: &Client) {
    let message = Message::read(&example("ihe/iti-55-responder.xml")).expect("reads");
    let event = ncp_audit::to_audit_event(&message);
    let post = |body: Value| async move { client.fhir("hospital", Method::POST, "/AuditEvent", &body).await.0 };
    let (status, place, _) = client.sent("hospital", Method::POST, "/AuditEvent", &event, None).await;
    assert!(status == StatusCode::CREATED && place.as_ref().is_some_and(|p| p.starts_with("https://")), "{place:?}");
    let (status, again, _) = client.sent("hospital", Method::POST, "/AuditEvent", &event, None).await;
    assert_eq!((status, again), (StatusCode::OK, place), "a duplicate stands where the first one does");
    assert_eq!(post(json!({ "resourceType": "Patient" })).await, StatusCode::UNPROCESSABLE_ENTITY);
    for agents in [Value::Null, json!([])] {
        let mut nobody = event.clone();
        nobody["agent"] = agents;
        let (status, answer) = client.fhir("hospital", Method::POST, "/AuditEvent", &nobody).await;
        assert_eq!((status, &answer["resourceType"]), (StatusCode::UNPROCESSABLE_ENTITY, &"OperationOutcome".into()));
        let why = answer.pointer("/issue/0/diagnostics").and_then(Value::as_str).unwrap_or_default();
        assert!(why.contains("agent is missing"), "{answer}");
    }
    let mut other = event.clone();
    other["outcome"] = "8".into();
    other["agent"][0]["name"] = "Åse Testmüller".into();
    let bundle =
        json!({ "resourceType": "Bundle", "type": "batch", "entry": [{ "resource": other }, { "resource": 7 }] });
    let (status, answer) = client.fhir("hospital", Method::POST, "/", &bundle).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer.pointer("/entry/0/response/status"), Some(&"201".into()), "{answer}");
    assert_eq!(answer.pointer("/entry/1/response/status"), Some(&"422".into()), "{answer}");
    assert_eq!(answer.pointer("/entry/1/response/outcome/resourceType"), Some(&"OperationOutcome".into()), "{answer}");
    let location = answer.pointer("/entry/0/response/location").and_then(Value::as_str).expect("a place").to_owned();

    let get = |path: String| async move { client.fhir("auditor", Method::GET, &path, &Value::Null).await };
    let count = |bundle: &Value| bundle.get("entry").and_then(Value::as_array).map_or(0, Vec::len);
    let (status, _) = client.fhir("hospital", Method::GET, "/AuditEvent?date=ge2026-01-01", &Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "who sends may not read");
    assert_eq!(get("/AuditEvent?type=110112".into()).await.0, StatusCode::BAD_REQUEST, "date is required");
    assert_eq!(get("/AuditEvent?date=ge2026-01-01&colour=red".into()).await.0, StatusCode::BAD_REQUEST);
    let day = "/AuditEvent?date=ge2026-11-23&date=le2026-11-23";
    let patient = "urn:oid:2.16.578.1.12.4.1.4.1%7C14857012345";
    for (query, expected) in [
        ("", 4),
        ("&type=http://dicom.nema.org/resources/ontology/DCM%7C110112", 2),
        ("&subtype=urn:ihe:event-type-code%7CITI-39", 1),
        ("&outcome=8", 1),
        ("&outcome=0,8", 4),
        (&format!("&patient.identifier={patient}"), 4),
        (&format!("&patient:identifier={patient}"), 4),
        (&format!("&patient={patient}&patient={patient}1"), 0),
        (&format!("&entity.identifier={patient}"), 4),
        ("&entity=2.999.5", 1),
        ("&entity-type=1&entity-role=1", 4),
        ("&agent=dr.4711", 4),
        ("&agent.identifier=dr.4711&action=R", 2),
        ("&address=192.0.2.20", 4),
        ("&source=hospital", 2),
        ("&source=ncp-a.no.example.test&agent-role=110153", 4),
        ("&altid=nobody", 0),
        ("&site=NO-NCP", 4),
        ("&site=DK-NCP", 0),
        ("&entity-name=nothing", 0),
        // Strings fit from their beginning on, whatever their case and accents.
        ("&address=192.0.2", 4),
        ("&address=2.0.2", 0),
        ("&agent-name=ase%20testM%C3%BCller", 1),
        ("&agent-name=nobody,ASE%20T", 1),
        ("&agent-name=testmuller", 0),
    ] {
        let (status, bundle) = get(format!("{day}{query}")).await;
        assert_eq!((status, count(&bundle)), (StatusCode::OK, expected), "{query}: {bundle}");
    }
    // What was created stands where the answer said.
    let created = &location[location.find("/AuditEvent/").expect("a path")..];
    assert_eq!(get(created.to_owned()).await.1["outcome"], "8");
    let one_id = &created["/AuditEvent/".len()..];
    let total = |bundle: &Value| bundle.get("total").and_then(Value::as_u64);
    for (query, entries, counted) in [
        (&format!("?_id={one_id}")[..], 1, Some(1)),
        (&format!("?_id={one_id},9-9,x&_id={one_id}"), 1, Some(1)),
        (&format!("?_id={one_id}&_id=9-9"), 0, Some(0)),
        (&format!("?_id={one_id}&outcome=0"), 0, Some(0)),
        ("?date=2026-11-23&_summary=count", 0, Some(4)),
        ("?date=2026-11-23&_count=0", 0, Some(4)),
        ("?date=2026-11-23&_count=1", 1, None),
        ("?date=2026-11-23&_count=1&_total=none", 1, None),
        ("?date=2026-11-23&_count=1&_total=accurate&outcome=0&type=", 1, Some(3)),
        ("?date=2026-11-23&_count=1&_total=estimate&_summary=false", 1, Some(4)),
    ] {
        let (status, bundle) = get(format!("/AuditEvent{query}")).await;
        assert_eq!((status, count(&bundle), total(&bundle)), (StatusCode::OK, entries, counted), "{query}: {bundle}");
    }
    for wrong in ["_total=some", "_summary=short", "_count=-1"] {
        assert_eq!(get(format!("/AuditEvent?date=2026&{wrong}")).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    // Pages: three and one, by the links that were given.
    let (_, first) = get(format!("{day}&_count=3&_sort=date")).await;
    let link = |bundle: &Value| {
        let links = bundle.get("link").and_then(Value::as_array).cloned().unwrap_or_default();
        links.iter().find(|l| l["relation"] == "next").map(|l| l["url"].as_str().expect("a url").to_owned())
    };
    let next = link(&first).expect("another page");
    let (_, second) = get(next[next.find("/AuditEvent").expect("a path")..].to_owned()).await;
    assert_eq!((count(&first), count(&second), link(&second)), (3, 1, None));
    assert_eq!((total(&first), total(&second)), (None, Some(4)), "the last page knows");
    let resource = first.pointer("/entry/0/resource").expect("a resource");
    for path in [
        "/id",
        "/type/code",
        "/recorded",
        "/outcome",
        "/agent/0/who/identifier/value",
        "/source/observer/identifier/value",
        "/entity/0/what/identifier/value",
    ] {
        assert!(resource.pointer(path).is_some_and(Value::is_string), "{path}: {resource}");
    }
    let (status, one) = get(format!("/AuditEvent/{}", resource["id"].as_str().expect("an id"))).await;
    assert_eq!((status, &one), (StatusCode::OK, resource));
    patient_reads(client, resource["id"].as_str().expect("an id")).await;
    assert_eq!(get("/AuditEvent/9-999999".into()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(get("/metadata".into()).await.1["fhirVersion"], "4.0.1");
    for (method, path, expected) in [
        (Method::POST, "/AuditEvent/_search?date=ge2026", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Method::DELETE, "/AuditEvent/0-0", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/Patient?name=x", StatusCode::NOT_FOUND),
    ] {
        let (status, answer) = client.fhir("auditor", method, path, &Value::Null).await;
        assert_eq!((status, &answer["resourceType"]), (expected, &"OperationOutcome".into()), "{path}");
    }
    // Every search is on the trail, without the patient.
    let used = SearchRequest { transaction: "110101".into(), limit: 1000, ..common::search() };
    let mut used = client.query().await.search(used).await.expect("answers").into_inner();
    let mut seen = 0;
    while let Some(found) = used.message().await.expect("streams") {
        let message = found.record.expect("a record").message;
        let read = Message::read(&message).expect("reads");
        let query = read.objects.iter().find_map(|o| o.query.clone()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&query).contains("14857012345"), "a patient in the record of a search");
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

/// A patient's token, brought by a portal whose certificate alone may read nothing: her own trail, without a date.
async fn patient_reads(client: &Client, id_of_hers: &str) {
    let token = |patient: &str, scope: &str| {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({ "iss": "https://idp.example", "aud": "https://audit.example", "iat": now, "exp": now + 60,
            "scope": scope, "patient_id": patient });
        let payload = josekit::jwt::JwtPayload::from_map(claims.as_object().expect("an object").clone());
        let key = josekit::jwk::Jwk::from_bytes(std::fs::read(client.pki.dir.join("issuer.jwk")).expect("a key"));
        let signer = josekit::jws::ES256.signer_from_jwk(&key.expect("a key")).expect("a signer");
        let mut header = josekit::jws::JwsHeader::new();
        header.set_token_type("at+jwt");
        josekit::jwt::encode_with_signer(&payload.expect("claims"), &header, &signer).expect("signs")
    };
    let hers = token("14857012345^^^&2.16.578.1.12.4.1.4.1&ISO", "patient/AuditEvent.rs");
    let another = token("1^^^&2.16.578.1.12.4.1.4.1&ISO", "patient/*.read");
    let restricted = token("14857012345^^^&2.16.578.1.12.4.1.4.1&ISO", "patient/AuditEvent.s?outcome=8");
    let searches = token("14857012345^^^&2.16.578.1.12.4.1.4.1&ISO", "patient/AuditEvent.s");
    let professional = token("14857012345^^^&2.16.578.1.12.4.1.4.1&ISO", "user/AuditEvent.rs");
    let get = |token: String, path: String| async move {
        let (status, answer) = client.fhir_as("portal", Method::GET, &path, &Value::Null, Some(&token)).await;
        (status, answer.get("entry").and_then(Value::as_array).map_or(0, Vec::len))
    };
    for (token, path, status, entries) in [
        (&hers, "/AuditEvent".to_owned(), StatusCode::OK, 4),
        (&hers, "/AuditEvent?subtype=ITI-39".to_owned(), StatusCode::OK, 1),
        (&another, "/AuditEvent".to_owned(), StatusCode::OK, 0),
        (&hers, "/AuditEvent?patient.identifier=urn:oid:2.16.578.1.12.4.1.4.1%7C1".into(), StatusCode::FORBIDDEN, 0),
        (&professional, "/AuditEvent?date=ge2026".into(), StatusCode::FORBIDDEN, 0),
        (&restricted, "/AuditEvent".into(), StatusCode::FORBIDDEN, 0),
        (&searches, "/AuditEvent".into(), StatusCode::OK, 4),
        (&searches, format!("/AuditEvent/{id_of_hers}"), StatusCode::FORBIDDEN, 0),
        (&"a.b.c".to_owned(), "/AuditEvent?date=ge2026".into(), StatusCode::UNAUTHORIZED, 0),
        (&hers, format!("/AuditEvent/{id_of_hers}"), StatusCode::OK, 0),
        (&another, format!("/AuditEvent/{id_of_hers}"), StatusCode::NOT_FOUND, 0),
    ] {
        assert_eq!(get(token.clone(), path.clone()).await, (status, entries), "{path}");
    }
}

/// Makes the key of the patients' issuer.
fn with_issuer(config: Config, pki: &Pki) -> Config {
    let key = josekit::jwk::Jwk::generate_ec_key(josekit::jwk::alg::ec::EcCurve::P256).expect("a key");
    let jwks = pki.dir.join("jwks.json");
    std::fs::write(pki.dir.join("issuer.jwk"), serde_json::to_vec(&key).expect("writes")).expect("writes");
    let public = json!({ "keys": [key.to_public_key().expect("public")] });
    std::fs::write(&jwks, public.to_string()).expect("writes");
    Config {
        token_issuer: Some("https://idp.example".into()),
        token_audience: Some("https://audit.example".into()),
        jwks_file: Some(jwks),
        ..config
    }
}

async fn suite(dir: &Path, pki: Pki, config: Config) {
    let config = with_issuer(config, &pki);
    let for_open = config.clone();
    tokio::task::spawn_blocking(move || numbered(&for_open)).await.expect("numbered");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let for_serve = config.clone();
    let serving = tokio::spawn(async move {
        ncp_audit::server::serve(&for_serve, async { drop(stopped.await) }).await.expect("serves");
    });
    let client = Client { pki, config: config.clone() };
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(config.admin).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let state = client.state().await;
    let gaps: Vec<(u64, u64, u64)> = state.gaps.iter().map(|g| (g.epoch, g.first_seq, g.last_seq)).collect();
    assert_eq!(gaps, [(1, 45, 45), (2, 2, 4)], "what never came is named");
    let reasons: Vec<&str> = state.rejected.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(reasons, ["epoch 1 seq 2 was given to another record before"]);
    foreign(&client).await;
    fhir(&client).await;
    let search = SearchRequest { emergency: true, country: "FI".into(), limit: 10, ..common::search() };
    let mut found = client.query().await.search(search).await.expect("answers").into_inner();
    let mut emergencies = 0;
    while found.message().await.expect("streams").is_some() {
        emergencies += 1;
    }
    assert_eq!(emergencies, 4, "10, 20, 30, 40");
    stop.send(()).expect("stops");
    serving.await.expect("ends");
    // Everything, what was refused too, is found again.
    let again = config.clone();
    let same = tokio::task::spawn_blocking(move || {
        let mut repository = Repository::open(&again).expect("opens");
        let before = repository.dump().expect("dumps");
        repository.reindex().expect("reindexes");
        before == repository.dump().expect("dumps")
    });
    assert!(same.await.expect("compares"), "the index is made again identically");
    let raw = std::fs::read_dir(dir.join("data"))
        .expect("a folder")
        .flatten()
        .map(|e| std::fs::read(e.path()).unwrap_or_default());
    for file in raw {
        assert!(!file.windows(11).any(|w| w == b"14857012345"), "a patient's number in the clear");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segment_files_and_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let config = common::config(dir.path(), &pki, Engine::Files);
    suite(dir.path(), pki, config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.expect("starts");
    let pki = Pki::create(&dir.path().join("pki"));
    let config = common::config(dir.path(), &pki, Engine::Postgres(cluster.url()));
    suite(dir.path(), pki, config).await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.expect("stops");
}

/// The server goes away in the middle and comes back: what was acknowledged is there, what was not is sent again.
#[test]
fn postgresql_restarts() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start();
    let pki = Pki::create(&dir.path().join("pki"));
    let config = common::config(dir.path(), &pki, Engine::Postgres(cluster.url()));
    let mut repository = Repository::open(&config).expect("opens");
    let mut acknowledged = 0;
    for round in 0..3u64 {
        for group in 0..5u64 {
            let first = round * 50 + group * 10 + 1;
            repository.keep("ncp-no", (first..first + 10).map(|n| record(1, n)).collect()).expect("keeps");
            acknowledged += 10;
        }
        cluster.control("stop");
        let next = (round + 1) * 50 + 1;
        assert!(
            repository.keep("ncp-no", vec![record(1, next)]).is_err(),
            "nothing is acknowledged without the server"
        );
        cluster.control("start");
        let mut tries = 0;
        while repository.keep("ncp-no", vec![record(1, next)]).is_err() {
            tries += 1;
            assert!(tries < 20, "the repository connects again");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let rows = repository.dump().expect("dumps");
    let recorded = rows.iter().filter(|row| row.contains("\"responder\"")).count();
    println!(
        "\nfault \"PostgreSQL restarted\" accepted {} recorded {recorded} lost {}",
        acknowledged + 1,
        acknowledged + 1 - recorded
    );
    assert_eq!(recorded, acknowledged + 1, "150 and the last that was sent again");
}

/// Only the files that it names are not there; keys and values are those of the code.
#[test]
fn the_example_configuration_reads() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/audit.toml");
    let problems = ncp_audit::server::load(&example).err().unwrap_or_default();
    assert!(problems.iter().all(|p| p.contains("no such file")), "{problems:?}");
}
