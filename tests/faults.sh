#!/usr/bin/env bash
# The long form of the fault tests: tests/faults.sh [ROUNDS]; default 100. The short form is part of tests/run.sh.
# Sender, repository and gateway are killed ROUNDS times each under load; each process stands still (SIGSTOP) for 20 s; disks
# fill up and are freed; 576,000 records queue while the repository is away; connections are cut inside frames, again and
# again, stall and are slow; clocks are off; rsyslog receives and sends; PostgreSQL is full, stopped, restarted and killed; a
# repository refuses one record or cannot store, by feed, syslog and FHIR; an old spool holds a record that nobody takes; a
# small disk fills with what is acknowledged and with what is not; two processes share one folder; the replay journal is
# full, torn and long; Redis is frozen and emptied; the other country's gateway restarts and is away for 110 s. Needs the
# right to mount (small disks are tmpfs).
# Each line says what was accepted, disclosed, recorded and lost, and after how long it went on; more than SK-03 to SK-05
# say fails. Last line: the sums, and "lost 0".
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/install.sh
install_packages build-essential pkg-config libssl-dev libxml2-dev libxmlsec1-dev libclang-dev libsqlite3-dev \
  postgresql redis-server rsyslog rsyslog-openssl rsyslog-gnutls orthanc orthanc-dicomweb util-linux
install_rust
rounds="${1:-100}"
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"
log="$target/faults.log"
cargo build --release --locked -q --workspace --all-targets
failed=0
NCP_FAULTS=long cargo test --release --locked -q --workspace --test faults --test poison --test away --test delivery --test repository --test keeping --no-fail-fast -- \
  --nocapture --test-threads=1 2>&1 | tee "$log" || failed=1
cargo test --release --locked -q -p ncp-gateway --lib -- responding::replay --nocapture --test-threads=1 2>&1 | tee -a "$log" || failed=1
"$target/release/ncp" faults --rounds "$rounds" --sources "$PWD" 2>&1 | tee -a "$log" || failed=1
awk '
  /^fault / { for (i = 1; i < NF; i++) if ($i ~ /^(accepted|disclosed|recorded|lost)$/ && $(i + 1) ~ /^[0-9]+$/) sum[$i] += $(i + 1) }
  /"fault":/ { for (name in wanted) if (match($0, "\"" name "\":[0-9]+")) sum[name] += substr($0, RSTART + length(name) + 3, RLENGTH) }
  BEGIN { wanted["accepted"]; wanted["disclosed"]; wanted["recorded"]; wanted["lost"] }
  END { printf "accepted %d disclosed %d recorded %d lost %d\n", sum["accepted"], sum["disclosed"], sum["recorded"], sum["lost"]; exit sum["lost"] > 0 }
' "$log" || failed=1
[ "$failed" = 0 ]
