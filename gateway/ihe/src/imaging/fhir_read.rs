//! Reading MADO's FHIR document, R4 or R5: what differs between them is the wrapping of codes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil;
use serde_json::Value;

use super::dicom::{self, derived_uid};
use super::{
    IssuedId, IssuedName, Issuer, MOST_BYTES, MOST_REFERENCES, Manifest, ManifestCreator, ManifestError,
    ManifestInstance, ManifestPatient, ManifestRequest, ManifestSeries, ManifestWarning as Warning,
};
use crate::{Coded, Uid};

/// Designators of DICOM and the systems of FHIR.
pub(super) const SYSTEMS: [(&str, &str); 5] = [
    ("SCT", "http://snomed.info/sct"),
    ("DCM", "http://dicom.nema.org/resources/ontology/DCM"),
    ("LN", "http://loinc.org"),
    ("UCUM", "http://unitsofmeasure.org"),
    ("RADLEX", "http://radlex.org"),
];
/// Identifiers, regions, orders that are compared one by one.
const MOST_LISTED: usize = 256;
/// Which representation of a name it is: alphabetic, ideographic, syllabic, as the component groups of a PN.
pub(super) const REPRESENTATION: &str = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation";
pub(super) const REPRESENTATIONS: [&str; 3] = ["ABC", "IDE", "SYL"];

impl Manifest {
    /// Reads a FHIR document with one ImagingStudy.
    ///
    /// # Errors
    /// No JSON, no Bundle with an ImagingStudy, no usable UIDs, too many references.
    pub fn read_fhir(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MOST_BYTES {
            return Err(ManifestError::TooMany);
        }
        let bundle: Value = serde_json::from_slice(bytes).map_err(|_| ManifestError::UnknownForm)?;
        if text(&bundle, "resourceType") != Some("Bundle") {
            return Err(ManifestError::UnknownForm);
        }
        Document::index(&bundle).read(&bundle)
    }
}

/// The resources of a Bundle by what references call them.
struct Document<'a> {
    by_name: BTreeMap<String, &'a Value>,
    all: Vec<&'a Value>,
    warnings: Vec<Warning>,
}

impl<'a> Document<'a> {
    fn index(bundle: &'a Value) -> Self {
        let mut by_name = BTreeMap::new();
        let mut all = Vec::new();
        for entry in list(bundle, "entry") {
            let Some(resource) = entry.get("resource") else { continue };
            if let Some(url) = text(entry, "fullUrl") {
                by_name.entry(url.to_owned()).or_insert(resource);
            }
            if let (Some(kind), Some(id)) = (text(resource, "resourceType"), text(resource, "id")) {
                by_name.entry(format!("{kind}/{id}")).or_insert(resource);
            }
            all.push(resource);
        }
        Self { by_name, all, warnings: Vec::new() }
    }

    fn of_type(&self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.all.iter().copied().filter(move |r| text(r, "resourceType") == Some(kind))
    }

    fn resolve(&self, reference: Option<&Value>, kind: &str) -> Option<&'a Value> {
        let name = text(reference?, "reference")?;
        let found = self.by_name.get(name).copied().filter(|r| text(r, "resourceType") == Some(kind));
        // A reference by address ends with type and id.
        found.or_else(|| {
            let id = name.rsplit_once(&format!("{kind}/"))?.1.split('/').next()?;
            self.by_name.get(&format!("{kind}/{id}")).copied()
        })
    }

    fn read(mut self, bundle: &Value) -> Result<Manifest, ManifestError> {
        if text(bundle, "type") != Some("document") {
            self.warnings.push(Warning::BundleType);
        }
        let studies: Vec<&Value> = self.of_type("ImagingStudy").collect();
        let study = *studies.first().ok_or(ManifestError::UnknownForm)?;
        if studies.len() > 1 {
            self.warnings.push(Warning::SeveralStudies);
        }
        let identifiers = list(study, "identifier");
        let study_uid = identifiers.iter().find(|i| text(i, "system") == Some("urn:dicom:uid")).and_then(uid_value);
        let study_uid = study_uid.ok_or(ManifestError::Evidence("study uid"))?;
        let composition = self.of_type("Composition").next();
        let sop_instance = self.identifier(bundle, &study_uid)?;
        let own_series = derived_uid(&[sop_instance.as_str(), "series"]).ok_or(ManifestError::Evidence("own uid"))?;
        let mut manifest = Manifest::new(sop_instance, own_series, study_uid);

        manifest.patient = self.patient(study);
        let started = self.moment(text(study, "started"));
        manifest.timezone = started.offset.clone();
        (manifest.study_date, manifest.study_time) = (started.date, started.time);
        manifest.description = text(study, "description").map(ToOwned::to_owned);
        manifest.regions = self.regions(study);
        let procedures = list(study, "procedureCode").iter().chain(list(study, "procedure"));
        manifest.procedures = procedures.take(MOST_LISTED).filter_map(coded).collect();
        manifest.requests = self.requests(study);
        manifest.accession = match manifest.requests.as_slice() {
            [one] => one.accession.as_ref().map(|a| a.id.clone()),
            _ => None,
        };
        manifest.series_total = number(study, "numberOfSeries");
        manifest.creator = self.creator(composition);
        let date = composition.and_then(|c| text(c, "date")).or_else(|| text(bundle, "timestamp"));
        let created = self.moment(date).at(&manifest.timezone);
        manifest.created = created.date.map(|d| d + created.time.as_deref().unwrap_or_default());
        manifest.title = composition.and_then(|c| coded(c.get("type")?));
        let study_endpoints: Vec<&Value> =
            list(study, "endpoint").iter().filter_map(|e| self.resolve(Some(e), "Endpoint")).collect();
        let viewer = study_endpoints.iter().copied().find(|e| !is_wado(e));
        manifest.viewer = viewer.and_then(address);
        self.series(study, &study_endpoints, &mut manifest)?;
        manifest.counts(number(study, "numberOfInstances"));
        if manifest.series_total.is_some_and(|n| n as usize != manifest.series.len()) {
            self.warnings.push(Warning::SeriesCount);
        }
        if manifest.timezone.is_none() {
            self.warnings.push(Warning::NoTimezone);
        }
        manifest.warnings = self.warnings;
        Ok(manifest)
    }

    /// The KOS's SOP Instance UID; published examples have another identifier.
    fn identifier(&mut self, bundle: &Value, study: &Uid) -> Result<Uid, ManifestError> {
        let identifier = bundle.get("identifier");
        if let Some(uid) = identifier.and_then(uid_value) {
            return Ok(uid);
        }
        self.warnings.push(Warning::IdentifierNotUid);
        let part = |key| identifier.and_then(|i| text(i, key)).unwrap_or_default();
        let parts = [part("system"), part("value"), study.as_str()];
        derived_uid(&parts).ok_or(ManifestError::Evidence("own uid"))
    }

    fn patient(&mut self, study: &Value) -> ManifestPatient {
        let found = self.resolve(study.get("subject"), "Patient").or_else(|| self.of_type("Patient").next());
        let Some(patient) = found else {
            self.warnings.push(Warning::NoPatientId);
            return ManifestPatient::default();
        };
        let ids: Vec<IssuedId> = list(patient, "identifier").iter().take(MOST_LISTED).filter_map(issued).collect();
        if ids.is_empty() {
            self.warnings.push(Warning::NoPatientId);
        }
        if ids.iter().any(|id| id.issuer.is_none()) {
            self.warnings.push(Warning::PatientIdWithoutIssuer);
        }
        let birth = text(patient, "birthDate").map(|date| self.moment(Some(date)));
        let sex = match text(patient, "gender") {
            Some("male") => Some("M"),
            Some("female") => Some("F"),
            Some("other") => Some("O"),
            _ => None,
        };
        ManifestPatient {
            ids,
            name: person_names(list(patient, "name")),
            birth_date: birth.and_then(|b| b.date),
            sex: sex.map(ToOwned::to_owned),
        }
    }

    fn regions(&mut self, study: &Value) -> Vec<Coded> {
        let mut out: Vec<Coded> = Vec::new();
        for extension in extensions(study, &["anatomicalregion"]).take(MOST_LISTED) {
            let Some(found) = extension.get("valueCodeableConcept").and_then(coded) else { continue };
            let (region, odd) = dicom::region(found);
            if odd && !self.warnings.contains(&Warning::RegionCode) {
                self.warnings.push(Warning::RegionCode);
            }
            if !out.contains(&region) {
                out.push(region);
            }
        }
        out
    }

    /// An order by its resource, else by the identifier in the reference to it.
    fn requests(&self, study: &Value) -> Vec<ManifestRequest> {
        let mut out: Vec<ManifestRequest> = Vec::new();
        for reference in list(study, "basedOn").iter().take(MOST_LISTED) {
            let resource = self.resolve(Some(reference), "ServiceRequest");
            let mut identifiers: Vec<&Value> =
                resource.map(|r| list(r, "identifier").iter().collect()).unwrap_or_default();
            identifiers.extend(reference.get("identifier"));
            let typed = |codes: [&str; 2]| {
                let is = |coding: &Value| text(coding, "code").is_some_and(|c| codes.contains(&c));
                let fits = |i: &&&Value| i.get("type").is_some_and(|t| list(t, "coding").iter().any(is));
                identifiers.iter().find(fits).and_then(|i| issued(i))
            };
            let request = ManifestRequest { accession: typed(["ACSN", "121022"]), placer: typed(["PLAC", "121020"]) };
            if request != ManifestRequest::default() && !out.contains(&request) {
                out.push(request);
            }
        }
        out
    }

    fn creator(&self, composition: Option<&Value>) -> ManifestCreator {
        let authors = composition.map(|c| list(c, "author")).unwrap_or_default();
        let author = |kind| authors.iter().find_map(|a| self.resolve(Some(a), kind));
        let device = author("Device");
        let owner = device.and_then(|d| self.resolve(d.get("owner"), "Organization"));
        let organization = author("Organization").or(owner);
        let names = device.map(|d| [list(d, "deviceName"), list(d, "name")].concat()).unwrap_or_default();
        let model = names.iter().find_map(|n| text(n, "name").or_else(|| text(n, "value")));
        let institution = organization.and_then(|o| {
            let id = list(o, "identifier").first().and_then(issued);
            Some(IssuedName { name: text(o, "name")?.to_owned(), id })
        });
        ManifestCreator {
            manufacturer: device.and_then(|d| text(d, "manufacturer")).map(ToOwned::to_owned),
            model: model.map(ToOwned::to_owned),
            institution,
        }
    }

    fn series(&mut self, study: &Value, shared: &[&Value], manifest: &mut Manifest) -> Result<(), ManifestError> {
        let mut total = 0;
        let mut seen_series = BTreeSet::new();
        let mut repeated = BTreeSet::new();
        for item in list(study, "series") {
            let own = text(item, "uid").and_then(|u| Uid::parse(without_oid(u)).ok());
            let own = own.ok_or(ManifestError::Evidence("series uid"))?;
            if !seen_series.insert(own.clone()) {
                self.warnings.push(Warning::SeriesRepeated(own));
                continue;
            }
            let mut series = ManifestSeries::new(own.clone());
            series.modality = item.get("modality").and_then(coded).map(|c| c.code);
            series.number = number(item, "number");
            series.description = text(item, "description").map(ToOwned::to_owned);
            let started = self.moment(text(item, "started")).at(&manifest.timezone);
            (series.date, series.time) = (started.date, started.time);
            series.region = item.get("bodySite").and_then(coded);
            series.laterality = item.get("laterality").and_then(coded);
            series.total = number(item, "numberOfInstances");
            self.addresses(item, shared, &mut series);
            let mut seen = BTreeSet::new();
            for reference in list(item, "instance") {
                total += 1;
                if total > MOST_REFERENCES {
                    return Err(ManifestError::TooMany);
                }
                match instance(reference) {
                    None if self.warnings.contains(&Warning::ReferenceUnusable) => {}
                    None => self.warnings.push(Warning::ReferenceUnusable),
                    Some(one) if seen.insert(one.sop_instance.clone()) => series.instances.push(one),
                    Some(one) => _ = repeated.insert(one.sop_instance),
                }
            }
            if series.instances.is_empty() {
                self.warnings.push(Warning::EmptySeries(own.clone()));
            }
            if series.total.is_some_and(|n| n as usize != series.instances.len()) {
                self.warnings.push(Warning::Count(own));
            }
            manifest.series.push(series);
        }
        self.warnings.extend(repeated.into_iter().map(Warning::Repeated));
        if manifest.instance_count() == 0 {
            return Err(ManifestError::Evidence("no instance"));
        }
        Ok(())
    }

    /// Address and Retrieve Location UID of a series: its own endpoints, else the study's.
    fn addresses(&mut self, item: &Value, shared: &[&Value], series: &mut ManifestSeries) {
        let own = list(item, "endpoint").iter().filter_map(|e| self.resolve(Some(e), "Endpoint"));
        let endpoints: Vec<&Value> = own.chain(shared.iter().copied()).filter(|e| is_wado(e)).collect();
        series.retrieve_url = endpoints.iter().copied().find_map(address);
        let location = endpoints.iter().copied().find_map(|e| {
            let extension = extensions(e, &["locationuid", "retrievelocationuid"]).next()?;
            ["valueString", "valueOid", "valueUri", "valueId"].into_iter().find_map(|key| text(extension, key))
        });
        series.location = dicom::location(location);
        match (location, &series.location, &series.retrieve_url) {
            (Some(_), None, _) => self.warnings.push(Warning::LocationNotOid(series.series.clone())),
            (None, _, None) => self.warnings.push(Warning::NoAddress(series.series.clone())),
            (None, _, _) => self.warnings.push(Warning::NoLocation(series.series.clone())),
            _ => {}
        }
    }

    fn moment(&mut self, value: Option<&str>) -> Moment {
        let Some(value) = value else { return Moment::default() };
        Moment::parse(value).unwrap_or_else(|| {
            self.warnings.push(Warning::DateTime);
            Moment::default()
        })
    }
}

fn instance(item: &Value) -> Option<ManifestInstance> {
    let class = coded(item.get("sopClass")?)?.code;
    let mut out =
        ManifestInstance::new(Uid::parse(without_oid(&class)).ok()?, Uid::parse(without_oid(text(item, "uid")?)).ok()?);
    out.number = number(item, "number");
    let frames = extensions(item, &["numberofframes"]).next();
    out.frames = frames.and_then(|e| {
        ["valueInteger", "valuePositiveInt", "valueUnsignedInt"].into_iter().find_map(|key| number(e, key))
    });
    let title = extensions(item, &["keyobjectdocumenttitle", "kodocumenttitle"]).next();
    out.key_title = title.and_then(|e| e.get("valueCodeableConcept").and_then(coded));
    out.key_description = text(item, "title").map(ToOwned::to_owned);
    Some(out)
}

/// A FHIR dateTime, apart.
#[derive(Default)]
struct Moment {
    /// `YYYYMMDD`
    date: Option<String>,
    /// `HHMMSS[.F]`
    time: Option<String>,
    /// `+hhmm`
    offset: Option<String>,
}

impl Moment {
    /// Partial dates cannot be said in DICOM.
    fn parse(value: &str) -> Option<Self> {
        let (date, rest) = value.split_once('T').unwrap_or((value, ""));
        let day: civil::Date = (date.len() == 10).then(|| date.parse().ok()).flatten()?;
        let date = Some(day.strftime("%Y%m%d").to_string());
        if rest.is_empty() {
            return Some(Self { date, ..Self::default() });
        }
        let zone = rest.find(['Z', '+', '-']).filter(|at| *at >= 8)?;
        let (clock, zone) = rest.split_at_checked(zone)?;
        let time: civil::Time = clock.parse().ok()?;
        let offset = if zone == "Z" { "+0000".to_owned() } else { zone.replace(':', "") };
        let valid = offset.len() == 5 && offset.bytes().skip(1).all(|b| b.is_ascii_digit());
        let fraction = clock.split_once('.').map(|(_, f)| f).unwrap_or_default();
        let fraction: String = fraction.chars().take(6).collect();
        let mut text = time.strftime("%H%M%S").to_string();
        if !fraction.is_empty() {
            text = format!("{text}.{fraction}");
        }
        valid.then_some(Self { date, time: Some(text), offset: Some(offset) })
    }

    /// The same instant at another offset: DICOM has one for the whole object.
    fn at(self, offset: &Option<String>) -> Self {
        if self.offset.is_none() || self.offset == *offset {
            return self;
        }
        let shifted = || {
            let (own, other) = (seconds(self.offset.as_deref()?)?, seconds(offset.as_deref()?)?);
            let (whole, fraction) = self.time.as_deref()?.split_at_checked(6)?;
            let local = civil::DateTime::strptime("%Y%m%d%H%M%S", format!("{}{whole}", self.date.as_deref()?)).ok()?;
            let local = local.checked_add(jiff::SignedDuration::from_secs(other - own)).ok()?;
            Some(Self {
                date: Some(local.strftime("%Y%m%d").to_string()),
                time: Some(format!("{}{fraction}", local.strftime("%H%M%S"))),
                offset: offset.clone(),
            })
        };
        shifted().unwrap_or(self)
    }
}

/// `+hhmm` in seconds.
fn seconds(offset: &str) -> Option<i64> {
    let (sign, digits) = (offset.get(..1)?, offset.get(1..5)?);
    let (hours, minutes): (i64, i64) = (digits.get(..2)?.parse().ok()?, digits.get(2..)?.parse().ok()?);
    let total = hours * 3600 + minutes * 60;
    Some(if sign == "-" { -total } else { total })
}

/// PN of a patient's names: the first, or the first of each representation, as component groups (PS3.5 6.2.1).
fn person_names(names: &[Value]) -> Option<String> {
    let represented = |name: &&Value, code: &str| {
        let said = list(name, "extension").iter().find(|e| text(e, "url") == Some(REPRESENTATION));
        said.and_then(|extension| text(extension, "valueCode")) == Some(code)
    };
    let groups = REPRESENTATIONS.map(|code| names.iter().find(|name| represented(name, code)).and_then(person_name));
    if groups.iter().all(Option::is_none) {
        return names.first().and_then(person_name);
    }
    let joined = groups.map(Option::unwrap_or_default).join("=");
    Some(joined.trim_end_matches('=').to_owned())
}

/// PN of a HumanName: family^given^middle^prefix^suffix.
fn person_name(name: &Value) -> Option<String> {
    let part = |text: &str| text.replace(['^', '=', '\\'], " ");
    let words = |key| {
        let all: Vec<&str> = list(name, key).iter().filter_map(Value::as_str).collect();
        all.iter().map(|w| part(w)).collect::<Vec<_>>()
    };
    let given = words("given");
    let family = text(name, "family").map(part);
    let family = family.or_else(|| text(name, "text").map(part))?;
    let first = given.first().cloned().unwrap_or_default();
    let middle = given.get(1..).unwrap_or_default().join(" ");
    let full = [family, first, middle, words("prefix").join(" "), words("suffix").join(" ")].join("^");
    Some(full.trim_end_matches('^').to_owned())
}

fn issued(identifier: &Value) -> Option<IssuedId> {
    let label = identifier.get("assigner").and_then(|a| text(a, "display"));
    Some(IssuedId {
        id: text(identifier, "value")?.to_owned(),
        issuer: text(identifier, "system").map(Issuer::parse),
        label: label.map(ToOwned::to_owned),
    })
}

/// A UID in an identifier, with or without `urn:oid:`.
fn uid_value(identifier: &Value) -> Option<Uid> {
    let value = text(identifier, "value")?;
    let named = text(identifier, "system") == Some("urn:dicom:uid") || value.starts_with("urn:oid:");
    Uid::parse(without_oid(value)).ok().filter(|_| named)
}

fn is_wado(endpoint: &Value) -> bool {
    let kinds = endpoint.get("connectionType");
    let kinds = kinds.map(|k| k.as_array().map_or(vec![k], |all| all.iter().collect())).unwrap_or_default();
    kinds.into_iter().filter_map(coded).any(|c| c.code == "dicom-wado-rs")
}

/// An endpoint's address; a placeholder is none.
fn address(endpoint: &Value) -> Option<String> {
    let absent = endpoint.get("_address").is_some_and(|a| extensions(a, &["dataabsentreason"]).next().is_some());
    text(endpoint, "address").filter(|a| !absent && *a != "http://notspecified").map(ToOwned::to_owned)
}

/// A code as Coding, CodeableConcept or CodeableReference, its system as a designator where there is one.
fn coded(value: &Value) -> Option<Coded> {
    let value = value.get("concept").unwrap_or(value);
    let coding = list(value, "coding").first().unwrap_or(value);
    let words = text(coding, "display").or_else(|| text(value, "text")).map(ToOwned::to_owned);
    let code = text(coding, "code").unwrap_or_default().to_owned();
    let url = text(coding, "system").unwrap_or_default();
    let system = SYSTEMS.iter().find(|(_, u)| *u == url).map_or(url, |(designator, _)| designator).to_owned();
    (!code.is_empty() || words.is_some()).then_some(Coded { code, system, display: words })
}

/// Extensions whose name, without punctuation and capitals, ends so: MADO renames them between drafts.
fn extensions<'a>(value: &'a Value, names: &'a [&'a str]) -> impl Iterator<Item = &'a Value> {
    list(value, "extension").iter().filter(|extension| {
        let url = text(extension, "url").unwrap_or_default();
        let last = url.rsplit('/').next().unwrap_or_default();
        let plain: String = last.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        let plain = plain.strip_suffix("extension").unwrap_or(&plain);
        names.iter().any(|name| plain.ends_with(name))
    })
}

fn without_oid(text: &str) -> &str {
    text.strip_prefix("urn:oid:").unwrap_or(text)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty())
}

fn number(value: &Value, key: &str) -> Option<u32> {
    value.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
