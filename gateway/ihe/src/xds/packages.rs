//! SubmissionSet and Folder as RegistryPackages (ITI TF-3: 4.2.3.3, 4.2.3.4).

use ncp_xml::Element;

use super::ebrim::{
    coded, derived_id, external_id, localized, localized_value, many, read_authors, read_availability, read_codes,
    read_extra_slots, read_identifier, rim, slot, slot_values, write_authors,
};
use super::metadata::{Folder, RegistryObjects, SubmissionSet};
use crate::ns::RIM;
use crate::{Dtm, HomeCommunityId, MessageError, PatientId};

const SET_NODE: &str = "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd";
const SET_AUTHOR: &str = "urn:uuid:a7058bb9-b4e4-4307-ba5b-e3f0ab85e12d";
const SET_CONTENT_TYPE: &str = "urn:uuid:aa543740-bdda-424e-8c96-df4873be8500";
const SET_PATIENT: (&str, &str) = ("urn:uuid:6b5aea1a-874d-4603-a4bc-96a0a7b38446", "XDSSubmissionSet.patientId");
const SET_SOURCE: (&str, &str) = ("urn:uuid:554ac39e-e3fe-47fe-b233-965d2a147832", "XDSSubmissionSet.sourceId");
const SET_UNIQUE: (&str, &str) = ("urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8", "XDSSubmissionSet.uniqueId");
const FOLDER_NODE: &str = "urn:uuid:d9d542f3-6cc4-48b6-8870-ea235fbc94c2";
const FOLDER_CODES: &str = "urn:uuid:1ba97051-7806-41a8-a48b-8fce7af683c5";
const FOLDER_PATIENT: (&str, &str) = ("urn:uuid:f64ffdf0-4b97-4e06-b79f-a52b38ec2f8a", "XDSFolder.patientId");
const FOLDER_UNIQUE: (&str, &str) = ("urn:uuid:75df8f67-9973-4fbe-a900-df66cefecc5a", "XDSFolder.uniqueId");

/// Opens a package: attributes only.
fn package(id: &str, status: &str, home: &Option<HomeCommunityId>) -> Element {
    let mut out = rim("RegistryPackage")
        .attr("id", id)
        .attr("lid", id)
        .attr("objectType", "urn:oasis:names:tc:ebxml-regrep:ObjectType:RegistryObject:RegistryPackage")
        .attr("status", status);
    if let Some(home) = home {
        out.set_attr("", "home", home.to_string());
    }
    out
}

/// Name, Description, VersionInfo and what says which kind of package it is.
fn described(out: Element, id: &str, title: &Option<String>, comments: &Option<String>, node: &str) -> Element {
    out.with_all(title.as_ref().map(|title| localized("Name", title)))
        .with_all(comments.as_ref().map(|comments| localized("Description", comments)))
        .with(rim("VersionInfo").attr("versionName", "1"))
        .with(
            rim("Classification")
                .attr("id", derived_id(id, "n"))
                .attr("classifiedObject", id)
                .attr("classificationNode", node)
                .attr("objectType", "urn:oasis:names:tc:ebxml-regrep:ObjectType:RegistryObject:Classification"),
        )
}

fn extra(slots: &[(String, Vec<String>)]) -> impl Iterator<Item = Element> {
    slots.iter().map(|(name, values)| slot(name, values.clone()))
}

/// Writes a SubmissionSet.
pub(super) fn write_set(set: &SubmissionSet) -> Element {
    let id = set.entry_uuid.as_str();
    let out = package(id, set.availability.urn(), &set.home)
        .with_all(many("intendedRecipient", &set.intended_recipients))
        .with_all(set.submission_time.as_ref().map(|at| slot("submissionTime", [at.to_string()])))
        .with_all(extra(&set.extra_slots));
    described(out, id, &set.title, &set.comments, SET_NODE)
        .with(coded(id, 1, SET_CONTENT_TYPE, &set.content_type))
        .with_all(write_authors(id, SET_AUTHOR, &set.authors))
        .with(external_id(id, "p", SET_PATIENT, &set.patient_id.to_cx()))
        .with(external_id(id, "s", SET_SOURCE, &set.source_id))
        .with(external_id(id, "u", SET_UNIQUE, &set.unique_id))
}

/// Writes a Folder.
pub(super) fn write_folder(folder: &Folder) -> Element {
    let id = folder.entry_uuid.as_str();
    let out = package(id, folder.availability.urn(), &folder.home)
        .with_all(folder.last_update.as_ref().map(|at| slot("lastUpdateTime", [at.to_string()])))
        .with_all(extra(&folder.extra_slots));
    let codes = folder.codes.iter().enumerate().map(|(index, code)| coded(id, index + 1, FOLDER_CODES, code));
    described(out, id, &folder.title, &folder.comments, FOLDER_NODE)
        .with_all(codes)
        .with(external_id(id, "p", FOLDER_PATIENT, &folder.patient_id.to_cx()))
        .with(external_id(id, "u", FOLDER_UNIQUE, &folder.unique_id))
}

/// Reads a RegistryPackage into the kind that its node classification, inside or beside it, or its identifiers say.
///
/// # Errors
/// Malformed: no id, no unique id, no patient.
pub(super) fn read_package(
    object: &Element,
    beside: &[&Element],
    out: &mut RegistryObjects,
) -> Result<(), MessageError> {
    let missing = MessageError::Malformed;
    let id = object.get("id").filter(|id| !id.is_empty()).ok_or(missing("entry uuid"))?;
    let of_this = beside.iter().copied().filter(|c| c.get("classifiedObject") == Some(id));
    let mut nodes = object.all(RIM, "Classification").chain(of_this).filter_map(|c| c.get("classificationNode"));
    let is_folder = nodes.any(|node| node == FOLDER_NODE) || read_identifier(object, FOLDER_UNIQUE).is_some();
    let identifier = |of, what| read_identifier(object, of).filter(|v| !v.is_empty()).ok_or(missing(what));
    let dtm = |name: &str| slot_values(object, name).first().and_then(|v| Dtm::received(v).ok());
    let home = object.get("home").and_then(|h| HomeCommunityId::parse(h).ok());
    let (title, comments) = (localized_value(object, "Name"), localized_value(object, "Description"));
    if is_folder {
        out.folders.push(Folder {
            entry_uuid: id.to_owned(),
            unique_id: identifier(FOLDER_UNIQUE, "unique id")?,
            home,
            availability: read_availability(object),
            patient_id: PatientId::parse_cx(&identifier(FOLDER_PATIENT, "patient id")?)?,
            codes: read_codes(object, FOLDER_CODES),
            last_update: dtm("lastUpdateTime"),
            title,
            comments,
            extra_slots: read_extra_slots(object, &["lastUpdateTime"]),
        });
    } else {
        out.submission_sets.push(SubmissionSet {
            entry_uuid: id.to_owned(),
            unique_id: identifier(SET_UNIQUE, "unique id")?,
            home,
            availability: read_availability(object),
            patient_id: PatientId::parse_cx(&identifier(SET_PATIENT, "patient id")?)?,
            source_id: identifier(SET_SOURCE, "source id")?,
            content_type: read_codes(object, SET_CONTENT_TYPE).into_iter().next().unwrap_or_default(),
            submission_time: dtm("submissionTime"),
            intended_recipients: slot_values(object, "intendedRecipient"),
            title,
            comments,
            authors: read_authors(object, SET_AUTHOR),
            extra_slots: read_extra_slots(object, &["submissionTime", "intendedRecipient"]),
        });
    }
    Ok(())
}
