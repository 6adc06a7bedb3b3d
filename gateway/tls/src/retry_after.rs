//! `Retry-After` (RFC 9110 10.2.3): when somebody who is busy wants to be asked again.

use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use jiff::Timestamp;

/// What lies further ahead is not waited for by anybody; an absurd value is no more than this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The time that a header says, in seconds or as a date.
pub fn read(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    parse(text, Timestamp::now())
}

fn parse(text: &str, now: Timestamp) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default().min(LONGEST))
}

/// Whole seconds, as a header says them: never too early.
pub fn seconds(after: Duration) -> u64 {
    after.as_secs() + u64::from(after.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read() {
        let now: Timestamp = "2026-11-30T08:00:00Z".parse().expect("an instant");
        let read = |text| parse(text, now);
        assert_eq!(read("2"), Some(Duration::from_secs(2)));
        assert_eq!(read("Mon, 30 Nov 2026 08:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(read("Mon, 30 Nov 2026 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999999999999999"), Some(LONGEST));
        for nothing in ["", "-1", "1.5", "soon"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
        assert_eq!(seconds(Duration::from_millis(1500)), 2);
    }
}
