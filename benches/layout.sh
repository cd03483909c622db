#!/usr/bin/env bash
# Writes launcher/layout.ld and launcher/cli/layout.ld anew: the functions that a launch calls, in the order of
# their first call, so that they share pages (docs/decisions/layout.md). The programs are executed step by step
# for that: the launcher once for each stage, as the test of its instructions does it, and the command line
# with the usual options.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(uname -m)-unknown-linux-musl
folder=$PWD/target/layout
mkdir -p "$folder"
build() { # PACKAGE
  CARGO_PROFILE_RELEASE_STRIP=none cargo build --quiet --release -p "$1" --target "$target" --target-dir "$folder"
}

# The functions of a program at the addresses that are read. Addresses begin with an x, for awk takes some of
# them for numbers (43e123). Of a name that ends in a hash, or has one of a crate in it, any will do: each
# compiler has others.
functions() { # PROGRAM
  nm --defined-only "$1" | sed -n 's/^\(.*\) [tTwW] /x\1 /p' | sort >"$folder/symbols"
  awk '{ print NR, "x" $1 }' | sort -k2,2 -s |
    awk -v symbols="$folder/symbols" '
      # Where several names have one address, the section may have any of them.
      BEGIN {
        while ((getline line < symbols) > 0) {
          split(line, f, " ")
          if (f[1] != at[n]) at[++n] = f[1]
          names[n] = names[n] " " f[2]
        }
      }
      {
        while (i < n && at[i + 1] <= $2) i++
        count = split(names[i], each, " ")
        for (one = 1; one <= count; one++) print $1, each[one]
      }' |
    sort -n -s | cut -d' ' -f2 |
    sed -E 's/17h[0-9a-f]{16}E.*/17h*/; s/Cs[0-9A-Za-z]+_/Cs*_/g' | awk '!seen[$0]++'
}

# Writes a layout with the functions that are read in place of those that it has. Cold ones have a section
# .text.unlikely.NAME.
place() { # LAYOUT
  {
    sed '/^    \*(\.text\*/,$d' "$1"
    sed 's/.*/    *(.text*.&)/'
    sed '1,/^    \*(\.text\*/d; /^    \*(\.text\*/d' "$1"
  } >"$folder/layout.ld"
  mv "$folder/layout.ld" "$1"
}

build portcullis-launcher
launcher=$folder/$target/release/portcullis-launcher
rm -f "$folder/addresses"
LAUNCHER=$launcher ADDRESSES=$folder/addresses UPDATE=1 \
  cargo test --quiet -p portcullis-benches --test instructions
functions "$launcher" <"$folder/addresses" >"$folder/functions"
place launcher/layout.ld <"$folder/functions"

build portcullis-cli
cargo build --quiet -p portcullis-benches --bin count-instructions
trace() { # The arguments of portcullis
  rm -f "$folder/tells" "$folder/waits"
  mkfifo "$folder/tells" "$folder/waits"
  sh -c 'echo $$ >"$0/tells"; read go <"$0/waits"; exec "$@"' "$folder" "$folder/$target/release/portcullis" "$@" &
  target/debug/count-instructions "$folder/tells" "$folder/waits" | tail -n +2
  wait
}
{
  trace run -- /bin/true
  trace run --read / --write /tmp --no-new-tasks --env A=b --seccomp baseline --limit nofile=64 -- true
  trace run --strict --no-network -- /bin/true
} >"$folder/addresses"
functions "$folder/$target/release/portcullis" <"$folder/addresses" >"$folder/functions"
place launcher/cli/layout.ld <"$folder/functions"

UPDATE=1 cargo test --quiet -p portcullis-benches --test instructions
tail -n +4 benches/instructions.txt
