# shellcheck shell=bash
# What compare.sh and reference.sh build alike. They source it, from the root of the workspace.

have() { command -v "$1" >/dev/null 2>&1; }

# Builds packages as a release has them, and says in $built where their programs are.
build_release() { # PACKAGE...
  local musl packages=("${@/#/-p}")
  musl="$(uname -m)-unknown-linux-musl"
  if rustup target list --installed 2>/dev/null | grep -qx "$musl"; then
    built=target/$musl/release
    cargo build --quiet --release "${packages[@]}" --target "$musl"
  else
    # shellcheck disable=SC2034 # its reader is who sources this
    built=target/release
    cargo build --quiet --release "${packages[@]}"
  fi
}

# Builds the launcher in C at each of its stages and ways; where that can't be, says why.
build_reference() { # FOLDER
  local compiler=cc name words
  if have musl-gcc; then
    compiler='musl-gcc -idirafter /usr/include -idirafter /usr/include/'$(uname -m)-linux-gnu
  elif ! have cc; then
    echo 'there is no C compiler'
    return 1
  fi
  while read -r name words; do
    # shellcheck disable=SC2086 # options are words
    $compiler -O2 -static $words -o "$1/reference-$name" benches/reference/launcher.c 2>"$1/reference.log" || {
      echo "$compiler: $(grep -m1 error "$1/reference.log")"
      return 1
    }
  done <<'END'
scrub
scrub-in-place -DIN_PLACE
confined -DLANDLOCK -DSECCOMP
in-place -DLANDLOCK -DSECCOMP -DIN_PLACE
END
}
