#!/usr/bin/env bash
# Starts the demonstration and runs the Python clients against it. NCP_PYTHON has the packages of requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/../../.."
NCP="${NCP:-$PWD/${CARGO_TARGET_DIR:-target}/release/ncp}"
NCP_DEMO_DIR="$(mktemp -d)/demo"
export NCP NCP_DEMO_DIR
"$NCP" demo --sources "$PWD" >"$NCP_DEMO_DIR.log" 2>&1 &
demo=$!
trap 'kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true' EXIT
# Ports of the readiness pages: Finland, Norway.
for port in 26445 27445; do
  for _ in $(seq 600); do
    curl -sf "http://127.0.0.1:$port/readyz" >/dev/null && break
    kill -0 "$demo" 2>/dev/null || { cat "$NCP_DEMO_DIR.log"; exit 1; }
    sleep 0.2
  done
done
failed=0
"$NCP_PYTHON" tests/interop/python/clinician.py || failed=1
"$NCP_PYTHON" tests/interop/python/xca.py || failed=1
"$NCP_PYTHON" tests/interop/python/audit.py || failed=1
exit "$failed"
