//! When somebody who is busy wants to be asked again: in a header (RFC 9110 10.2.3), and in an error of XDS or XCPD.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
pub(crate) use ncp_tls::retry_after::{read, seconds};

/// What lies further ahead is not waited for by anybody.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// When somebody busy is asked again who does not say when.
pub(crate) const UNSAID: Duration = Duration::from_secs(30);
const BUSY: &str = "busy, try again in ";

/// The time that a refusal for overload says (RFC 6585 4, RFC 9110 15.6.4).
pub(crate) fn of_overload(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE).then(|| read(headers)).flatten()
}

/// As an error tells it in its text: the one form that [`of_text`] reads.
pub(crate) fn told(after: Duration) -> String {
    format!("{BUSY}{} s", seconds(after))
}

/// The time that a text of ours tells.
pub(crate) fn of_text(text: &str) -> Option<Duration> {
    let seconds = text.strip_prefix(BUSY)?.split(' ').next()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn what_is_told_is_read() {
        let said = told(Duration::from_secs(600));
        assert_eq!(of_text(&format!("{said} (reference 1)")), Some(Duration::from_secs(600)));
        assert_eq!(of_text("busy, try again later"), None);
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, header::HeaderValue::from_static("7"))]);
        for (status, right) in [(429, Some(7)), (503, Some(7)), (500, None), (404, None), (200, None)] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(of_overload(status, &headers).map(|after| after.as_secs()), right, "{status}");
        }
    }
}
