//! A study of which one instance cannot be had: cases FO-04, FO-08, IM-21 and IM-22 at NCP-B. Whatever is wrong with it, however
//! large it is and wherever it stands, the others arrive, and it is named.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use ncp_ihe::{Manifest, RegistryError, Status, actions};
use ncp_soap::mime::{MediaType, MimeLimits, MultipartReader};
use ncp_tests::country::{Country, Reaction};
use ncp_tests::issuer::BASE;
use serde_json::Value;

use crate::consumers::ask;
use crate::dicomweb::{manifest, root, showing};
use crate::{Held, Others, World, images, second};

const OF: &str = "2.999.101";

/// An answer as far as it came.
pub(crate) struct Heard {
    pub(crate) status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    /// Whether the body came to its end.
    ended: bool,
}

impl Heard {
    /// All warnings, one after the other.
    pub(crate) fn warnings(&self) -> String {
        let all = self.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok());
        all.collect::<Vec<_>>().join("; ")
    }

    /// The answer as text, for messages of failed tests.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(1000)]).into_owned()
    }

    /// The answer as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The elements of metadata.
    pub(crate) fn elements(&self) -> Vec<Value> {
        assert!(self.ended, "the array was cut");
        serde_json::from_slice(&self.body).expect("an array")
    }

    /// How many the Warning says are not available.
    pub(crate) fn lost(&self) -> usize {
        let said = self.header("warning").strip_prefix("299 ncp \"").and_then(|text| text.split(' ').next());
        said.and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    /// The parts that ended, and whether the closing boundary came.
    pub(crate) async fn parts(&self) -> (Vec<Bytes>, bool) {
        let boundary =
            MediaType::parse(self.header("content-type")).parameter("boundary").expect("a boundary").to_owned();
        let body = Full::new(Bytes::from(self.body.clone()));
        let mut reader = MultipartReader::new(body, &boundary, MimeLimits::default()).expect("a reader");
        let mut out = Vec::new();
        loop {
            match reader.next_part().await {
                Ok(Some(_)) => {}
                Ok(None) => return (out, true),
                Err(_) => return (out, false),
            }
            let mut bytes = Vec::new();
            while let Ok(Some(chunk)) = reader.next_chunk().await {
                bytes.extend_from_slice(&chunk);
            }
            out.push(Bytes::from(bytes));
        }
    }
}

/// What comes under a URL of ours.
pub(crate) async fn fetched(world: &World, url: &str) -> Heard {
    let clinic = world.clinic.as_ref().expect("a clinicians' side");
    let connector =
        ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1").expect("a connector");
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, second() * 10);
    let path = url.strip_prefix(BASE).expect("ours");
    let request = Request::get(format!("https://localhost:{}{path}", clinic.0.port()))
        .header("authorization", format!("Bearer {}", clinic.1.token("hpr-1").expect("signs")))
        .body(Full::default())
        .expect("a request");
    let (head, mut body) = http.request(request).await.expect("an answer").into_parts();
    let mut heard = Heard { status: head.status.as_u16(), headers: head.headers, body: Vec::new(), ended: true };
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => heard.body.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(_) => heard.ended = false,
        }
        if !heard.ended {
            break;
        }
    }
    heard
}

/// What is wrong with one instance.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Foreign,
    Short,
    Garbage,
    /// FO-04 (a).
    Syntax,
    /// FO-04 (b).
    NoPixels,
    /// FO-04 (c).
    GroupLength,
    /// FO-04 (e).
    Bomb,
}

const FAULTS: [Fault; 7] =
    [Fault::Foreign, Fault::Short, Fault::Garbage, Fault::Syntax, Fault::NoPixels, Fault::GroupLength, Fault::Bomb];

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).expect("is there")
}

impl Fault {
    fn applied(self, good: &[u8]) -> Bytes {
        let mut bytes = good.to_vec();
        match self {
            Self::Foreign => {
                let at = find(&bytes, b"LO\x02\0L1");
                bytes[at + 4..at + 6].copy_from_slice(b"X9");
            }
            Self::Short => bytes.truncate(good.len() - 100),
            Self::Garbage => bytes.extend_from_slice(b"garbage behind the data set"),
            Self::Syntax => {
                let at = find(&bytes, b"1.2.840.10008.1.2.1");
                bytes[at..at + 19].copy_from_slice(b"1.2.3.4.5.6.7.8.9.1");
            }
            Self::NoPixels => {
                let at = find(&bytes, b"\xe0\x7f\x10\0OW\0\0");
                bytes.truncate(at + 8);
                bytes.extend_from_slice(&0xFFFF_FFF0_u32.to_le_bytes());
            }
            Self::GroupLength => bytes[140..144].copy_from_slice(&0x7000_0000_u32.to_le_bytes()),
            Self::Bomb => bytes = ncp_tests::synth::bomb(good),
        }
        bytes.into()
    }
}

/// The records of RAD-75 of the last call: whole instances of the study and how many are said to have failed.
fn recorded(world: &World, before: usize) -> (u64, u64) {
    let (mut came, mut lost) = (0, 0);
    for xml in world.records().iter().skip(before).filter(|xml| xml.contains("RAD-75")) {
        let number = xml.split("NumberOfInstances=\"").nth(1).and_then(|rest| rest.split('"').next());
        let number: u64 = number.and_then(|number| number.parse().ok()).unwrap_or_default();
        match xml.contains("EventOutcomeIndicator=\"0\"") {
            true => came += number,
            false => lost += number,
        }
    }
    (came, lost)
}

/// The same once all that was promised is in them: an exchange closes its record a moment after its last byte.
pub(crate) async fn all_recorded(world: &World, before: usize, promised: u64) -> (u64, u64) {
    for _ in 0..200 {
        let (came, lost) = recorded(world, before);
        if came + lost >= promised {
            return (came, lost);
        }
        tokio::time::sleep(second() / 20).await;
    }
    recorded(world, before)
}

/// SOP Instance UIDs that the records of a transaction since then name as lost.
pub(crate) fn lost_by_name(world: &World, transaction: &str, before: usize) -> Vec<String> {
    let records = world.trail().ihe.into_iter().skip(before);
    let failed = records.filter(|message| message.outcome != 0 && message.types.iter().any(|t| t.code == transaction));
    let objects = failed.flat_map(|message| message.objects).filter_map(|object| object.dicom);
    objects.flat_map(|dicom| dicom.instances).collect()
}

/// FO-08 and FO-04: for every size and place of the faulty instance, delivered + named = promised = recorded.
#[tokio::test]
async fn fo_08_delivered_and_named_is_promised_and_recorded() {
    for side in [16, 180, 512] {
        let held = Held::of_side(1, OF, 3, side);
        let (good, study) = (held.files.clone(), held.study.clone());
        let (uid, kos) = (study.uid(), manifest(&held));
        let files = Arc::new(Mutex::new(good.clone()));
        let sent = files.clone();
        let (world, _countries) = showing(uid.clone(), kos, "", move || {
            let files = sent.lock().expect("not poisoned").clone();
            Held { study: held.study.clone(), home: held.home.clone(), files }.sent()
        })
        .await;
        let root = root(&world).await;
        for fault in FAULTS {
            for at in 0..3 {
                let what = format!("{fault:?} at {at}, side {side}");
                let bad = fault.applied(&good[at]);
                files.lock().expect("not poisoned").clone_from(&good);
                files.lock().expect("not poisoned")[at] = bad.clone();
                let lost = study.instance(at as u32 + 1);

                let before = world.records().len();
                let heard = fetched(&world, &format!("{root}/studies/{uid}")).await;
                let (came, closed) = heard.parts().await;
                for (number, file) in good.iter().enumerate().filter(|(number, _)| *number != at) {
                    assert!(came.contains(file), "{what}: instance {number} did not come, {} parts", came.len());
                }
                assert!(!came.contains(&bad) && !came.contains(&good[at]), "{what}: the faulty one came");
                assert_eq!((heard.status, heard.lost() == 1), (200, closed), "{what}: named beside, or not closed");
                let status = fetched(&world, &format!("{root}/status")).await;
                let status: Value = serde_json::from_slice(&status.body).expect("JSON");
                assert_eq!((&status["expected"], &status["received"]), (&3.into(), &2.into()), "{what}: {status}");
                assert_eq!(status["missing"][0]["instance"], lost.as_str(), "{what}: {status}");
                assert!(heard.header("link").contains("/status>; rel=\"status\""), "{what}");
                assert_eq!(all_recorded(&world, before, 3).await, (2, 1), "{what}");
                assert_eq!(lost_by_name(&world, "RAD-75", before), std::slice::from_ref(&lost), "{what}");

                let before = world.records().len();
                let heard = fetched(&world, &format!("{root}/studies/{uid}/metadata")).await;
                assert_eq!((heard.status, heard.elements().len(), heard.lost()), (200, 2, 1), "{what}: metadata");
                all_recorded(&world, before, 3).await;
            }
            // Alone, there is nothing left; of one that is large this shows after its first byte.
            let place = format!("{root}/studies/{uid}/series/{}/instances/{}", study.series(), study.instance(3));
            let before = world.records().len();
            let alone = fetched(&world, &place).await;
            all_recorded(&world, before, 1).await;
            if alone.status == 200 && side == 512 {
                let (came, closed) = alone.parts().await;
                assert!(!closed && !came.contains(&fault.applied(&good[2])), "{fault:?}");
            } else {
                assert!(alone.status == 502 && alone.body.starts_with(b"{"), "{fault:?}, {side}: {}", alone.status);
            }
        }
        files.lock().expect("not poisoned").clone_from(&good);
        let heard = fetched(&world, &format!("{root}/studies/{uid}")).await;
        assert_eq!((heard.parts().await, heard.lost()), ((good, true), 0));
        let status = fetched(&world, &format!("{root}/status")).await;
        let status: Value = serde_json::from_slice(&status.body).expect("JSON");
        assert_eq!((&status["received"], status["missing"].as_array().map(Vec::len)), (&3.into(), Some(0)));
    }
}

/// IM-21: the country's answer breaks off before its root, or in the middle; the first call brings every other instance.
#[tokio::test]
async fn im_21_the_first_call_brings_every_other_instance() {
    let held = Held::of_side(1, OF, 3, 512);
    let (good, uid, kos) = (held.files.clone(), held.study.uid(), manifest(&held));
    for first in [0, 700_000] {
        let calls = Arc::new(Mutex::new(0));
        let (counted, study) = (calls.clone(), held.study.clone());
        let files = good.clone();
        let (world, _countries) = showing(uid.clone(), kos.clone(), "", move || {
            let mut calls = counted.lock().expect("not poisoned");
            *calls += 1;
            let whole = Held { study: study.clone(), home: OF.into(), files: files.clone() };
            // Asked again, the country has heard of it: the second instance is none of its any more.
            match *calls {
                1 => Reaction::Cut(Box::new(whole.sent()), first),
                _ => whole.sent_without(2),
            }
        })
        .await;
        let root = root(&world).await;
        let heard = fetched(&world, &format!("{root}/studies/{uid}")).await;
        let (came, closed) = heard.parts().await;
        assert!(came.contains(&good[0]) && came.contains(&good[2]), "cut after {first}: {} parts", came.len());
        assert_eq!(heard.lost() == 1, closed, "cut after {first}");
        let status = fetched(&world, &format!("{root}/status")).await;
        let status: Value = serde_json::from_slice(&status.body).expect("JSON");
        assert_eq!((&status["received"], status["missing"].as_array().map(Vec::len)), (&2.into(), Some(1)), "{status}");
    }
}

impl Held {
    /// The study without one of its slices, as a source answers that has lost it.
    fn sent_without(&self, slice: u32) -> Reaction {
        self.sent_but(&[(slice, "XDSDocumentUniqueIdError", "no")])
    }

    /// The study without some of its slices, each told by a code and a text.
    pub(crate) fn sent_but(&self, lost: &[(u32, &str, &str)]) -> Reaction {
        let Reaction::Parts(action, body, mut parts) = self.sent() else { unreachable!("RAD-75 is MTOM") };
        let mut response = ncp_tests::neighbour::retrieve_response(&body).expect("ours");
        for (slice, code, context) in lost {
            let uid = self.study.instance(*slice);
            response.documents.retain(|document| document.request.document != uid);
            parts.retain(|(id, ..)| *id != format!("{slice}@country"));
            let location = Some(format!("{uid} urn:oid:{OF}"));
            response.errors.push(RegistryError { context: (*context).into(), location, ..crate::refusal(code) });
        }
        response.status = if parts.is_empty() { Status::Failure } else { Status::PartialSuccess };
        Reaction::Parts(action, response.to_element(), parts)
    }
}

/// IM-22: one UID that the manifest names in two series is two objects, and neither is shown as the other.
#[tokio::test]
async fn im_22_one_uid_in_two_series_is_named() {
    let held = Held::new(1, OF, 3);
    let (good, uid, study) = (held.files.clone(), held.study.uid(), held.study.clone());
    let mut told = Manifest::read_kos(&manifest(&held)).expect("a manifest");
    let mut other = told.series[0].clone();
    other.series = ncp_ihe::Uid::parse(&format!("{uid}.2")).expect("a UID");
    other.instances = vec![told.series[0].instances[1].clone()];
    // The same object listed twice is one.
    let again = told.series[0].instances[0].clone();
    told.series[0].instances.push(again);
    told.series.push(other);
    let kos = told.write_kos(ncp_ihe::KosDialect::XdsI).expect("writes");
    let (world, countries) = showing(uid.clone(), kos, "", move || held.sent()).await;
    let root = root(&world).await;
    let heard = fetched(&world, &format!("{root}/studies/{uid}")).await;
    let (came, closed) = heard.parts().await;
    assert_eq!((came, closed), (vec![good[0].clone(), good[2].clone()], true));
    assert_eq!((heard.header("x-ncp-instances"), heard.lost()), ("4", 2), "{:?}", heard.header("warning"));
    let status = fetched(&world, &format!("{root}/status")).await;
    let status: Value = serde_json::from_slice(&status.body).expect("JSON");
    assert_eq!(status["missing"][0]["instance"], study.instance(2).as_str());
    assert_eq!(status["missing"][0]["reason"], "one-uid-two-objects");
    assert_eq!(all_recorded(&world, 0, 4).await, (2, 2));
    assert_eq!(lost_by_name(&world, "RAD-75", 0), [study.instance(2)]);
    let asked = countries[0].asked().into_iter().rfind(|asked| asked.action == actions::RAD75_REQUEST).expect("asked");
    assert!(!String::from_utf8_lossy(&asked.envelope).contains(&format!("{}<", study.instance(2))), "it was asked for");
}

/// FO-08 and FO-04 at the relay of RAD-69.
#[tokio::test]
async fn fo_08_a_relayed_study_keeps_its_good_instances() {
    for side in [16, 512] {
        let held = Held::of_side(1, OF, 3, side);
        let (good, request, study) = (held.files.clone(), held.request(), held.study.clone());
        let files = Arc::new(Mutex::new(good.clone()));
        let sent = files.clone();
        let others = Others::none().with("AA", OF, move |_| {
            let files = sent.lock().expect("not poisoned").clone();
            Held { study: held.study.clone(), home: held.home.clone(), files }.sent()
        });
        let (world, _countries): (World, Vec<Country>) = others.await.world("").await;
        for fault in FAULTS.into_iter().filter(|fault| !matches!(fault, Fault::Foreign)) {
            for at in 0..3 {
                let what = format!("{fault:?} at {at}, side {side}");
                files.lock().expect("not poisoned").clone_from(&good);
                files.lock().expect("not poisoned")[at] = fault.applied(&good[at]);
                let mut answer = ask(&world, images(vec![request.clone()]).to_element()).await;
                let response = ncp_tests::neighbour::retrieve_response(&answer.body).expect("a response");
                let (came, whole) = crate::mime::whole_parts(&mut answer).await;
                for (_, file) in good.iter().enumerate().filter(|(number, _)| *number != at) {
                    assert!(came.contains(file), "{what}: {} parts came", came.len());
                }
                assert!(!came.contains(&fault.applied(&good[at])), "{what}: the faulty one came");
                assert_eq!(response.errors.len() == 1, whole, "{what}: named in the root, or not closed");
            }
        }
        // Both trails, the consumer's and the other country's, name each that was lost.
        let faults = FAULTS.len() as u32 - 1;
        let mut expected: Vec<String> = (0..3 * faults).map(|n| study.instance(n / faults + 1)).collect();
        expected.sort();
        for transaction in ["RAD-75", "RAD-69"] {
            let mut named = Vec::new();
            for _ in 0..200 {
                named = lost_by_name(&world, transaction, 0);
                if named.len() >= expected.len() {
                    break;
                }
                tokio::time::sleep(second() / 20).await;
            }
            named.sort();
            assert_eq!(named, expected, "{transaction}, side {side}");
        }
    }
}
