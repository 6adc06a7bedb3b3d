#!/usr/bin/env bash
# Runs every fuzz target for a given time: tests/fuzz.sh [SECONDS [TARGET…]]; default 60 seconds each.
# With a nightly compiler cargo-fuzz (libFuzzer) runs them; where that cannot be had it is said, and the same targets run on
# the stable compiler over mutated corpora. NCP_FUZZ=fast leaves the sanitizer out, which the readers, safe Rust, do not need:
# several times as many runs in the same time, each with its properties. A finding is kept in target/fuzz/findings and belongs into tests/fixtures.
# Last line: "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev
install_rust
seconds="${1:-60}"
shift || true
root="$PWD"
work="$root/${CARGO_TARGET_DIR:-target}/fuzz"
case "${CARGO_TARGET_DIR:-}" in /*) work="$CARGO_TARGET_DIR/fuzz" ;; esac
mkdir -p "$work/findings"
all="xml:budget soap:mime soap:message soap:coding saml:structure ihe:ebrim ihe:hl7v3 ihe:manifest ihe:dicom ihe:narrative gateway:consent gateway:consent-file audit:search audit:batch"
for target in "$@"; do
  case " $all " in *":$target "*) ;; *) echo "no target called $target; there are $all" >&2; exit 64 ;; esac
done

runner=libfuzzer
if [ "${NCP_FUZZ:-}" = stable ]; then
  runner=stable
elif ! rustup toolchain list 2>/dev/null | grep -q ^nightly && ! rustup toolchain install nightly --profile minimal >&2; then
  echo "no nightly compiler can be had: the stable runner takes its place, without coverage"
  runner=stable
elif ! cargo fuzz --version >/dev/null 2>&1 && ! cargo install --locked -q cargo-fuzz >&2; then
  echo "cargo-fuzz cannot be installed: the stable runner takes its place, without coverage"
  runner=stable
fi
echo "runner: $runner, $seconds s a target"

# Real messages as the beginning of each corpus.
corpus() {
  local target="$1" to="$work/corpus/$1"
  mkdir -p "$to"
  case "$target" in
    mime | message | coding | search | batch) cp tests/fuzz/seeds/"$target"/* "$to" ;;
    budget) cp tests/fixtures/ihe-samples/*.xml tests/fuzz/seeds/budget/* "$to" ;;
    structure | ebrim | hl7v3)
      cp tests/fixtures/ihe-samples/*.xml "$to"
      # The targets of ihe read bodies, not envelopes.
      if [ "$target" != structure ]; then
        for file in "$to"/*.xml; do
          python3 - "$file" <<'PY'
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
body = root.find("{http://www.w3.org/2003/05/soap-envelope}Body")
if body is not None and len(body):
    open(sys.argv[1], "wb").write(tree.tostring(body[0]))
PY
        done
      fi
      ;;
    narrative) cp tests/fixtures/cases/corners/*.xml tests/fixtures/cases/foreign/FO-07-*.xml "$to" ;;
    consent) cp tests/fixtures/cases/security/consent/*.json "$to" ;;
    consent-file) cp tests/fixtures/cases/security/*.toml "$to" ;;
    dicom) find tests/fixtures/cases/imaging tests/fixtures/dicom -name '*.dcm' -size -100k -exec cp {} "$to" \; ;;
    manifest) find tests/fixtures/manifests tests/fixtures/dicom -name '*.dcm' -size -100k -exec cp {} "$to" \; && cp tests/fixtures/manifests/mado/*.json "$to" ;;
  esac
}

# Freed memory goes back soon: else the sanitizer's quarantine alone looks like a leak. One allocation has its own limit.
# Where a block was allocated is not kept: that costs a fifth of all runs, and a finding can be run again with it.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}quarantine_size_mb=16:allocator_release_to_os_interval_ms=100:malloc_context_size=0"
passed=0
failed=0
for pair in $all; do
  crate="gateway/${pair%:*}" target="${pair#*:}"
  options=()
  # It reads JSON and TOML in safe Rust and chooses elements by its recipes: without the sanitizer and without tracing what
  # is compared with what it makes five times as many runs, each with its properties.
  [ "$crate" != gateway/audit ] || crate=audit
  [ "$crate" != gateway/gateway ] || { crate=gateway && options=(--sanitizer none --no-trace-compares); }
  [ "${NCP_FUZZ:-}" != fast ] || options=(--sanitizer none --no-trace-compares)
  [ $# = 0 ] || printf '%s\n' "$@" | grep -qx "$target" || continue
  corpus "$target"
  if [ "$runner" = libfuzzer ]; then
    (cd "$crate" && CARGO_TARGET_DIR="$work/build" cargo +nightly fuzz run ${options[@]+"${options[@]}"} "$target" "$work/corpus/$target" -- \
      -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=262144 -artifact_prefix="$work/findings/$target-" \
      -print_final_stats=1 -verbosity=0)
  else
    CARGO_TARGET_DIR="$work/build" cargo run -q --manifest-path "$crate/fuzz/Cargo.toml" --no-default-features --bin stable -- \
      "$target" "$seconds" "$work/findings" "$work/corpus/$target"
  fi && passed=$((passed + 1)) || failed=$((failed + 1))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
