//! Bad input, answered as `threats-and-needs.md` A.2 says, with nothing disclosed; then a good request is served.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use ncp_ihe::{
    CrossGatewayQueryRequest, DocumentRequest, FindDocuments, HomeCommunityId, ImagingRequest, Oid, PatientAnswer,
    PatientId, PatientQuery, RetrieveRequest, ReturnType, SeriesRequest, StoredQuery, StudyRequest, Uid, actions,
};
use ncp_saml::SignedAssertion;
use ncp_tests::neighbour::{Answer, Neighbour, XCA, XCAI, XCPD};
use ncp_tests::pki::{Algorithm, CountryPki};
use serde_json::json;

use crate::Error;
use crate::check::{Steps, ensure, neighbour};
use crate::demo::{Demo, FINLAND, NORWAY, offset};

const SOAP: &str = "application/soap+xml; charset=UTF-8";
const INTEGRITY: &str = "ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED";

struct Case<'a> {
    demo: &'a Demo,
    finland: Neighbour,
    patient: PatientId,
}

pub(crate) async fn run(steps: &mut Steps, demo: &Demo) -> Result<(), Error> {
    let patient = PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let case = Case { demo, finland: neighbour(demo, &FINLAND, &NORWAY)?, patient };
    let mut began = Instant::now();
    macro_rules! step {
        ($name:literal, $work:expr) => {{
            let result: Result<(), Error> = async { $work }.await;
            steps.done(concat!("refused ", $name), began, result.map(|()| json!({})));
            began = Instant::now();
        }};
    }
    step!("no-client-certificate", case.no_certificate().await);
    step!("country-not-configured", case.foreign_country().await);
    step!("no-hcp", case.query(&[], "ERROR_HPI_AUTHENTICATION_NOT_RECEIVED").await);
    step!("no-trc", {
        let hcp = case.hcp().await?;
        case.query(&[hcp], "1001").await
    });
    step!("expired", {
        let claims = case.finland.claims();
        let hcp = case.finland.hcp(&claims, Timestamp::now() - SignedDuration::from_hours(5)).await?;
        let trc = case.finland.trc(&hcp, &claims, &case.patient).await?;
        case.query(&[hcp, trc], INTEGRITY).await
    });
    step!("tampered", {
        let mut assertions = case.finland.assertions(&case.patient).await?;
        assertions[0].xml = assertions[0].xml.replace("Radiologist on duty", "Somebody else");
        case.query(&assertions, INTEGRITY).await
    });
    step!("unsigned-neighbour", {
        let mut assertions = case.finland.assertions(&case.patient).await?;
        assertions[1].xml = without_signature(&assertions[1].xml);
        case.query(&assertions, INTEGRITY).await
    });
    step!("two-hcp", {
        let mut assertions = case.finland.assertions(&case.patient).await?;
        assertions.push(case.hcp().await?);
        case.query(&assertions, INTEGRITY).await
    });
    step!("wrapped", {
        let mut assertions = case.finland.assertions(&case.patient).await?;
        assertions[0].xml = wrapped(&assertions[0].xml);
        case.query(&assertions, INTEGRITY).await
    });
    step!("signer-of-another-country", {
        // Norway's own seal, over Finland's TLS.
        let norway = Neighbour::new(&demo.no, NORWAY.home, &demo.no.path("anchors.pem"), "127.0.0.1", 1)?;
        let assertions = norway.assertions(&case.patient).await?;
        case.query(&assertions, INTEGRITY).await
    });
    step!("weak-login", {
        let mut claims = case.finland.claims();
        claims.authn_context_class = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password".into();
        let hcp = case.finland.hcp(&claims, Timestamp::now()).await?;
        let trc = case.finland.trc(&hcp, &claims, &case.patient).await?;
        case.query(&[hcp, trc], "4702").await
    });
    step!("role-may-not", {
        let mut claims = case.finland.claims();
        claims.role.code = "3213".into();
        claims.role.display = "Pharmaceutical technicians and assistants".into();
        let hcp = case.finland.hcp(&claims, Timestamp::now()).await?;
        let trc = case.finland.trc(&hcp, &claims, &case.patient).await?;
        case.query(&[hcp, trc], "4703").await
    });
    step!("trc-for-another-patient", {
        let other = PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?;
        let assertions = case.finland.assertions(&other).await?;
        case.query(&assertions, "4206").await
    });
    step!("trc-of-another-hcp", {
        let assertions = case.finland.assertions(&case.patient).await?;
        let other = case.hcp().await?;
        case.query(&[other, assertions[1].clone()], "1002").await
    });
    step!("study-of-another-patient", case.foreign_study().await);
    step!("blocked-document", case.blocked().await);
    step!("unknown-community", case.unknown_community().await);
    step!("demographics-only", case.demographics_only().await);
    step!("doctype", case.raw(XCA, SOAP, b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>".to_vec(), 400).await);
    step!("attributes-60000", {
        let attributes: String = (0..60_000).map(|i| format!(" a{i}=\"\"")).collect();
        case.raw(XCA, SOAP, format!("<a{attributes}/>").into_bytes(), 413).await
    });
    step!("depth-10000", case.raw(XCA, SOAP, "<a>".repeat(10_000).into_bytes(), 413).await);
    step!("no-mime-boundary", {
        case.raw(XCAI, "multipart/related; type=\"application/xop+xml\"", b"--B\r\n\r\n<a/>\r\n--B--".to_vec(), 400)
            .await
    });
    step!("truncated-multipart", {
        let content_type = "multipart/related; boundary=B; type=\"application/xop+xml\"";
        case.raw(XCAI, content_type, b"--B\r\nContent-ID: <r>\r\n\r\n<a/>\r\n--B\r\n\r\nxx".to_vec(), 400).await
    });
    step!("include-to-nowhere", {
        let assertions = case.finland.assertions(&case.patient).await?;
        let home = Some(HomeCommunityId::parse(NORWAY.home)?);
        let wanted = DocumentRequest { home, repository: Oid::parse("2.999.47.21.1")?, document: "2.999.1".into() };
        let body = RetrieveRequest { documents: vec![wanted] }.to_element();
        let message = String::from_utf8(case.finland.message(actions::ITI39_REQUEST, XCA, &assertions, body))?;
        let include = "<xop:Include xmlns:xop=\"http://www.w3.org/2004/08/xop/include\" href=\"cid:nowhere\"/>";
        let evil = message.replace(">2.999.47.21.1<", &format!(">{include}<"));
        ensure(evil != message, "nothing was replaced")?;
        case.raw(XCA, SOAP, evil.into_bytes(), 400).await
    });
    step!("unknown-action", {
        let assertions = case.finland.assertions(&case.patient).await?;
        let message = case.finland.message("urn:nothing", XCA, &assertions, case.find_documents(None).to_element());
        case.raw(XCA, SOAP, message, 400).await
    });
    step!("foreign-reply-address", {
        let message = String::from_utf8(case.finland.message(
            actions::ITI38_REQUEST,
            XCA,
            &[],
            case.find_documents(None).to_element(),
        ))?;
        let evil = message.replace("http://www.w3.org/2005/08/addressing/anonymous", "http://169.254.169.254/");
        case.raw(XCA, SOAP, evil.into_bytes(), 400).await
    });
    let result = case.finland.find(&Oid::parse(NORWAY.home)?, &case.patient).await;
    let good = result.and_then(|a| ensure(matches!(a, PatientAnswer::Matches(_)), "not served"));
    steps.done("good-request-after-refusals", began, good.map(|()| json!({})));
    let began = Instant::now();
    steps.done("refusals-on-the-trail", began, alerts(demo).await);
    Ok(())
}

impl Case<'_> {
    async fn hcp(&self) -> Result<SignedAssertion, Error> {
        self.finland.hcp(&self.finland.claims(), Timestamp::now()).await
    }

    fn find_documents(&self, home: Option<HomeCommunityId>) -> CrossGatewayQueryRequest {
        let query = StoredQuery::FindDocuments(FindDocuments::of_patient(self.patient.clone()));
        CrossGatewayQueryRequest { home, return_type: ReturnType::LeafClass, query }
    }

    async fn query(&self, assertions: &[SignedAssertion], code: &str) -> Result<(), Error> {
        let answer =
            self.finland.call(actions::ITI38_REQUEST, XCA, assertions, self.find_documents(None).to_element()).await?;
        refused(&answer, code)
    }

    async fn raw(&self, path: &str, content_type: &str, bytes: Vec<u8>, status: u16) -> Result<(), Error> {
        let answer = self.finland.post(path, content_type, bytes).await?;
        ensure(answer.status.as_u16() == status, format!("HTTP {}", answer.status))?;
        let fault = answer.fault().ok_or("no fault")?;
        ensure(fault.code == "Sender" && fault.reason.contains("reference"), format!("{fault:?}"))
    }

    async fn no_certificate(&self) -> Result<(), Error> {
        let connector = ncp_tls::anonymous_connector(&[self.demo.no.path("anchors.pem")], b"\x08http/1.1")?;
        let limit = std::time::Duration::from_secs(5);
        let Ok(mut stream) = ncp_tls::connect(&connector, "127.0.0.1", offset("no") + 443, "localhost", limit).await
        else {
            return Ok(());
        };
        // With TLS 1.3 the client learns of it at its first exchange.
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
        let mut out = Vec::new();
        let read = stream.read_to_end(&mut out).await;
        ensure(out.is_empty() || read.is_err(), "served without a client certificate")
    }

    async fn foreign_country(&self) -> Result<(), Error> {
        let sweden = CountryPki::create(&self.demo.dir.join("se/pki"), "SE", Algorithm::P256)?;
        let neighbour =
            Neighbour::new(&sweden, "2.999.46", &self.demo.no.path("anchors.pem"), "127.0.0.1", offset("no") + 443)?;
        match neighbour.find(&Oid::parse(NORWAY.home)?, &self.patient).await {
            Err(_) => Ok(()),
            Ok(_) => Err("a country that is not configured was served".into()),
        }
    }

    async fn foreign_study(&self) -> Result<(), Error> {
        let assertions = self.finland.assertions(&self.patient).await?;
        let instance = DocumentRequest {
            home: Some(HomeCommunityId::parse(NORWAY.home)?),
            repository: Oid::parse("2.999.47.21.1")?,
            document: "1.3.6.1.4.1.21367.201599.3.201606010958036.1".into(),
        };
        let series = SeriesRequest {
            series: Uid::parse("1.3.6.1.4.1.21367.201599.2.201606010958036")?,
            instances: vec![instance],
        };
        let study =
            StudyRequest { study: Uid::parse("1.3.6.1.4.1.21367.201599.1.201606010958036")?, series: vec![series] };
        let request =
            ImagingRequest { studies: vec![study], transfer_syntaxes: vec![Uid::parse("1.2.840.10008.1.2.1")?] };
        let mut answer = self.finland.call(actions::RAD75_REQUEST, XCAI, &assertions, request.to_element()).await?;
        refused(&answer, "XDSDocumentUniqueIdError")?;
        ensure(answer.parts.next().await?.is_none(), "an instance came")
    }

    /// A blocked document answers as one that does not exist: same code, same text but for the names.
    async fn blocked(&self) -> Result<(), Error> {
        let mut answers = Vec::new();
        for document in ["2.999.47.30.2", "2.999.47.30.9"] {
            let assertions = self.finland.assertions(&self.patient).await?;
            let home = Some(HomeCommunityId::parse(NORWAY.home)?);
            let wanted = DocumentRequest { home, repository: Oid::parse("2.999.47.21.1")?, document: document.into() };
            let request = RetrieveRequest { documents: vec![wanted] };
            let answer = self.finland.call(actions::ITI39_REQUEST, XCA, &assertions, request.to_element()).await?;
            refused(&answer, "XDSDocumentUniqueIdError")?;
            answers.push(normalised(&answer.body.to_xml(), document));
        }
        ensure(answers[0] == answers[1], "blocked and absent can be told apart")
    }

    async fn unknown_community(&self) -> Result<(), Error> {
        let assertions = self.finland.assertions(&self.patient).await?;
        let request = self.find_documents(Some(HomeCommunityId::parse("2.999.46")?));
        let answer = self.finland.call(actions::ITI38_REQUEST, XCA, &assertions, request.to_element()).await?;
        refused(&answer, "XDSUnknownCommunity")
    }

    async fn demographics_only(&self) -> Result<(), Error> {
        let hcp = self.hcp().await?;
        let name = ncp_ihe::PersonName { family: "Testesen".into(), given: vec!["Jon".into()] };
        let query = PatientQuery::new(
            Oid::parse(FINLAND.home)?,
            Oid::parse(NORWAY.home)?,
            Vec::new(),
            Some(name),
            Some("19770530".into()),
            None,
        );
        let answer =
            self.finland.call(actions::ITI55_REQUEST, XCPD, &[hcp], query.to_element(Timestamp::now())).await?;
        match ncp_ihe::PatientResponse::read(&answer.body)? {
            PatientAnswer::Refused(refusal) => ensure(refusal.reason == "DemographicsQueryNotAllowed", refusal.reason),
            other => Err(format!("{other:?}").into()),
        }
    }
}

fn refused(answer: &Answer, code: &str) -> Result<(), Error> {
    let codes = answer.codes();
    ensure(codes.iter().any(|c| c == code), format!("HTTP {}, codes {codes:?}, expected {code}", answer.status))?;
    let xml = answer.body.to_xml();
    ensure(!xml.contains("ExtrinsicObject") && !xml.contains("DocumentResponse"), "something was disclosed")
}

fn normalised(xml: &str, document: &str) -> String {
    let mut out = xml.replace(document, "DOCUMENT");
    while let Some(at) = out.find("(reference ") {
        let end = out[at..].find(')').map_or(out.len(), |e| at + e + 1);
        out.replace_range(at..end, "REFERENCE");
    }
    out
}

fn without_signature(xml: &str) -> String {
    match (xml.find("<ds:Signature "), xml.find("</ds:Signature>")) {
        (Some(from), Some(to)) => format!("{}{}", &xml[..from], &xml[to + "</ds:Signature>".len()..]),
        _ => xml.to_owned(),
    }
}

/// XSW 8: a forged assertion whose Signature holds the original in an Object.
fn wrapped(xml: &str) -> String {
    let original = without_signature(xml);
    let forged = xml.replace("Radiologist on duty", "Somebody else").replacen(" ID=\"_", " ID=\"_f", 1);
    forged.replacen("</ds:Signature>", &format!("<ds:Object>{original}</ds:Object></ds:Signature>"), 1)
}

/// Every refusal raised an alert or a failed authentication.
async fn alerts(demo: &Demo) -> Result<serde_json::Value, Error> {
    let mut counts = serde_json::Map::new();
    for _ in 0..50 {
        counts.clear();
        for code in ["110122", "110126", "110132", "NCP-ALERT"] {
            let filter = ncp_audit::Filter { transaction: code.into(), limit: 1000, ..Default::default() };
            counts.insert(code.to_owned(), crate::audit::search(&demo.dir, "no", filter).await?.len().into());
        }
        if counts.values().all(|n| n.as_u64() > Some(0)) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let least = [("110122", 7), ("110126", 1), ("110132", 2), ("NCP-ALERT", 6)];
    for (code, n) in least {
        ensure(
            counts.get(code).and_then(serde_json::Value::as_u64) >= Some(n),
            format!("{code}: {:?}, at least {n} expected", counts.get(code)),
        )?;
    }
    Ok(json!({ "alerts": counts }))
}
