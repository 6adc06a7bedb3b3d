#!/usr/bin/env bash
# Runs everything that a change must pass. Debian 12: installs what is missing.
# Last line: "N passed, N failed". With --interop also the counterparts that others wrote: IPF (Java) and Python clients.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev softhsm2 libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev curl ca-certificates \
  xmlsec1 libxml2-utils python3-venv orthanc orthanc-dicomweb postgresql rsyslog rsyslog-openssl rsyslog-gnutls \
  redis-server openssl poppler-utils
install_rust
interop=false
for option in "$@"; do
  case "$option" in
    --interop) interop=true ;;
    *) echo "unknown option $option" >&2; exit 64 ;;
  esac
done
export NCP_SHARED_DATA="${NCP_SHARED_DATA:-$(cd .. && pwd)/shared/data}"
[ -d "$NCP_SHARED_DATA" ] || echo "NCP_SHARED_DATA is not there: tests that need it say so"
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"

# signxml and pybergshamra, which judge signatures beside xmlsec1, in an environment of their own.
if [ ! -x "$target/python/bin/python" ]; then
  python3 -m venv "$target/python"
fi
"$target/python/bin/pip" install -q 'signxml==4.*' 'pybergshamra==0.11.0' >/dev/null
NCP_PYTHON="$(cd "$target/python/bin" && pwd)/python"
export NCP_PYTHON

# IPF and the judges as projects of their own, from Maven Central; the tests find their classes by NCP_IPF_CLASSPATH and
# NCP_JUDGES_CLASSPATHS, those of Axis2 by NCP_AXIS2_CLASSPATH.
if "$interop"; then
  "$target/python/bin/pip" install -q -r tests/interop/python/requirements.txt >/dev/null
  . tests/interop/ipf/build.sh
  . tests/interop/judges/build.sh
  . tests/interop/axis2/build.sh
fi

passed=0
failed=0
step() {
  local name="$1" began=$SECONDS
  shift
  echo "== $name"
  if "$@"; then
    passed=$((passed + 1))
    echo "== $name: ok, $((SECONDS - began)) s"
  else
    failed=$((failed + 1))
    echo "== $name: FAILED, $((SECONDS - began)) s"
  fi
}

step fmt cargo fmt --all --check
step clippy cargo clippy --release --locked --workspace --all-targets -- -D warnings
step build cargo build --release --locked --workspace --all-targets
step licences tests/licences.py
log="$target/tests.log"
run_tests() {
  cargo test --release --locked --workspace --no-fail-fast 2>&1 | tee "$log"
}
step tests run_tests
counted=$(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log")
passed=$((passed + ${counted% *}))
failed=$((failed + ${counted#* }))
step doc env RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps -q
captured="$(mktemp -d)"
demo_check() {
  NCP_CAPTURE_DIR="$captured" NCP_DEMO_DIR="$(mktemp -d)/demo" deploy/demo.sh --check
}
step faults "$target/release/ncp" faults --rounds 10 --sources "$PWD"
step load "$target/release/ncp" load --sources "$PWD" --log "$target/load-acts.jsonl" --report "$target/load.md"
step outside env NCP_BIN_DIR="$target/release" tests/outside.sh
step demo demo_check
step messages "$target/release/check-messages" "$captured" 20
if "$interop"; then
  step python tests/interop/python/run.sh
fi
if command -v cargo-deny >/dev/null; then
  step deny cargo-deny --offline check licenses bans sources
else
  echo "cargo-deny: not installed, licences were checked by tests/licences.py; advisories: not checked"
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
