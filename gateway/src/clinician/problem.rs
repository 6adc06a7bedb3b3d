//! Errors of the clinicians' side: one table to status and OperationOutcome.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ncp_audit::TooLong;
use ncp_ihe::HomeCommunityId;
use serde_json::{Value, json};

use crate::admission::AGAIN;
use crate::initiating::PeerError;
use crate::outcome::{GatewayError, REPLACED};
use crate::policy::PolicyError;
use crate::retry_after;

const CALL_TOO_LONG: &str = "The call, or a text of the call or of the token, is longer than can be recorded.";
/// Code system of the detail codes.
const OUTCOME_SYSTEM: &str = "urn:ncp:fhir:CodeSystem:outcome";

/// What a caller is told instead of an answer.
#[derive(Debug)]
pub enum Problem {
    /// 400: detail code and text.
    Request(&'static str, &'static str),
    /// 401
    Token,
    /// 403: the scope that would do.
    Scope(&'static str),
    /// 403: the role may not ask other countries.
    Role,
    /// 404: unknown, somebody else's, tampered, expired or blocked: one answer for all.
    NotFound,
    /// 405
    Method,
    /// 406
    NotAcceptable,
    /// 408: the body did not come in time.
    Slow,
    /// 409
    Conflict,
    /// 410: a list is another than that of the earlier pages.
    Changed,
    /// 413: more was found than is listed.
    TooLarge,
    /// 413: the call is longer than is read or recorded.
    TooLong(TooLong),
    /// 431
    Headers,
    /// 422
    MatchInput,
    /// 503
    Busy,
    /// 500: could not be recorded or signed.
    Internal,
    /// 502, 504, 503: the country's name and what happened.
    Country(String, GatewayError),
}

impl From<TooLong> for Problem {
    fn from(found: TooLong) -> Self {
        Self::TooLong(found)
    }
}

impl Problem {
    fn row(&self) -> (StatusCode, &'static str, &'static str, String) {
        use StatusCode as S;
        match self {
            Self::Request("treatment-not-confirmed", text) => {
                (S::BAD_REQUEST, "business-rule", "treatment-not-confirmed", (*text).into())
            }
            Self::Request(code @ ("relationship-missing" | "reason-missing"), text) => {
                (S::BAD_REQUEST, "business-rule", code, (*text).into())
            }
            Self::Request("not-supported", text) => (S::BAD_REQUEST, "not-supported", "not-supported", (*text).into()),
            Self::Request(code, text) => (S::BAD_REQUEST, "invalid", code, (*text).into()),
            Self::Token => {
                let text = "The access token is missing, expired or not for this server.";
                (S::UNAUTHORIZED, "login", "token-invalid", text.into())
            }
            Self::Scope(_) => {
                (S::FORBIDDEN, "forbidden", "scope-missing", "The token does not allow this call.".into())
            }
            Self::Role => {
                let text = "The token names no role that may ask other countries.";
                (S::FORBIDDEN, "forbidden", "role-not-permitted", text.into())
            }
            Self::NotFound => (S::NOT_FOUND, "not-found", "not-found", "Not found.".into()),
            Self::Method => (S::METHOD_NOT_ALLOWED, "not-supported", "method", "Not allowed here.".into()),
            Self::NotAcceptable => {
                let text = "None of the requested media types can be produced.";
                (S::NOT_ACCEPTABLE, "not-supported", "not-acceptable", text.into())
            }
            Self::Slow => {
                let text = "The body of the call did not come in time.";
                (S::REQUEST_TIMEOUT, "timeout", "request-timeout", text.into())
            }
            Self::Conflict => {
                let text = "The search has expired; search the patient again.";
                (S::CONFLICT, "conflict", "expired", text.into())
            }
            Self::Changed => {
                let text = "The results have changed since the first page; start the search again.";
                (S::GONE, "conflict", "results-changed", text.into())
            }
            Self::TooLarge => {
                let text = "Too many results; narrow the search.";
                (S::PAYLOAD_TOO_LARGE, "too-costly", "results-too-many", text.into())
            }
            Self::TooLong(_) => (S::PAYLOAD_TOO_LARGE, "too-long", "request-too-long", CALL_TOO_LONG.into()),
            Self::Headers => {
                let text = "The header fields of the request are too large.";
                (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "too-costly", "headers-too-large", text.into())
            }
            Self::MatchInput => {
                let text = "An identifier of a country that is asked through this gateway is needed.";
                (S::UNPROCESSABLE_ENTITY, "invalid", "match-input", text.into())
            }
            Self::Busy => {
                (S::SERVICE_UNAVAILABLE, "transient", "busy", format!("Busy; try again in {} s.", AGAIN.as_secs()))
            }
            Self::Internal => {
                let text = "The call could not be carried out; the reference leads to the log.";
                (S::INTERNAL_SERVER_ERROR, "exception", "internal", text.into())
            }
            Self::Country(name, error) => country_row(name, error),
        }
    }

    /// As an issue of a larger answer: what a community lacks in it and why.
    pub fn warning(&self, home: &HomeCommunityId, reference: &str) -> Value {
        let (_, issue, code, text) = self.row();
        of_community(outcome_issue("warning", issue, code, &text, reference), home)
    }

    /// As an answer.
    pub fn response(&self, reference: &str) -> Response {
        let (status, issue, code, text) = self.row();
        let body = outcome(vec![outcome_issue("error", issue, code, &text, reference)]);
        let mut response =
            (status, [(header::CONTENT_TYPE, super::FHIR_JSON)], Body::from(body.to_string())).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, retry_after::seconds(after).into());
        }
        match self {
            // What is left of the body is not waited for (RFC 9110 15.5.9).
            Self::Slow => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Token => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
            }
            Self::Scope(scope) => {
                let value = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
                headers.extend(HeaderValue::try_from(value).ok().map(|v| (header::WWW_AUTHENTICATE, v)));
            }
            _ => {}
        }
        response
    }

    /// When the caller may come again, where that is known.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy => Some(AGAIN),
            Self::Country(_, error) => error.retry_after(),
            _ => None,
        }
    }
}

/// What a caller is told when every country failed: of one its failure; of several that they are late only when all are,
/// and never that nothing exists while one of them could not say.
pub fn of_all(failures: Vec<Problem>) -> Problem {
    let late = |problem: &Problem| {
        matches!(problem, Problem::Country(_, GatewayError::Peer(PeerError::Timeout | PeerError::Slow)))
    };
    let (timeouts, mut others): (Vec<_>, Vec<_>) = failures.into_iter().partition(late);
    let of_country = |problem: &Problem| problem.row().0 != StatusCode::NOT_FOUND;
    match others.iter().position(of_country) {
        Some(at) => others.swap_remove(at),
        None => timeouts.into_iter().chain(others).next().unwrap_or(Problem::Internal),
    }
}

/// What is said of a country that lists nothing, whatever the reason: nobody by that identifier, no document, no consent,
/// or a block. The sentence is the same, so that it does not say which.
pub fn nothing_shown(name: &str) -> String {
    format!("{name}: no documents that this country shows.")
}

/// An issue with the community that it concerns.
pub fn of_community(mut issue: Value, home: &HomeCommunityId) -> Value {
    if let Some(map) = issue.as_object_mut() {
        map.insert("extension".into(), json!([super::resources::home_extension(home)]));
    }
    issue
}

fn again(error: &GatewayError) -> String {
    format!("{} s", retry_after::seconds(error.retry_after().unwrap_or(AGAIN)))
}

fn country_row(name: &str, error: &GatewayError) -> (StatusCode, &'static str, &'static str, String) {
    use StatusCode as S;
    match error {
        GatewayError::Peer(PeerError::Timeout) => {
            (S::GATEWAY_TIMEOUT, "timeout", "country-timeout", format!("{name} did not answer in time."))
        }
        GatewayError::Peer(PeerError::Busy) => {
            let text = format!("Too many calls to {name} at once; try again in {}.", again(error));
            (S::SERVICE_UNAVAILABLE, "transient", "country-busy", text)
        }
        // Of us, not of the country, which answered.
        GatewayError::Peer(PeerError::NoMemory) => Problem::Busy.row(),
        // A 429 or 503 that says no time is told as busy too (RFC 6585 4, RFC 9110 15.6.4).
        GatewayError::Peer(PeerError::Later(_) | PeerError::Http(429 | 503)) => (
            S::SERVICE_UNAVAILABLE,
            "transient",
            "country-busy",
            format!("{name} is busy; try again in {}.", again(error)),
        ),
        GatewayError::Peer(PeerError::Open(_)) => {
            let text =
                format!("{name} could not be reached a moment ago and was not tried; again in {}.", again(error));
            (S::SERVICE_UNAVAILABLE, "transient", "country-not-tried", text)
        }
        GatewayError::Peer(error @ PeerError::Http(status)) if !error.opens_a_circuit() => {
            let text = format!("{name} answered with an error (HTTP {status}).");
            (S::BAD_GATEWAY, "exception", "country-error", text)
        }
        GatewayError::Peer(PeerError::Unreachable(_) | PeerError::Http(_)) => {
            (S::BAD_GATEWAY, "transient", "country-unreachable", format!("{name} cannot be reached."))
        }
        // It was reached, and what it sent ended early: mostly one object behind it is to blame.
        GatewayError::Peer(PeerError::BrokeOff) => {
            (S::BAD_GATEWAY, "transient", "country-incomplete", format!("The answer of {name} broke off."))
        }
        GatewayError::Peer(PeerError::Slow) => {
            (S::GATEWAY_TIMEOUT, "timeout", "country-slow", format!("The answer of {name} came too slowly."))
        }
        GatewayError::Peer(PeerError::NotServed) => {
            (S::BAD_GATEWAY, "not-supported", "country-not-served", format!("{name} does not offer this."))
        }
        GatewayError::Peer(PeerError::Mismatch | PeerError::Withheld(_)) => {
            let text = format!("{name} sent something else than it announced; it is not shown.");
            (S::BAD_GATEWAY, "exception", "content-mismatch", text)
        }
        GatewayError::Peer(PeerError::Unreadable(what)) => {
            let text = format!("{name} sent something that cannot be read: {what}.");
            (S::BAD_GATEWAY, "exception", "content-unreadable", text)
        }
        // Told to those alone who may see the study.
        GatewayError::Peer(PeerError::Refused(code)) if code == REPLACED => {
            let text = "The study has changed since it was listed; search again.";
            (S::GONE, "conflict", "study-changed", text.into())
        }
        // An absent, a blocked and somebody else's document are one answer.
        GatewayError::Peer(PeerError::Refused(code))
            if matches!(code.as_str(), "XDSDocumentUniqueIdError" | "4701" | "XDSUnknownPatientId") =>
        {
            (S::NOT_FOUND, "not-found", "not-found", "Not found.".into())
        }
        // The fault is on this side: the login, the role, the purpose or a permission.
        GatewayError::Peer(PeerError::Refused(code)) if matches!(code.as_str(), "4702" | "4703") => {
            let text = format!("{name} does not permit this call to the caller ({code}).");
            (S::FORBIDDEN, "forbidden", "country-refuses-caller", text)
        }
        GatewayError::Peer(PeerError::Refused(code)) => {
            (S::BAD_GATEWAY, "exception", "country-error", format!("{name} refused with the code {code}."))
        }
        GatewayError::Peer(_) => {
            (S::BAD_GATEWAY, "exception", "country-error", format!("{name} answered with an error."))
        }
        GatewayError::Policy(PolicyError::Forbidden(_)) => Problem::Role.row(),
        GatewayError::TooLong(_) => (S::PAYLOAD_TOO_LARGE, "too-long", "request-too-long", CALL_TOO_LONG.into()),
        _ => Problem::Internal.row(),
    }
}

/// An OperationOutcome.
pub fn outcome(issues: Vec<Value>) -> Value {
    json!({ "resourceType": "OperationOutcome", "issue": issues })
}

/// One issue; `diagnostics` holds the reference only.
pub fn outcome_issue(severity: &str, issue: &str, code: &str, text: &str, reference: &str) -> Value {
    json!({
        "severity": severity,
        "code": issue,
        "details": { "coding": [{ "system": OUTCOME_SYSTEM, "code": code }], "text": text },
        "diagnostics": format!("reference {reference}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WI-11: a peer whose gateway answers with an error page was reached; one before which nobody is was not.
    #[test]
    fn wi_11_an_error_page_is_told_with_its_status() {
        let told = |error: PeerError| {
            let (_, _, code, text) = country_row("Finland", &GatewayError::Peer(error));
            (code, text)
        };
        for status in [400, 403, 404, 500, 501, 505] {
            let text = format!("Finland answered with an error (HTTP {status}).");
            assert_eq!(told(PeerError::Http(status)), ("country-error", text));
        }
        for error in [PeerError::Http(502), PeerError::Http(504), PeerError::Unreachable("gone".into())] {
            assert_eq!(told(error).0, "country-unreachable");
        }
    }
}
