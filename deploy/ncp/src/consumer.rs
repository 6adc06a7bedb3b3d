//! A national XDS consumer: ITI-18, ITI-43 and RAD-69 to the gateway of its own country, by mutual TLS with a national
//! certificate, an XUA assertion and a TRC assertion.

use std::collections::BTreeMap;
use std::time::Instant;

use ncp_ihe::{DocumentEntry, Manifest, PatientId, QueryResponse, RetrieveRequest, Status};
use ncp_saml::SignedAssertion;
use ncp_tests::consumer::Consumer;
use ncp_tests::neighbour::{Neighbour, retrieve_response};
use serde_json::{Value, json};

use crate::check::{Steps, compared, ensure, imaging_request, neighbour, wanted};
use crate::demo::{Country, Demo, offset};
use crate::{Error, issuer};

/// A consumer and what it shows for one patient under treatment.
struct Asker {
    consumer: Consumer,
    assertions: Vec<SignedAssertion>,
}

/// List, read a report, fetch the images.
pub(crate) async fn story(
    steps: &mut Steps,
    demo: &Demo,
    asking: &Country,
    holding: &Country,
    patient: &PatientId,
    (archive, instances): (&BTreeMap<String, String>, usize),
) -> Result<(), Error> {
    let way = format!("{}-{}", asking.code, holding.code);
    let pki = if asking.code == "fi" { &demo.fi } else { &demo.no };
    let port = offset(asking.code) + 449;
    let consumer = Consumer::new(pki, &pki.path("anchors.pem"), &issuer::audience(asking.code), port)?;
    let claims = neighbour(demo, asking, holding)?.claims();
    let assertions = consumer.assertions(&claims, patient).await?;
    let asker = Asker { consumer, assertions };

    let began = Instant::now();
    let (entries, result) = match asker.list(patient, holding).await {
        Ok((entries, facts)) => (entries, Ok(facts)),
        Err(error) => (Vec::new(), Err(error)),
    };
    steps.done(&format!("iti18 {way}"), began, result);
    let began = Instant::now();
    steps.done(&format!("iti43 {way}"), began, asker.report(&entries).await);
    let began = Instant::now();
    steps.done(&format!("rad69 {way}"), began, asker.images(&entries, archive, instances).await);
    Ok(())
}

impl Asker {
    async fn list(&self, patient: &PatientId, holding: &Country) -> Result<(Vec<DocumentEntry>, Value), Error> {
        let request = Neighbour::find_documents(patient).to_element();
        let answer = self.consumer.call(&self.assertions, request).await?;
        let (response, unusable) = QueryResponse::read(&answer.body)?;
        ensure(response.status == Status::Success && unusable == 0, format!("{:?}", answer.codes()))?;
        let entries = response.objects.entries;
        let ours = |e: &DocumentEntry| e.home.as_ref().is_some_and(|home| home.0.as_str() == holding.home);
        ensure(entries.iter().all(ours), "an entry of another community")?;
        ensure(entries.iter().all(|e| e.unique_id != "2.999.47.30.2"), "a blocked document was listed")?;
        let manifests = entries.iter().filter(|e| e.is_manifest()).count();
        let reports = entries.len() - manifests;
        ensure(reports >= 1 && manifests >= 1, "no report or no manifest was listed")?;
        Ok((entries, json!({ "reports": reports, "manifests": manifests })))
    }

    /// ITI-43 of one document.
    async fn document(&self, entry: &DocumentEntry) -> Result<Vec<u8>, Error> {
        let request = RetrieveRequest { documents: vec![wanted(entry)] };
        let mut answer = self.consumer.call(&self.assertions, request.to_element()).await?;
        let response = retrieve_response(&answer.body)?;
        let whole = response.status == Status::Success && response.documents.len() == 1;
        ensure(whole, format!("no document: {:?}", answer.codes()))?;
        let mut bytes = Vec::new();
        while answer.parts.next().await?.is_some() {
            while let Some(chunk) = answer.parts.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
        }
        Ok(bytes)
    }

    async fn report(&self, entries: &[DocumentEntry]) -> Result<Value, Error> {
        let original = |e: &&DocumentEntry| e.mime_type == "text/xml" && !e.is_delayed_assembly();
        let entry = entries.iter().find(original).ok_or("no report was listed")?;
        let bytes = self.document(entry).await?;
        let hash = hex::encode(openssl::sha::sha1(&bytes));
        ensure(entry.hash.as_deref() == Some(hash.as_str()), "the hash differs")?;
        Ok(json!({ "bytes": bytes.len() }))
    }

    /// All studies, every instance compared with the archive's file.
    async fn images(
        &self,
        entries: &[DocumentEntry],
        archive: &BTreeMap<String, String>,
        expected: usize,
    ) -> Result<Value, Error> {
        let (mut count, mut bytes) = (0, 0);
        for entry in entries.iter().filter(|e| e.is_manifest()) {
            let manifest = Manifest::read_kos(&self.document(entry).await?)?;
            let home = entry.home.clone().ok_or("entry without home")?;
            let request = imaging_request(&manifest, &home)?;
            let answer = self.consumer.call(&self.assertions, request.to_element()).await?;
            let (instances, length) = compared(answer, archive).await?;
            count += instances;
            bytes += length;
        }
        ensure(count == expected, format!("{count} instances, {expected} expected"))?;
        Ok(json!({ "instances": count, "bytes": bytes, "sha256": "all equal" }))
    }
}
