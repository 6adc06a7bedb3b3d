//! `ncp bench terminology`: look-ups against a plain hash table with the same keys, gRPC against an echo of the same
//! messages over the same TLS, whole documents, start and memory.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ncp_proto::translation::translation_client::TranslationClient;
use ncp_proto::translation::translation_server::{Translation, TranslationServer};
use ncp_proto::translation::{self as pb};
use ncp_tls::TlsFiles;
use ncp_translation::cache::Cache;
use ncp_translation::counters::Counters;
use ncp_translation::document::{self, Task};
use ncp_translation::relationship::Allowed;
use ncp_translation::service::Service;
use ncp_translation::snapshot::{Snapshot, System};
use ncp_translation::store::Store;
use ncp_translation::{generate, load};
use serde_json::json;
use tonic::{Request, Response, Status, Streaming};

use crate::Error;

const H2: &[u8] = b"\x02h2";
/// How long one figure is measured.
const SPAN: Duration = Duration::from_millis(1500);

/// Prints the figures.
pub(crate) async fn run(sources: &Path, full: bool, dir: &Path) -> Result<(), Error> {
    let maps = sources.join("translation/maps");
    let nordic = Snapshot::built(built(&[maps])?)?;
    lookups("nordic maps", &nordic);
    document(&nordic)?;
    memory("nordic maps")?;
    grpc(Store::new(nordic)?, dir).await?;
    let size = if full {
        generate::Size::FULL
    } else {
        generate::Size { concepts: 20_000, loinc: 10_000, ..generate::Size::FULL }
    };
    let folder = dir.join("synthetic");
    generate::write(&folder, size)?;
    let snapshots = dir.join("snapshots");
    let path = built(std::slice::from_ref(&folder))?.save(&snapshots)?;
    // The next release: one more list.
    let more = dir.join("more");
    std::fs::create_dir_all(&more)?;
    std::fs::write(
        more.join("list.toml"),
        "system = \"urn:oid:2.999.1\"\n[columns]\ncode = \"code\"\ndisplay = \"name\"\n",
    )?;
    std::fs::write(more.join("list.csv"), "code,name\nA,a\n")?;
    let next = built(&[folder, more])?.save(&snapshots)?;
    crate::bench_swap::run(dir, &snapshots, [&path, &next], full).await?;
    let began = Instant::now();
    let synthetic = Snapshot::open(&path)?;
    let opened = began.elapsed();
    ncp_translation::store::self_test(&synthetic)?;
    let line = json!({"bench": "terminology", "what": "start", "full_size": full, "bytes": std::fs::metadata(&path)?.len(),
        "opened_and_verified_ms": opened.as_millis() as u64, "self_tested_ms": began.elapsed().as_millis() as u64});
    println!("{line}");
    lookups("1,000,000 synthetic rows", &synthetic);
    Ok(())
}

fn built(inputs: &[std::path::PathBuf]) -> Result<ncp_translation::build::Built, Error> {
    load::build(inputs).map_err(|p| p.first().map_or_else(String::new, ToString::to_string).into())
}

/// Peak resident memory of this process, which also holds the hash tables and, for the synthetic rows, the builder.
fn memory(what: &str) -> Result<(), Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    println!("{}", json!({"bench": "terminology", "what": "memory", "data": what, "rss": kib}));
    Ok(())
}

/// Nanoseconds of one call, over keys one after the other, from the second time on.
fn nanoseconds<K>(keys: &[K], mut each: impl FnMut(&K)) -> f64 {
    keys.iter().for_each(&mut each);
    let (began, mut calls) = (Instant::now(), 0u64);
    let mut all = keys.iter().cycle();
    while began.elapsed() < SPAN {
        all.by_ref().take(10_000).for_each(&mut each);
        calls += 10_000;
    }
    began.elapsed().as_nanos() as f64 / calls as f64
}

/// In an order that caches cannot guess, and always the same.
fn shuffled<T>(mut items: Vec<T>) -> Vec<T> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for last in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(last, (state >> 33) as usize % (last + 1));
    }
    items
}

/// What both sides do with a target: it is looked at, not only pointed to.
fn read<S>(system: S, code: &str) -> (S, Option<u8>) {
    (system, code.bytes().next_back())
}

fn lookups(what: &str, snapshot: &Snapshot) {
    let mut table: HashMap<(u32, String), (u32, String)> = HashMap::new();
    let mut order: Vec<(System, u32, &str)> = Vec::new();
    let numbers: HashMap<String, u32> =
        snapshot.systems().zip(0..).map(|(s, n)| (snapshot.system_name(s).to_owned(), n)).collect();
    for row in snapshot.all_rows() {
        let Some(target) = row.target else { continue };
        let number = |c| numbers[snapshot.system_name(snapshot.system_of(c))];
        let (system, code) = (number(row.source), snapshot.code(row.source));
        table.entry((system, code.to_owned())).or_insert_with(|| {
            order.push((snapshot.system_of(row.source), system, code));
            (number(target), snapshot.code(target).to_owned())
        });
    }
    // What is asked for comes in its own memory, one key after the other, as from a message.
    let keys: Vec<(System, u32, String)> =
        shuffled(order).into_iter().map(|(system, number, code)| (system, number, code.to_owned())).collect();
    // Borrowed keys, so that the table's look-up allocates nothing.
    let borrowed: HashMap<(u32, &str), (u32, &str)> =
        table.iter().map(|(k, v)| ((k.0, k.1.as_str()), (v.0, v.1.as_str()))).collect();
    // In turn and the best of each, since others may be at work on the machine.
    let (mut ours, mut plain) = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        ours = ours.min(nanoseconds(&keys, |(system, _, code)| {
            let row = snapshot.best(*system, black_box(code), Allowed::ALL);
            black_box(row.and_then(|r| snapshot.row_target(&r)).map(|(system, code)| read(system, code)));
        }));
        plain = plain.min(nanoseconds(&keys, |(_, system, code)| {
            let found = borrowed.get(&(*system, black_box(code.as_str())));
            black_box(found.map(|(system, code)| read(*system, code)));
        }));
    }
    let line = json!({"bench": "terminology", "what": "translate in process", "data": what, "keys": keys.len(),
        "ours_ns": ours.round(), "peer": "std HashMap, same keys and targets", "peer_ns": plain.round(), "ratio": (ours / plain * 100.0).round() / 100.0});
    println!("{line}");
}

/// A report with that many coded elements.
fn report(elements: usize) -> String {
    let one = "<entry><observation classCode=\"OBS\" moodCode=\"EVN\"><code code=\"SSC0AD\" codeSystem=\"2.16.578.1.12.4.1.1.7270\" displayName=\"CT toraks\"/><text><reference value=\"#t\"/></text></observation></entry>";
    format!(
        "<ClinicalDocument xmlns=\"urn:hl7-org:v3\"><component><section>{}</section></component></ClinicalDocument>",
        one.repeat(elements)
    )
}

fn document(snapshot: &Snapshot) -> Result<(), Error> {
    let text = report(300);
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < SPAN || times.len() < 100 {
        let one = Instant::now();
        let done = document::translate(text.as_bytes(), "text/xml", &Task::to_pivot(), snapshot)?;
        times.push(one.elapsed());
        if done.reports.len() != 300 {
            return Err("not every element was reported".into());
        }
    }
    times.sort();
    let of = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros() as f64 / 1000.0;
    let (request, counters) = (batch(300), Counters::default());
    let lookups = nanoseconds(&[()], |()| {
        black_box(ncp_translation::service::batch(snapshot, &counters, black_box(&request)).is_ok());
    });
    println!(
        "{}",
        json!({"bench": "terminology", "what": "300 look-ups with designations", "ms": lookups.round() / 1e6})
    );
    let line = json!({"bench": "terminology", "what": "CDA with 300 coded elements", "bytes": text.len(), "runs": times.len(),
        "p50_ms": of(0.5), "p99_ms": of(0.99)});
    println!("{line}");
    Ok(())
}

/// Answers with what it was given to answer with: the cost of the messages and of the connection, without terminology.
struct Echo {
    one: pb::TranslateResponse,
    batches: HashMap<usize, pb::TranslateBatchResponse>,
}

type Nothing<T> = futures_util::stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl Translation for Echo {
    async fn translate(&self, _: Request<pb::TranslateRequest>) -> Result<Response<pb::TranslateResponse>, Status> {
        Ok(Response::new(self.one.clone()))
    }
    async fn translate_batch(
        &self,
        request: Request<pb::TranslateBatchRequest>,
    ) -> Result<Response<pb::TranslateBatchResponse>, Status> {
        let found = self.batches.get(&request.into_inner().code.len());
        found.cloned().map(Response::new).ok_or_else(|| Status::not_found("no such size"))
    }
    type TranslateStreamStream = Nothing<pb::TranslateResponse>;
    async fn translate_stream(
        &self,
        _: Request<Streaming<pb::TranslateRequest>>,
    ) -> Result<Response<Self::TranslateStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn lookup(&self, _: Request<pb::LookupRequest>) -> Result<Response<pb::LookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn validate_code(
        &self,
        _: Request<pb::ValidateCodeRequest>,
    ) -> Result<Response<pb::ValidateCodeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn list_maps(&self, _: Request<pb::ListMapsRequest>) -> Result<Response<pb::ListMapsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn expand_filter(
        &self,
        _: Request<pb::ExpandFilterRequest>,
    ) -> Result<Response<pb::ExpandFilterResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn coverage(&self, _: Request<pb::CoverageRequest>) -> Result<Response<pb::CoverageResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    type TranscodeDocumentStream = Nothing<pb::DocumentEvent>;
    async fn transcode_document(
        &self,
        _: Request<Streaming<pb::DocumentChunk>>,
    ) -> Result<Response<Self::TranscodeDocumentStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn batch(size: usize) -> pb::TranslateBatchRequest {
    pb::TranslateBatchRequest {
        systems: vec!["urn:oid:2.16.578.1.12.4.1.1.7270".into()],
        system: vec![0; size],
        code: vec!["SSC0AD".into(); size],
        ..pb::TranslateBatchRequest::default()
    }
}

fn one() -> pb::TranslateRequest {
    let system = "urn:oid:2.16.578.1.12.4.1.1.7270".into();
    let source = pb::Code { system, code: "SSC0AD".into(), ..pb::Code::default() };
    pb::TranslateRequest { source: Some(source), ..pb::TranslateRequest::default() }
}

async fn grpc(store: Store, dir: &Path) -> Result<(), Error> {
    let pki = dir.join("pki");
    ncp_tests::pki::CountryPki::create(&pki, "NO", ncp_tests::pki::Algorithm::Rsa2048)?;
    let files = |name: &str| TlsFiles {
        cert_chain: pki.join(format!("{name}.pem")),
        key: pki.join(format!("{name}.key")),
        anchors: pki.join("anchors.pem"),
        crls: None,
    };
    let (server, client) = (files("internal-server"), files("internal-client"));
    let mut ours = served_as(Service::new(store, Counters::default(), Cache::none()), &server, &client).await?;
    let mut batches = HashMap::new();
    for size in [100, 1000] {
        batches.insert(size, ours.translate_batch(batch(size)).await?.into_inner());
    }
    let answer = ours.translate(one()).await?.into_inner();
    let echo = served_as(Echo { one: answer, batches }, &server, &client).await?;
    for size in [1, 100, 1000] {
        let (a, b) = (rate(&ours, size).await?, rate(&echo, size).await?);
        let what = if size == 1 { "gRPC unary".to_owned() } else { format!("gRPC batch of {size}") };
        let line = json!({"bench": "terminology", "what": what, "ours_calls_per_s": a.round(),
            "peer": "tonic echo of the same messages, same mTLS", "peer_calls_per_s": b.round(), "ratio": (a / b * 100.0).round() / 100.0});
        println!("{line}");
    }
    Ok(())
}

async fn served_as<T: Translation>(
    service: T,
    server: &TlsFiles,
    client: &TlsFiles,
) -> Result<TranslationClient<tonic::transport::Channel>, Error> {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let endpoint = format!("https://{}", listener.local_addr()?);
    let incoming = ncp_tls::incoming(listener, server.mutual_acceptor(H2)?);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(TranslationServer::new(service)).serve_with_incoming(incoming),
    );
    Ok(TranslationClient::new(ncp_tls::channel(&endpoint, "localhost", client.connector(H2)?)?))
}

/// Calls per second with eight callers on one connection.
async fn rate(client: &TranslationClient<tonic::transport::Channel>, size: usize) -> Result<f64, Error> {
    let began = Instant::now();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let mut calls = 0u64;
                while began.elapsed() < SPAN {
                    if size == 1 {
                        client.translate(one()).await?;
                    } else {
                        client.translate_batch(batch(size)).await?;
                    }
                    calls += 1;
                }
                Ok::<u64, Status>(calls)
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await??;
    }
    Ok(calls as f64 / began.elapsed().as_secs_f64())
}
