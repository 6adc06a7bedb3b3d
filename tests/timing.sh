#!/usr/bin/env bash
# Whether the time of an answer tells blocked from absent: 10,000 interleaved pairs for each transaction, a threshold on the
# time to the last byte. One JSON line each with the area under the curve and the lower end of its 95 % interval; fails
# above 0.55. `tests/timing.sh 1000` for fewer pairs.
set -euo pipefail
cd "$(dirname "$0")/.."
NCP_TIMING_PAIRS="${1:-10000}" cargo test --release --locked --quiet --workspace --test abuse blocked::the_time_does_not_tell -- --exact --nocapture
