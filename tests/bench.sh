#!/usr/bin/env bash
# Benchmarks: one JSON line each, with the peer of the same run. tests/bench.sh [saml]
# saml   sign and verify per second, one worker, against the bare OpenSSL operation in the same process
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev
install_rust
cargo build --release --locked -q -p ncp-saml --examples
target="${CARGO_TARGET_DIR:-target}/release"
for name in ${1:-saml}; do
  case "$name" in
    saml) "$target/examples/saml_bench" ;;
    *) echo "no benchmark called $name" >&2; exit 64 ;;
  esac
done
