//! Check digits: LOINC mod 10 and the Verhoeff digit of SNOMED CT identifiers. Other systems have none.

/// LOINC.
pub const LOINC: &str = "urn:oid:2.16.840.1.113883.6.1";
/// SNOMED CT.
pub const SNOMED: &str = "urn:oid:2.16.840.1.113883.6.96";

/// Codes that official value sets put into LOINC although they are no LOINC numbers.
const NO_LOINC_NUMBER: [&str; 1] = ["x-clinical-image"];

/// Whether a code of that system (by its first name) carries a right check digit, or needs none.
pub fn holds(system: &str, code: &str) -> bool {
    match system {
        LOINC | "http://loinc.org" => NO_LOINC_NUMBER.contains(&code) || loinc(code),
        SNOMED | "http://snomed.info/sct" => sctid(code),
        _ => true,
    }
}

/// LOINC numbers, parts (LP…) and answers (LA…): digits, hyphen, mod 10 check digit.
pub fn loinc(code: &str) -> bool {
    let number = code.strip_prefix("LP").or_else(|| code.strip_prefix("LA")).unwrap_or(code);
    let Some((number, check)) = number.split_once('-') else { return false };
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(number) || !digits(check) || check.len() != 1 || number.len() > 12 {
        return false;
    }
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let digit = u32::from(b - b'0');
            if i % 2 == 0 { digit * 2 / 10 + digit * 2 % 10 } else { digit }
        })
        .sum();
    (10 - sum % 10) % 10 == u32::from(check.as_bytes()[0] - b'0')
}

const D: [[u8; 10]; 10] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
    [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
    [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
    [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
    [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
    [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
];
const P: [[u8; 10]; 8] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
    [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
    [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
    [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
    [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
    [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
    [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
];

/// SNOMED CT identifiers: 6 to 18 digits, the last by Verhoeff.
pub fn sctid(code: &str) -> bool {
    if code.len() < 6 || code.len() > 18 || !code.bytes().all(|b| b.is_ascii_digit()) || code.starts_with('0') {
        return false;
    }
    let digits = code.bytes().rev().enumerate();
    digits.fold(0u8, |c, (i, b)| D[usize::from(c)][usize::from(P[i % 8][usize::from(b - b'0')])]) == 0
}

/// The identifier of a body with its check digit, for synthetic releases.
pub fn with_sctid_digit(body: u64) -> u64 {
    (0..10).map(|d| body * 10 + d).find(|id| sctid(&id.to_string())).unwrap_or(body * 10)
}

/// The LOINC number of a body with its check digit, for synthetic releases.
pub fn with_loinc_digit(body: u32) -> String {
    (0..10).map(|d| format!("{body}-{d}")).find(|code| loinc(code)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_of_published_codes() {
        assert!(loinc("24627-2") && loinc("18748-4") && !loinc("79073-5") && !loinc("24627-") && !loinc("+4627-2"));
        assert!(sctid("169069000") && sctid("394914008") && !sctid("419394000") && !sctid("４１９394006"));
        assert!(holds(LOINC, "x-clinical-image") && !holds(LOINC, "x-clinical-images") && holds("urn:oid:2.999", "?"));
        assert!(sctid(&with_sctid_digit(123_456_001).to_string()) && loinc(&with_loinc_digit(99_123)));
    }
}
