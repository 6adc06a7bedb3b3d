//! The gateway that asks, over real sockets: a national consumer in front, countries that answer, fail, lie or keep silent
//! behind.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ncp_gateway::{app, config};
use ncp_ihe::{
    Availability, Coded, Content, DocumentEntry, DocumentRequest, DocumentResponse, EntryType, HomeCommunityId,
    ImagingRequest, Oid, PatientId, QueryResponse, RegistryError, RegistryObjects, RetrieveResponse, SeriesRequest,
    Severity, Status, StudyRequest, Uid, actions,
};
use ncp_saml::HcpClaims;
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS};
use ncp_tests::attack::{Attacker, Clinician, KnownUrls, Side};
use ncp_tests::consumer::Consumer;
use ncp_tests::country::{Asked, Country, Reaction};
use ncp_tests::issuer::{BASE, ISSUER, Issuer};
use ncp_tests::neighbour::{Answer, Neighbour};
use ncp_tests::pki::CountryPki;
use ncp_tests::synth::Study;

mod archives;
mod asynchronous;
mod bound;
mod clinicians;
#[path = "../common/mod.rs"]
mod common;
mod consumers;
mod dicomweb;
mod incumbent;
mod inert;
mod long;
mod losses;
mod mime;
mod odd;
mod scopes;
mod shares;
mod sts;
mod terminology;
mod told;
mod users;

/// A gateway in this process with a consumer in front of it.
pub(crate) struct World {
    pub(crate) consumer: Consumer,
    pub(crate) claims: HcpClaims,
    /// The gateway's peers listener.
    pub(crate) port: u16,
    /// Anchors of the gateway's country.
    pub(crate) anchors: std::path::PathBuf,
    /// Certificates of the other countries.
    pub(crate) others: Vec<CountryPki>,
    /// Where clinicians' systems reach it, and who issues their tokens.
    pub(crate) clinic: Option<(std::net::SocketAddr, Issuer)>,
    task: tokio::task::JoinHandle<Result<(), String>>,
    dir: tempfile::TempDir,
}

impl World {
    /// The audit records of its spool.
    pub(crate) fn records(&self) -> Vec<String> {
        common::trail::content(self.dir.path()).records.into_iter().map(|(_, _, xml)| xml).collect()
    }

    /// Its consumer as an attacker of the attack set.
    pub(crate) fn attacker(&self) -> Attacker {
        let pki = CountryPki::open(self.anchors.parent().expect("a folder"), "NO").expect("a PKI");
        let (side, port) = (Side::Consumer, self.consumer.port);
        let neighbour = Neighbour::showing(&pki, "2.999.47", &self.anchors, "localhost", port, side.certificates());
        Attacker {
            side,
            pki,
            third: None,
            neighbour: neighbour.expect("a consumer"),
            third_neighbour: None,
            target: home("2.999.101"),
            patient: patient(),
            other: PatientId::new("4712", patient().root).expect("an id"),
            foreign_document: ("2.999.101.21.1".into(), "2.999.101.30.404".into()),
            blocked_document: None,
            opted_out: None,
        }
    }

    /// Its clinicians' system as an attacker.
    pub(crate) fn clinician(&self) -> Clinician<'_> {
        let (address, issuer) = self.clinic.as_ref().expect("a clinicians' side");
        let at = ("localhost", address.port());
        Clinician::new(issuer, (ISSUER, BASE), &self.anchors, at, patient()).expect("a system")
    }

    /// The rows with these ids are answered as the table says.
    pub(crate) async fn holds(&self, known: &KnownUrls, ids: &[&str]) {
        let clinician = self.clinician();
        let rows = clinician.rows(known).expect("rows");
        let rows: Vec<_> = rows.iter().filter(|row| ids.contains(&row.id.as_str())).collect();
        assert!(ids.iter().all(|id| rows.iter().any(|row| row.id == *id)), "{ids:?}: each has rows");
        for row in rows {
            let finding = clinician.run(row).await;
            assert!(finding.held, "{finding:?}");
        }
    }

    /// The same, read.
    pub(crate) fn trail(&self) -> common::trail::Records {
        common::trail::read(self.dir.path())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Countries by code and homeCommunityId, each with what it does.
pub(crate) struct Others {
    asking: Asking,
    dir: tempfile::TempDir,
    running: Vec<(CountryPki, String, Country)>,
    port: u16,
    lines: String,
    issuer: Option<Issuer>,
    /// Further lines of `[clinician]`.
    clinician: String,
    more: String,
}

impl Others {
    pub(crate) fn none() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Self {
            asking: Asking::create(dir.path()).expect("a PKI"),
            dir,
            running: Vec::new(),
            port: 0,
            lines: String::new(),
            issuer: None,
            clinician: String::new(),
            more: String::new(),
        }
    }

    /// With further sections of the configuration, by the country's PKI.
    pub(crate) async fn section(mut self, more: impl AsyncFnOnce(&CountryPki) -> String) -> Self {
        self.more += &more(&self.asking.pki).await;
        self
    }

    /// The gateway serves clinicians too.
    pub(crate) fn clinicians(self) -> Self {
        let issuer = Some(Issuer::create(&self.asking.dir).expect("an issuer"));
        Self { issuer, ..self }
    }

    /// With these lines in `[clinician]`.
    pub(crate) fn clinician_lines(self, lines: &str) -> Self {
        Self { clinician: lines.to_owned(), ..self }
    }

    pub(crate) async fn with(
        mut self,
        code: &str,
        home: &str,
        react: impl Fn(&Asked) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let pki = self.asking.other(code).expect("a PKI");
        let anchors = self.asking.pki.path("anchors.pem");
        let country = Country::start(&pki, &anchors, react).await.expect("starts");
        self.running.push((pki, home.to_owned(), country));
        self
    }

    /// The gateway listens for peers on a port that is known before, and has these lines for each of them.
    pub(crate) fn peers(self, port: u16, lines: String) -> Self {
        Self { port, lines, ..self }
    }

    /// Starts the gateway that knows them.
    pub(crate) async fn world(self, limits: &str) -> (World, Vec<Country>) {
        let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/no");
        let of = |(pki, home, country)| Known { pki, home, country, lines: self.lines.clone() };
        let known: Vec<Known<'_>> = self.running.iter().map(|(p, h, c)| of((p, h.clone(), c))).collect();
        let path = self.asking.write([self.port, 0, 0], limits, &policies, &known).expect("writes");
        let clinic = self.issuer.as_ref().map(|_| Issuer::section("pki")).unwrap_or_default();
        let clinic = clinic.replacen("[clinician]\n", &format!("[clinician]\n{}", self.clinician), 1);
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, text + &clinic + &self.more).expect("writes");
        let config = config::load(&path).expect("a configuration");
        let bound = app::bind(app::build(config).await.expect("builds")).await.expect("binds");
        let consumers = bound.consumers_address().expect("an address").port();
        let port = bound.peers_address().expect("an address").port();
        let clinic = bound.clinicians_address().zip(self.issuer);
        let task = tokio::spawn(bound.serve());
        let pki = &self.asking.pki;
        let anchors = pki.path("anchors.pem");
        let consumer = Consumer::new(pki, &anchors, AUDIENCE, consumers).expect("a consumer");
        let claims = Neighbour::new(pki, "2.999.47", &anchors, "localhost", port).expect("claims").claims();
        let (mut others, mut countries) = (Vec::new(), Vec::new());
        for (pki, _, country) in self.running {
            others.push(pki);
            countries.push(country);
        }
        (World { consumer, claims, port, anchors, others, clinic, task, dir: self.dir }, countries)
    }
}

pub(crate) fn patient() -> PatientId {
    PatientId::new("4711", Oid::parse(PATIENTS).expect("oid")).expect("an id")
}

pub(crate) fn home(of: &str) -> HomeCommunityId {
    HomeCommunityId::parse(of).expect("a home")
}

/// A document of the patient in a community.
pub(crate) fn entry(of: &str, number: u32) -> DocumentEntry {
    let code = |code: &str, system: &str| Coded::new(code, system, Some(code));
    DocumentEntry {
        entry_uuid: uuid::Uuid::new_v4().urn().to_string(),
        unique_id: format!("{of}.30.{number}"),
        home: Some(home(of)),
        repository_unique_id: Oid::parse(&format!("{of}.21.1")).expect("oid"),
        availability: Availability::Approved,
        entry_type: EntryType::Stable,
        patient_id: patient(),
        source_patient_id: Some(patient()),
        source_patient_info: Vec::new(),
        class_code: code("18748-4", "2.16.840.1.113883.6.1"),
        type_code: code("18748-4", "2.16.840.1.113883.6.1"),
        format_code: code("urn:ihe:rad:TEXT", "1.3.6.1.4.1.19376.1.2.3"),
        practice_setting: code("394914008", "2.16.840.1.113883.6.96"),
        facility_type: code("NO", "1.0.3166.1"),
        confidentiality: vec![code("N", "2.16.840.1.113883.5.25")],
        event_codes: Vec::new(),
        language: "nb-NO".into(),
        mime_type: "text/xml".into(),
        title: None,
        comments: None,
        creation_time: None,
        service_start: None,
        service_stop: None,
        hash: None,
        size: None,
        reference_ids: Vec::new(),
        authors: Vec::new(),
        legal_authenticator: None,
        extra_slots: Vec::new(),
    }
}

pub(crate) fn listed(entries: Vec<DocumentEntry>) -> Reaction {
    answered(Status::Success, Vec::new(), entries)
}

pub(crate) fn failed(code: &str) -> Reaction {
    answered(Status::Failure, vec![refusal(code)], Vec::new())
}

pub(crate) fn refusal(code: &str) -> RegistryError {
    RegistryError { code: code.into(), context: "no".into(), severity: Severity::Error, location: None }
}

pub(crate) fn answered(status: Status, errors: Vec<RegistryError>, entries: Vec<DocumentEntry>) -> Reaction {
    let objects = RegistryObjects::of_entries(entries);
    let response = QueryResponse { status, errors, objects, object_refs: Vec::new() };
    Reaction::Simple(actions::ITI38_RESPONSE, response.to_element())
}

/// A study of a community: what is asked for and what its files hold.
pub(crate) struct Held {
    pub(crate) study: Study,
    pub(crate) home: String,
    pub(crate) files: Vec<Bytes>,
}

impl Held {
    pub(crate) fn new(number: u32, home: &str, instances: u32) -> Self {
        Self::of_side(number, home, instances, 256)
    }

    /// With images of so many rows and columns.
    pub(crate) fn of_side(number: u32, home: &str, instances: u32, side: u16) -> Self {
        let study = Study {
            number,
            patient_id: "L1".into(),
            patient_name: "A^B".into(),
            birth_date: "19800101".into(),
            sex: "F".into(),
            description: "t".into(),
            instances,
            side,
        };
        let dir = tempfile::tempdir().expect("a folder");
        let files = study.write(dir.path()).expect("writes");
        let files = files.iter().map(|f| std::fs::read(f).expect("reads").into()).collect();
        Self { study, home: home.into(), files }
    }

    fn unit(&self, slice: u32) -> DocumentRequest {
        DocumentRequest {
            home: Some(home(&self.home)),
            repository: Oid::parse(&format!("{}.21.1", self.home)).expect("oid"),
            document: self.study.instance(slice),
        }
    }

    pub(crate) fn request(&self) -> StudyRequest {
        let instances = (1..=self.study.instances).map(|slice| self.unit(slice)).collect();
        let series = SeriesRequest { series: Uid::parse(&self.study.series()).expect("uid"), instances };
        StudyRequest { study: Uid::parse(&self.study.uid()).expect("uid"), series: vec![series] }
    }

    /// The instances as RAD-75 sends them.
    pub(crate) fn sent(&self) -> Reaction {
        let (mut documents, mut parts) = (Vec::new(), Vec::new());
        for (slice, bytes) in (1..).zip(&self.files) {
            let id = format!("{slice}@country");
            documents.push(DocumentResponse {
                request: self.unit(slice),
                new_document: None,
                media_type: "application/dicom".into(),
                content: Content::Include(id.clone()),
            });
            parts.push((id, "application/dicom", bytes.clone()));
        }
        let body = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents }.to_element();
        Reaction::Parts(actions::RAD75_RESPONSE, body, parts)
    }
}

pub(crate) fn images(studies: Vec<StudyRequest>) -> ImagingRequest {
    ImagingRequest { studies, transfer_syntaxes: vec![Uid::parse("1.2.840.10008.1.2.1").expect("uid")] }
}

/// All parts of an answer; none when it broke off.
pub(crate) async fn parts(answer: &mut Answer) -> Option<Vec<Bytes>> {
    let mut out = Vec::new();
    while answer.parts.next().await.ok()?.is_some() {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.parts.chunk().await.ok()? {
            bytes.extend_from_slice(&chunk);
        }
        out.push(Bytes::from(bytes));
    }
    Some(out)
}

pub(crate) fn second() -> Duration {
    Duration::from_secs(1)
}
