//! NCP-B towards its own users: FHIR and DICOMweb.
