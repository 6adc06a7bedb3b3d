//! The `dicomweb` connector against a real Orthanc (Debian's `orthanc` and `orthanc-dicomweb`).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ncp_ihe::{DocumentRequest, HomeCommunityId, ImagingRequest, Manifest, SeriesRequest, Status, StudyRequest};

use crate::harness::{HOME, World, dicomweb, fetch};
use crate::{oid, patient, uid};

const LOCATION: &str = "2.999.47.21.2";
const ORTHANC: &str = "/usr/sbin/Orthanc";
const DICOMWEB: &str = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so";

struct Orthanc {
    child: Child,
    port: u16,
}

impl Drop for Orthanc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Orthanc {
    /// Starts it on a free port with the files of a folder.
    async fn start(dir: &Path, files: &[PathBuf]) -> Self {
        let port = ncp_tests::ports::free().port();
        let config = serde_json::json!({
            "StorageDirectory": dir.join("orthanc"),
            "IndexDirectory": dir.join("orthanc"),
            "HttpPort": port,
            "RemoteAccessAllowed": false,
            "AuthenticationEnabled": false,
            "DicomServerEnabled": false,
            "Plugins": [DICOMWEB],
            "DicomWeb": { "Enable": true, "Root": "/dicom-web/" },
        });
        let path = dir.join("orthanc.json");
        std::fs::write(&path, config.to_string()).expect("writes");
        let child = Command::new(ORTHANC).arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let orthanc = Self { child: child.expect("orthanc is installed (tests/run.sh installs it)"), port };
        let until = Instant::now() + Duration::from_secs(60);
        while !orthanc.post(&files[0]).await {
            assert!(Instant::now() < until, "Orthanc does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for file in &files[1..] {
            assert!(orthanc.post(file).await, "Orthanc takes {}", file.display());
        }
        orthanc
    }

    async fn post(&self, file: &Path) -> bool {
        let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let io = hyper_util::rt::TokioIo::new(stream);
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(io).await else { return false };
        tokio::spawn(connection);
        let body = http_body_util::Full::new(bytes::Bytes::from(std::fs::read(file).expect("reads")));
        let request = http::Request::post("/instances").header("Host", "localhost").body(body).expect("a request");
        matches!(sender.send_request(request).await, Ok(answer) if answer.status().is_success())
    }
}

#[tokio::test]
async fn a_real_archive_serves_a_real_study() {
    let world = World::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dicom/study-b");
    let mut files = Vec::new();
    for folder in ["Series_B_1", "Series_B_2"] {
        files.extend(std::fs::read_dir(fixtures.join(folder)).expect("fixtures").map(|e| e.expect("a file").path()));
    }
    let orthanc = Orthanc::start(world.dir.path(), &files).await;
    let base = format!("http://127.0.0.1:{}/dicom-web", orthanc.port);
    let connector = dicomweb(&base, LOCATION, "time_zone = \"Europe/Oslo\"\npage = 8");
    let neighbour = world.gateway(true, &connector).await;
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, found.objects.entries.len()), (Status::Success, 1));
    let home = Some(HomeCommunityId(oid(HOME)));
    let document = found.objects.entries[0].unique_id.clone();
    let wanted = DocumentRequest { home: home.clone(), repository: oid(LOCATION), document };
    let (_, bytes) = neighbour.document(&patient(), &wanted).await.expect("ITI-39");
    let manifest = Manifest::read_kos(&bytes).expect("a manifest");
    assert_eq!(manifest.instance_count(), files.len(), "pages of eight");

    let request = |sop: &str| DocumentRequest { home: home.clone(), repository: oid(LOCATION), document: sop.into() };
    let series = manifest.series.iter().map(|s| SeriesRequest {
        series: s.series.clone(),
        instances: s.instances.iter().map(|i| request(i.sop_instance.as_str())).collect(),
    });
    let asked = ImagingRequest {
        studies: vec![StudyRequest { study: manifest.study.clone(), series: series.collect() }],
        transfer_syntaxes: ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2"].map(uid).to_vec(),
    };
    let fetched = fetch(&neighbour, &asked).await;
    assert!(fetched.whole && fetched.response.status == Status::Success, "{:?}", fetched.response.errors);
    let mut came: Vec<Vec<u8>> = fetched.instances.into_values().collect();
    let mut stored: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).expect("reads")).collect();
    came.sort();
    stored.sort();
    assert!(came == stored, "every instance is the file that was stored");

    drop(orthanc);
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, found.errors[0].code.as_str()), (Status::Failure, "XDSRegistryError"));
}
