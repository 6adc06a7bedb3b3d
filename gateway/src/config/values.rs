//! Values with units and identifiers, read from text with a message that says what was expected.

use std::time::Duration;

use ncp_ihe::{HomeCommunityId, Oid};
use ncp_tls::Country;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

pub(super) fn country<'de, D: Deserializer<'de>>(d: D) -> Result<Country, D::Error> {
    let text = String::deserialize(d)?;
    Country::parse(&text).map_err(|_| D::Error::custom("expected a country of two letters, as \"NO\""))
}

pub(super) fn oid<'de, D: Deserializer<'de>>(d: D) -> Result<Oid, D::Error> {
    let text = String::deserialize(d)?;
    Oid::parse(&text).map_err(|_| D::Error::custom("expected an OID, as \"2.999.47\""))
}

pub(super) fn oids<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Oid>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts.iter().map(|t| Oid::parse(t).map_err(|_| D::Error::custom("expected OIDs, as \"2.999.47\""))).collect()
}

pub(super) fn home<'de, D: Deserializer<'de>>(d: D) -> Result<HomeCommunityId, D::Error> {
    let text = String::deserialize(d)?;
    HomeCommunityId::parse(&text).map_err(|_| D::Error::custom("expected a homeCommunityId, as \"urn:oid:2.999.47\""))
}

pub(super) fn optional_oid<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Oid>, D::Error> {
    oid(d).map(Some)
}

pub(super) fn optional_home<'de, D: Deserializer<'de>>(d: D) -> Result<Option<HomeCommunityId>, D::Error> {
    home(d).map(Some)
}

pub(super) fn homes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<HomeCommunityId>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts
        .iter()
        .map(|t| {
            HomeCommunityId::parse(t)
                .map_err(|_| D::Error::custom("expected homeCommunityIds, as \"urn:oid:2.999.47\""))
        })
        .collect()
}

pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    humantime::parse_duration(&text).map_err(|_| D::Error::custom("expected a duration with its unit, as \"30s\""))
}

pub(super) fn maybe_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d).map(Some)
}

pub(super) fn size<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    let text = String::deserialize(d)?;
    parse_size(&text).ok_or_else(|| D::Error::custom("expected a size with its unit, as \"16MiB\""))
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_carry_units() {
        assert_eq!(parse_size("16MiB"), Some(16 << 20));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
        assert_eq!(parse_size("16"), None);
        assert_eq!(parse_size("16MB"), None);
        assert_eq!(parse_size("99999999999GiB"), None);
    }
}
