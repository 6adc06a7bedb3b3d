//! What hostile input costs a gateway (SE-05, SE-06, SE-07): each row of the attack set, from every side, against a gateway that is
//! a process of its own. Processors and memory are counted by the kernel, log and records by their files.

use std::fmt::Write as _;
use std::time::Duration;

use ncp_ihe::{
    DocumentRequest, HomeCommunityId, ImagingRequest, Oid, PatientId, RetrieveRequest, SeriesRequest, StudyRequest,
    Uid, actions,
};
use ncp_tests::attack::{Attacker, Clinician, with_slot};
use ncp_tests::issuer::{BASE, ISSUER};
use ncp_tests::neighbour::{Answer, Neighbour, XCA, XCAI};
use ncp_tests::pki::Error;
use ncp_tests::usage::Cost;

use crate::callers::consumer;
use crate::treating::Treating;
use crate::world::{HOME, PATIENT, REPOSITORY, World};

mod apart;
mod eight;

use apart::Apart;

const SOAP: &str = "application/soap+xml; charset=UTF-8";

/// What one row may cost: processor time, which no other work on the machine adds to, and memory. A build without optimisation
/// takes more of the first; that something grows faster than its input is seen all the same.
const CPU: Duration = Duration::from_secs(if cfg!(debug_assertions) { 4 } else { 1 });
const GROWN: u64 = 64 << 20;
/// Rows that may cost more: id, processor time, bytes, and why. At most three, none over 3 s or 256 MB.
const DEARER: [(&str, Duration, u64, &str); 0] = [];
/// Bytes of log and records, and of an answer, that a request may cause beside four times its own.
const BESIDE: u64 = 64 << 10;

/// What was measured of one row.
#[derive(Debug)]
struct Measured {
    id: String,
    input: String,
    /// Bytes that were sent, that were answered, and that are in log and records since.
    sent: u64,
    answered: u64,
    kept: u64,
    cost: Cost,
}

impl Measured {
    fn is_within(&self) -> bool {
        let dearer = DEARER.iter().find(|(id, ..)| *id == self.id);
        let (cpu, grown) = dearer.map_or((CPU, GROWN), |(_, cpu, grown, _)| (*cpu, *grown));
        let most = 4 * self.sent + BESIDE;
        self.cost.cpu <= cpu && self.cost.grown <= grown && self.kept <= most && self.answered <= most
    }
}

/// Measures rows of one side.
struct Meter<'a> {
    gateway: &'a Apart,
    rows: Vec<Measured>,
}

impl<'a> Meter<'a> {
    fn new(gateway: &'a Apart) -> Self {
        Self { gateway, rows: Vec::new() }
    }

    /// Does what a row does; the work ends with the bytes that were answered.
    async fn row(&mut self, id: &str, input: &str, sent: usize, work: impl Future<Output = usize>) {
        let before = self.gateway.kept();
        let (answered, cost) = self.gateway.watched().cost(work).await.expect("the gateway runs");
        let (sent, answered, kept) = (sent as u64, answered as u64, self.gateway.kept().saturating_sub(before));
        self.rows.push(Measured { id: id.to_owned(), input: input.to_owned(), sent, answered, kept, cost });
    }

    /// All messages of a peer or a national consumer.
    async fn attack(&mut self, attacker: &Attacker) {
        for row in attacker.rows().await.expect("rows") {
            let sent = row.messages.iter().map(|message| message.bytes.len()).sum();
            let work = async {
                let mut answered = 0;
                for message in &row.messages {
                    answered += length(&attacker.send(message).await);
                }
                answered
            };
            self.row(&row.id, &row.input, sent, work).await;
        }
    }

    /// Writes the table, says what was dearest, and holds each row to its bounds.
    fn conclude(self, side: &str) {
        const { assert!(DEARER.len() <= 3) };
        assert!(DEARER.iter().all(|(_, cpu, grown, why)| cpu.as_secs() <= 3 && *grown <= 256 << 20 && !why.is_empty()));
        let mut text = String::from(
            "| id | input | CPU ms | memory MB | sent | answered | log and records |\n|---|---|---|---|---|---|---|\n",
        );
        for Measured { id, input, sent, answered, kept, cost } in &self.rows {
            let input = input.replace('|', "\\|").replace(['\n', '\r'], " ");
            let (cpu, grown) = (cost.cpu.as_millis(), cost.grown >> 20);
            let _ = writeln!(text, "| {id} | {input} | {cpu} | {grown} | {sent} | {answered} | {kept} |");
        }
        println!("{text}");
        let file = crate::report_folder().join(format!("abuse-cost-{side}.md"));
        std::fs::write(&file, text).expect("writes");
        let dearest = self.rows.iter().max_by_key(|row| row.cost.cpu).expect("rows");
        let largest = self.rows.iter().max_by_key(|row| row.cost.grown).expect("rows");
        println!(
            "{} rows of {side}, in {}: at most {} ms of processors ({}) and {} MB ({})",
            self.rows.len(),
            file.display(),
            dearest.cost.cpu.as_millis(),
            dearest.id,
            largest.cost.grown >> 20,
            largest.id
        );
        let wrong: Vec<_> = self.rows.iter().filter(|row| !row.is_within()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// Bytes of an answer's message; its parts are documents, which were asked for.
fn length(answer: &Result<Answer, Error>) -> usize {
    answer.as_ref().map_or(0, |answer| answer.envelope.len())
}

/// A query with good assertions, one byte of the first of which was changed, and elements in front of them.
async fn with_elements(neighbour: &Neighbour, elements: &str) -> Vec<u8> {
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let body = Neighbour::find_documents(&patient).to_element();
    let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
    let message = String::from_utf8(message).expect("text").replacen("Radiologist on duty", "Radiologist on duly", 1);
    let at = message.find("Security").and_then(|at| Some(at + message[at..].find('>')? + 1)).expect("a header");
    format!("{}<x xmlns=\"urn:x\">{elements}</x>{}", &message[..at], &message[at..]).into_bytes()
}

/// The same element again and again, with so many attributes.
fn elements(count: usize, attributes: usize) -> String {
    let attributes: String = (0..attributes)
        .map(|n| format!(" {}{}=\"\"", char::from(b'a' + (n / 26) as u8), char::from(b'a' + (n % 26) as u8)))
        .collect();
    format!("<a{attributes}/>").repeat(count)
}

/// SE-07, and rows beside the attack set whose cost grew faster than their length.
async fn further(neighbour: &Neighbour) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let codes: Vec<String> = (0..999).map(|n| format!("'c{n}^^2.16.840.1.113883.6.96'")).collect();
    let mut query = Neighbour::find_documents(&patient).to_element();
    for list in codes.chunks(50) {
        query = with_slot(query, &format!("({})", list.join(",")));
    }
    let query = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, query);
    let query =
        String::from_utf8(query).expect("text").replace("name=\"$x\"", "name=\"$XDSDocumentEntryEventCodeList\"");
    let many = async |count, attributes| with_elements(neighbour, &elements(count, attributes)).await;
    vec![
        ("SE-07", "2,500 elements of 200 attributes before the assertions", many(2_500, 200).await),
        ("SE-07", "11,000 elements of 200 attributes before the assertions", many(11_000, 200).await),
        ("SE-07", "190,000 empty elements before the assertions", many(190_000, 0).await),
        ("SE-05", "a query with a thousand codes in twenty lists", query.into_bytes()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn se_05_se_07_each_row_of_a_peer_costs_little() {
    let world = World::new();
    let gateway = Apart::start(&world.config("cost", |text| text), "spool-cost");
    let attacker = world.attacker_of(gateway.peers);
    let neighbour = &attacker.neighbour;
    // What a first exchange allocates for good is no row's.
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    neighbour.documents(&patient).await.expect("served");

    let mut meter = Meter::new(&gateway);
    meter.attack(&attacker).await;
    for (id, input, message) in further(neighbour).await {
        let sent = message.len();
        meter.row(id, input, sent, async { length(&neighbour.post(XCA, SOAP, message).await) }).await;
    }
    se_06_what_is_answered_item_by_item(&mut meter, neighbour).await;
    neighbour.documents(&patient).await.expect("served as before");
    meter.conclude("peers");
}

/// SE-06: requests of many items that do not exist. Their answers name each.
async fn se_06_what_is_answered_item_by_item(meter: &mut Meter<'_>, neighbour: &Neighbour) {
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let item = |document: String| DocumentRequest {
        home: HomeCommunityId::parse(HOME).ok(),
        repository: Oid::parse(REPOSITORY).expect("an OID"),
        document,
    };
    let uid = |text: String| Uid::parse(&text).expect("a UID");
    for count in [1, 30, 700] {
        let documents = (0..count).map(|n| item(format!("2.999.404.{n}"))).collect();
        let series = |n| SeriesRequest {
            series: uid(format!("2.999.404.{n}.1")),
            instances: vec![item(format!("2.999.404.{n}.1.1"))],
        };
        let study = |n| StudyRequest { study: uid(format!("2.999.404.{n}")), series: vec![series(n)] };
        let imaging = ImagingRequest {
            studies: (0..count).map(study).collect(),
            transfer_syntaxes: vec![uid("1.2.840.10008.1.2.1".into())],
        };
        for (path, action, body) in [
            (XCA, actions::ITI39_REQUEST, RetrieveRequest { documents }.to_element()),
            (XCAI, actions::RAD75_REQUEST, imaging.to_element()),
        ] {
            let message = neighbour.message(action, path, &assertions, body);
            let (sent, input) = (message.len(), format!("{action} of {count} items that do not exist"));
            meter.row("SE-06", &input, sent, async { length(&neighbour.send(action, path, message).await) }).await;
        }
    }
}

/// The sides of the country of treatment: its national consumers and its clinicians' systems.
#[tokio::test(flavor = "multi_thread")]
async fn se_05_se_07_each_row_of_a_caller_costs_little() {
    let world = World::new();
    crate::world::study(1, 2).write(&world.path("data/dicom/1")).expect("a study");
    let norway = world.start("asked", |text| text).await;
    let treating = Treating::new(&world, norway.address.port());
    let gateway = Apart::start(treating.config(), "spool-treating");

    let attacker = consumer(&world, &norway, gateway.consumers);
    let mut meter = Meter::new(&gateway);
    meter.attack(&attacker).await;
    meter.conclude("consumers");

    let (anchors, patient) = (world.path("fi/anchors.pem"), PatientId::parse_cx(PATIENT).expect("a CX"));
    let at = ("localhost", gateway.clinic);
    let clinician = Clinician::new(treating.issuer(), (ISSUER, BASE), &anchors, at, patient).expect("a system");
    let known = clinician.learn().await.expect("the good way");
    let mut meter = Meter::new(&gateway);
    for row in clinician.rows(&known).expect("rows") {
        let work = async { clinician.send(&row.message).await.map_or(0, |heard| heard.len()) };
        meter.row(&row.id, &row.input, row.message.len(), work).await;
    }
    clinician.learn().await.expect("the good way again");
    meter.conclude("clinicians");
    norway.stop().await;
}
