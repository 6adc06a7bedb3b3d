#!/usr/bin/env bash
# Starts two countries on this machine; with --check walks the story once and exits.
# Debian 12: installs what is missing, Rust included.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev curl ca-certificates \
  orthanc orthanc-dicomweb
install_rust
echo "building (the first time takes some minutes)" >&2
cargo build --release --locked -p ncp-gateway -p ncp-audit -p ncp-translation -p ncp >&2
exec "${CARGO_TARGET_DIR:-target}/release/ncp" demo --sources "$PWD" "$@"
