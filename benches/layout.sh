#!/usr/bin/env bash
# Writes launcher/layout.ld anew: the functions that a launch calls, in the order of their first call, so that
# they share pages (docs/decisions/layout.md). The launcher is executed step by step for that, once for each
# stage, as the test of its instructions does it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(uname -m)-unknown-linux-musl
folder=$PWD/target/layout
mkdir -p "$folder"
CARGO_PROFILE_RELEASE_STRIP=none cargo build --release -p portcullis-launcher \
  --target "$target" --target-dir "$folder"
launcher=$folder/$target/release/portcullis-launcher
rm -f "$folder/addresses"
LAUNCHER=$launcher ADDRESSES=$folder/addresses UPDATE=1 \
  cargo test --quiet -p portcullis-benches --test instructions
# Addresses begin with an x, for awk takes some of them for numbers (43e123).
# Of a name that ends in a hash, or has one of a crate in it, any will do: each compiler has others.
nm --defined-only "$launcher" | sed -n 's/^\(.*\) [tTwW] /x\1 /p' | sort >"$folder/symbols"
functions() {
  awk '{ print NR, "x" $1 }' "$folder/addresses" | sort -k2,2 -s |
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
{
  sed '/^    \*(\.text\./,$d' launcher/layout.ld
  functions | sed 's/.*/    *(.text.&)/'
  sed '1,/^    \*(\.text\./d; /^    \*(\.text\./d' launcher/layout.ld
} >"$folder/layout.ld"
mv "$folder/layout.ld" launcher/layout.ld
UPDATE=1 cargo test --quiet -p portcullis-benches --test instructions
tail -n +4 benches/instructions.txt
