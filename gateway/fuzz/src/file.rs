//! The consent file.

use std::sync::LazyLock;

use jiff::SignedDuration;
use ncp_gateway::policy::consent::{Block, ConsentFile, Directives, ServiceConsent};
use ncp_ihe::PatientId;
use ncp_tls::Country;
use toml::{Table, Value};

use crate::recipe;
use crate::world::{NOW, asking, unit};

/// Countries that rows name often, and behind them every other of two letters.
static COUNTRIES: LazyLock<Vec<Country>> = LazyLock::new(|| {
    let letters = || (b'A'..=b'Z').map(char::from);
    let all = letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")));
    OFTEN.map(str::to_owned).into_iter().chain(all).filter_map(|code| Country::parse(&code).ok()).collect()
});
const OFTEN: [&str; 3] = ["FI", "SE", "GR"];

/// Any text, as it stands or made by a recipe. A row that is accepted has an effect for somebody, one that is not closes
/// its patient, and a slip beside it takes nothing back.
pub fn consent_file(data: &[u8]) {
    let made;
    let text = match data.first() {
        Some(first) if *first >= 0x80 => {
            made = recipe::file(&data[1..]);
            &made
        }
        _ => match std::str::from_utf8(data) {
            Ok(text) => text,
            Err(_) => return,
        },
    };
    let nothing = ConsentFile::default();
    let Ok((file, wrong)) = ConsentFile::read_rows(text, &nothing) else { return };
    let sections: Table = toml::from_str(text).expect("what was read is TOML");
    let rows: Vec<(&String, &Value)> = sections
        .iter()
        .flat_map(|(name, rows)| rows.as_array().into_iter().flatten().map(move |row| (name, row)))
        .collect();
    assert!(wrong.len() <= rows.len() + sections.len());
    let chosen = data.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let Some((section, row)) = rows.get(chosen / 2 % rows.len().max(1)) else { return };
    let patient = row.get("patient").and_then(Value::as_str).and_then(patient);

    let mut alone = Table::new();
    alone.insert((*section).clone(), Value::Array(vec![(*row).clone()]));
    let Ok(alone) = toml::to_string(&alone) else { return };
    let (alone, wrong) = ConsentFile::read_rows(&alone, &nothing).expect("a part of what was read");
    let Some(patient) = patient else {
        assert!(!wrong.is_empty(), "a row that is about nobody is accepted");
        return;
    };
    match wrong.as_slice() {
        [] => {
            let has_effect = |to: &Country| is_effect(section, &alone.directives(&patient, to));
            assert!(COUNTRIES.iter().any(has_effect), "a row that never holds is accepted");
        }
        [wrong] => assert!(wrong.closes, "a row that cannot be read opens"),
        _ => panic!("one row is wrong twice"),
    }
    // The same again, or with a slip in another row, after what this file said.
    let again = match chosen % 2 {
        0 => text.into(),
        _ => format!("{text}\n[[block]]\npatient = \"garbage\"\n"),
    };
    let again = ConsentFile::read_rows(&again, &file);
    assert!(chosen % 2 == 1 || again.is_ok());
    for to in COUNTRIES.iter().take(OFTEN.len()) {
        let (part, whole) = (alone.directives(&patient, to), file.directives(&patient, to));
        assert!(wrong.is_empty() || is_closed(&part), "a row that cannot be read opens");
        assert!(covers(&whole, &part), "another row takes this one back");
        if let Ok((again, _)) = &again {
            assert!(covers(&again.directives(&patient, to), &whole), "a slip opens");
        }
    }
}

fn is_closed(said: &Directives) -> bool {
    said.service == ServiceConsent::OptedOut
}

/// Whether all that a part closes is closed.
fn covers(whole: &Directives, part: &Directives) -> bool {
    (!is_closed(part) || is_closed(whole))
        && (part.service == ServiceConsent::Given || whole.service != ServiceConsent::Given)
        && part.blocks.iter().all(|block| whole.blocks.contains(block))
}

/// A CX, with an identifier type code or without.
fn patient(text: &str) -> Option<PatientId> {
    let text = text.trim();
    let end = text.match_indices('^').nth(3).map_or(text.len(), |(at, _)| at);
    let code = text.get(end + 1..).unwrap_or_default();
    PatientId::parse_cx(&text[..end]).ok().filter(|_| code.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Whether a row has the effect of its section.
fn is_effect(section: &str, said: &Directives) -> bool {
    match section {
        "opt_out" => said.service == ServiceConsent::OptedOut,
        "consent_required" => said.service == ServiceConsent::MissingAndSaid,
        "block" => said.blocks.len() == 1 && said.blocks.iter().all(is_met),
        _ => false,
    }
}

/// Whether a block closes the unit that it describes, for those whom it names, at its time.
fn is_met(block: &Block) -> bool {
    let country = block.countries.first().copied().unwrap_or_else(|| Country::parse("FI").expect("a country"));
    let mut identity = asking(country, "TREATMENT");
    if let Some(requester) = block.requesters.first() {
        identity.organisation = Some(requester.clone());
    }
    if let Some(professional) = block.professionals.first() {
        identity.user.clone_from(professional);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "x".into());
    let date = block.period.as_ref().map_or("20260101", |(from, _)| from);
    let facts = unit("manifest", &text(&block.confidentiality), &text(&block.author_organisation), date);
    let before = |until: jiff::Timestamp| until.checked_sub(SignedDuration::from_nanos(1)).ok();
    let now = block.valid.0.or_else(|| block.valid.1.and_then(before)).unwrap_or(*NOW);
    let directives = Directives { blocks: vec![block.clone()], ..Directives::default() };
    directives.closes(&facts, &[text(&block.unit)], &identity, now)
}
