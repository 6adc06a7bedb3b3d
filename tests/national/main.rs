//! A gateway in front of national systems of every kind, asked by a neighbour over mutual TLS: real sockets throughout.

use ncp_ihe::{DocumentRequest, ImagingRequest, SeriesRequest, StudyRequest, Uid};
use ncp_tests::synth::Study;

mod attack;
mod compared;
mod consent;
mod delivered;
mod dicomweb;
mod domain;
mod grpc;
mod habits;
mod harness;
mod identity;
mod lines;
mod mime;
mod odd_archive;
mod orthanc;
mod suppliers;
mod unsound;
mod xds;

const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";
const LOCAL_ID: &str = "UV59569735";
const BIRTH_DATE: &str = "19770530";
const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";

fn patient() -> ncp_ihe::PatientId {
    ncp_ihe::PatientId::parse_cx(PATIENT).expect("a CX")
}

fn oid(text: &str) -> ncp_ihe::Oid {
    ncp_ihe::Oid::parse(text).expect("an OID")
}

fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("a UID")
}

/// A generated study of the patient.
fn study(number: u32, instances: u32) -> Study {
    Study {
        number,
        patient_id: LOCAL_ID.into(),
        patient_name: "Testesen^Jon".into(),
        birth_date: BIRTH_DATE.into(),
        sex: "M".into(),
        description: "CT thorax".into(),
        instances,
        side: 128,
    }
}

/// RAD-75 of some slices at a location.
fn images(study: &Study, location: &str, slices: impl IntoIterator<Item = u32>) -> ImagingRequest {
    let request = |slice| DocumentRequest {
        home: Some(ncp_ihe::HomeCommunityId(oid(harness::HOME))),
        repository: oid(location),
        document: study.instance(slice),
    };
    let series = SeriesRequest { series: uid(&study.series()), instances: slices.into_iter().map(request).collect() };
    ImagingRequest {
        studies: vec![StudyRequest { study: uid(&study.uid()), series: vec![series] }],
        transfer_syntaxes: vec![uid(EXPLICIT_LE)],
    }
}
