#!/usr/bin/env bash
# Our launcher beside the one in C that verifies nothing (reference/launcher.c), both started by the same small
# supervisor in C (reference/supervisor.c), in the same run; and what a resident one takes that verifies nothing
# either (reference/resident.c); and the command line, alone. Writes docs/performance/reference.md.
#
#   benches/reference.sh [ROUNDS]     500 rounds unless given
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1-500}
folder=target/reference
mkdir -p "$folder" docs/performance
# shellcheck source=benches/build.sh
. benches/build.sh
why=$(build_reference "$folder") || { echo "reference.sh: $why" >&2; exit 1; }
compiler=cc
have cc || compiler="musl-gcc -static -idirafter /usr/include -idirafter /usr/include/$(uname -m)-linux-gnu"
for program in supervisor resident; do
  $compiler -O2 -o "$folder/$program" "benches/reference/$program.c"
done
build_release portcullis-cli portcullis-launcher
cargo build --quiet --profile bench -p portcullis-benches --bin reference
exec target/release/reference "$folder" "$built/portcullis-launcher" docs/performance "$rounds"
