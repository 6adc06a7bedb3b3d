//! NCP-A with a terminology service that answers, keeps silent, or is gone.

use ncp_ihe::{Coded, DocumentEntry, FindDocuments, QueryResponse, ReturnType, Severity, Status, StoredQuery};
use ncp_proto::translation::translation_server::TranslationServer;
use ncp_tests::pki::CountryPki;
use ncp_tls::TlsFiles;
use ncp_translation::cache::Cache;
use ncp_translation::counters::Counters;
use ncp_translation::service::Service;
use ncp_translation::snapshot::Snapshot;
use ncp_translation::store::Store;
use tokio::net::TcpListener;

use crate::transactions::{home, named, query};
use crate::world::{World, patient};

const DCM: &str = "1.2.840.10008.2.16.4";
const SNOMED: &str = "2.16.840.1.113883.6.96";
const LOINC: &str = "2.16.840.1.113883.6.1";
const NCRP: &str = "2.16.578.1.12.4.1.1.7270";
/// The report in national codes, and its pivot.
const REPORT: [&str; 2] = ["2.999.47.30.1", "2.999.47.30.1^PIVOT"];

fn section(pki: &CountryPki, port: u16) -> String {
    let path = |name: &str| pki.path(name).display().to_string();
    format!(
        "\n[translation]\nendpoint = \"https://127.0.0.1:{port}\"\nserver_name = \"localhost\"\ndeadline = \"1s\"\ntls = {{ certificate = \"{}\", key = \"{}\", anchors = \"{}\" }}\n",
        path("internal-client.pem"),
        path("internal-client.key"),
        path("anchors.pem")
    )
}

/// The service with the shipped maps, in this process.
async fn serving(pki: &CountryPki) -> String {
    let maps = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../translation/maps");
    let built = ncp_translation::load::build(&[maps]).expect("the shipped maps build");
    let store = Store::new(Snapshot::built(built).expect("a snapshot")).expect("passes its self-test");
    let files = TlsFiles {
        cert_chain: pki.path("internal-server.pem"),
        key: pki.path("internal-server.key"),
        anchors: pki.path("anchors.pem"),
        crls: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let incoming = ncp_tls::incoming(listener, files.mutual_acceptor(b"\x02h2").expect("tls"));
    let service = TranslationServer::new(Service::new(store, Counters::default(), Cache::none()));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    section(pki, port)
}

/// A service that takes connections and never says a word.
async fn silent(pki: &CountryPki) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    section(pki, port)
}

/// A service that is not there.
async fn gone(pki: &CountryPki) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    section(pki, listener.local_addr().expect("an address").port())
}

/// Documents with an event code among these, for each list.
async fn with_events(world: &World, events: &[&[(&str, &str)]]) -> QueryResponse {
    let list = |codes: &&[(&str, &str)]| codes.iter().map(|(code, system)| Coded::new(code, system, None)).collect();
    let event_codes = events.iter().map(list).collect();
    let find = FindDocuments { event_codes, ..FindDocuments::of_patient(patient()) };
    query(world, Some(home()), ReturnType::LeafClass, StoredQuery::FindDocuments(find)).await
}

fn manifests(answer: &QueryResponse) -> usize {
    answer.objects.entries.iter().filter(|e| e.mime_type == "application/dicom").count()
}

fn reports(answer: &QueryResponse) -> Vec<&str> {
    named(answer).into_iter().filter(|id| REPORT.contains(id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_in_european_codes_find_what_is_coded_nationally() {
    let world = World::start_with(serving).await;
    // Asked for; whether the report is found; how many manifests are, which carry a modality and no procedure.
    type Row<'a> = (&'a [&'a [(&'a str, &'a str)]], bool, usize);
    let table: [Row<'_>; 10] = [
        (&[], true, 2),
        (&[&[("SSC0AD", NCRP)]], true, 0),
        (&[&[("169069000", SNOMED)]], true, 0),
        (&[&[("24627-2", LOINC)]], true, 0),
        (&[&[("CT", DCM)]], true, 2),
        (&[&[("MR", DCM)]], false, 0),
        (&[&[("67734004", SNOMED)]], true, 0),
        (&[&[("774007", SNOMED)]], false, 0),
        (&[&[("CT", DCM)], &[("67734004", SNOMED)]], true, 0),
        // Nothing national is known of it: a code that fits nothing is not "no filter".
        (&[&[("99999-9", LOINC)]], false, 0),
    ];
    for (asked, report, count) in table {
        let answer = with_events(&world, asked).await;
        assert_eq!((answer.status, answer.errors.len()), (Status::Success, 0), "{asked:?}: {:?}", answer.errors);
        let expected: &[&str] = if report { &REPORT } else { &[] };
        assert_eq!((reports(&answer), manifests(&answer)), (expected.to_vec(), count), "{asked:?}");
    }
    let of_class = FindDocuments {
        class_codes: vec![Coded::new("18748-4", LOINC, None)],
        practice_settings: vec![Coded::new("394914008", SNOMED, None)],
        ..FindDocuments::of_patient(patient())
    };
    let answer = query(&world, Some(home()), ReturnType::LeafClass, StoredQuery::FindDocuments(of_class)).await;
    assert_eq!((reports(&answer), manifests(&answer)), (REPORT.to_vec(), 2));
    let entry =
        |id: &str| -> &DocumentEntry { answer.objects.entries.iter().find(|e| e.unique_id == id).expect("is found") };
    let report = entry(REPORT[0]);
    assert_eq!((report.class_code.code.as_str(), report.practice_setting.code.as_str()), ("18748-4", "394914008"));
    let slot = |name: &str| report.extra_slots.iter().find(|(n, _)| n == name).map(|(_, values)| values[0].clone());
    assert_eq!(slot("urn:ncp:national:classCode").as_deref(), Some("E00-1^^2.16.578.1.12.4.1.1.9602"));
    assert_eq!(slot("urn:ncp:terminology-snapshot").map(|digest| digest.len()), Some(64));
    let events: Vec<&str> = report.event_codes.iter().map(|c| c.code.as_str()).collect();
    assert!(events.contains(&"SSC0AD") && events.len() > 1, "the national code stays beside the European: {events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_originals_go_out_with_a_warning_and_no_filter_hides_what_it_cannot_read() {
    let worlds = [World::start_with(silent).await, World::start_with(gone).await];
    for world in worlds {
        for (asked, count) in [(&[][..], 2), (&[&[("CT", DCM)][..]][..], 2), (&[&[("MR", DCM)][..]][..], 0)] {
            let answer = with_events(&world, asked).await;
            assert_eq!(answer.status, Status::Success, "{asked:?}");
            assert!(answer.errors.iter().all(|e| e.severity == Severity::Warning), "{:?}", answer.errors);
            assert_eq!(answer.errors.len(), 1, "said so: {:?}", answer.errors);
            assert_eq!((reports(&answer), manifests(&answer)), (REPORT.to_vec(), count), "{asked:?}");
            let national = answer.objects.entries.iter().find(|e| e.unique_id == REPORT[0]).expect("the report");
            assert_eq!(national.class_code.code, "E00-1");
        }
    }
}
