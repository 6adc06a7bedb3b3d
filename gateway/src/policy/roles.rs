//! The roles of the eHDSI (ISCO, 2.16.840.1.113883.2.9.6.2.7) with their exact displays.

/// ISCO as the eHDSI writes it.
pub const ISCO: &str = "2.16.840.1.113883.2.9.6.2.7";

const ROLES: &[(&str, &str)] = &[
    ("2266", "Audiologists and speech therapists"),
    ("2261", "Dentists"),
    ("221", "Medical Doctors"),
    ("3211", "Medical imaging and therapeutic equipment technicians"),
    ("2222", "Midwifery professionals"),
    ("2221", "Nursing professionals"),
    ("2265", "Dieticians and nutritionists"),
    ("2267", "Optometrists and ophthalmic opticians"),
    ("2269", "Health professionals not elsewhere classified"),
    ("44", "Other Clerical Support Workers"),
    ("2262", "Pharmacists"),
    ("3213", "Pharmaceutical technicians and assistants"),
    ("2264", "Physiotherapists"),
];

/// Whether a role is one of the list and is called by its name: a code whose display is that of another role came from
/// another list or another version of it, and nobody knows which of the two was meant.
pub fn is_known(system: &str, code: &str, display: &str) -> bool {
    let fits = |(c, d): &(&str, &str)| *c == code && (display.is_empty() || d.eq_ignore_ascii_case(display.trim()));
    system == ISCO && ROLES.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_of_the_list_and_called_by_its_name() {
        assert!(is_known(ISCO, "221", "Medical Doctors"));
        assert!(is_known(ISCO, "221", "medical doctors "));
        assert!(is_known(ISCO, "221", ""));
        assert!(!is_known(ISCO, "221", "Pharmacists"));
        assert!(!is_known(ISCO, "2212", "Medical Doctors"));
        assert!(!is_known("2.999.1", "221", "Medical Doctors"));
    }
}
