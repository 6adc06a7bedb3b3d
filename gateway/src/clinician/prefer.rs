//! `Prefer` (RFC 7240): how long a search may wait, and whether parameters that are not known are refused.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// Longest wait for a country.
const LONGEST: Duration = Duration::from_secs(30);

/// What the caller prefers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preferences {
    /// `wait`, at most 30 s.
    pub wait: Option<Duration>,
    /// `handling=strict`
    pub strict: bool,
}

impl Preferences {
    /// Reads the header; a preference that is not known or not understood is ignored (RFC 7240, 2).
    pub fn read(headers: &HeaderMap) -> Self {
        let mut out = Self::default();
        let values = headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split([',', ';']));
        for (name, value) in values.filter_map(|preference| preference.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                // The first one counts, and no search is given up before it began.
                "wait" if out.wait.is_none() => {
                    out.wait = value.parse().ok().map(|seconds: u64| Duration::from_secs(seconds.max(1)).min(LONGEST));
                }
                "handling" => out.strict |= value.eq_ignore_ascii_case("strict"),
                _ => {}
            }
        }
        out
    }

    /// `Preference-Applied` of the answer.
    pub fn applied(self) -> Option<HeaderValue> {
        let wait = self.wait.map(|wait| format!("wait={}", wait.as_secs()));
        let strict = self.strict.then(|| "handling=strict".to_owned());
        let all: Vec<String> = wait.into_iter().chain(strict).collect();
        if all.is_empty() { None } else { HeaderValue::try_from(all.join(", ")).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_and_bounded() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::try_from(text).expect("a value"));
            Preferences::read(&headers)
        };
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(read("respond-async, wait=20"), Preferences { wait: seconds(20), strict: false });
        assert_eq!(read("Wait=\"99999\"; handling=strict"), Preferences { wait: seconds(30), strict: true });
        assert_eq!(read("wait=0").wait, seconds(1));
        for nothing in ["wait=soon", "wait=-1", "wait", "handling=lenient", ";;,=,", "wait=99999999999999999999999"] {
            assert_eq!(read(nothing), Preferences::default(), "{nothing}");
        }
        assert_eq!(read("handling=strict, wait=5").applied().expect("applied"), "wait=5, handling=strict");
        assert_eq!(Preferences::default().applied(), None);
    }
}
