#!/usr/bin/env bash
# Takes each check of the tables tests/mutations/*.toml out, one at a time, and runs the tests that must fail then: invariants 1, 2,
# 5 and 9. One JSON line a mutation, last line "N caught, M survived"; exit 0 when every survivor is argued in the table.
# `tests/mutations.sh replay` for those whose id begins so. The first build takes as long as a full one.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev curl \
  ca-certificates xmlsec1 libxml2-utils python3 openssl
install_rust
exec python3 tests/mutations/run.py "$@"
