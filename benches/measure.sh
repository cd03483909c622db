#!/usr/bin/env bash
# Everything that is timed and written down, in one run: docs/performance/launches.md, the comparison with
# the launcher in C, and that with others. Once all is built it takes about 10 minutes, and 50 at the most; peers
# take up to an hour to build the first time. The machine should have nothing else to do.
#
#   benches/measure.sh [ROUNDS]     500 rounds unless given
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1-500}
cargo bench --quiet -p portcullis-benches --bench ratios -- \
  --rounds "$rounds" --write "$PWD/docs/performance/launches.md"
benches/reference.sh "$rounds"
benches/compare.sh "$rounds"
