//! Instances that are not what their source said: shorter, longer, or of a structure that does not end where they do. Cases
//! CO-02, CO-18 and FO-04 at NCP-A: they do not leave, and the others do.

use ncp_example_national_service::{Holdings, scan};

use crate::grpc::{LOCATION, connector, entry, holdings, naming, served};
use crate::harness::{World, fetch, others_came};
use crate::xds::domain;
use crate::{images, study, uid};

const ITI47: &str = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
const SOURCE: &str = "2.999.47.21.9";

/// What is wrong with one of the files.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Short,
    Garbage,
    Depth,
    /// FO-04 (e): it inflates to more than a hundred times its size.
    Bomb,
}

impl Fault {
    fn applied(self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        match self {
            Self::Bomb => bytes = ncp_tests::synth::bomb(good),
            Self::Short => bytes.truncate(good.len() - 100),
            Self::Garbage => bytes.extend_from_slice(b"garbage behind the data set"),
            // Private sequences of undefined length, one in the other, behind the UIDs (T-DCM-5).
            Self::Depth => {
                for _ in 0..20_000 {
                    bytes.extend_from_slice(b"\xe1\x7f\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff");
                }
            }
        }
        bytes
    }
}

#[tokio::test]
async fn co_02_an_instance_that_is_not_whole_does_not_leave() {
    for fault in [Fault::Short, Fault::Garbage, Fault::Depth, Fault::Bomb] {
        for at in [1, 3] {
            let world = World::new();
            let study = study(8, 3);
            let (domain, neighbour, files) = domain(&world, &study, ITI47).await;
            let bad = world.dir.path().join("bad.dcm");
            let good = std::fs::read(&files[at as usize - 1]).expect("reads");
            std::fs::write(&bad, fault.applied(&good)).expect("writes");
            domain.0.lock().expect("not poisoned").files.insert(study.instance(at), bad);
            let mut request = images(&study, SOURCE, 1..=3);
            request.transfer_syntaxes.push(uid("1.2.840.10008.1.2.1.99"));
            let fetched = fetch(&neighbour, &request).await;
            others_came(&fetched, &files, &study, 1..=3, at);
            let named = format!("<Instance UID=\"{}\"", study.instance(at));
            assert!(world.trail().await.iter().any(|xml| xml.contains(&named)), "{fault:?} at {at}: on the trail");
            assert!(
                world.trail().await.iter().any(|xml| xml.contains("not whole and sound")),
                "{fault:?} at {at}: an alert"
            );
        }
    }
}

/// A named size is a fact: the service told it at look-up, and its file is shorter now.
#[tokio::test]
async fn co_02_and_co_18_an_instance_shorter_than_was_named_leaves_the_others() {
    for at in 1..=3 {
        let world = World::new();
        let study = study(7, 3);
        let files = study.write(&world.dir.path().join("dicom")).expect("writes");
        let document = (naming(&study, entry("2.999.47.31.7", "application/dicom", 1)), b"x".to_vec());
        let holdings = Holdings { files: scan(&world.dir.path().join("dicom")), ..holdings(document) };
        let port = served(&world, holdings).await;
        let section = connector(&world, port) + &format!("location_uids = [\"{LOCATION}\"]\n");
        let neighbour = world.gateway(true, &section).await;
        let file = &files[at as usize - 1];
        let good = std::fs::read(file).expect("reads");
        std::fs::write(file, &good[..good.len() - 100]).expect("writes");
        let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=3)).await;
        std::fs::write(file, &good).expect("writes");
        others_came(&fetched, &files, &study, 1..=3, at);
    }
}
