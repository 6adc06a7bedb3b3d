//! The national connectors of this country and how a request finds its connector.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use ncp_ihe::{
    Availability, DocumentEntry, DocumentRequest, ImagingRequest, ObjectIds, Oid, PatientId, PatientQuery,
    PatientRecord, RegistryObjects, SeriesRequest, StudyRequest, Uid,
};

use ncp_saml::Signer;

use super::dicomweb::DicomWebSource;
use super::embedded::EmbeddedSource;
use super::grpc::GrpcSource;
use super::patients::Patients;
use super::recorded;
use super::setbacks::{Failures, Setbacks, settled};
use super::sound::Named;
use super::usable::usable;
use super::way::Way;
use super::xds::XdsSource;
use super::{
    Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, LocatedStudy, Missing, NationalError,
    Omitted, PatientDemographicsSupplier, PatientObjects, Retrieval,
};
use crate::compare::{Announced, Budget, Compared, Expected, compare};
use crate::config::{self, Config};
use crate::lists::LISTS;
use crate::policy::{Authorised, Describing, Disclose, LookUp};
use crate::recent::Recent;
use crate::telemetry::Metrics;

/// All national systems behind the four actors.
pub struct National {
    patients: Arc<Patients>,
    connectors: Vec<Connector>,
    /// The documents that describe a patient's studies: images are asked for in batches.
    describing: Recent<PatientId, Describing>,
    setbacks: Setbacks,
    /// Time for a look-up in one system.
    patience: Duration,
    /// Memory for documents that wait to be compared.
    budget: Budget,
    metrics: Metrics,
}

/// One system under its name.
struct Connector {
    name: String,
    /// Where it is, for the operator.
    host: String,
    /// Instances that can be opened beside each other.
    ahead: usize,
    system: System,
}

impl Connector {
    fn failures(&self, study: Uid, metrics: Metrics) -> Failures {
        Failures { connector: self.name.clone(), host: self.host.clone(), study, metrics }
    }
}

/// A new kind is a new variant.
enum System {
    Embedded(Box<EmbeddedSource>),
    DicomWeb(Box<DicomWebSource>),
    Grpc(Box<GrpcSource>),
    Xds(Box<XdsSource>),
}

/// Hands a call to whichever kind the connector is.
macro_rules! each {
    ($connector:expr, $source:ident => $call:expr) => {
        match $connector {
            System::Embedded($source) => $call,
            System::DicomWeb($source) => $call,
            System::Grpc($source) => $call,
            System::Xds($source) => $call,
        }
    };
}

impl Connector {
    /// Registry objects that can be answered; a patient whom the system does not know has none.
    async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        let registered = self.system.registered(of).await?;
        Ok(registered.usable(&self.name, self.system.repositories()))
    }

    /// Entries with these ids that can be answered; a document whose entry cannot be is not available.
    async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let found = each!(&self.system, source => source.entries(ids).await)?;
        Ok(usable(found, self.system.repositories()).0)
    }
}

impl System {
    fn repositories(&self) -> &[Oid] {
        match self {
            Self::Embedded(source) => std::slice::from_ref(source.repository()),
            Self::DicomWeb(source) => std::slice::from_ref(source.repository()),
            Self::Grpc(source) => source.repositories(),
            Self::Xds(source) => source.repositories(),
        }
    }

    fn locations(&self) -> &[Oid] {
        each!(self, source => source.locations())
    }

    /// Persons, where the system knows any.
    async fn find(&self, query: &Authorised<LookUp<PatientQuery>>) -> Result<Vec<PatientRecord>, NationalError> {
        match self {
            Self::Grpc(source) if source.knows_patients() => source.find(query).await,
            Self::Xds(source) if source.knows_patients() => source.find(query).await,
            _ => Err(NationalError::NoPatient),
        }
    }

    /// Registry objects; a patient whom the system does not know has none.
    async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        match each!(self, source => source.registered(of).await) {
            Err(NationalError::NoPatient) => Ok(Registered::default()),
            other => other,
        }
    }
}

/// What the registries of the country answered, and how those failed that did not.
#[derive(Debug, Default)]
pub struct Registered {
    /// All objects.
    pub objects: RegistryObjects,
    /// One for each system that did not answer, or not with all.
    pub failed: Vec<NationalError>,
    /// Units that are not among the objects, by name.
    pub omitted: Vec<Omitted>,
}

impl National {
    /// Builds the connectors; folders are scanned now.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn start(
        whole: &Config,
        config: &config::National,
        signer: &Arc<Signer>,
        budget: Budget,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let patients = match &config.patients_file {
            Some(file) => Patients::load(file)?,
            None => Patients::default(),
        };
        let patients = Arc::new(patients);
        let mut connectors = Vec::new();
        for connector in &config.connector {
            let way = Way::new(connector.name(), &whole.limits, metrics.clone());
            let language = &config.language;
            let ahead = match connector {
                config::Connector::DicomWeb(archive) => archive.parallel,
                _ => 1,
            };
            let system = match connector {
                config::Connector::Embedded(folder) => {
                    let source = EmbeddedSource::scan(folder, language, patients.clone(), &metrics)?;
                    System::Embedded(Box::new(source.at_most(whole.limits.results)))
                }
                config::Connector::DicomWeb(archive) => {
                    let way = (way, config.patience);
                    System::DicomWeb(Box::new(DicomWebSource::new(archive, language, patients.clone(), way)?))
                }
                config::Connector::Grpc(service) => System::Grpc(Box::new(GrpcSource::new(service, way)?)),
                config::Connector::Xds(domain) => {
                    System::Xds(Box::new(XdsSource::new(domain, whole, signer, patients.clone(), way)?))
                }
            };
            let (name, host) = (connector.name().to_owned(), connector.host().to_owned());
            connectors.push(Connector { name, host, ahead, system });
        }
        let (describing, setbacks, patience) = (Recent::default(), Setbacks::default(), config.patience);
        Ok(Self { patients, connectors, describing, setbacks, patience, budget, metrics })
    }

    /// Scans the folders anew; one that cannot be read keeps what was known of it.
    pub fn rescan(&self) {
        for connector in &self.connectors {
            if let System::Embedded(source) = &connector.system
                && let Err(reason) = source.rescan()
            {
                tracing::error!(connector = %connector.name, reason, "folder not scanned, the former index stays");
            }
        }
    }

    /// The entries with these ids in every registry that answers; one that fails hides nothing that another has.
    pub async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Vec<DocumentEntry> {
        let answers = self.ask_all(|connector| connector.entries(ids)).await;
        answers.into_iter().flatten().flatten().collect()
    }

    /// The entries with these ids whose documents lie in that repository.
    ///
    /// # Errors
    /// [`NationalError::UnknownRepository`] when no connector answers for it; the connector's.
    pub async fn entries_at(
        &self,
        repository: &Oid,
        ids: &Authorised<LookUp<ObjectIds>>,
    ) -> Result<Vec<DocumentEntry>, NationalError> {
        let connector = self.of_repository(repository).ok_or(NationalError::UnknownRepository)?;
        let entries = self.in_time(connector.entries(ids)).await?;
        Ok(entries.into_iter().filter(|e| e.repository_unique_id == *repository).collect())
    }

    /// Splits an imaging request by Retrieve Location UID, asks each source, and puts the answers together by study.
    pub async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Located {
        let mut out = Located::default();
        let locations: BTreeSet<&Oid> = instances(request.get()).map(|i| &i.repository).collect();
        let asked = locations.into_iter().map(|location| async {
            let part = request.derive(at_location(request.get(), location));
            let answer = match self.at_location(location) {
                Some(connector) => {
                    self.in_time(async { each!(&connector.system, source => source.locate(&part).await) }).await
                }
                None => Err(NationalError::UnknownRepository),
            };
            (part, answer)
        });
        for (part, answer) in join_all(asked).await {
            match answer {
                Ok(studies) => studies.into_iter().for_each(|study| out.add(study)),
                Err(error) => {
                    tracing::warn!(reason = %error, "source not reached");
                    let why = match Missing::of(&error) {
                        // A source that is not there says nothing of its instances.
                        Missing::Unknown => Missing::Failed,
                        why => why,
                    };
                    out.unreached.extend(missing_of(part.get(), why));
                }
            }
        }
        out.studies.iter_mut().for_each(|study| self.setbacks.apply(request.identity(), study));
        out
    }

    /// Opens the instances of a released study in the sources that listed them. What fails before the first instance of a
    /// source can go on, or beside it, is told as missing, so that it is not promised; a source that does not open takes no
    /// other's instances with it.
    ///
    /// # Errors
    /// None of the sources is known.
    pub async fn retrieve_instances(
        &self,
        study: Authorised<Disclose<LocatedStudy>>,
    ) -> Result<Retrieval, NationalError> {
        let trc = study.identity().trc_id.clone().unwrap_or_default();
        let mut out = Retrieval::of(Box::pin(futures_util::stream::empty()));
        let mut streams = Vec::new();
        for (location, part) in study.split_by(|instance| instance.request.repository.clone()) {
            let connector = self.at_location(&location).ok_or(NationalError::UnknownRepository)?;
            let uid = part.get().study.clone();
            let wanted: Vec<DocumentRequest> = part.get().instances.iter().map(|i| i.request.clone()).collect();
            let named = Named::of(part.get());
            let failures = connector.failures(uid, self.metrics.clone());
            match each!(&connector.system, source => source.retrieve_instances(part).await) {
                Ok(opened) => {
                    out.missing.extend(opened.missing);
                    out.foreign.extend(opened.foreign);
                    let (failed, instances) = settled(named.check(opened.instances), connector.ahead).await;
                    for (request, error) in failed {
                        failures.note(&request, &error);
                        self.setbacks.lasting(&trc, &request, &error);
                        out.foreign.extend(error.foreign());
                        out.missing.push((request, Missing::of(&error)));
                    }
                    streams.push(instances.map(move |instance| instance.map(|one| failures.watch(one))));
                }
                Err(error) => {
                    wanted.iter().for_each(|request| failures.note(request, &error));
                    out.missing.extend(wanted.into_iter().map(|request| (request, Missing::of(&error))));
                }
            }
        }
        let setbacks = self.setbacks.clone();
        let instances = futures_util::stream::iter(streams).flatten();
        let instances = instances.map(move |instance| instance.map(|instance| setbacks.watch(&trc, instance)));
        Ok(Retrieval { instances: Box::pin(instances), ..out })
    }

    /// A look-up within its deadline.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, NationalError>>) -> Result<T, NationalError> {
        let slow = |_| NationalError::down("national system did not answer in time");
        tokio::time::timeout(self.patience, asked).await.map_err(slow)?
    }

    /// What all registries hold of a patient. One that is down does not take the others with it.
    ///
    /// # Errors
    /// When none answers.
    pub async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        let mut out = Registered::default();
        let mut answered = self.connectors.is_empty();
        for answer in self.ask_all(|connector| connector.registered(of)).await {
            match answer {
                Ok(registered) => {
                    answered = true;
                    out.objects.extend(registered.objects);
                    out.failed.extend(registered.failed);
                    out.omitted.extend(registered.omitted);
                }
                Err(error) => out.failed.push(error),
            }
        }
        for error in &out.failed {
            tracing::warn!(reason = %error, "a national registry did not answer, or not with all");
        }
        for omitted in &out.omitted {
            omitted.log();
            self.metrics.left_out(&omitted.connector, omitted.reason.class(), omitted.unit.count());
        }
        match out.failed.pop() {
            Some(error) if !answered => Err(error),
            last => {
                out.failed.extend(last);
                Ok(out)
            }
        }
    }

    /// The documents that describe studies of the patient under treatment. An archive that makes its manifests itself
    /// tells of them when a study is located.
    pub async fn describing<T>(&self, asked: &Authorised<LookUp<T>>) -> Arc<Describing> {
        let Some(patient) = asked.identity().trc_patient.clone() else { return Arc::new(Describing::of([], true)) };
        if let Some(known) = self.describing.get(&patient) {
            return known;
        }
        let of = PatientObjects {
            patient: patient.clone(),
            status: vec![Availability::Approved],
            groups: false,
            share: LISTS.for_country(asked.identity().country),
        };
        let of = asked.derive(of);
        let registries = self.connectors.iter().filter(|c| !matches!(c.system, System::DicomWeb(_)));
        let mut all = Registered::default();
        for answer in join_all(registries.map(|connector| self.in_time(connector.registered(&of)))).await {
            match answer {
                Ok(registered) => {
                    all.objects.extend(registered.objects);
                    all.failed.extend(registered.failed);
                    all.omitted.extend(registered.omitted);
                }
                Err(error) => {
                    tracing::warn!(reason = %error, "a registry did not tell what describes a study");
                    all.failed.push(error);
                }
            }
        }
        self.describing_of(&patient, &all)
    }

    /// The same out of what was registered of a patient; kept while batches of images may follow, unless a registry did
    /// not answer.
    pub fn describing_of(&self, patient: &PatientId, registered: &Registered) -> Arc<Describing> {
        let entries = registered.objects.entries.iter().filter(|entry| entry.patient_id == *patient);
        let complete = !registered.omitted.iter().any(|omitted| omitted.reason.hides_a_description());
        let answered = registered.failed.is_empty();
        let found = Arc::new(Describing::of(entries, answered).with_unread(!complete));
        if answered {
            self.describing.put(patient.clone(), found.clone(), found.len());
        }
        found
    }

    /// Asks all systems at once, each with its deadline.
    async fn ask_all<'a, T, F>(&'a self, ask: impl Fn(&'a Connector) -> F) -> Vec<Result<T, NationalError>>
    where
        F: Future<Output = Result<T, NationalError>>,
    {
        join_all(self.connectors.iter().map(|connector| self.in_time(ask(connector)))).await
    }

    fn of_repository(&self, repository: &Oid) -> Option<&Connector> {
        self.connectors.iter().find(|c| c.system.repositories().contains(repository))
    }

    fn at_location(&self, location: &Oid) -> Option<&Connector> {
        self.connectors.iter().find(|c| c.system.locations().contains(location))
    }
}

impl PatientDemographicsSupplier for National {
    /// The country's file, then the systems that know patients. A system that fails hides nobody who was found.
    async fn find(&self, query: &Authorised<LookUp<PatientQuery>>) -> Result<Vec<PatientRecord>, NationalError> {
        if let Ok(found) = self.patients.find(query.get()) {
            return Ok(found);
        }
        let mut found: Vec<PatientRecord> = Vec::new();
        let mut failed = None;
        for answer in self.ask_all(|connector| connector.system.find(query)).await {
            match answer {
                Ok(records) => {
                    for record in records.into_iter().filter(|r| super::narrow::degree(query.get(), r).is_some()) {
                        if !found.iter().any(|f| f.id == record.id) {
                            found.push(record);
                        }
                    }
                }
                Err(NationalError::NoPatient) => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ if found.is_empty() => Err(NationalError::NoPatient),
            _ => Ok(found),
        }
    }
}

impl DocumentRepository for National {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let connector =
            self.of_repository(&entry.get().repository_unique_id).ok_or(NationalError::UnknownRepository)?;
        let repository = entry.get().repository_unique_id.clone();
        let announced = Announced::of(entry.get());
        let expected = Expected { announced, is_patient: Some(recorded::is_patient(entry.get(), &self.patients)) };
        let name = connector.name.clone();
        let told = move |error: &NationalError| {
            tracing::warn!(connector = %name, %repository, reason = %error, "a document cannot be handed on");
        };
        let Document { media_type, content, newer, .. } =
            each!(&connector.system, source => source.retrieve(entry).await)?;
        match compare(content, expected, &self.budget).await {
            Ok(Compared::Whole(size, content)) => Ok(Document { media_type, size: Some(size), content, newer }),
            Ok(Compared::Passing(content)) => {
                let content = Box::pin(content.inspect_err(told));
                Ok(Document { media_type, size: announced.size, content, newer })
            }
            Err(error) => {
                told(&error);
                Err(error)
            }
        }
    }
}

fn instances(request: &ImagingRequest) -> impl Iterator<Item = &DocumentRequest> {
    request.studies.iter().flat_map(|s| &s.series).flat_map(|s| &s.instances)
}

fn at_location(request: &ImagingRequest, location: &Oid) -> ImagingRequest {
    let mut studies = Vec::new();
    for study in &request.studies {
        let mut series = Vec::new();
        for one in &study.series {
            let instances: Vec<_> = one.instances.iter().filter(|i| i.repository == *location).cloned().collect();
            if !instances.is_empty() {
                series.push(SeriesRequest { series: one.series.clone(), instances });
            }
        }
        if !series.is_empty() {
            studies.push(StudyRequest { study: study.study.clone(), series });
        }
    }
    ImagingRequest { studies, transfer_syntaxes: request.transfer_syntaxes.clone() }
}

/// All instances of a request, by study.
fn missing_of(
    request: &ImagingRequest,
    why: Missing,
) -> impl Iterator<Item = (Uid, Vec<(DocumentRequest, Missing)>)> + '_ {
    request.studies.iter().map(move |study| {
        let instances = study.series.iter().flat_map(|s| &s.instances);
        (study.study.clone(), instances.map(|i| (i.clone(), why)).collect())
    })
}

/// Answer of all sources to an imaging request.
#[derive(Debug, Default)]
pub struct Located {
    /// What the sources know.
    pub studies: Vec<LocatedStudy>,
    /// By study, instances whose source is not known or did not answer: nothing is known of whose they are.
    pub unreached: Vec<(Uid, Vec<(DocumentRequest, Missing)>)>,
}

impl Located {
    fn add(&mut self, study: LocatedStudy) {
        match self.studies.iter_mut().find(|s| s.study == study.study && s.patient == study.patient) {
            Some(known) => known.join(study),
            None => self.studies.push(study),
        }
    }
}
