//! Errors of the gRPC face: a status with google.rpc.ErrorInfo and BadRequest in its details, the reason and OpenNCP's
//! number among them. The messages are of this crate, so that they need no generated code of their own.

use prost::Message;
use tonic::{Code, Status};

const DOMAIN: &str = "terminology.ncp";

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

/// A status with its details.
pub(crate) fn status(code: Code, reason: &str, legacy: &str, message: &str, field: &str) -> Status {
    let mut metadata = std::collections::BTreeMap::new();
    if !legacy.is_empty() {
        metadata.insert("legacy_code".to_owned(), legacy.to_owned());
    }
    let info = ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned(), metadata };
    let mut details =
        vec![Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: info.encode_to_vec() }];
    if !field.is_empty() {
        let violation = FieldViolation { field: field.to_owned(), description: message.to_owned() };
        let bad = BadRequest { field_violations: vec![violation] };
        details.push(Any { type_url: "type.googleapis.com/google.rpc.BadRequest".into(), value: bad.encode_to_vec() });
    }
    let whole = RpcStatus { code: code as i32, message: message.to_owned(), details };
    Status::with_details(code, message, whole.encode_to_vec().into())
}

/// Reason and OpenNCP's number of a status of this service, for its clients and tests.
pub fn reason(status: &Status) -> Option<(String, String)> {
    let whole = RpcStatus::decode(status.details()).ok()?;
    let any = whole.details.iter().find(|d| d.type_url.ends_with("/google.rpc.ErrorInfo"))?;
    let info = ErrorInfo::decode(any.value.as_slice()).ok()?;
    let legacy = info.metadata.get("legacy_code").cloned().unwrap_or_default();
    Some((info.reason, legacy))
}

/// A request that lacks something.
pub(crate) fn invalid(field: &str, message: &str) -> Status {
    status(Code::InvalidArgument, "INVALID_REQUEST", "4500", message, field)
}
