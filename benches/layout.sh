#!/usr/bin/env bash
# Writes launcher/layout.ld and launcher/cli/layout.ld anew: the functions and constants that a launch uses, in
# the order in which it first does, so that they share pages (docs/decisions/layout.md). The programs are
# executed step by step for that: the launcher once for each stage, as the test of its instructions does it,
# and the command line with the usual options.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(uname -m)-unknown-linux-musl
folder=$PWD/target/layout
mkdir -p "$folder"

# Builds a program, and has the linker say where everything lies.
build() { # PACKAGE PROGRAM
  cargo rustc --quiet --release -p "$1" --bin "$2" --target "$target" --target-dir "$folder" -- \
    -C "link-arg=-Wl,-Map=$folder/map"
  program=$folder/$target/release/$2
}

# The sections that the addresses lie in which are read. Addresses begin with an x, for awk takes some of them
# for numbers (43e123). Of a name that ends in a hash, or has one of a crate in it, any will do: each compiler
# has others.
sections() {
  awk '
    /^Linker script and memory map/ { on = 1 }
    on && /^ \.[^ ]/ {
      name = $1; address = $2; size = $3
      if (NF == 1) { getline; address = $1; size = $2 }
      if (size != "0x0") print "x" substr(address, 3), name
    }' "$folder/map" | sort -s -k1,1 >"$folder/sections"
  awk '{ print NR, "x" $1 }' | sort -k2,2 -s |
    awk -v sections="$folder/sections" '
      BEGIN { while ((getline line < sections) > 0) { split(line, f, " "); at[++n] = f[1]; name[n] = f[2] } }
      { while (i < n && at[i + 1] <= $2) i++; print $1, name[i] }' |
    sort -n -s | cut -d' ' -f2 | grep -E '^\.(text|rodata)\..' | grep -v '\.str1\.1$' |
    sed -E 's/17h[0-9a-f]{16}E.*/17h*/; s/Cs[0-9A-Za-z]+_/Cs*_/g; s/(\.Lanon)\.[0-9a-f]+/\1.*/' |
    sed -E 's/^\.text(\.unlikely|\.hot)?\./.text*./' | awk '!seen[$0]++'
}

# Writes a layout with the sections that are read in place of those that it has.
place() { # LAYOUT
  cat >"$folder/used"
  awk -v used="$folder/used" '
    function list(what) {
      while ((getline line < used) > 0) if (index(line, what) == 1) print "    *(" line ")"
      close(used)
    }
    /^    \*\(\.(text\*|rodata)[^ ]*\)$/ { next }
    { print }
    /order of the first call/ { list(".text*.") }
    /order of the first read/ { list(".rodata.") }' "$1" >"$folder/layout.ld"
  mv "$folder/layout.ld" "$1"
}

build portcullis-launcher portcullis-launcher
rm -f "$folder/addresses"
LAUNCHER=$program ADDRESSES=$folder/addresses UPDATE=1 \
  cargo test --quiet -p portcullis-benches --test instructions
sections <"$folder/addresses" | place launcher/layout.ld

build portcullis-cli portcullis
cargo build --quiet -p portcullis-benches --bin count-instructions
trace() { # The arguments of portcullis
  rm -f "$folder/tells" "$folder/waits"
  mkfifo "$folder/tells" "$folder/waits"
  sh -c 'echo $$ >"$0/tells"; read go <"$0/waits"; exec "$@"' "$folder" "$program" "$@" &
  target/debug/count-instructions "$folder/tells" "$folder/waits" | tail -n +2
  wait
}
{
  trace run -- /bin/true
  trace run --read / --write /tmp --no-new-tasks --env A=b --seccomp baseline --limit nofile=64 -- true
  trace run --strict --no-network -- /bin/true
} >"$folder/addresses"
sections <"$folder/addresses" | place launcher/cli/layout.ld

UPDATE=1 cargo test --quiet -p portcullis-benches --test instructions
tail -n +4 benches/instructions.txt
