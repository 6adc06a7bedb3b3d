//! What senders of the field write: parameters with several values (WI-05), dates that are no DTM (WI-09).

use ncp_ihe::ns::HL7V3;
use ncp_ihe::xcpd::ALTERNATIVES;
use ncp_ihe::{DocumentEntry, Oid, PatientQuery, PersonName, QueryResponse};
use ncp_xml::{Element, Limits};
use proptest::prelude::*;

/// The body element of a file of the cases.
fn body(file: &str, placeholders: &[(&str, &str)]) -> Element {
    let path = format!("{}/../../tests/fixtures/cases/wire/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a case");
    let (_, xml) = text.split_once("\r\n\r\n").or_else(|| text.split_once("\n\n")).expect("a head");
    let xml = placeholders.iter().fold(xml.replace("@SECURITY@", ""), |xml, (from, to)| xml.replace(from, to));
    let envelope = Element::parse(xml.as_bytes(), &Limits::REQUEST).expect("XML");
    let body = envelope.elements().find(|e| e.local() == "Body").expect("a Body").clone();
    body.into_elements().next().expect("a message")
}

fn asked(replace: (&str, &str)) -> Result<PatientQuery, ncp_ihe::MessageError> {
    let homes = [("@HOME@", "2.999.47"), ("@OWN_HOME@", "2.999.246"), ("@UUID@", "1"), ("@NOW14@", "20260301000000")];
    let message = body("WI-05-a-iti55-request-two-names.http", &[&homes, [replace].as_slice()].concat());
    PatientQuery::read(&message)
}

fn family(name: &PersonName) -> &str {
    &name.family
}

#[test]
fn wi_05_every_value_of_a_parameter_is_read() {
    let query = asked(("", "")).expect("reads");
    assert_eq!(query.names.iter().map(family).collect::<Vec<_>>(), ["Pike", "Testesen"]);
    assert!(!query.has_unreadable && query.birth_dates.is_empty() && query.genders.is_empty());
    // A name in several parts is one name.
    let parts = asked(("<family>Pike</family>", "<family>van</family><family>Pike</family>")).expect("reads");
    assert_eq!(family(&parts.names[0]), "van Pike");
    assert_eq!(
        parts.names.iter().map(family).collect::<Vec<_>>(),
        ["van Pike", "van", "Testesen"],
        "or its first part"
    );
    // What says that it says nothing is no criterion.
    let unknown = asked(("<value><family>Pike</family><given>Jon</given></value>", "<value nullFlavor=\"UNK\"/>"));
    assert_eq!(unknown.expect("reads").names.len(), 1);
}

#[test]
fn wi_05_a_birth_name_more_removes_no_match() {
    let read = |parts: &str| {
        let query = asked(("<family>Pike</family>", parts)).expect("reads");
        assert!(query.names.iter().all(|name| name.given.len() == 1 || name.family == "Testesen"), "{:?}", query.names);
        query.names.iter().map(|name| name.family.clone()).filter(|name| name != "Testesen").collect::<Vec<_>>()
    };
    let birth = "<family qualifier=\"BR\">Olsen</family>";
    assert_eq!(read(&format!("<family>Hansen</family>{birth}")), ["Hansen", "Olsen", "Hansen Olsen"]);
    assert_eq!(read(&format!("{birth}<family>Hansen</family>")), ["Hansen", "Olsen", "Olsen Hansen"]);
    assert_eq!(read("<family>Hansen</family><family qualifier=\"SP BR\">Olsen</family>")[..2], ["Hansen", "Olsen"]);
    assert_eq!(read(birth), ["Olsen"]);
    assert_eq!(read("<family qualifier=\"SP\">Hansen</family>"), ["Hansen"]);
}

#[test]
fn wi_05_a_criterion_that_cannot_be_applied_fits_nobody() {
    let with = |parameter: &str| asked(("<livingSubjectId>", &format!("{parameter}<livingSubjectId>"))).expect("reads");
    let born = |value: &str| with(&format!("<livingSubjectBirthTime>{value}</livingSubjectBirthTime>"));
    for unreadable in
        ["<value/>", "<value value=\"19\"/>", "<value value=\"1977-05\"/>", "<value><low value=\"1977\"/></value>"]
    {
        assert!(born(unreadable).has_unreadable, "{unreadable}");
    }
    let one = born("<value value=\"x\"/><value value=\"19770530120000+0100\"/>");
    assert_eq!((one.birth_dates, one.has_unreadable), (vec!["19770530".to_owned()], false), "another can be applied");
    assert!(!born("<value nullFlavor=\"UNK\"/>").has_unreadable);
    let sex =
        |value: &str| with(&format!("<livingSubjectAdministrativeGender>{value}</livingSubjectAdministrativeGender>"));
    assert!(sex("<value/>").has_unreadable);
    assert_eq!(sex("<value code=\"F\"/><value code=\"UN\"/>").genders, ["F", "UN"]);
    let many = "<value><family>A</family></value>".repeat(ALTERNATIVES + 1);
    let many = asked(("<livingSubjectId>", &format!("<livingSubjectName>{many}</livingSubjectName><livingSubjectId>")));
    assert!(many.is_err(), "a limit is said, never silence");
}

proptest! {
    /// Alternatives come back, whatever their order and number.
    #[test]
    fn wi_05_alternatives_come_back(families in proptest::collection::btree_set("[A-Z][a-z]{1,6}", 1..ALTERNATIVES)) {
        let oid = |text: &str| Oid::parse(text).expect("an OID");
        let names: Vec<PersonName> =
            families.into_iter().rev().map(|family| PersonName { family, given: Vec::new() }).collect();
        let mut query = PatientQuery::new(oid("2.999.246"), oid("2.999.47"), Vec::new(), None, None, None);
        let value = |name: &PersonName| {
            let value = Element::new(HL7V3, "value").with(Element::new(HL7V3, "family").text(name.family.as_str()));
            Element::new(HL7V3, "livingSubjectName").with(value)
        };
        let list = Element::new(HL7V3, "parameterList").with_all(names.iter().map(value));
        query.query = Element::new(HL7V3, "queryByParameter").with(list);
        let read = PatientQuery::read(&query.to_element(jiff::Timestamp::UNIX_EPOCH)).expect("reads");
        prop_assert_eq!(read.names, names);
    }
}

#[test]
fn wi_09_an_instant_that_is_said_exactly_is_read() {
    let placeholders =
        [("@HOME@", "2.999.46"), ("@REPOSITORY@", "2.999.46.21"), ("@PATIENT_CX@", "1^^^&amp;2.999.46.1&amp;ISO")];
    let message = body("WI-09-a-iti38-answer-dates.http", &placeholders);
    let (response, unusable) = QueryResponse::read(&message).expect("reads");
    assert_eq!((response.objects.entries.len(), unusable), (4, 0));
    for entry in &response.objects.entries {
        let created = entry.creation_time.as_ref().map(|at| at.as_str());
        assert_eq!(created, Some("20260301091500"), "{}", entry.entry_uuid);
        assert!(entry.extra_slots.iter().all(|(name, _)| !DocumentEntry::DATES.contains(&name.as_str())));
    }
}
