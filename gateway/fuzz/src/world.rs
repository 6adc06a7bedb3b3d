//! Who asks, when, and for what.

use std::sync::LazyLock;

use jiff::Timestamp;
use ncp_gateway::identity::Identity;
use ncp_gateway::policy::facts::{Description, Facts};
use ncp_ihe::{HomeCommunityId, PatientId};
use ncp_tls::Country;

/// The patient of the fixtures.
pub(crate) const PATIENT: (&str, &str) = ("30857710106", "2.16.578.1.12.4.1.4.1");

pub(crate) static NOW: LazyLock<Timestamp> = LazyLock::new(|| "2026-11-30T00:00:00Z".parse().expect("a time"));

pub(crate) fn patient() -> PatientId {
    let (extension, root) = PATIENT;
    PatientId::parse_cx(&format!("{extension}^^^&{root}&ISO")).expect("a CX")
}

/// A professional of a country, with a purpose.
pub(crate) fn asking(country: Country, purpose: &str) -> Identity {
    Identity {
        country,
        home_community_id: HomeCommunityId::parse("urn:oid:2.999.246").expect("an OID"),
        peer_name: String::new(),
        hcp_id: String::new(),
        trc_id: None,
        trc_patient: None,
        user: "u1".into(),
        user_name: String::new(),
        subject_name: String::new(),
        role: "221".into(),
        role_display: String::new(),
        role_system: String::new(),
        revocation_stale: false,
        nok_id: None,
        next_of_kin: false,
        organisation: Some("Hospital".into()),
        organisation_id: Some("2.999.20".into()),
        locality: String::new(),
        purpose: purpose.into(),
        login_purpose: purpose.into(),
        permissions: Vec::new(),
        strongly_authenticated: true,
    }
}

/// A unit about which everything is known.
pub(crate) fn unit(kind: &'static str, confidentiality: &str, author: &str, date: &str) -> Facts {
    Facts {
        kind,
        confidentiality: Some(vec![confidentiality.into()]),
        author_organisations: Some(vec![author.into()]),
        descriptions: vec![Description {
            class_code: Some("11502-2".into()),
            type_code: Some("18748-4".into()),
            service_date: Some(date.into()),
        }],
        ..Facts::default()
    }
}
