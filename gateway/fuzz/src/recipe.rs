//! Pages and files out of what FHIR and the consent file know, as the bytes choose: bytes that are changed at random are
//! seldom JSON or TOML. Where the bytes end, nothing more is added.

use serde_json::{Map, Value, json};

use crate::world::PATIENT;

const TERMINOLOGY: &str = "http://terminology.hl7.org/CodeSystem/";

struct Recipe<'a>(&'a [u8]);

impl Recipe<'_> {
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() % of.len()]
    }

    fn maybe(&mut self, out: &mut Map<String, Value>, name: &str, value: fn(&mut Self) -> Value) {
        if self.next() % 4 == 1 {
            out.insert(name.into(), value(self));
        }
    }

    /// One or two of them.
    fn list(&mut self, value: impl Fn(&mut Self) -> Value) -> Value {
        let first = value(self);
        if self.next() % 3 == 1 { json!([first, value(self)]) } else { json!([first]) }
    }

    fn coding(&mut self, system: &str, codes: &[&str]) -> Value {
        let system = format!("{}{system}", if system.contains(':') { "" } else { TERMINOLOGY });
        match self.next() % 8 {
            1 => json!({ "code": self.pick(codes) }),
            2 => json!({ "system": system, "code": self.pick(codes), "version": "1" }),
            3 => json!({ "system": system, "code": "unheard-of" }),
            _ => json!({ "system": system, "code": self.pick(codes) }),
        }
    }

    fn concept(&mut self, system: &str, codes: &[&str]) -> Value {
        json!({ "coding": self.list(|recipe| recipe.coding(system, codes)) })
    }

    fn period(&mut self) -> Value {
        const DATES: [&str; 6] = ["2020", "2026-01", "2026-01-02", "2026-11-29T10:00:00Z", "2027-02-30", "2030"];
        match self.next() % 4 {
            0 => json!({ "start": self.pick(&DATES) }),
            1 => json!({ "end": self.pick(&DATES) }),
            2 => json!({ "start": self.pick(&DATES), "end": self.pick(&DATES) }),
            _ => json!({ "start": null }),
        }
    }

    fn reference(&mut self, of: &[(&str, &str)]) -> Value {
        let (system, value) = self.pick(of);
        let mut out = json!({ "identifier": { "system": system, "value": value } });
        match self.next() % 8 {
            1 => out["type"] = json!(self.pick(&["Organization", "Practitioner", "PractitionerRole", "Group"])),
            2 => out = json!({ "reference": "Patient/1" }),
            3 => out["identifier"] = json!({ "value": value }),
            4 => out["identifier"]["use"] = json!(self.pick(&["official", "old"])),
            _ => {}
        }
        out
    }

    fn actor(&mut self) -> Value {
        const NAMES: [(&str, &str); 6] = [
            ("urn:iso:std:iso:3166", "FI"),
            ("urn:iso:std:iso:3166", "SWE"),
            ("urn:iso:std:iso:3166", "Finland"),
            ("urn:ietf:rfc:3986", "urn:oid:2.999.20"),
            ("urn:oid:2.999", "u1"),
            ("urn:ietf:rfc:3986", "2.999.9"),
        ];
        json!({
            "role": self.concept("v3-ParticipationType", &["IRCP", "PRCP", "AUT", "CST"]),
            "reference": self.reference(&NAMES),
        })
    }

    fn provision(&mut self, depth: usize) -> Value {
        let mut out = Map::new();
        self.maybe(&mut out, "type", |recipe| json!(recipe.pick(&["permit", "deny", "deny", "maybe"])));
        self.maybe(&mut out, "period", Self::period);
        self.maybe(&mut out, "actor", |recipe| recipe.list(Self::actor));
        self.maybe(&mut out, "action", |recipe| {
            recipe.list(|recipe| recipe.concept("consentaction", &["access", "disclose", "use", "collect", "correct"]))
        });
        self.maybe(&mut out, "securityLabel", |recipe| {
            recipe.list(|recipe| recipe.coding("v3-Confidentiality", &["U", "L", "M", "N", "R", "V", "NORS"]))
        });
        self.maybe(&mut out, "purpose", |recipe| {
            recipe.list(|recipe| recipe.coding("v3-ActReason", &["TREAT", "ETREAT", "HRESCH", "PATRQT", "BTG"]))
        });
        self.maybe(&mut out, "class", |recipe| {
            recipe.list(|recipe| {
                recipe.coding("http://hl7.org/fhir/resource-types", &["ImagingStudy", "DocumentReference"])
            })
        });
        self.maybe(&mut out, "documentType", |recipe| {
            recipe.list(|recipe| recipe.coding("http://loinc.org", &["11502-2", "18748-4", "60591-5"]))
        });
        self.maybe(&mut out, "dataPeriod", Self::period);
        self.maybe(&mut out, "data", |recipe| {
            let units = [("urn:ietf:rfc:3986", "urn:oid:2.999.2"), ("urn:dicom:uid", "2.999.3"), ("urn:ietf:rfc:3986", "x")];
            recipe.list(|recipe| json!({ "meaning": recipe.pick(&["instance", "instance", "related"]), "reference": recipe.reference(&units) }))
        });
        self.maybe(&mut out, "modifierExtension", |_| json!([{ "url": "urn:x", "valueBoolean": true }]));
        if depth < 10 && self.next() % 3 == 1 {
            let inner = self.list(|recipe| recipe.provision(depth + 1));
            out.insert("provision".into(), inner);
        }
        Value::Object(out)
    }

    fn consent(&mut self) -> Value {
        let mut out = Map::new();
        out.insert("resourceType".into(), json!("Consent"));
        out.insert("status".into(), json!(self.pick(&["active", "active", "active", "inactive", "sleeping"])));
        let patient = match self.next() % 8 {
            1 => json!({ "identifier": { "system": format!("urn:oid:{}", PATIENT.1), "value": PATIENT.0 } }),
            2 => json!({ "identifier": { "system": format!("urn:oid:{}", PATIENT.1), "value": "1" } }),
            _ => json!({ "reference": "Patient/1" }),
        };
        out.insert(self.pick(&["patient", "patient", "subject"]).into(), patient);
        self.maybe(&mut out, "scope", |recipe| {
            recipe.concept("consentscope", &["patient-privacy", "research", "treatment"])
        });
        self.maybe(&mut out, "category", |recipe| {
            recipe.list(|recipe| recipe.concept("http://loinc.org", &["59284-0", "64292-6"]))
        });
        self.maybe(&mut out, "period", Self::period);
        self.maybe(&mut out, "policy", |_| json!([{ "uri": "urn:p" }]));
        self.maybe(&mut out, "verification", |recipe| json!([{ "verified": recipe.pick(&[true, true, false]) }]));
        match self.next() % 4 {
            1 => drop(out.insert("decision".into(), json!(self.pick(&["permit", "deny"])))),
            2 => {}
            _ => drop(
                out.insert("policyRule".into(), self.concept("v3-ActCode", &["OPTIN", "OPTOUT", "OPTINR", "OPTOUTE"])),
            ),
        }
        if self.next() % 4 != 1 {
            let is_list = out.contains_key("decision") ^ (self.next() % 16 == 1);
            let inner = if is_list { self.list(|recipe| recipe.provision(1)) } else { self.provision(1) };
            out.insert("provision".into(), inner);
        }
        Value::Object(out)
    }

    fn row(&mut self) -> String {
        let section = self.pick(&["opt_out", "consent_required", "block", "block", "block", "optout"]);
        let mut out = format!("[[{section}]]\n");
        let patients: [&str; 6] = [
            "1^^^&2.999.1&ISO",
            "2^^^&2.999.1&ISO",
            "1^^^&2.999.1&ISO^PI",
            " 3^^^&2.999.1&ISO",
            "garbage",
            "1^^^&2.999.1&ISO^^",
        ];
        let keys: [(&str, &[&str]); 13] = [
            ("patient", &patients),
            ("countries", &["FI", "fin", "752", "Finland", "EL", "XX"]),
            (
                "document",
                &[
                    "2.999.1",
                    "urn:oid:2.999.1^a",
                    "2.999.1^",
                    "urn:uuid:6f8a1f3e-0000-4000-8000-000000000001",
                    "report 7",
                ],
            ),
            ("study", &["2.999.2", "urn:oid:2.999.2", "2.999."]),
            ("author_organisation", &["2.999.9", "a", "", " a"]),
            ("from", &["20260101", "20260230", "2026", "99991231"]),
            ("to", &["20260101", "20260228", "00000000", "18000101"]),
            ("confidentiality", &["R", "N ", "NORS", ""]),
            ("requesters", &["Hospital", "", " x"]),
            ("professionals", &["u1", "u 1", ""]),
            ("valid_from", &["2026-01-01T00:00:00Z", "2026-01-01T00:00:00+02:00", "2026"]),
            ("valid_until", &["2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z", "-009999-01-02T01:59:59Z"]),
            ("country", &["FI"]),
        ];
        for (name, values) in keys {
            let wanted = name == "patient" || self.next() % 4 == 1;
            if !wanted || (section != "block" && !matches!(name, "patient" | "countries") && self.next() % 4 != 1) {
                continue;
            }
            let value = self.pick(values);
            let more = if self.next() % 3 == 1 { format!(", {:?}", self.pick(values)) } else { String::new() };
            match name {
                "countries" | "requesters" | "professionals" => out.push_str(&format!("{name} = [{value:?}{more}]\n")),
                _ => out.push_str(&format!("{name} = {value:?}\n")),
            }
        }
        if section == "block" && self.next() % 4 == 1 {
            out.push_str("imaging = true\n");
        }
        out
    }
}

/// Bytes that choose: more of them make the same again, only longer.
const CHOICES: usize = 256;

/// A page of a search.
pub(crate) fn page(data: &[u8]) -> Value {
    let mut recipe = Recipe(&data[..data.len().min(CHOICES)]);
    let entries: Vec<Value> = (0..=recipe.next() % 3)
        .map(|_| match recipe.next() % 16 {
            1 => json!({ "resource": { "resourceType": "OperationOutcome", "issue": [{ "severity": recipe.pick(&["warning", "error"]) }] } }),
            2 => json!({ "resource": { "resourceType": "Patient" }, "search": { "mode": recipe.pick(&["include", "match"]) } }),
            _ => json!({ "resource": recipe.consent(), "search": { "mode": "match" } }),
        })
        .collect();
    json!({ "resourceType": "Bundle", "type": "searchset", "entry": entries })
}

/// A consent file.
pub(crate) fn file(data: &[u8]) -> String {
    let mut recipe = Recipe(&data[..data.len().min(CHOICES)]);
    (0..=recipe.next() % 4).map(|_| recipe.row()).collect()
}
