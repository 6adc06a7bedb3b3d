//! A national XDS.b and XDS-I.b infrastructure: ITI-18, ITI-43 and RAD-69 over mutual TLS, patients by ITI-47 or
//! ITI-119. Messages are those of XCA and XCA-I; only actions and addresses differ.
//!
//! An imaging request is held to the manifests that the registry lists for the patient under treatment: they say whose
//! study it is, which instances there are, and, unless the country's register knows it, how its objects may name the
//! patient.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ncp_ihe::{
    Availability, Content, ContentFilter, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, EntryType,
    FindDocuments, GetAll, HomeCommunityId, ImagingRequest, IssuedId, Manifest, ObjectIds, Oid, PatientId,
    PatientQuery, PatientRecord, RetrieveRequest, RetrieveResponse, ReturnType, SeriesRequest, StoredQuery,
    StudyRequest, Uid, actions,
};
use ncp_saml::Signer;
use ncp_soap::Parts;
use ncp_xml::Element;

use super::incoming::{Incoming, instances};
use super::omitted::digest;
use super::patients::{Authority, Patients};
use super::way::Way;
use super::{
    ByteStream, Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, LocatedInstance, LocatedStudy,
    Missing, NationalError, Omission, Omitted, PatientDemographicsSupplier, PatientObjects, Registered, Retrieval,
    Unit,
};
use crate::compare::Announced;
use crate::config::{Config, Xds};
use crate::identity::Identity;
use crate::lists::{LISTS, Share};
use crate::patient_key::{PatientKey, Person};
use crate::policy::{Authorised, Disclose, LookUp};
use crate::recent::Recent;
use crate::soap_client::{AnswerBody, Packaging, Route, SoapAnswer, SoapCall, read_retrieve};
use crate::translate::collect;

mod errors;
mod patients;
mod xua;

use errors::{mapped, of_call, why};

/// Manifests read for one study, and bytes of one.
const MANIFESTS: usize = 32;
const MANIFEST_BYTES: usize = 16 << 20;
/// What may follow the document that was asked for.
const EPILOGUE: usize = 16 << 20;

/// One national infrastructure.
pub struct XdsSource {
    config: Xds,
    home: HomeCommunityId,
    answer_bytes: usize,
    results: usize,
    route: Route,
    xua: Option<xua::Issuer>,
    patients: Option<patients::Supplier>,
    /// The country's file; what it says of a person's ids outweighs what manifests say.
    register: Arc<Patients>,
    repositories: Vec<Oid>,
    locations: Vec<Oid>,
    /// Manifests of a study of a patient: a study is asked for in batches.
    recent: Recent<(PatientId, Uid), Listed>,
    /// Of what has no address of its own here: the supplier of patients.
    way: Way,
    /// The registry, repositories and sources each fail alone.
    ways: BTreeMap<String, Way>,
}

/// A study as the manifests of its patient list it.
#[derive(Default)]
struct Listed {
    /// SOP Instance UID to what is known of it.
    instances: BTreeMap<String, ListedInstance>,
    modalities: BTreeSet<String>,
    study_date: Option<String>,
    patient_ids: Vec<IssuedId>,
    birth_date: Option<String>,
    /// The entries of those manifests.
    manifests: Vec<DocumentEntry>,
}

struct ListedInstance {
    series: Uid,
    sop_class: Uid,
    location: Option<Oid>,
}

impl XdsSource {
    /// Loads keys and trust; the systems are asked when a request comes.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub(super) fn new(
        config: &Xds,
        whole: &Config,
        signer: &Arc<Signer>,
        register: Arc<Patients>,
        way: Way,
    ) -> Result<Self, String> {
        let wrong = |e: ncp_tls::TlsError| format!("{}: {e}", config.name);
        let connector = config.tls.connector(b"\x08http/1.1").map_err(wrong)?;
        let own = &whole.gateway.home_community_id;
        let addressed = config.repositories.iter().chain(&config.sources).map(|a| &a.endpoint);
        let addresses = std::iter::once(&config.registry).chain(addressed);
        Ok(Self {
            home: config.home_community_id.clone().unwrap_or_else(|| own.clone()),
            answer_bytes: whole.limits.answer_bytes,
            results: whole.limits.results,
            route: ncp_tls::http_client(connector.clone(), None, whole.limits.handshake).paced(whole.limits.idle),
            xua: config.xua.as_ref().map(|xua| xua::Issuer::new(xua, signer.clone())),
            patients: config.patients.as_ref().map(|p| patients::Supplier::new(p, own.0.clone(), connector)),
            repositories: config.repositories.iter().map(|r| r.id.clone()).collect(),
            locations: config.sources.iter().map(|s| s.id.clone()).collect(),
            recent: Recent::default(),
            ways: addresses.map(|address| (address.clone(), way.apart())).collect(),
            way,
            register,
            config: config.clone(),
        })
    }

    /// RepositoryUniqueIds of its repositories.
    pub fn repositories(&self) -> &[Oid] {
        &self.repositories
    }

    /// Retrieve Location UIDs of its imaging document sources.
    pub fn locations(&self) -> &[Oid] {
        &self.locations
    }

    /// Whether it answers for patients.
    pub fn knows_patients(&self) -> bool {
        self.patients.is_some()
    }

    async fn call(
        &self,
        (action, packaging): (&str, Packaging),
        endpoint: &str,
        identity: &Identity,
        body: Element,
        share: Option<&Share>,
    ) -> Result<SoapAnswer, NationalError> {
        let assertions = match &self.xua {
            Some(issuer) => vec![issuer.assertion(identity).await?],
            None => Vec::new(),
        };
        let patience = match packaging {
            Packaging::Simple => self.config.deadline,
            Packaging::Mtom => self.config.first_byte,
        };
        let call = SoapCall {
            of: &self.config.name,
            endpoint,
            action,
            packaging,
            assertions: &assertions,
            body,
            patience,
            answer_bytes: self.answer_bytes,
            listed: share.map(|share| (share.clone(), self.results)),
            elsewhere: None,
            evidence: None,
            trail: None,
        };
        let patient = identity.trc_patient.as_ref().map(|id| id.extension.as_str()).unwrap_or_default();
        let way = self.ways.get(endpoint).unwrap_or(&self.way);
        way.call(patient, async { call.send(&self.route).await.map_err(of_call) }).await
    }

    /// ITI-18, into the memory of a list. A partial answer is passed on as one.
    async fn query(&self, identity: &Identity, query: StoredQuery, share: &Share) -> Result<Registered, NationalError> {
        let home = self.config.home_community_id.clone();
        let request = CrossGatewayQueryRequest { home, return_type: ReturnType::LeafClass, query };
        let transaction = (actions::ITI18_REQUEST, Packaging::Simple);
        let answer = self.call(transaction, &self.config.registry, identity, request.to_element(), Some(share)).await?;
        let malformed = |_| NationalError::broken("registry's answer is no AdhocQueryResponse");
        let (response, unusable) = answer.listed.response(&answer.body).map_err(malformed)?;
        let mut omitted = Vec::new();
        if unusable > 0 {
            omitted.push(Omitted::new(&self.config.name, Unit::Unnamed(unusable), Omission::Unusable));
        }
        let failed = mapped(response.status, &response.errors)?;
        let mut objects = response.objects;
        for entry in &mut objects.entries {
            entry.home = None;
        }
        Ok(Registered { objects, failed: failed.into_iter().collect(), omitted })
    }

    async fn documents_of(
        &self,
        identity: &Identity,
        patient: &PatientId,
        status: Vec<Availability>,
        share: &Share,
    ) -> Result<Registered, NationalError> {
        let entry_types = vec![EntryType::Stable, EntryType::OnDemand];
        let find = FindDocuments { status, entry_types, ..FindDocuments::of_patient(patient.clone()) };
        match self.query(identity, StoredQuery::FindDocuments(find), share).await {
            // Registries do not know people without documents.
            Err(NationalError::NoPatient) => Ok(Registered::default()),
            other => other,
        }
    }

    /// ITI-43 of one document.
    async fn fetch(&self, identity: &Identity, entry: &DocumentEntry) -> Result<Document, NationalError> {
        let repository = self.config.repositories.iter().find(|r| r.id == entry.repository_unique_id);
        let endpoint = &repository.ok_or(NationalError::UnknownRepository)?.endpoint;
        let request = DocumentRequest {
            home: self.config.home_community_id.clone(),
            repository: entry.repository_unique_id.clone(),
            document: entry.unique_id.clone(),
        };
        let body = RetrieveRequest { documents: vec![request] }.to_element();
        let SoapAnswer { body, parts, .. } =
            self.call((actions::ITI43_REQUEST, Packaging::Mtom), endpoint, identity, body, None).await?;
        let response: RetrieveResponse = read_retrieve(&body).map_err(of_call)?;
        let failed = mapped(response.status, &response.errors)?;
        let found = response.documents.into_iter().find(|d| d.request.document == entry.unique_id);
        let found = found.ok_or(failed.unwrap_or(NationalError::UnknownDocument))?;
        let content: ByteStream = match found.content {
            Content::Inline(bytes) => Box::pin(futures_util::stream::iter([Ok(bytes)])),
            Content::Include(id) => part(parts, id),
        };
        Ok(Document { media_type: found.media_type, size: None, newer: 0, content })
    }

    /// The study as the manifests of this patient list it; none when no manifest of hers does.
    async fn listed(
        &self,
        identity: &Identity,
        patient: &PatientId,
        study: &Uid,
    ) -> Result<Option<Arc<Listed>>, NationalError> {
        let key = (patient.clone(), study.clone());
        if let Some(known) = self.recent.get(&key) {
            return Ok(Some(known));
        }
        let share = LISTS.for_country(identity.country);
        let documents = self.documents_of(identity, patient, vec![Availability::Approved], &share).await?;
        let of_study = |e: &&DocumentEntry| {
            e.is_manifest() && e.patient_id == *patient && e.study_instance_uid().is_none_or(|uid| uid == *study)
        };
        let mut listed: Option<Listed> = None;
        for entry in documents.objects.entries.iter().filter(of_study).take(MANIFESTS) {
            let document = match self.fetch(identity, entry).await {
                Ok(document) => document,
                // One that is gone lists nothing; the others may.
                Err(NationalError::UnknownDocument | NationalError::UnknownRepository) => continue,
                Err(error) => return Err(error),
            };
            let bytes = collect(document.content, MANIFEST_BYTES, &identity.holder()).await?;
            if let Err(misfit) = Announced::of(entry).fits(&bytes) {
                tracing::warn!(connector = %self.config.name, reason = misfit.rule(), "manifest not usable");
                continue;
            }
            match Manifest::read(&bytes) {
                Ok((manifest, _)) if manifest.study == *study => {
                    if !manifest.warnings.is_empty() {
                        let (study, odd) = (digest(study.as_str()), manifest.odd());
                        tracing::warn!(connector = %self.config.name, study, odd, "manifest is odd");
                    }
                    listed.get_or_insert_default().add(&manifest, entry);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(connector = %self.config.name, reason = %error, "manifest not usable"),
            }
        }
        let Some(mut listed) = listed else { return Ok(None) };
        listed.patient_ids.push(IssuedId::new(&patient.extension, Some(patient.root.clone())));
        let listed = Arc::new(listed);
        self.recent.put(key, listed.clone(), listed.instances.len());
        Ok(Some(listed))
    }
}

impl Listed {
    fn add(&mut self, manifest: &Manifest, entry: &DocumentEntry) {
        for series in &manifest.series {
            self.modalities.extend(series.modality.clone());
            for instance in &series.instances {
                let listed = ListedInstance {
                    series: series.series.clone(),
                    sop_class: instance.sop_class.clone(),
                    location: series.location.clone(),
                };
                self.instances.insert(instance.sop_instance.to_string(), listed);
            }
        }
        self.manifests.push(entry.clone());
        self.study_date = self.study_date.take().or_else(|| manifest.study_date.clone());
        self.birth_date = self.birth_date.take().or_else(|| manifest.patient.birth_date.clone());
        self.patient_ids.extend(manifest.patient.ids.iter().cloned());
        let source = entry.source_patient_id.as_ref();
        self.patient_ids.extend(source.map(|id| IssuedId::new(&id.extension, Some(id.root.clone()))));
    }

    /// What of a request is listed, at the location that the request names.
    fn locate(listed: Option<&Self>, patient: &PatientId, study: &StudyRequest, syntaxes: &[Uid]) -> LocatedStudy {
        let mut out = LocatedStudy {
            study: study.study.clone(),
            patient: listed.map(|_| patient.clone()),
            instances: Vec::new(),
            missing: Vec::new(),
            modalities: listed.map(|l| l.modalities.iter().cloned().collect()).unwrap_or_default(),
            study_date: listed.and_then(|l| l.study_date.clone()),
            manifests: listed.map(|l| l.manifests.clone()).unwrap_or_default(),
            patient_ids: listed.map(|l| PatientKey::told(&l.patient_ids)).unwrap_or_default(),
            person: Person { birth_date: listed.and_then(|l| l.birth_date.clone()), ..Person::default() },
            transfer_syntaxes: syntaxes.to_vec(),
        };
        for series in &study.series {
            for request in &series.instances {
                let found = listed.and_then(|l| l.instances.get(&request.document)).filter(|i| {
                    i.series == series.series && i.location.as_ref().is_none_or(|at| *at == request.repository)
                });
                match found {
                    None => out.missing.push((request.clone(), Missing::Unknown)),
                    Some(instance) => out.instances.push(LocatedInstance {
                        request: request.clone(),
                        series: instance.series.clone(),
                        sop_class: Some(instance.sop_class.clone()),
                        transfer_syntax: None,
                        size: None,
                    }),
                }
            }
        }
        out
    }
}

/// The part with that Content-ID. The package must come to its end, or it may have been cut.
fn part(mut parts: Parts<AnswerBody>, id: String) -> ByteStream {
    let broken = |e: ncp_soap::SoapError| of_call(e.into());
    Box::pin(async_stream::try_stream! {
        let mut found = false;
        while let Some(head) = parts.next().await.map_err(broken)? {
            if head.content_id != id {
                continue;
            }
            found = true;
            while let Some(chunk) = parts.chunk().await.map_err(broken)? {
                yield chunk;
            }
            parts.drain(EPILOGUE).await.map_err(broken)?;
        }
        if !found {
            Err(NationalError::broken("repository's answer includes a part that is not there"))?;
        }
    })
}

impl PatientDemographicsSupplier for XdsSource {
    async fn find(&self, query: &Authorised<LookUp<PatientQuery>>) -> Result<Vec<PatientRecord>, NationalError> {
        match &self.patients {
            Some(supplier) => supplier.find(self, query).await,
            None => Err(NationalError::NoPatient),
        }
    }
}

impl DocumentRegistry for XdsSource {
    async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        let PatientObjects { patient, status, groups, share } = of.get();
        if !groups {
            return self.documents_of(of.identity(), patient, status.clone(), share).await;
        }
        // Which of them is the answer, and which may be shown, is decided here, so that what is blocked leaves no trace:
        // the registry is asked for everything of the patient, whichever query came.
        let all = GetAll {
            patient_id: patient.clone(),
            document_status: status.clone(),
            set_status: status.clone(),
            folder_status: status.clone(),
            contents: ContentFilter {
                entry_types: vec![EntryType::Stable, EntryType::OnDemand],
                ..ContentFilter::default()
            },
        };
        self.query(of.identity(), StoredQuery::GetAll(all), share).await
    }

    async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let query = StoredQuery::GetDocuments(ids.get().clone());
        let share = LISTS.for_country(ids.identity().country);
        let found = self.query(ids.identity(), query, &share).await?.objects.entries;
        Ok(found.into_iter().filter(|e| ids.get().name(e)).collect())
    }
}

impl DocumentRepository for XdsSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        self.fetch(entry.identity(), entry.get()).await
    }
}

impl ImagingDocumentSource for XdsSource {
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let identity = request.identity();
        let Some(patient) = identity.trc_patient.as_ref() else { return Ok(Vec::new()) };
        let ImagingRequest { studies, transfer_syntaxes } = request.get();
        let mut out = Vec::new();
        for study in studies {
            let listed = self.listed(identity, patient, &study.study).await?;
            let mut located = Listed::locate(listed.as_deref(), patient, study, transfer_syntaxes);
            self.register.identify(&mut located, &Authority(self.config.patient_id_authority.clone()));
            out.push(located);
        }
        Ok(out)
    }

    /// RAD-69. The root of the answer has been read when this returns: it names what comes.
    async fn retrieve_instances(&self, study: Authorised<Disclose<LocatedStudy>>) -> Result<Retrieval, NationalError> {
        let wanted = study.get();
        let location = wanted.instances.first().map(|i| &i.request.repository).ok_or(NationalError::UnknownDocument)?;
        let source = self.config.sources.iter().find(|s| s.id == *location).ok_or(NationalError::UnknownRepository)?;
        let body = self.imaging_request(wanted).to_element();
        let transaction = (actions::RAD69_REQUEST, Packaging::Mtom);
        let SoapAnswer { body, parts, .. } =
            self.call(transaction, &source.endpoint, study.identity(), body, None).await?;
        let response = read_retrieve(&body).map_err(of_call)?;
        let asked: BTreeMap<&str, &DocumentRequest> =
            wanted.instances.iter().map(|i| (i.request.document.as_str(), &i.request)).collect();
        let mut sequence = Sequence { parts, by_part: BTreeMap::new(), inline: VecDeque::new(), present: None };
        let mut promised = BTreeSet::new();
        for document in response.documents {
            let Some(request) = asked.get(document.request.document.as_str()).copied() else { continue };
            if !promised.insert(request.clone()) {
                continue;
            }
            match document.content {
                Content::Include(id) => drop(sequence.by_part.insert(id, request.clone())),
                Content::Inline(bytes) => sequence.inline.push_back((request.clone(), bytes)),
            }
        }
        let refused = wanted.instances.iter().map(|i| &i.request).filter(|r| !promised.contains(*r));
        let missing = refused.map(|r| (r.clone(), why(&response.errors, &r.document))).collect();
        Ok(Retrieval { missing, ..Retrieval::of(instances(sequence, promised, wanted.expected())) })
    }
}

impl XdsSource {
    /// A released study as RAD-69 asks for it; a Responding Imaging Gateway always names the community.
    fn imaging_request(&self, wanted: &LocatedStudy) -> ImagingRequest {
        let mut series: Vec<SeriesRequest> = Vec::new();
        for instance in &wanted.instances {
            let request = DocumentRequest { home: Some(self.home.clone()), ..instance.request.clone() };
            match series.last_mut() {
                Some(last) if last.series == instance.series => last.instances.push(request),
                _ => series.push(SeriesRequest { series: instance.series.clone(), instances: vec![request] }),
            }
        }
        let studies = vec![StudyRequest { study: wanted.study.clone(), series }];
        ImagingRequest { studies, transfer_syntaxes: wanted.transfer_syntaxes.clone() }
    }
}

/// The instances of a RAD-69 answer: those in its root, then its parts.
struct Sequence {
    parts: Parts<AnswerBody>,
    by_part: BTreeMap<String, DocumentRequest>,
    inline: VecDeque<(DocumentRequest, Bytes)>,
    present: Option<Bytes>,
}

impl Incoming for Sequence {
    async fn next(&mut self) -> Result<Option<DocumentRequest>, NationalError> {
        if let Some((request, bytes)) = self.inline.pop_front() {
            self.present = Some(bytes);
            return Ok(Some(request));
        }
        while let Some(head) = self.parts.next().await.map_err(|e| of_call(e.into()))? {
            if let Some(request) = self.by_part.remove(&head.content_id) {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, NationalError> {
        match self.present.take() {
            Some(bytes) if !bytes.is_empty() => {
                self.present = Some(Bytes::new());
                Ok(Some(bytes))
            }
            Some(_) => Ok(None),
            None => self.parts.chunk().await.map_err(|e| of_call(e.into())),
        }
    }
}
