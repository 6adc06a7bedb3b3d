//! QIDO-RS under the sealed base of a study (RAD-129): what its manifest lists, without a further call to the country.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, header};
use ncp_ihe::imaging::person_name;
use ncp_ihe::{Manifest, ManifestInstance, ManifestSeries, like};
use serde_json::{Map, Value, json};

use super::dicomweb::{DICOM_JSON, Opened, Place, open};
use super::problem::Problem;
use super::{Clinic, Context};

/// Any characters, one character.
const DICOM: [char; 2] = ['*', '?'];
/// Matches of one answer.
const MOST: usize = 1000;
/// Values of a search, and letters of one that is no list of UIDs: each is compared with each object.
const VALUES: usize = 2 * ATTRIBUTES.len();
const LETTERS: usize = 256;

/// What can be matched: keyword, tag, how.
const ATTRIBUTES: [(&str, &str, Matching); 22] = [
    ("StudyDate", "00080020", Matching::Range),
    ("StudyTime", "00080030", Matching::Range),
    ("AccessionNumber", "00080050", Matching::Text),
    ("InstanceAvailability", "00080056", Matching::Text),
    ("Modality", "00080060", Matching::Text),
    ("ModalitiesInStudy", "00080061", Matching::Text),
    ("ReferringPhysicianName", "00080090", Matching::Name),
    ("StudyDescription", "00081030", Matching::Text),
    ("SeriesDescription", "0008103E", Matching::Text),
    ("SeriesDate", "00080021", Matching::Range),
    ("SeriesTime", "00080031", Matching::Range),
    ("SOPClassUID", "00080016", Matching::Uid),
    ("SOPInstanceUID", "00080018", Matching::Uid),
    ("PatientName", "00100010", Matching::Name),
    ("PatientID", "00100020", Matching::Text),
    ("PatientBirthDate", "00100030", Matching::Range),
    ("PatientSex", "00100040", Matching::Text),
    ("StudyInstanceUID", "0020000D", Matching::Uid),
    ("SeriesInstanceUID", "0020000E", Matching::Uid),
    ("StudyID", "00200010", Matching::Text),
    ("SeriesNumber", "00200011", Matching::Text),
    ("InstanceNumber", "00200013", Matching::Text),
];

/// How a value is matched (PS3.4 C.2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matching {
    /// One of a list.
    Uid,
    /// `*` and `?`.
    Text,
    /// The same, whatever the case.
    Name,
    /// From and to, each of which may be absent.
    Range,
}

/// A value that is asked for.
#[derive(Debug)]
struct Wanted {
    tag: &'static str,
    matching: Matching,
    value: String,
    /// The UIDs of a list.
    uids: HashSet<String>,
}

/// A search.
#[derive(Debug, Default)]
struct Search {
    wanted: Vec<Wanted>,
    limit: Option<usize>,
    offset: usize,
    fuzzy: bool,
}

/// Attributes of one object, by tag.
type Record = Map<String, Value>;

/// A search in a study that may be shown.
pub struct Asked {
    opened: Opened,
    search: Search,
    place: Place,
}

impl FromRequestParts<Arc<Clinic>> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, clinic: &Arc<Clinic>) -> Result<Self, Problem> {
        let Extension(context) =
            Extension::<Context>::from_request_parts(parts, clinic).await.map_err(|_| Problem::NotFound)?;
        let Path(place) = Path::<Place>::from_request_parts(parts, clinic).await.map_err(|_| Problem::NotFound)?;
        let search = Search::read(parts.uri.query().unwrap_or_default())?;
        let types = [DICOM_JSON, "application/json"];
        let opened = open(clinic, &context, &place, &parts.headers, ("RAD-129", &types)).await?;
        Ok(Self { opened, search, place })
    }
}

/// `GET …/studies`
pub async fn search_studies(Asked { opened, search, .. }: Asked) -> Response {
    let study = study_record(&opened);
    let found = search.matches(&[&study]).then_some(study);
    told(&opened, search.answer(found.into_iter()))
}

/// `GET …/studies/{study}/series`
pub async fn search_series(Asked { opened, search, .. }: Asked) -> Response {
    let study = study_record(&opened);
    let all = opened.manifest.series.iter().map(|series| series_record(&opened, series));
    told(&opened, search.answer(all.filter(|series| search.matches(&[series, &study]))))
}

/// `GET …/studies/{study}[/series/{series}]/instances`
pub async fn search_instances(Asked { opened, search, place }: Asked) -> Response {
    let study = study_record(&opened);
    let of_path = |s: &&ManifestSeries| place.series.as_deref().is_none_or(|uid| uid == s.series.as_str());
    let all = opened.manifest.series.iter().filter(of_path).flat_map(|series| {
        let (record, study, opened, search) = (series_record(&opened, series), &study, &opened, &search);
        series.instances.iter().filter_map(move |instance| {
            let own = instance_record(opened, series, instance);
            search.matches(&[&own, &record, study]).then_some(own)
        })
    });
    told(&opened, search.answer(all))
}

/// The answer, with what is to be known of the study beside it.
fn told(opened: &Opened, response: Response) -> Response {
    let mut response = incomplete(response, &opened.manifest);
    opened.warn(&mut response);
    response
}

/// Says how many instances the other country has and does not make available.
fn incomplete(mut response: Response, manifest: &Manifest) -> Response {
    let total = manifest.announced_count();
    let missing = total - manifest.instance_count();
    if missing > 0 {
        let text = format!("299 ncp \"{missing} of {total} instances not available\"");
        if let Ok(value) = HeaderValue::try_from(text) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

impl Search {
    fn read(query: &str) -> Result<Self, Problem> {
        let mut out = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = value.replace('+', " ");
            let value = percent_encoding::percent_decode_str(&plain).decode_utf8();
            let value = value.map_err(|_| Problem::Request("value", "A value is not UTF-8."))?.into_owned();
            let number = || value.parse().map_err(|_| Problem::Request("value", "limit and offset are numbers."));
            match name {
                // All that the manifest says is answered anyway.
                "includefield" => {}
                "fuzzymatching" => out.fuzzy = value == "true",
                "limit" => out.limit = Some(number()?),
                "offset" => out.offset = number()?,
                // An empty value, or a star alone, matches everything.
                _ => match ATTRIBUTES.iter().find(|(keyword, tag, _)| *keyword == name || *tag == name) {
                    Some(_) if value.is_empty() || value == "*" => {}
                    Some(_) if out.wanted.len() == VALUES => {
                        return Err(Problem::Request("values", "The parameters have too many values."));
                    }
                    Some((_, tag, Matching::Uid)) => {
                        let uids = value.split([',', '\\']).map(|uid| uid.trim().to_owned()).collect();
                        out.wanted.push(Wanted { tag, matching: Matching::Uid, value: String::new(), uids });
                    }
                    Some(_) if value.chars().count() > LETTERS => {
                        return Err(Problem::Request("value", "A value has more than 256 letters."));
                    }
                    Some((_, tag, matching)) => {
                        out.wanted.push(Wanted { tag, matching: *matching, value, uids: HashSet::new() });
                    }
                    None => return Err(Problem::Request("not-supported", "An attribute cannot be searched by.")),
                },
            }
        }
        Ok(out)
    }

    /// Whether the first record that has an attribute fits, for every attribute asked for.
    fn matches(&self, records: &[&Record]) -> bool {
        self.wanted.iter().all(|wanted| {
            // Modality of a study is that of any of its series.
            let alias = (wanted.tag == "00080060").then_some("00080061");
            let attribute = records.iter().find_map(|r| r.get(wanted.tag).or_else(|| r.get(alias?)));
            let values = attribute.and_then(|a| a.get("Value")).and_then(Value::as_array);
            values.is_some_and(|values| values.iter().any(|has| wanted.fits(has)))
        })
    }

    /// What is asked for of all matches, and how many more there are.
    fn answer(&self, all: impl Iterator<Item = Record>) -> Response {
        let limit = self.limit.unwrap_or(MOST).min(MOST);
        let mut shown = Vec::new();
        let mut further = 0;
        for record in all.skip(self.offset) {
            if shown.len() < limit {
                shown.push(Value::Object(record));
            } else {
                further += 1;
            }
        }
        let mut response = Body::from(Value::from(shown).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(DICOM_JSON));
        if further > 0 {
            let text = format!("299 ncp \"There are {further} additional results that can be requested\"");
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.append(header::WARNING, value);
            }
        }
        if self.fuzzy {
            let text =
                "299 ncp \"The fuzzymatching parameter is not supported. Only literal matching has been performed.\"";
            headers.append(header::WARNING, HeaderValue::from_static(text));
        }
        response
    }
}

impl Wanted {
    fn fits(&self, has: &Value) -> bool {
        let wanted = self.value.as_str();
        let text = match has {
            Value::String(text) => text.clone(),
            Value::Object(name) => name.values().filter_map(Value::as_str).collect::<Vec<_>>().join("="),
            other => other.to_string(),
        };
        match self.matching {
            Matching::Uid => self.uids.contains(&text),
            Matching::Text => like(wanted, &text, DICOM),
            // The whole name, or any of its component groups (PS3.4 C.2.2.2.4).
            Matching::Name => {
                let (wanted, text) = (wanted.to_lowercase(), text.to_lowercase());
                let groups = text.split('=').filter(|group| !group.is_empty());
                std::iter::once(text.as_str()).chain(groups).any(|name| like(&wanted, name, DICOM))
            }
            Matching::Range => match wanted.split_once('-') {
                // To the precision of each bound.
                Some((from, to)) => {
                    (from.is_empty() || text.as_str() >= from)
                        && (to.is_empty() || text.get(..to.len()).unwrap_or(&text) <= to)
                }
                None => text == wanted,
            },
        }
    }
}

/// Attributes with the values that are there.
fn record<const N: usize>(attributes: [(&str, &str, Vec<Value>); N]) -> Record {
    let attribute = |(tag, vr, values): (&str, &str, Vec<Value>)| {
        let mut out = json!({ "vr": vr });
        if !values.is_empty() {
            out["Value"] = values.into();
        }
        (tag.to_owned(), out)
    };
    attributes.into_iter().map(attribute).collect()
}

fn known<T: Clone + Into<Value>>(value: &Option<T>) -> Vec<Value> {
    value.iter().cloned().map(Into::into).collect()
}

fn one(value: impl Into<Value>) -> Vec<Value> {
    vec![value.into()]
}

/// Table 10.6.3-3 of PS3.18.
fn study_record(Opened { manifest, root, .. }: &Opened) -> Record {
    let patient = &manifest.patient;
    let name = patient.name.as_deref().map(person_name);
    let series = manifest.series_total.map_or(manifest.series.len(), |n| n as usize).max(manifest.series.len());
    let instances = manifest.announced_count();
    record([
        ("00080005", "CS", one("ISO_IR 192")),
        ("00080020", "DA", known(&manifest.study_date)),
        ("00080030", "TM", known(&manifest.study_time)),
        ("00080050", "SH", accession(manifest)),
        // It is in the other country until it is asked for.
        ("00080056", "CS", one("NEARLINE")),
        ("00080061", "CS", manifest.modalities().into_iter().map(Value::from).collect()),
        ("00080090", "PN", Vec::new()),
        ("00080201", "SH", known(&manifest.timezone)),
        ("00081030", "LO", known(&manifest.description)),
        ("00081190", "UR", one(format!("{root}/studies/{}", manifest.study))),
        ("00100010", "PN", name.into_iter().collect()),
        ("00100020", "LO", patient.ids.first().map(|issued| issued.id.clone().into()).into_iter().collect()),
        ("00100030", "DA", known(&patient.birth_date)),
        ("00100040", "CS", known(&patient.sex)),
        ("0020000D", "UI", one(manifest.study.as_str())),
        ("00200010", "SH", Vec::new()),
        ("00201206", "IS", one(series)),
        ("00201208", "IS", one(instances)),
    ])
}

/// The accession number, or those of the orders where there are several.
fn accession(manifest: &Manifest) -> Vec<Value> {
    if manifest.accession.is_some() {
        return known(&manifest.accession);
    }
    manifest.requests.iter().filter_map(|r| r.accession.as_ref()).map(|a| a.id.clone().into()).take(1).collect()
}

/// Table 10.6.3-4.
fn series_record(Opened { manifest, root, .. }: &Opened, series: &ManifestSeries) -> Record {
    record([
        ("00080005", "CS", one("ISO_IR 192")),
        ("00080021", "DA", known(&series.date)),
        ("00080031", "TM", known(&series.time)),
        ("00080060", "CS", known(&series.modality)),
        ("00080201", "SH", known(&manifest.timezone)),
        ("0008103E", "LO", known(&series.description)),
        ("00081190", "UR", one(format!("{root}/studies/{}/series/{}", manifest.study, series.series))),
        ("0020000D", "UI", one(manifest.study.as_str())),
        ("0020000E", "UI", one(series.series.as_str())),
        ("00200011", "IS", known(&series.number)),
        ("00201209", "IS", one(series.announced_count())),
    ])
}

/// Table 10.6.3-5.
fn instance_record(
    Opened { manifest, root, .. }: &Opened,
    series: &ManifestSeries,
    instance: &ManifestInstance,
) -> Record {
    let (study, own) = (manifest.study.as_str(), instance.sop_instance.as_str());
    record([
        ("00080005", "CS", one("ISO_IR 192")),
        ("00080016", "UI", one(instance.sop_class.as_str())),
        ("00080018", "UI", one(own)),
        ("00080056", "CS", one("NEARLINE")),
        ("00080201", "SH", known(&manifest.timezone)),
        ("00081190", "UR", one(format!("{root}/studies/{study}/series/{}/instances/{own}", series.series))),
        ("0020000D", "UI", one(study)),
        ("0020000E", "UI", one(series.series.as_str())),
        ("00200013", "IS", known(&instance.number)),
        ("00280008", "IS", known(&instance.frames)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of() -> Record {
        record([
            ("00080020", "DA", one("20260102")),
            ("00080061", "CS", vec!["CT".into(), "KO".into()]),
            ("00100010", "PN", one(person_name("Testesen^Jon=山田^太郎=やまだ^たろう"))),
            ("0020000D", "UI", one("2.999.1")),
            ("00200011", "IS", one(3)),
            ("00080050", "SH", Vec::new()),
        ])
    }

    #[test]
    fn values_are_matched_as_dicom_says() {
        let matches = |query: &str| Search::read(query).expect("a search").matches(&[&record_of()]);
        for fits in [
            "",
            "StudyInstanceUID=2.999.1",
            "0020000D=2.999.9%2C2.999.1",
            "StudyInstanceUID=2.999.9\\2.999.1",
            "StudyDate=20260102",
            "StudyDate=20260101-20260103",
            "StudyDate=-20260102",
            "StudyDate=2026-",
            "ModalitiesInStudy=CT",
            "Modality=C*",
            "PatientName=testesen*",
            "PatientName=TEST?SEN^jon",
            // IM-23: by any component group, and by all of them.
            "PatientName=%E5%B1%B1%E7%94%B0*",
            "PatientName=*%E3%81%9F%E3%82%8D%E3%81%86",
            "PatientName=testesen^jon=%E5%B1%B1%E7%94%B0^*",
            "SeriesNumber=3",
            "PatientName=*&limit=1&includefield=all&includefield=00081030,00080060",
            "AccessionNumber=",
        ] {
            assert!(matches(fits), "{fits}");
        }
        for other in [
            "StudyInstanceUID=2.999.10",
            "StudyDate=20260103-",
            "StudyDate=20250101-20251231",
            "ModalitiesInStudy=ct",
            "PatientName=Testesen",
            "PatientID=x",
            "AccessionNumber=1",
            "SeriesNumber=30",
        ] {
            assert!(!matches(other), "{other}");
        }
        for bad in ["limit=x", "offset=-1", "Surprise=1", "00091001=1", "PatientName=%FF"] {
            assert!(Search::read(bad).is_err(), "{bad}");
        }
    }

    /// SE-05: what each object is compared with has a bound, and a list of UIDs is looked up, not gone through.
    #[test]
    fn se_05_a_search_has_bounds() {
        let many = |count: usize| vec!["PatientName=T*"; count].join("&");
        assert!(Search::read(&many(VALUES)).is_ok() && Search::read(&many(VALUES + 1)).is_err());
        let long = |letters: usize| format!("PatientName={}", "*a".repeat(letters / 2));
        assert!(Search::read(&long(LETTERS)).is_ok() && Search::read(&long(LETTERS + 2)).is_err());
        let uids: Vec<String> = (0..2_000).map(|n| format!("2.999.7.{n}")).collect();
        let search = Search::read(&format!("SOPInstanceUID={}", uids.join(","))).expect("a search");
        assert_eq!((search.wanted.len(), search.wanted[0].uids.len(), search.wanted[0].value.len()), (1, 2_000, 0));
    }

    #[test]
    fn answers_are_cut_and_say_so() {
        let search = Search::read("limit=2&offset=1&fuzzymatching=true").expect("a search");
        let response = search.answer((0..5).map(|_| record_of()));
        let warnings: Vec<_> = response.headers().get_all(header::WARNING).iter().collect();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].to_str().is_ok_and(|w| w.contains("There are 2 additional results")));
    }
}
