#!/usr/bin/env bash
# `ncp attack` against gateways outside the demonstration: tests/outside.sh. Two countries are set up by hand, as
# deploy/README.md and deploy/config say: Denmark holds patients in a folder of its own, Portugal asks it for its consumers
# and clinicians, and Malta is known to Denmark as a third country. Every row of the attack set is sent, none is left out.
# Short enough for tests/run.sh. NCP_BIN_DIR names built programs; otherwise they are built. The ports are 28443 to 28453 and
# 29443 to 29450.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="${NCP_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}"
if [ -z "${NCP_BIN_DIR:-}" ]; then
  . deploy/install.sh
  install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev openssl
  install_rust
  cargo build --release --locked -q -p ncp -p ncp-gateway -p ncp-audit
fi
bin="$(cd "$bin" && pwd)"
dir="$(mktemp -d)"
started=()
finish() {
  local code=$?
  [ ${#started[@]} = 0 ] || kill "${started[@]}" 2>/dev/null || true
  wait
  if [ "$code" = 0 ]; then rm -rf "$dir"; else echo "the logs are in $dir" >&2; fi
}
trap finish EXIT

# Keys and certificates; the last line that `ncp pki` prints is the pin by which other countries name them.
declare -A pin
for country in DK PT MT; do
  pin[$country]="$("$bin/ncp" pki --country "$country" --out "$dir/${country,,}/pki" | tail -n 1)"
done

# gateway COUNTRY HOME FIRST_PORT: what every country has: both listeners, its seal, its trail and its policies.
gateway() {
  local country="$1" home="$2" port="$3" own="$dir/${1,,}"
  cp -r gateway/policies/no "$own/policies"
  mkdir -p "$own/data"
  sed -e "s/@country@/$country/; s/@home@/$home/; s/@name@/Country $country/; s/@pki@/pki/; s/@spool@/spool/" \
    -e "s/@peers@/$((port + 443))/; s/@admin@/$((port + 445))/; s/@source@/gateway-${country,,}/" \
    -e "s/@policies@/policies/; s#@consent@#data/consent.toml#" tests/fixtures/gateway.toml.in >"$own/gateway.toml"
  cat >>"$own/gateway.toml" <<TOML
[audit.feed]
endpoint = "https://127.0.0.1:$((port + 447))"
server_name = "localhost"
tls = { certificate = "pki/internal-client.pem", key = "pki/internal-client.key", anchors = "pki/internal-anchors.pem" }
TOML
  cat >"$own/audit.toml" <<TOML
feed = "127.0.0.1:$((port + 447))"
query = "127.0.0.1:$((port + 448))"
admin = "127.0.0.1:$((port + 450))"
syslog = "127.0.0.1:$((port + 451))"
fhir = "127.0.0.1:$((port + 453))"
fhir_base = "https://localhost:$((port + 453))"
certificate = "pki/internal-server.pem"
key = "pki/internal-server.key"
anchors = "pki/internal-anchors.pem"
data_dir = "audit"
key_file = "pki/audit.key"
source = "audit-${country,,}"
enterprise_site = "$country"
readers = ["reader.ncp.${country,,}"]
writers = { "internal-client.ncp.${country,,}" = "gateway-${country,,}" }
senders = []
TOML
}

# report FILE UNIQUE_ID PATIENT: a report in the form of HL7 CDA, with codes that every country knows.
report() {
  local file="$1" id="$2" patient="$3"
  cat >"$dir/dk/data/reports/$file.xml" <<XML
<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3">
  <typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
  <id root="$id"/>
  <code code="18748-4" codeSystem="2.16.840.1.113883.6.1" displayName="Diagnostic imaging study"/>
  <title>Synthetic report</title>
  <effectiveTime value="20220822120000+0000"/>
  <confidentialityCode code="N" codeSystem="2.16.840.1.113883.5.25"/>
  <languageCode code="en"/>
  <recordTarget>
    <patientRole>
      <id root="$authority" extension="$patient"/>
      <patient><name><given>Test</given><family>Person</family></name></patient>
    </patientRole>
  </recordTarget>
  <author>
    <time value="20220822120000+0000"/>
    <assignedAuthor><id nullFlavor="NA"/><assignedPerson><name><family>Author</family></name></assignedPerson></assignedAuthor>
  </author>
  <custodian><assignedCustodian><representedCustodianOrganization><id root="2.999.208"/></representedCustodianOrganization></assignedCustodian></custodian>
  <component><structuredBody><component><section><text>Synthetic.</text></section></component></structuredBody></component>
</ClinicalDocument>
XML
  cat >"$dir/dk/data/reports/$file.toml" <<TOML
file = "$file.xml"
media_type = "text/xml"
unique_id = "$id"
patient = "$patient^^^&$authority&ISO"
title = "Synthetic report"
language = "en"
created = "2022-08-22T12:00:00Z"
service_start = "2022-08-22T12:00:00Z"
author = "^Author^Radiologist"
class = { code = "18748-4", system = "2.16.840.1.113883.6.1", display = "Diagnostic imaging study" }
type = { code = "18748-4", system = "2.16.840.1.113883.6.1", display = "Diagnostic imaging study" }
format = { code = "urn:ihe:rad:TEXT", system = "1.3.6.1.4.1.19376.1.2.3", display = "Radiology text" }
practice_setting = { code = "394914008", system = "2.16.840.1.113883.6.96", display = "Radiology" }
facility_type = { code = "22232009", system = "2.16.840.1.113883.6.96", display = "Hospital" }
confidentiality = [{ code = "N", system = "2.16.840.1.113883.5.25", display = "Normal" }]
TOML
}

# person NUMBER LOCAL_ID BORN
person() {
  cat >>"$dir/dk/data/patients.toml" <<TOML
[[patient]]
national_id = "$1^^^&$authority&ISO"
local_ids = ["$2"]
family = "Person"
given = ["Test"]
birth_date = "$3"
sex = "M"

TOML
}

# Denmark: three persons, one of whom opted out; three reports, one of them blocked; one study of public test images.
authority=2.999.208.1
gateway DK 2.999.208 28000
mkdir -p "$dir/dk/data/reports" "$dir/dk/data/dicom"
person 1001 UV59569735 19770530
person 1002 IIG-DEPT1011 19780201
person 1003 NOBODY 19800101
report open 2.999.208.30.1 1001
report blocked 2.999.208.30.2 1001
report foreign 2.999.208.30.3 1002
cp -r tests/fixtures/dicom/study-b/Series_B_1 tests/fixtures/dicom/nist/iig-5401 "$dir/dk/data/dicom"
cp deploy/demo/no/manifest.toml "$dir/dk/data/manifest.toml"
cat >"$dir/dk/data/consent.toml" <<TOML
[[block]]
patient = "1001^^^&$authority&ISO"
document = "2.999.208.30.2"

[[opt_out]]
patient = "1003^^^&$authority&ISO"
TOML
cat >>"$dir/dk/gateway.toml" <<TOML

[national]
patients_file = "data/patients.toml"
language = "en"

[[national.connector]]
kind = "embedded"
name = "archive"
folder = "data"
repository_unique_id = "2.999.208.21.1"
location_uids = ["2.999.208.21.1"]
time_zone = "Europe/Copenhagen"
uid_root = "2.999.208.31"
patient_id_authority = ["HOSPITAL-A"]
TOML
for peer in "PT 2.999.620" "MT 2.999.470"; do
  read -r code home <<<"$peer"
  cat >>"$dir/dk/gateway.toml" <<TOML

[[peer]]
country = "$code"
name = "Country $code"
home_community_id = "urn:oid:$home"
tls_anchors = "../${code,,}/pki/tls-anchors.pem"
seal_anchors = "../${code,,}/pki/seal-anchors.pem"
${pin[$code]}
TOML
done

# Portugal: clinicians and national consumers, who ask Denmark.
gateway PT 2.999.620 29000
touch "$dir/pt/data/consent.toml"
role='[%s.roles."221"]\ncode = "221"\ndisplay = "Medical Doctors"\npermissions = ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"]\n\n'
organisation='organisation = { name = "Hospital", id = "urn:oid:2.999.620.10", locality = "Radiology" }'
cat >>"$dir/pt/gateway.toml" <<TOML

[clinician]
listen = "127.0.0.1:29444"
base_url = "https://localhost:29444"
certificate = "pki/tls-server.pem"
key = "pki/tls-server.key"
issuer = "https://idp.pt.example"
audience = "https://localhost:29444"
jwks_file = "pki/jwks.json"
sealing_key_file = "pki/sealing.key"
$organisation
acr = { two-factor = "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI" }

$(printf "$role" clinician)

[consumer]
listen = "127.0.0.1:29449"
certificate = "pki/tls-server.pem"
key = "pki/tls-server.key"
tls_anchors = "pki/consumer-anchors.pem"
assertion_anchors = "pki/assertion-anchors.pem"
pin = { tls_client = ["consumer.ncp.pt"], seal = ["xua.ncp.pt"] }
audiences = ["https://localhost:29444"]
$organisation

$(printf "$role" consumer)

[[peer]]
country = "DK"
name = "Country DK"
home_community_id = "urn:oid:2.999.208"
xcpd = "https://localhost:28443/openncp-ws-server/services/XCPD_Service"
xca = "https://localhost:28443/openncp-ws-server/services/XCA_Service"
xcai = "https://localhost:28443/xcai/retrieve"
patient_roots = ["$authority"]
tls_anchors = "../dk/pki/tls-anchors.pem"
seal_anchors = "../dk/pki/seal-anchors.pem"
${pin[DK]}
TOML

# start COUNTRY PROGRAM ADMIN_PORT ARGUMENTS: checks the configuration, starts, and waits until the program is ready.
start() {
  local own="$dir/${1,,}" program="$2" port="$3"
  shift 3
  "$bin/$program" "$@" >"$own/$program.log" 2>&1 &
  started+=($!)
  for _ in $(seq 300); do
    if { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null; then
      printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
      if head -n 1 <&3 | grep -q ' 200 '; then exec 3>&-; return; fi
      exec 3>&-
    fi
    kill -0 "${started[-1]}" 2>/dev/null || break
    sleep 0.1
  done
  cat "$own/$program.log" >&2
  return 1
}
for country in "DK 28" "PT 29"; do
  read -r code thousand <<<"$country"
  own="$dir/${code,,}"
  "$bin/ncp-audit" check-config --config "$own/audit.toml"
  "$bin/ncp-gateway" --config "$own/gateway.toml" check-config
  start "$code" ncp-audit "${thousand}450" serve --config "$own/audit.toml"
  start "$code" ncp-gateway "${thousand}445" --config "$own/gateway.toml"
done

said="$("$bin/ncp" attack --out "$dir/attack.md" \
  --gateway 127.0.0.1:28443 --anchors "$dir/dk/pki/anchors.pem" --pki "$dir/pt/pki" --country PT --home 2.999.620 \
  --third-pki "$dir/mt/pki" --third-country MT --third-home 2.999.470 \
  --consumers 127.0.0.1:29449 --national-pki "$dir/pt/pki" --own-country PT --own-home 2.999.620 --own-anchors "$dir/pt/pki/anchors.pem" \
  --clinicians https://localhost:29444 --issuer https://idp.pt.example --issuer-key "$dir/pt/pki/issuer.jwk" \
  --target 2.999.208 --patient "1001^^^&$authority&ISO" --other "1002^^^&$authority&ISO" \
  --foreign-document 2.999.208.21.1/2.999.208.30.3 --blocked-document 2.999.208.21.1/2.999.208.30.2 \
  --opted-out "1003^^^&$authority&ISO" \
  --audit "$dir/dk/audit.toml" --audit-pki "$dir/dk/pki")" || { echo "$said"; exit 1; }
echo "$said"
case "$said" in
  *"not sent"*) exit 1 ;;
esac
