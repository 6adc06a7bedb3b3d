//! A page of a server of Consent resources.

use std::sync::LazyLock;

use ncp_gateway::identity::Identity;
use ncp_gateway::policy::consent::{Directives, ServiceConsent, read_page};
use ncp_gateway::policy::facts::Facts;
use ncp_ihe::PatientId;
use ncp_tls::Country;
use serde_json::{Value, json};

use crate::recipe;
use crate::world::{NOW, asking, patient, unit};

/// Who asks, and for which units.
struct World {
    patient: PatientId,
    asking: Vec<Identity>,
    units: Vec<Unit>,
    keys: Vec<String>,
}

/// A unit about which everything is known, and the same with less.
struct Unit {
    known: Facts,
    less: [Facts; 2],
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let country = |code: &str| Country::parse(code).expect("a country");
    let of = |known: Facts| {
        let partial = Facts { incomplete: true, ..known.clone() };
        Unit { less: [Facts::unknown(known.kind), partial], known }
    };
    World {
        patient: patient(),
        asking: vec![
            asking(country("FI"), "TREATMENT"),
            asking(country("FI"), "EMERGENCY"),
            asking(country("SE"), "TREATMENT"),
        ],
        units: vec![
            of(unit("manifest", "N", "2.999.9", "20260102")),
            of(unit("study", "V", "2.999.8", "20250102")),
            of(unit("document", "R", "2.999.9", "20260102")),
        ],
        keys: vec!["2.999.2".into()],
    }
});

/// Any page, as it stands or made by a recipe. It is read whole or not at all: each resource says alone what it says in
/// the page, and an element more that nobody knows changes nothing or makes the answer an error. What decides is sound:
/// with a consent that is required, and of units of which less is known, no more is open. Which resource, element and
/// identity are tried is chosen by the bytes, so that a run is short.
pub fn consent(data: &[u8]) {
    let chosen = data.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let read = |page: &[u8]| read_page(page, &WORLD.patient, false).ok();
    let of_text = matches!(data.first(), Some(b'{' | b' ' | b'\t' | b'\r' | b'\n'));
    let (whole, bundle) = if of_text {
        let Some(whole) = read(data) else { return };
        (whole, serde_json::from_slice(data).expect("what was read is JSON"))
    } else {
        let bundle = recipe::page(data);
        let Some(whole) = read(bundle.to_string().as_bytes()) else { return };
        (whole, bundle)
    };
    decisions(&whole, &WORLD.asking[chosen % WORLD.asking.len()]);
    let entries = bundle.get("entry").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let Some(entry) = entries.get(chosen / 3 % entries.len().max(1)) else { return };
    let mut page = json!({ "resourceType": "Bundle", "type": "searchset", "entry": [entry] });
    let of_part = |page: &Value| read(page.to_string().as_bytes()).expect("a part of what was read");
    let alone = if entries.len() == 1 { Some(whole.clone()) } else { (chosen % 2 == 0).then(|| of_part(&page)) };
    if let Some(said) = alone.as_ref().map(|alone| alone.rules.as_slice()).filter(|said| !said.is_empty()) {
        assert!(whole.rules.windows(said.len()).any(|rules| rules == said), "each resource says the same alone");
    }
    let mut at = chosen / 7 % objects(&page);
    let path = with_one_more(&mut page, &mut at).expect("one of these objects");
    if let Some(other) = read(page.to_string().as_bytes()) {
        let alone = alone
            .unwrap_or_else(|| of_part(&json!({ "resourceType": "Bundle", "type": "searchset", "entry": [entry] })));
        assert_eq!(other.rules, alone.rules, "an element that nobody knows decides nothing");
        assert!(alone.rules.is_empty() || !decides(&path), "an element that nobody knows was passed over at {path:?}");
    }
}

fn decisions(free: &Directives, identity: &Identity) {
    let required = Directives { permit_needed: true, ..free.clone() };
    let closes = |directives: &Directives, facts: &Facts| directives.closes(facts, &WORLD.keys, identity, *NOW);
    let closed = |directives: &Directives| directives.participation(identity, *NOW) != ServiceConsent::Given;
    let (free_closed, required_closed) = (closed(free), closed(&required));
    for unit in &WORLD.units {
        let (by_free, by_required) = (closes(free, &unit.known), closes(&required, &unit.known));
        assert!(by_free || !free_closed, "who takes no part has units");
        assert!(by_required || !required_closed && !by_free, "what is required opens");
        for less in &unit.less {
            assert!(!by_free || closes(free, less), "what is unknown opens: {free:?}");
            assert!(!by_required || closes(&required, less), "what is unknown opens: {free:?}");
        }
    }
}

/// Objects of a value.
fn objects(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(objects).sum::<usize>(),
        Value::Array(items) => items.iter().map(objects).sum(),
        _ => 0,
    }
}

/// Adds an element to one of the objects, and tells the names that lead there.
fn with_one_more(value: &mut Value, at: &mut usize) -> Option<Vec<String>> {
    match value {
        Value::Object(members) => {
            if *at == 0 {
                members.insert("unheardOf".into(), json!({ "code": "x" }));
                return Some(Vec::new());
            }
            *at -= 1;
            members.iter_mut().find_map(|(name, inner)| {
                let mut path = with_one_more(inner, at)?;
                path.insert(0, name.clone());
                Some(path)
            })
        }
        Value::Array(items) => items.iter_mut().enumerate().find_map(|(index, inner)| {
            let mut path = with_one_more(inner, at)?;
            path.insert(0, index.to_string());
            Some(path)
        }),
        _ => None,
    }
}

/// Whether a place is inside of what a permission says.
fn decides(path: &[String]) -> bool {
    let [entry, _, resource, inside @ ..] = path else { return false };
    let of_rule = |name: &String| {
        let known = [
            "provision",
            "actor",
            "action",
            "securityLabel",
            "purpose",
            "class",
            "documentType",
            "resourceType",
            "dataPeriod",
            "data",
            "period",
            "role",
            "reference",
            "coding",
            "identifier",
            "policyRule",
        ];
        known.contains(&name.as_str()) || name.bytes().all(|byte| byte.is_ascii_digit())
    };
    // Identifiers of the Consent itself decide nothing.
    let of_consent = inside.first().is_some_and(|first| first == "identifier");
    entry == "entry" && resource == "resource" && inside.iter().all(of_rule) && !of_consent
}
