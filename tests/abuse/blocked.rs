//! Blocked equals absent, whatever is asked: the same request to a gateway that holds something the patient has blocked, and
//! to one that has never had it. And how long the answer takes does not tell either.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use ncp_ihe::{
    Availability, ContentFilter, CrossGatewayQueryRequest, DocumentRequest, FindDocuments, GetAll, HomeCommunityId,
    ImagingRequest, ObjectIds, Oid, PatientId, QueryResponse, RetrieveRequest, ReturnType, SeriesRequest, StoredQuery,
    StudyRequest, Uid, actions,
};
use ncp_saml::SignedAssertion;
use ncp_tests::attack::{Finding, report};
use ncp_tests::neighbour::{Neighbour, XCA, XCAI};
use ncp_tests::synth::Study;
use ncp_xml::Element;

use crate::world::{Gateway, HOME, PATIENT, REPOSITORY, World};

const REPORT: &str = "2.999.47.30.1";
const BLOCKED: &str = "2.999.47.30.2";

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

fn home() -> Option<HomeCommunityId> {
    HomeCommunityId::parse(HOME).ok()
}

fn study(number: u32) -> Study {
    crate::world::study(number, 2)
}

/// A folder, a submission set and an association, with or without what is of the blocked report.
fn registry(with_blocked: bool) -> String {
    let members = if with_blocked { format!("\"{REPORT}\", \"{BLOCKED}\"") } else { format!("\"{REPORT}\"") };
    let group = |kind: &str, id: &str, members: &str| {
        format!(
            "[[{kind}]]\nunique_id = \"2.999.47.4{id}\"\npatient = \"{PATIENT}\"\nmembers = [{members}]\n{}\n",
            if kind == "folder" {
                "codes = [{ code = \"imaging\", system = \"2.999.47.50\" }]\nupdated = \"2026-01-03T10:00:00Z\""
            } else {
                "source_id = \"2.999.47.42\"\nsubmitted = \"2026-01-03T10:00:00Z\"\n\
                 content_type = { code = \"18748-4\", system = \"2.16.840.1.113883.6.1\" }"
            }
        )
    };
    let mut text =
        [group("folder", "1.1", &members), group("submission_set", "0.1", &format!("\"{REPORT}\""))].concat();
    if with_blocked {
        text += &group("folder", "1.2", &format!("\"{BLOCKED}\""));
        text += &group("submission_set", "0.2", &format!("\"{BLOCKED}\""));
        text += &format!("[[association]]\nkind = \"APND\"\nsource = \"{REPORT}\"\ntarget = \"{BLOCKED}\"\n");
    }
    text
}

/// A world with two studies, the second closed with the second report, or without both.
fn world(with_blocked: bool) -> World {
    let world = World::new();
    std::fs::write(world.path("data/registry.toml"), registry(with_blocked)).expect("writes");
    study(1).write(&world.path("data/dicom/1")).expect("a study");
    let closed = |unit: &str| format!("[[block]]\npatient = \"{PATIENT}\"\ndocument = \"{unit}\"\n");
    let mut directives = String::new();
    if with_blocked {
        study(2).write(&world.path("data/dicom/2")).expect("a study");
        directives = [closed(BLOCKED), closed(&study(2).uid())].concat();
    } else {
        std::fs::remove_file(world.path("data/reports/rg.toml")).expect("removes");
    }
    std::fs::write(world.path("data/consent.toml"), directives).expect("writes");
    world
}

/// Status, root and parts of an answer, with UUIDs replaced.
async fn seen(world: &World, gateway: &Gateway, action: &str, body: Element) -> String {
    let neighbour = world.neighbour("fi", gateway);
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let path = if action == actions::RAD75_REQUEST { XCAI } else { XCA };
    let mut answer = neighbour.call(action, path, &assertions, body).await.expect("an answer");
    let mut out = format!("{}\n{}\n", answer.status, without_uuids(&String::from_utf8_lossy(&answer.envelope)));
    while let Some(head) = answer.parts.next().await.expect("a part") {
        let mut bytes = 0;
        while let Some(chunk) = answer.parts.chunk().await.expect("a piece") {
            bytes += chunk.len();
        }
        out += &format!("{} {bytes}\n", without_uuids(&head.content_id));
    }
    out
}

/// Entry UUIDs are made of what they name and stay; message ids and references are random and go.
pub(crate) fn without_uuids(text: &str) -> String {
    let hex = |b: u8| b.is_ascii_hexdigit();
    let is_uuid =
        |w: &[u8]| w.iter().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { *b == b'-' } else { hex(*b) });
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match bytes.get(at..at + 36) {
            // Version 4: random.
            Some(word) if is_uuid(word) && word[14] == b'4' => {
                out.extend_from_slice(b"UUID");
                at += 36;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn documents(ids: &[&str]) -> Element {
    let request = |id: &&str| DocumentRequest {
        home: home(),
        repository: Oid::parse(REPOSITORY).expect("an OID"),
        document: (*id).to_owned(),
    };
    RetrieveRequest { documents: ids.iter().map(request).collect() }.to_element()
}

fn images(numbers: &[u32]) -> Element {
    let studies = numbers.iter().map(|number| {
        let study = study(*number);
        let instances = (1..=2).map(|slice| DocumentRequest {
            home: home(),
            repository: Oid::parse(REPOSITORY).expect("an OID"),
            document: study.instance(slice),
        });
        let series = Uid::parse(&study.series()).expect("a UID");
        let series = vec![SeriesRequest { series, instances: instances.collect() }];
        StudyRequest { study: Uid::parse(&study.uid()).expect("a UID"), series }
    });
    let transfer_syntaxes = vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")];
    ImagingRequest { studies: studies.collect(), transfer_syntaxes }.to_element()
}

/// Every way to ask about the blocked report, about what is of it, and about the blocked study.
fn requests(uuid: &str) -> Vec<(String, &'static str, Element)> {
    use StoredQuery as Q;
    let all = || vec![Availability::Approved, Availability::Deprecated];
    let unique = |ids: &[&str]| ObjectIds::UniqueIds(ids.iter().map(|id| (*id).to_owned()).collect());
    let uuids = || vec![uuid.to_owned()];
    let related = |document| Q::GetRelatedDocuments {
        document,
        association_types: vec!["urn:ihe:iti:2007:AssociationType:APND".into()],
        contents: ContentFilter::default(),
    };
    let queries = vec![
        Q::FindDocuments(FindDocuments::of_patient(patient())),
        Q::GetAll(GetAll {
            patient_id: patient(),
            document_status: all(),
            set_status: all(),
            folder_status: all(),
            contents: ContentFilter::default(),
        }),
        Q::GetDocuments(unique(&[BLOCKED])),
        Q::GetDocuments(unique(&[REPORT, BLOCKED])),
        Q::GetDocuments(ObjectIds::EntryUuids(uuids())),
        Q::GetDocumentsAndAssociations(unique(&[BLOCKED])),
        Q::GetDocumentsAndAssociations(unique(&[REPORT, BLOCKED])),
        related(unique(&[BLOCKED])),
        related(unique(&[REPORT])),
        Q::GetFoldersForDocument(unique(&[BLOCKED])),
        Q::GetFoldersForDocument(unique(&[REPORT])),
        Q::GetFolders(unique(&["2.999.47.41.1", "2.999.47.41.2"])),
        Q::GetFolderAndContents { folder: unique(&["2.999.47.41.1"]), contents: ContentFilter::default() },
        Q::GetFolderAndContents { folder: unique(&["2.999.47.41.2"]), contents: ContentFilter::default() },
        Q::GetSubmissionSetAndContents { set: unique(&["2.999.47.40.2"]), contents: ContentFilter::default() },
        Q::GetSubmissionSets(uuids()),
        Q::GetAssociations(uuids()),
    ];
    let mut out = Vec::new();
    for (number, query) in queries.into_iter().enumerate() {
        for return_type in [ReturnType::LeafClass, ReturnType::ObjectRef] {
            let request = CrossGatewayQueryRequest { home: home(), return_type, query: query.clone() };
            out.push((
                format!("{number} {} {return_type:?}", query.id()),
                actions::ITI38_REQUEST,
                request.to_element(),
            ));
        }
    }
    for ids in [&[BLOCKED][..], &[REPORT, BLOCKED], &["2.999.47.30.2^PIVOT"]] {
        out.push((format!("ITI-39 {ids:?}"), actions::ITI39_REQUEST, documents(ids)));
    }
    for numbers in [&[2][..], &[1, 2]] {
        out.push((format!("RAD-75 {numbers:?}"), actions::RAD75_REQUEST, images(numbers)));
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_does_not_tell() {
    // What the blocked report's entryUUID would be is learned before it is blocked.
    let open = World::new();
    std::fs::write(open.path("data/consent.toml"), "").expect("writes");
    let gateway = open.start("open", |text| text).await;
    let listed: QueryResponse = open.neighbour("fi", &gateway).documents(&patient()).await.expect("a list");
    let entry = listed.objects.entries.iter().find(|e| e.unique_id == BLOCKED).expect("it is there");
    let uuid = entry.entry_uuid.clone();
    gateway.stop().await;

    let (with, without) = (world(true), world(false));
    let closed = with.start("closed", |text| text).await;
    let absent = without.start("absent", |text| text).await;
    let mut findings = Vec::new();
    for (name, action, body) in requests(&uuid) {
        let (one, other) =
            (seen(&with, &closed, action, body.clone()).await, seen(&without, &absent, action, body).await);
        let got = if one == other { "as absent".to_owned() } else { format!("told apart:\n{one}\n{other}") };
        findings.push(Finding::new("T-CNS-1", &name, &["as absent"], got));
    }
    // The comparison compares something.
    let good = seen(&with, &closed, actions::ITI39_REQUEST, documents(&[REPORT])).await;
    assert_ne!(good, seen(&with, &closed, actions::ITI39_REQUEST, documents(&[BLOCKED])).await);
    let good = seen(&with, &closed, actions::RAD75_REQUEST, images(&[1])).await;
    assert_ne!(good, seen(&with, &closed, actions::RAD75_REQUEST, images(&[2])).await);
    closed.stop().await;
    absent.stop().await;
    std::fs::write(crate::report_folder().join("abuse-blocked.md"), report("blocked", &findings)).expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One kept connection.
pub(crate) struct Line {
    sender: SendRequest<Full<Bytes>>,
}

impl Line {
    pub(crate) async fn open(neighbour: &Neighbour) -> Self {
        let stream = neighbour.open().await.expect("connects");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self { sender }
    }

    /// Time from the request to the last byte of its answer, and the answer.
    pub(crate) async fn ask(&mut self, path: &str, content_type: &str, message: Vec<u8>) -> (Duration, Bytes) {
        let request = Request::post(path).header(header::HOST, "localhost").header(header::CONTENT_TYPE, content_type);
        let request = request.body(Full::new(Bytes::from(message))).expect("a request");
        self.sender.ready().await.expect("stays open");
        let began = Instant::now();
        let answer = self.sender.send_request(request).await.expect("an answer");
        assert!(answer.status().is_success());
        let body = answer.into_body().collect().await.expect("whole");
        (began.elapsed(), body.to_bytes())
    }
}

/// Share of pairs in which a threshold tells the one from the other (area under the curve, Mann-Whitney), and the lower
/// end of its 95 % interval (Hanley and McNeil 1982). Which is the slower side does not matter to a listener.
fn area(blocked: &[Duration], absent: &[Duration]) -> (f64, f64) {
    let mut sorted = absent.to_vec();
    sorted.sort_unstable();
    let (n, m) = (blocked.len() as f64, absent.len() as f64);
    let wins: f64 = blocked
        .iter()
        .map(|time| {
            let (below, upto) = (sorted.partition_point(|t| t < time), sorted.partition_point(|t| t <= time));
            below as f64 + (upto - below) as f64 / 2.0
        })
        .sum();
    let area = (wins / (n * m)).max(1.0 - wins / (n * m));
    let (q1, q2) = (area / (2.0 - area), 2.0 * area * area / (1.0 + area));
    let square = area * area;
    let variance = (area * (1.0 - area) + (n - 1.0) * (q1 - square) + (m - 1.0) * (q2 - square)) / (n * m);
    (area, area - 1.96 * variance.sqrt())
}

#[test]
fn the_measure_tells_what_differs() {
    let times =
        |shift: u64| (0..500).map(|n| Duration::from_micros(1000 + (n * 7919) % 997 + shift)).collect::<Vec<_>>();
    assert!(area(&times(0), &times(0)).1 < 0.55);
    assert!(area(&times(200), &times(0)).1 > 0.55 && area(&times(0), &times(200)).1 > 0.55);
}

/// What is asked, and the body that asks for what is blocked and for what is absent.
struct Pair {
    name: &'static str,
    action: &'static str,
    path: &'static str,
    bodies: [Element; 2],
}

fn pairs() -> [Pair; 3] {
    let query = |id: &str| {
        let query = StoredQuery::GetDocuments(ObjectIds::UniqueIds(vec![id.to_owned()]));
        CrossGatewayQueryRequest { home: home(), return_type: ReturnType::LeafClass, query }.to_element()
    };
    let absent = "2.999.47.30.7";
    [
        ("ITI-38", actions::ITI38_REQUEST, XCA, [query(BLOCKED), query(absent)]),
        ("ITI-39", actions::ITI39_REQUEST, XCA, [documents(&[BLOCKED]), documents(&[absent])]),
        ("RAD-75", actions::RAD75_REQUEST, XCAI, [images(&[2]), images(&[7])]),
    ]
    .map(|(name, action, path, bodies)| Pair { name, action, path, bodies })
}

impl Pair {
    /// Asks for the one or the other in a fresh message.
    async fn ask(
        &self,
        line: &mut Line,
        neighbour: &Neighbour,
        assertions: &[SignedAssertion],
        side: usize,
    ) -> Duration {
        let message = neighbour.message(self.action, self.path, assertions, self.bodies[side].clone());
        if self.action == actions::ITI38_REQUEST {
            return line.ask(self.path, "application/soap+xml; charset=UTF-8", message).await.0;
        }
        let (content_type, body) = ncp_soap::mtom_request(message);
        let bytes = body.collect().await.expect("bytes").to_bytes();
        line.ask(self.path, content_type.to_str().expect("text"), bytes.to_vec()).await.0
    }
}

async fn unbounded(world: &World, name: &str) -> Gateway {
    let rate = "[rate]\npatient = 0\npoint_of_care = 0\nprofessional = 0\npeer = 0\n";
    world.start(name, |text| format!("{text}\n{rate}")).await
}

/// A decision is most of what the two could differ by.
#[tokio::test(flavor = "multi_thread")]
async fn as_much_is_decided() {
    let world = world(true);
    let gateway = unbounded(&world, "decided").await;
    let neighbour = world.neighbour("fi", &gateway);
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let mut line = Line::open(&neighbour).await;
    for pair in pairs() {
        let mut made = [0; 2];
        for (side, made) in made.iter_mut().enumerate() {
            // A reload in between begins to count anew.
            *made = loop {
                let snapshot = gateway.app.snapshot.load_full();
                let before = snapshot.policy.engine().decisions();
                pair.ask(&mut line, &neighbour, &assertions, side).await;
                if gateway.app.snapshot.load().generation == snapshot.generation {
                    break snapshot.policy.engine().decisions() - before;
                }
            };
        }
        assert!(made[0] > 1 && made[0] == made[1], "{}: decisions for blocked and for absent: {made:?}", pair.name);
    }
    gateway.stop().await;
}

/// Interleaved pairs over one connection, the order of each by chance. `NCP_TIMING_PAIRS` says how many: `tests/timing.sh`
/// asks for 10,000.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout)]
async fn the_time_does_not_tell() {
    let count = std::env::var("NCP_TIMING_PAIRS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let world = world(true);
    let gateway = unbounded(&world, "timing").await;
    let neighbour = world.neighbour("fi", &gateway);
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let mut line = Line::open(&neighbour).await;
    for pair in pairs() {
        let mut times = [Vec::with_capacity(count), Vec::with_capacity(count)];
        for turn in 0..count + 20 {
            let mut coin = [0];
            openssl::rand::rand_bytes(&mut coin).expect("a coin");
            let first = usize::from(coin[0] & 1);
            for side in [first, 1 - first] {
                let took = pair.ask(&mut line, &neighbour, &assertions, side).await;
                // The first ones warm up.
                if turn >= 20 {
                    times[side].push(took);
                }
            }
        }
        let (name, (area, bound)) = (pair.name, area(&times[0], &times[1]));
        println!(
            "{{\"timing\":\"{name}\",\"pairs\":{count},\"auc\":{area:.4},\"lower_95\":{bound:.4},\"bound\":0.55}}"
        );
        assert!(bound <= 0.55, "{name}: blocked and absent are told apart by time: AUC {area:.3}, at least {bound:.3}");
    }
    gateway.stop().await;
}
