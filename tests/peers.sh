#!/usr/bin/env bash
# Peers of four kinds, each so many calls: tests/peers.sh [CALLS]; default 1000. The HTTP client of OpenJDK, openssl s_client,
# requests (Python) and IPF ask one gateway over kept connections, offer the TLS sessions that they have, and pause around the
# time after which the gateway closes an idle connection. The short form, 20 calls, is part of tests/run.sh --interop.
# Last lines: calls and failures of each kind. 1000 calls take about a quarter of an hour: every fourth follows a pause.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev \
  openssl python3-venv
install_rust
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"
[ -x "$target/python/bin/python" ] || python3 -m venv "$target/python"
"$target/python/bin/pip" install -q -r tests/interop/python/requirements.txt >/dev/null
NCP_PYTHON="$(cd "$target/python/bin" && pwd)/python"
export NCP_PYTHON
. tests/interop/ipf/build.sh
NCP_PEERS="${1:-1000}" cargo test --release --locked -q -p ncp-tests --test wire -- --nocapture sk_10_peers
