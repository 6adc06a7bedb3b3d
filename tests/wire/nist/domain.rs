//! A national XDS-I infrastructure behind the Responding Imaging Gateway: a registry with the manifest of each study, and
//! the Imaging Document Sources E and F of the definitions.

use bytes::Bytes;
use ncp_ihe::imaging::IssuedId;
use ncp_ihe::{
    Coded, CrossGatewayQueryRequest, DocumentEntry, ImagingRequest, KosDialect, Manifest, ManifestInstance,
    ManifestPatient, ManifestSeries, Oid, PatientId, QueryResponse, ReferenceId, RegistryObjects, RetrieveRequest,
    Status, StoredQuery, Uid, actions,
};
use ncp_tests::country::{Asked, Country, Reaction};
use ncp_tests::pki::{CountryPki, Error};

use super::ig::{self, Images};
use super::images::Person;
use super::rig::SOURCES;

/// Repository of the manifests.
pub(super) const MANIFESTS: &str = "1.3.6.1.4.1.21367.13.71.201.9";
const KOS: &str = "1.2.840.10008.5.1.4.1.1.88.59";
const CR: &str = "1.2.840.10008.5.1.4.1.1.1";

/// Starts it: all transactions at one port, told by their action.
pub(super) async fn start(
    pki: &CountryPki,
    request: &ImagingRequest,
    images: Images,
    patient: &PatientId,
    person: &Person,
) -> Result<Country, Error> {
    let manifests = manifests(request, patient, person)?;
    Country::start(pki, &pki.path("anchors.pem"), move |asked| {
        react(&manifests, &images, asked).unwrap_or(Reaction::Status(500))
    })
    .await
}

fn react(manifests: &[(DocumentEntry, Bytes)], images: &Images, asked: &Asked) -> Option<Reaction> {
    match asked.action.as_str() {
        actions::ITI18_REQUEST => {
            let query = CrossGatewayQueryRequest::read(&asked.body).ok()?.query;
            let wanted = |entry: &&DocumentEntry| match &query {
                StoredQuery::FindDocuments(find) => find.matches(entry),
                StoredQuery::GetDocuments(ids) => ids.name(entry),
                _ => false,
            };
            let entries = manifests.iter().map(|(entry, _)| entry).filter(wanted).cloned().collect();
            let objects = RegistryObjects::of_entries(entries);
            let response =
                QueryResponse { status: Status::Success, errors: Vec::new(), objects, object_refs: Vec::new() };
            Some(Reaction::Simple(actions::ITI18_RESPONSE, response.to_element()))
        }
        actions::ITI43_REQUEST => {
            let wanted = RetrieveRequest::read(&asked.body).ok()?.documents;
            let found = wanted.into_iter().filter_map(|request| {
                let (entry, bytes) = manifests.iter().find(|(e, _)| e.unique_id == request.document)?;
                Some((request, entry.mime_type.clone(), bytes.clone()))
            });
            Some(ig::package(actions::ITI43_RESPONSE, found.collect(), Vec::new()))
        }
        // RAD-69 answers with the action of ITI-43.
        actions::RAD69_REQUEST => ig::study(images, None, actions::ITI43_RESPONSE, asked),
        _ => None,
    }
}

/// A manifest of each study that lies at E or F, with all that is asked for: a source may have lost what it lists.
fn manifests(
    request: &ImagingRequest,
    patient: &PatientId,
    person: &Person,
) -> Result<Vec<(DocumentEntry, Bytes)>, Error> {
    let mut out = Vec::new();
    for study in &request.studies {
        let mut series = Vec::new();
        for one in &study.series {
            let Some(first) = one.instances.iter().find(|i| SOURCES.contains(&i.repository.as_str())) else { continue };
            let instance = |uid: &str| -> Result<ManifestInstance, Error> {
                Ok(ManifestInstance {
                    sop_class: Uid::parse(CR)?,
                    sop_instance: Uid::parse(uid)?,
                    number: None,
                    frames: None,
                    key_title: None,
                    key_description: None,
                    marked_by: Vec::new(),
                })
            };
            series.push(ManifestSeries {
                series: one.series.clone(),
                modality: Some("CR".into()),
                number: None,
                description: None,
                date: None,
                time: None,
                region: None,
                laterality: None,
                total: None,
                location: Some(first.repository.clone()),
                retrieve_url: None,
                ae_title: None,
                instances: one.instances.iter().map(|i| instance(&i.document)).collect::<Result<_, _>>()?,
            });
        }
        if series.is_empty() {
            continue;
        }
        let number = out.len() + 1;
        let unique_id = format!("2.999.47.73.{number}");
        let manifest = Manifest {
            patient: ManifestPatient {
                ids: vec![IssuedId::new(&person.local_id, None)],
                name: Some(person.name.clone()),
                birth_date: Some(person.birth_date.clone()),
                sex: Some(person.sex.clone()),
            },
            created: Some("20150201101500".into()),
            series,
            ..Manifest::new(Uid::parse(&unique_id)?, Uid::parse("2.999.47.74")?, study.study.clone())
        };
        let bytes = manifest.write_kos(KosDialect::XdsI)?;
        let entry = DocumentEntry {
            home: None,
            repository_unique_id: Oid::parse(MANIFESTS)?,
            format_code: Coded::new(KOS, "1.2.840.10008.2.6.1", Some("Key Object Selection Document")),
            mime_type: "application/dicom".into(),
            reference_ids: vec![ReferenceId::study(&study.study)],
            ..ig::entry(&unique_id, 0, patient, "manifest.dcm", &bytes)?
        };
        out.push((entry, bytes.into()));
    }
    Ok(out)
}
