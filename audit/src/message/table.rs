//! The rows of the audit tables: what each transaction is called at each side, in each dialect.

use super::Dialect;
use crate::event::{Role, Transaction};

/// Which event a retrieve of images is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagingEvent {
    /// DICOM Instances Accessed and Transferred (RAD TF-3, Radiology Audit Trail option); in `ehdsi` Import and Export.
    #[default]
    Dicom,
    /// Import and Export in both dialects.
    Phi,
}

/// What a transaction is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Demographics or identifiers of a person.
    PatientQuery,
    /// Documents or studies of a patient.
    Query,
    /// Documents themselves.
    Documents,
    /// Instances themselves.
    Images,
    /// Refused before it was known.
    Refused,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// EventID.
    pub(crate) event: (&'static str, &'static str),
    /// EventActionCode.
    pub(crate) action: &'static str,
    /// EventTypeCode: code, `originalText`, `displayName`.
    pub(crate) code: &'static str,
    pub(crate) text: &'static str,
    pub(crate) display: &'static str,
    pub(crate) kind: Kind,
}

/// Code, IHE name, eHDSI's name of service and of message (where it has one), what it is about.
const NAMES: [(Transaction, &str, &str, &str, &str, Kind); 16] = {
    use Kind as K;
    use Transaction as T;
    [
        (
            T::Iti55,
            "ITI-55",
            "Cross Gateway Patient Discovery",
            "IdentityService::FindIdentityByTraits",
            "XCPD::CrossGatewayPatientDiscovery",
            K::PatientQuery,
        ),
        (T::Iti38, "ITI-38", "Cross Gateway Query", "OrCDService::List", "XCA::CrossGatewayQuery", K::Query),
        (
            T::Iti39,
            "ITI-39",
            "Cross Gateway Retrieve",
            "OrCDService::Retrieve",
            "XCA::CrossGatewayRetrieve",
            K::Documents,
        ),
        (T::Rad75, "RAD-75", "Cross Gateway Retrieve Imaging Document Set", "", "", K::Images),
        (T::Iti18, "ITI-18", "Registry Stored Query", "", "", K::Query),
        (T::Iti43, "ITI-43", "Retrieve Document Set", "", "", K::Documents),
        (T::Rad69, "RAD-69", "Retrieve Imaging Document Set", "", "", K::Images),
        (T::Iti78, "ITI-78", "Mobile Patient Demographics Query", "", "", K::PatientQuery),
        (T::Iti83, "ITI-83", "Mobile Patient Identifier Cross-reference Query", "", "", K::PatientQuery),
        (T::Iti119, "ITI-119", "Patient Demographics Match", "", "", K::PatientQuery),
        (T::Iti67, "ITI-67", "Find Document References", "", "", K::Query),
        (T::Iti68, "ITI-68", "Retrieve Document", "", "", K::Documents),
        (T::Rad129, "RAD-129", "QIDO-RS Query", "", "", K::Query),
        (T::Rad107, "RAD-107", "WADO-RS Retrieve", "", "", K::Images),
        (T::Rad160, "RAD-160", "WADO-RS Retrieve across communities", "", "", K::Images),
        (T::Unknown, "NCP-REFUSED", "Refused before dispatch", "", "", K::Refused),
    ]
};

/// The row of a transaction at one side.
pub(crate) fn row(transaction: Transaction, role: Role, dialect: Dialect, imaging: ImagingEvent) -> Row {
    let found = NAMES.iter().find(|(t, ..)| *t == transaction);
    let (_, code, name, service, message, kind) = *found.unwrap_or(&NAMES[15]);
    let phi = dialect == Dialect::Ehdsi || imaging == ImagingEvent::Phi;
    let (event, action) = match (kind, role) {
        (Kind::PatientQuery | Kind::Query, _) => (("110112", "Query"), "E"),
        (Kind::Images, Role::Initiator) if !phi => (("110103", "DICOM Instances Accessed"), "C"),
        (Kind::Images, Role::Responder) if !phi => (("110104", "DICOM Instances Transferred"), "R"),
        (Kind::Documents | Kind::Images, Role::Initiator) => (("110107", "Import"), "C"),
        (Kind::Documents | Kind::Images, Role::Responder) => (("110106", "Export"), "R"),
        (Kind::Refused, _) => (("110113", "Security Alert"), "E"),
    };
    let (text, display) = match dialect {
        Dialect::Ihe => (name, ""),
        Dialect::Ehdsi if service.is_empty() => (name, name),
        Dialect::Ehdsi => (message, service),
    };
    Row { event, action, code, text, display, kind }
}

/// `ITI-55` and so on.
pub(crate) fn code(transaction: Transaction) -> &'static str {
    NAMES.iter().find(|(t, ..)| *t == transaction).map_or("NCP-REFUSED", |(_, code, ..)| code)
}

/// `originalText` of a purpose of use (`urn:oasis:names:tc:xspa:1.0`).
pub(crate) fn purpose_text(code: &str) -> &str {
    match code {
        "TREATMENT" => "Healthcare Treatment",
        "EMERGENCY" => "Emergency Treatment",
        other => other,
    }
}
