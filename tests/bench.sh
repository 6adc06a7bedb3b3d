#!/usr/bin/env bash
# Benchmarks: one JSON line each, with the peer of the same run. tests/bench.sh [metadata|assertions|start|iti38|iti39|fanout|rad75|terminology|audit]
# metadata  an ITI-38 answer of 10, 1,000, 10,000 entries: time and peak memory of the codec, written (NCP-A) and read (NCP-B)
# assertions  signed and verified per second, one worker, with path and CRL, first and again, against the bare OpenSSL operation;
#        policy decisions per second
# start  time to ready and idle memory of each process; trust in as many peers as there are codes of two letters, with anchors and
#        CRLs of their own, loaded and reloaded, and said for 1,000; a spool that keeps 2 GiB opened; both in one gateway
# iti38  queries with signed assertions per second with durable audit, and what each process spends on one
# iti39  documents of 50 kB and 5 MB per second through NCP-A, beside the bare cost of the hash and of reading a CDA's header
# fanout one query to 1, 5 and 27 countries, against the same asked one by one; then one of them slow, bounded by its deadline
# rad75  a study of 10 MiB, 100 MiB, 1 GiB, client to NCP-B to NCP-A to archive, against a chain of two nginx; peak memory;
#        rad75 --java: also against an IPF gateway in the place of NCP-B; rad75 --sizes 10240: other sizes, MiB
# audit  durable records a second against a bare group commit, what a record adds to an exchange, the way into the repository
#        against rsyslog over TLS (fsync per batch; disk queue), searches over 10^5 index rows (NCP_BENCH_FULL=1: 10^7)
# terminology  look-ups against a plain hash table, gRPC against an echo over the same mTLS, a CDA of 300 elements,
#        start; the service as a process at full size: ready, memory, a swap under load; OpenNCP's query sequence on PostgreSQL for the same number of codes
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev nginx \
  orthanc orthanc-dicomweb postgresql rsyslog rsyslog-openssl
install_rust
cargo build --release --locked -q --workspace --all-targets
target="${CARGO_TARGET_DIR:-target}/release"
names="${1:-metadata assertions start iti38 iti39 rad75 terminology fanout audit}"
shift || true
case " $* " in
  *" --java "*) . tests/interop/ipf/build.sh ;;
esac
for name in $names; do
  case "$name" in
    metadata) "$target/examples/metadata_bench" ;;
    assertions)
      "$target/examples/saml_bench"
      "$target/ncp" bench policy --sources "$PWD"
      ;;
    start)
      "$target/ncp" bench start --sources "$PWD"
      "$target/examples/start_bench" 1000 2048
      ;;
    iti38 | iti39 | fanout | rad75) "$target/ncp" bench "$name" --sources "$PWD" "$@" ;;
    terminology)
      "$target/ncp" bench terminology --full --sources "$PWD"
      tests/tsam.sh
      ;;
    audit) cargo bench --locked -q --workspace --bench audit -- ${NCP_BENCH_FULL:+--full} ;;
    *) echo "no benchmark called $name" >&2; exit 64 ;;
  esac
done
