#!/usr/bin/env bash
# Load on two countries of the demonstration: tests/load.sh [SECONDS|--crowd]; default 1200. The short form, 20 seconds, is part
# of tests/run.sh.
# Clinicians of Finland search, list, read and fetch through both gateways, while a neighbour asks Norway by ITI-55, ITI-38,
# ITI-39 and RAD-75. Every act is in a log of its own (target/load-acts.jsonl) and is compared with both trails. The long form
# writes docs/figures/load.md: acts, failed, told busy, latencies, and what each process used; it fails when an act failed, a
# disclosure is not on both trails or nobody asked for it, fewer than 25 acts a second were done, or a process gains 0.1 MiB a
# minute after the first quarter.
# --crowd  90 and 256 clinicians fetch 20 MB each while 64 callers of the neighbour ask for the same and a third country asks
#          beside them: everybody gets all of it or is told busy, and the third country is served.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev \
  orthanc orthanc-dicomweb
install_rust
cargo build --release --locked -q -p ncp -p ncp-gateway -p ncp-audit -p ncp-translation
target="${CARGO_TARGET_DIR:-target}"
case "${1:-1200}" in
  --crowd)
    failed=0
    for clinicians in 90 256; do
      "$target/release/ncp" load --crowd "$clinicians" --sources "$PWD" || failed=1
    done
    [ "$failed" = 0 ]
    ;;
  *)
    "$target/release/ncp" load --seconds "${1:-1200}" --sources "$PWD" --log "$target/load-acts.jsonl" \
      --report docs/figures/load.md
    ;;
esac
