//! Writing MADO's FHIR document (R4), deterministic as the KOS: ids come from the manifest's own UIDs.

use serde_json::{Map, Value, json};

use super::fhir_read::{REPRESENTATION, REPRESENTATIONS, SYSTEMS};
use super::{IssuedId, Issuer, Manifest, ManifestError, ManifestInstance, ManifestSeries};
use crate::Coded;

const MADO: &str = "https://profiles.ihe.net/RAD/MADO/StructureDefinition";
const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const V2_0203: &str = "http://terminology.hl7.org/CodeSystem/v2-0203";
const XHTML: &str = "http://www.w3.org/1999/xhtml";
/// What stands where a required address is not known.
const NO_ADDRESS: &str = "http://notspecified";
const DATA_ABSENT: &str = "http://hl7.org/fhir/StructureDefinition/data-absent-reason";

impl Manifest {
    /// Writes the manifest as a FHIR R4 document.
    ///
    /// # Errors
    /// [`ManifestError::Write`] when serde_json refuses.
    pub fn write_fhir(&self) -> Result<Vec<u8>, ManifestError> {
        let mut entries = vec![self.composition(), self.imaging_study(), self.patient_resource()];
        entries.extend(self.organization());
        entries.push(self.device());
        entries
            .extend(self.endpoints().into_iter().map(|(name, address, location)| self.wado(&name, address, location)));
        entries.extend(self.viewer.as_ref().map(|address| self.web_viewer(address)));
        entries.extend((0..self.requests.len()).map(|at| self.service_request(at)));
        let entries: Vec<Value> = entries
            .into_iter()
            .map(|(name, resource)| json!({ "fullUrl": self.url(&name), "resource": resource }))
            .collect();
        let mut bundle = object(json!({
            "resourceType": "Bundle",
            "id": self.id("bundle"),
            "meta": { "profile": [format!("{MADO}/MadoFhirBundle")] },
            "identifier": uid_identifier(self.sop_instance.as_str()),
            "type": "document",
        }));
        bundle.extend(self.created_at().map(|at| ("timestamp".to_owned(), json!(at))));
        bundle.insert("entry".into(), json!(entries));
        serde_json::to_vec_pretty(&bundle).map_err(|_| ManifestError::Write)
    }

    /// Id of a resource of this document, a UUID.
    fn id(&self, name: &str) -> String {
        let digest = openssl::sha::sha256(format!("{}/{name}", self.sop_instance).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }

    fn url(&self, name: &str) -> String {
        format!("urn:uuid:{}", self.id(name))
    }

    fn reference(&self, name: &str, kind: &str) -> Value {
        json!({ "reference": self.url(name), "type": kind })
    }

    fn created_at(&self) -> Option<String> {
        let created = self.created.as_deref()?;
        date_time(created.get(..8)?, created.get(8..).filter(|t| !t.is_empty()), self.timezone.as_deref())
    }

    fn composition(&self) -> (String, Value) {
        let title = self.description.clone().unwrap_or_else(|| "Imaging study manifest".into());
        let mut out = object(json!({
            "resourceType": "Composition",
            "id": self.id("composition"),
            "meta": { "profile": [format!("{MADO}/MadoComposition")] },
            "text": { "status": "generated", "div": narrative(&title, self.series.iter().map(words).collect()) },
            "identifier": uid_identifier(self.sop_instance.as_str()),
            "status": "final",
            "type": { "coding": [{ "system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study" }] },
            "category": [{ "coding": [{
                "system": "http://hl7.eu/fhir/health-data-api/CodeSystem/eehrxf-document-priority-category-cs",
                "code": "Medical-Imaging",
                "display": "Medical-Imaging",
            }] }],
            "subject": self.reference("patient", "Patient"),
        }));
        let date = self.created_at().unwrap_or_else(|| "1970-01-01".into());
        out.insert("date".into(), json!(date));
        let organization = self.creator.institution.as_ref().map(|_| self.reference("organization", "Organization"));
        let authors: Vec<Value> = std::iter::once(self.reference("device", "Device")).chain(organization).collect();
        out.insert("author".into(), json!(authors));
        out.insert("title".into(), json!(title));
        out.insert("event".into(), json!([{ "detail": [self.reference("study", "ImagingStudy")] }]));
        let section = |series: &ManifestSeries| {
            let title = series.number.map_or_else(|| "Series".to_owned(), |n| format!("Series {n}"));
            json!({
                "title": title,
                "text": { "status": "generated", "div": narrative(&title, vec![words(series)]) },
                "entry": [self.reference(&self.endpoint_of(series), "Endpoint")],
            })
        };
        out.insert("section".into(), self.series.iter().map(section).collect());
        ("composition".into(), Value::Object(out))
    }

    fn imaging_study(&self) -> (String, Value) {
        let regions: Vec<Value> = self
            .regions
            .iter()
            .map(|r| json!({ "url": format!("{MADO}/MadoAnatomicalRegionExtension"), "valueCodeableConcept": concept(r) }))
            .collect();
        let mut out = object(json!({
            "resourceType": "ImagingStudy",
            "id": self.id("study"),
            "meta": { "profile": [format!("{MADO}/MadoImagingStudy")] },
        }));
        put_list(&mut out, "extension", regions);
        let mut identifier = object(json!({
            "type": { "coding": [{ "system": DCM, "code": "110180", "display": "Study Instance UID" }] },
        }));
        identifier.extend(object(uid_identifier(self.study.as_str())));
        out.insert("identifier".into(), json!([identifier]));
        out.insert("status".into(), json!("available"));
        let modalities = self.modalities().into_iter().map(|m| json!({ "system": DCM, "code": m })).collect();
        put_list(&mut out, "modality", modalities);
        out.insert("subject".into(), self.reference("patient", "Patient"));
        put(
            &mut out,
            "started",
            self.study_date
                .as_deref()
                .and_then(|date| date_time(date, self.study_time.as_deref(), self.timezone.as_deref())),
        );
        let based_on = self.requests.iter().enumerate().map(|(at, request)| {
            let mut reference = object(self.reference(&format!("request{at}"), "ServiceRequest"));
            reference.extend(request.accession.as_ref().map(|a| ("identifier".to_owned(), accession(a))));
            Value::Object(reference)
        });
        put_list(&mut out, "basedOn", based_on.collect());
        let viewer = self.viewer.as_ref().map(|_| self.reference("viewer", "Endpoint"));
        put_list(&mut out, "endpoint", viewer.into_iter().collect());
        let listed = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        out.insert("numberOfSeries".into(), json!(self.series_total.unwrap_or(listed)));
        let totals = self.series.iter().map(|s| u64::from(s.total.unwrap_or(count(s))));
        let instances = totals.sum::<u64>().max(self.instance_total.map_or(0, u64::from));
        out.insert("numberOfInstances".into(), json!(instances));
        put_list(&mut out, "procedureCode", self.procedures.iter().map(concept).collect());
        put(&mut out, "description", self.description.clone());
        out.insert("series".into(), self.series.iter().map(|s| self.one_series(s)).collect());
        ("study".into(), Value::Object(out))
    }

    fn one_series(&self, series: &ManifestSeries) -> Value {
        let mut out = object(json!({ "uid": series.series.as_str() }));
        put(&mut out, "number", series.number);
        // FHIR requires a modality; one that is not known is OT, "Other".
        let modality = series.modality.as_deref().unwrap_or("OT");
        out.insert("modality".into(), json!({ "system": DCM, "code": modality }));
        put(&mut out, "description", series.description.clone());
        out.insert("numberOfInstances".into(), json!(series.total.unwrap_or(count(series))));
        out.insert("endpoint".into(), json!([self.reference(&self.endpoint_of(series), "Endpoint")]));
        put(&mut out, "bodySite", series.region.as_ref().map(coding));
        put(&mut out, "laterality", series.laterality.as_ref().map(coding));
        put(
            &mut out,
            "started",
            series.date.as_deref().and_then(|date| date_time(date, series.time.as_deref(), self.timezone.as_deref())),
        );
        out.insert("instance".into(), series.instances.iter().map(instance).collect());
        Value::Object(out)
    }

    fn patient_resource(&self) -> (String, Value) {
        let patient = &self.patient;
        let mut out = object(json!({
            "resourceType": "Patient",
            "id": self.id("patient"),
            "meta": { "profile": [format!("{MADO}/MadoPatient")] },
        }));
        put_list(&mut out, "identifier", patient.ids.iter().map(|id| Value::Object(identifier(id))).collect());
        put_list(&mut out, "name", patient.name.as_deref().map(human_names).unwrap_or_default());
        let gender = match patient.sex.as_deref() {
            Some("M") => Some("male"),
            Some("F") => Some("female"),
            Some("O") => Some("other"),
            _ => None,
        };
        put(&mut out, "gender", gender);
        put(&mut out, "birthDate", patient.birth_date.as_deref().and_then(|d| date_time(d, None, None)));
        ("patient".into(), Value::Object(out))
    }

    fn organization(&self) -> Option<(String, Value)> {
        let institution = self.creator.institution.as_ref()?;
        let mut out = object(json!({ "resourceType": "Organization", "id": self.id("organization") }));
        put_list(&mut out, "identifier", institution.id.iter().map(|id| Value::Object(identifier(id))).collect());
        out.insert("name".into(), json!(institution.name));
        Some(("organization".into(), Value::Object(out)))
    }

    fn device(&self) -> (String, Value) {
        let mut out = object(json!({
            "resourceType": "Device",
            "id": self.id("device"),
            "meta": { "profile": [format!("{MADO}/MadoCreator")] },
        }));
        put(&mut out, "manufacturer", self.creator.manufacturer.clone());
        let name = |model: &String| json!({ "name": model, "type": "user-friendly-name" });
        put_list(&mut out, "deviceName", self.creator.model.iter().map(name).collect());
        let creator = json!({ "system": "https://profiles.ihe.net/RAD/MADO/CodeSystem/MadoDeviceType",
            "code": "mado-creator", "display": "MADO Creator" });
        out.insert("type".into(), json!({ "coding": [creator] }));
        put(
            &mut out,
            "owner",
            self.creator.institution.as_ref().map(|_| self.reference("organization", "Organization")),
        );
        ("device".into(), Value::Object(out))
    }

    /// Distinct addresses of the series: name, Retrieve URL, Retrieve Location UID.
    fn endpoints(&self) -> Vec<(String, Option<&str>, Option<&str>)> {
        let mut out: Vec<(String, Option<&str>, Option<&str>)> = Vec::new();
        let mut known = std::collections::BTreeSet::new();
        for series in &self.series {
            let name = self.endpoint_of(series);
            if known.insert(name.clone()) {
                out.push((name, series.retrieve_url.as_deref(), series.location.as_ref().map(crate::Oid::as_str)));
            }
        }
        out
    }

    fn endpoint_of(&self, series: &ManifestSeries) -> String {
        let location = series.location.as_ref().map(crate::Oid::as_str).unwrap_or_default();
        format!("wado {location} {}", series.retrieve_url.as_deref().unwrap_or_default())
    }

    fn wado(&self, name: &str, address: Option<&str>, location: Option<&str>) -> (String, Value) {
        let mut out = object(json!({
            "resourceType": "Endpoint",
            "id": self.id(name),
            "meta": { "profile": [format!("{MADO}/MadoWadoEndpoint")] },
        }));
        let location =
            location.map(|l| json!({ "url": format!("{MADO}/MadoRetrieveLocationUIDExtension"), "valueString": l }));
        put_list(&mut out, "extension", location.into_iter().collect());
        out.extend(object(json!({
            "status": "active",
            "connectionType": {
                "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "dicom-wado-rs",
            },
            "payloadType": [{
                "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/endpoint-payload-type", "code": "none", "display": "None" }],
                "text": "DICOM WADO-RS",
            }],
            "payloadMimeType": ["application/dicom", "application/octet-stream", "application/dicom+xml", "application/dicom+json"],
            "address": address.unwrap_or(NO_ADDRESS),
        })));
        if address.is_none() {
            let absent = json!({ "extension": [{ "url": DATA_ABSENT, "valueCode": "not-applicable" }] });
            out.insert("_address".into(), absent);
        }
        (name.to_owned(), Value::Object(out))
    }

    fn web_viewer(&self, address: &str) -> (String, Value) {
        let resource = json!({
            "resourceType": "Endpoint",
            "id": self.id("viewer"),
            "meta": { "profile": [format!("{MADO}/MadoWebViewerEndpoint")] },
            "status": "active",
            "connectionType": { "system": "https://profiles.ihe.net/RAD/MADO/CodeSystem/MadoEndpointConnectionTypes", "code": "web-viewer" },
            "payloadType": [{
                "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/endpoint-payload-type", "code": "none", "display": "None" }],
            }],
            "payloadMimeType": ["text/html"],
            "address": address,
        });
        ("viewer".into(), resource)
    }

    fn service_request(&self, at: usize) -> (String, Value) {
        let request = &self.requests[at];
        let mut out = object(json!({
            "resourceType": "ServiceRequest",
            "id": self.id(&format!("request{at}")),
            "meta": { "profile": [format!("{MADO}/MadoRequestedProcedure")] },
        }));
        let placer = request.placer.as_ref().map(|placer| {
            typed(
                placer,
                json!([
                    { "system": DCM, "code": "121020", "display": "Placer Number" },
                    { "system": V2_0203, "code": "PLAC", "display": "Placer Identifier" },
                ]),
            )
        });
        put_list(&mut out, "identifier", request.accession.as_ref().map(accession).into_iter().chain(placer).collect());
        out.extend(object(json!({
            "status": "completed",
            "intent": "order",
            "category": [{ "coding": [{ "system": "http://snomed.info/sct", "code": "363679005", "display": "Imaging" }] }],
            "subject": self.reference("patient", "Patient"),
        })));
        (format!("request{at}"), Value::Object(out))
    }
}

fn instance(instance: &ManifestInstance) -> Value {
    let frames = instance.frames.map(|n| json!({ "url": format!("{MADO}/MadoNumberOfFrames"), "valueInteger": n }));
    let title = instance.key_title.as_ref().map(
        |title| json!({ "url": format!("{MADO}/MadoKeyObjectDocumentTitle"), "valueCodeableConcept": concept(title) }),
    );
    let mut out = Map::new();
    put_list(&mut out, "extension", frames.into_iter().chain(title).collect());
    out.insert("uid".into(), json!(instance.sop_instance.as_str()));
    out.insert("sopClass".into(), json!({
        "system": "http://dicom.nema.org/resources/CodeSystem/DICOM_UIDs", "code": format!("urn:oid:{}", instance.sop_class),
    }));
    put(&mut out, "number", instance.number);
    put(&mut out, "title", instance.key_description.clone());
    Value::Object(out)
}

fn count(series: &ManifestSeries) -> u32 {
    u32::try_from(series.instances.len()).unwrap_or(u32::MAX)
}

/// What a person reads of a series.
fn words(series: &ManifestSeries) -> Vec<(&'static str, String)> {
    let mut out = vec![("Series", series.series.to_string())];
    out.extend(series.modality.clone().map(|m| ("Modality", m)));
    let region = series.region.as_ref().and_then(|r| r.display.clone());
    out.extend(region.map(|r| ("Body site", r)));
    out.extend(series.description.clone().map(|d| ("Description", d)));
    out.push(("Instances", count(series).to_string()));
    out
}

fn narrative(title: &str, rows: Vec<Vec<(&'static str, String)>>) -> String {
    let row = |cells: Vec<(&str, String)>| {
        let cells: String = cells.iter().map(|(k, v)| format!("<td><b>{k}</b> {}</td>", escape(v))).collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: String = rows.into_iter().map(row).collect();
    format!("<div xmlns=\"{XHTML}\"><p>{}</p><table><tbody>{rows}</tbody></table></div>", escape(title))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A FHIR dateTime; without an offset only the day can be said.
fn date_time(date: &str, time: Option<&str>, offset: Option<&str>) -> Option<String> {
    let day = format!("{}-{}-{}", date.get(..4)?, date.get(4..6)?, date.get(6..8)?);
    let zone = offset.and_then(|o| Some(format!("{}:{}", o.get(..3)?, o.get(3..5)?)));
    let (Some(time), Some(zone)) = (time, zone) else { return Some(day) };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let full = format!("{whole:0<6}");
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
    Some(format!("{day}T{}:{}:{}{fraction}{zone}", full.get(..2)?, full.get(2..4)?, full.get(4..6)?))
}

/// A name for each component group of a PN; those beside the first say which they are.
fn human_names(name: &str) -> Vec<Value> {
    let groups = name.split('=').zip(REPRESENTATIONS).filter(|(group, _)| !group.trim().is_empty());
    let several = name.contains('=');
    let one = |(group, representation)| {
        let mut out = human_name(group);
        if several && let Some(out) = out.as_object_mut() {
            out.insert("extension".into(), json!([{ "url": REPRESENTATION, "valueCode": representation }]));
        }
        out
    };
    groups.map(one).collect()
}

/// A group of a PN: family^given^middle^prefix^suffix.
fn human_name(group: &str) -> Value {
    let mut parts = group.split('^').map(str::trim);
    let mut next = || parts.next().filter(|p| !p.is_empty());
    let (family, given, middle, prefix, suffix) = (next(), next(), next(), next(), next());
    let text = [prefix, given, middle, family, suffix].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let mut out = object(json!({ "text": text }));
    put(&mut out, "family", family);
    put_list(&mut out, "given", given.into_iter().chain(middle).map(|p| json!(p)).collect());
    put_list(&mut out, "prefix", prefix.into_iter().map(|p| json!(p)).collect());
    put_list(&mut out, "suffix", suffix.into_iter().map(|p| json!(p)).collect());
    Value::Object(out)
}

fn uid_identifier(uid: &str) -> Value {
    json!({ "system": "urn:dicom:uid", "value": format!("urn:oid:{uid}") })
}

fn identifier(id: &IssuedId) -> Map<String, Value> {
    let mut out = Map::new();
    put(
        &mut out,
        "system",
        id.issuer.as_ref().map(|issuer| match issuer {
            Issuer::Oid(oid) => oid.urn(),
            Issuer::Uri(uri) => uri.clone(),
        }),
    );
    out.insert("value".into(), json!(id.id));
    put(&mut out, "assigner", id.label.as_ref().map(|label| json!({ "display": label })));
    out
}

fn typed(id: &IssuedId, codings: Value) -> Value {
    let mut out = object(json!({ "type": { "coding": codings } }));
    out.extend(identifier(id));
    Value::Object(out)
}

fn accession(id: &IssuedId) -> Value {
    typed(
        id,
        json!([
            { "system": DCM, "code": "121022", "display": "Accession Number" },
            { "system": V2_0203, "code": "ACSN", "display": "Accession Id" },
        ]),
    )
}

fn coding(code: &Coded) -> Value {
    let mut out = Map::new();
    let system =
        SYSTEMS.iter().find(|(designator, _)| *designator == code.system).map_or(code.system.as_str(), |(_, u)| u);
    put(&mut out, "system", Some(system).filter(|s| !s.is_empty()));
    put(&mut out, "code", Some(code.code.as_str()).filter(|c| !c.is_empty()));
    put(&mut out, "display", code.display.clone());
    Value::Object(out)
}

/// A CodeableConcept; words without a code are text.
fn concept(code: &Coded) -> Value {
    match (&code.display, code.code.is_empty()) {
        (Some(words), true) => json!({ "text": words }),
        _ => json!({ "coding": [coding(code)] }),
    }
}

fn put<T: Into<Value>>(out: &mut Map<String, Value>, key: &str, value: Option<T>) {
    out.extend(value.map(|v| (key.to_owned(), v.into())));
}

fn put_list(out: &mut Map<String, Value>, key: &str, values: Vec<Value>) {
    if !values.is_empty() {
        out.insert(key.to_owned(), Value::Array(values));
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
