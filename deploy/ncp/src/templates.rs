//! Configuration files of the demonstration; every key is explained in `deploy/config/`.

use crate::demo::{Country, offset, orthanc_port};

pub(crate) fn gateway_toml(own: &Country, other: &Country) -> String {
    let port = offset(own.code);
    format!(
        r#"# Written by `ncp demo`; every key is explained in deploy/config/gateway.toml.
[gateway]
country = "{code}"
home_community_id = "urn:oid:{home}"
name = "{name}"
shutdown_grace = "20s"

[listener]
peers = "127.0.0.1:{peers}"
admin = "127.0.0.1:{admin}"
certificate = "pki/tls-server.pem"
key = "pki/tls-server.key"

[client]
certificate = "pki/tls-client.pem"
key = "pki/tls-client.key"

[clinician]
listen = "127.0.0.1:{clinicians}"
base_url = "{audience}"
certificate = "pki/tls-server.pem"
key = "pki/tls-server.key"
issuer = "{issuer}"
audience = "{audience}"
jwks_file = "pki/jwks.json"
sealing_key_file = "pki/sealing.key"
organisation = {{ name = "University hospital", id = "urn:oid:{home}.10", locality = "Radiology" }}
acr = {{ two-factor = "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI" }}

[clinician.roles."221"]
code = "221"
display = "Medical Doctors"
permissions = ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"]

[consumer]
listen = "127.0.0.1:{consumers}"
certificate = "pki/tls-server.pem"
key = "pki/tls-server.key"
tls_anchors = "pki/consumer-anchors.pem"
assertion_anchors = "pki/assertion-anchors.pem"
pin = {{ tls_client = ["consumer.ncp.{lower}"], seal = ["xua.ncp.{lower}"] }}
audiences = ["{audience}"]
organisation = {{ name = "University hospital", id = "urn:oid:{home}.10", locality = "Radiology" }}

[consumer.roles."221"]
code = "221"
display = "Medical Doctors"
permissions = ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"]

[seal]
certificate = "pki/seal.pem"
key = "pki/seal.key"

[translation]
endpoint = "https://127.0.0.1:{translation}"
server_name = "localhost"
tls = {{ certificate = "pki/internal-client.pem", key = "pki/internal-client.key", anchors = "pki/internal-anchors.pem" }}
reader_language = "{lower}"

[audit]
spool_dir = "spool"
spool_key_file = "pki/spool.key"
spool_segment_bytes = 4194304
spool_reserve_bytes = 4194304
source = "ncp-gateway-{lower}"
enterprise_site = "{code}"

[audit.feed]
endpoint = "https://127.0.0.1:{feed}"
server_name = "localhost"
tls = {{ certificate = "pki/internal-client.pem", key = "pki/internal-client.key", anchors = "pki/internal-anchors.pem" }}

[policy]
folder = "policies"
consent_file = "data/consent.toml"

[national]
patients_file = "data/patients.toml"
language = "{language}"

[[national.connector]]
kind = "embedded"
name = "archive"
folder = "data"
repository_unique_id = "{home}.21.1"
location_uids = ["{home}.21.1"]
time_zone = "{zone}"
uid_root = "{home}.31"
patient_id_authority = ["HOSPITAL-A", "{home}.22"]
{second}
[[peer]]
country = "{other}"
name = "{other_name}"
home_community_id = "urn:oid:{other_home}"
xcpd = "https://localhost:{other_port}/openncp-ws-server/services/XCPD_Service"
xca = "https://localhost:{other_port}/openncp-ws-server/services/XCA_Service"
xcai = "https://localhost:{other_port}/xcai/retrieve"
patient_roots = ["{other_patients}"]
orcd = {orcd}
tls_anchors = "../{other_lower}/pki/tls-anchors.pem"
seal_anchors = "../{other_lower}/pki/seal-anchors.pem"
{pin}"#,
        pin = ncp_tests::pki::peer_pin(other.code),
        code = own.code.to_uppercase(),
        lower = own.code,
        home = own.home,
        name = own.name,
        peers = port + 443,
        admin = port + 445,
        translation = port + 446,
        feed = port + 447,
        language = own.language,
        zone = own.zone,
        other = other.code.to_uppercase(),
        other_lower = other.code,
        other_name = other.name,
        other_home = other.home,
        second = if own.code == "no" { orthanc_connector(own) } else { String::new() },
        orcd = own.code == "fi",
        other_port = offset(other.code) + 443,
        other_patients = other.patients,
        clinicians = port + 444,
        consumers = port + 449,
        audience = crate::issuer::audience(own.code),
        issuer = crate::issuer::issuer(own.code),
    )
}

fn orthanc_connector(own: &Country) -> String {
    let (home, zone, port) = (own.home, own.zone, orthanc_port());
    format!(
        r#"
[[national.connector]]
kind = "dicomweb"
name = "orthanc"
url = "http://127.0.0.1:{port}/dicom-web"
manifest_codes = "data/manifest.toml"
repository_unique_id = "{home}.21.2"
location_uids = ["{home}.21.2"]
time_zone = "{zone}"
uid_root = "{home}.32"
patient_id_authority = ["HOSPITAL-A", "{home}.22"]
"#
    )
}

pub(crate) fn translation_toml(own: &Country) -> String {
    let port = offset(own.code);
    format!(
        r#"# Written by `ncp demo`.
listen = "127.0.0.1:{}"
admin = "127.0.0.1:{}"
certificate = "pki/internal-server.pem"
key = "pki/internal-server.key"
anchors = "pki/internal-anchors.pem"
clients = ["internal-client.ncp.{}"]
maps = "maps"
"#,
        port + 446,
        port + 451,
        own.code,
    )
}

pub(crate) fn audit_toml(own: &Country) -> String {
    let port = offset(own.code);
    format!(
        r#"# Written by `ncp demo`.
feed = "127.0.0.1:{}"
query = "127.0.0.1:{}"
admin = "127.0.0.1:{}"
certificate = "pki/internal-server.pem"
key = "pki/internal-server.key"
anchors = "pki/internal-anchors.pem"
data_dir = "audit"
key_file = "pki/audit.key"
source = "ncp-audit-{}"
enterprise_site = "{}"
syslog = "127.0.0.1:{syslog}"
fhir = "127.0.0.1:{fhir}"
fhir_base = "https://localhost:{fhir}"
readers = ["reader.ncp.{lower}"]
writers = {{ "internal-client.ncp.{lower}" = "ncp-gateway-{lower}" }}
senders = []
"#,
        port + 447,
        port + 448,
        port + 450,
        own.code,
        own.code.to_uppercase(),
        lower = own.code,
        fhir = port + 453,
        syslog = port + 455,
    )
}
