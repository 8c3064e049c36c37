#!/usr/bin/env bash
# Puts deliberate bugs into a copy of the sources, one after another, and sees that each is found.
#
#   acceptance/mutations/run.sh [--torture] [NAME...]     default: all
#
# A bug is a patch of this folder. Its head says which rule it breaks, how, and what finds it:
#   Test: crate, kind and name of the one test that must fail, as `cargo test` takes them
#   Torture: the seed of a minute of random faults (`--torture`) that must fail
#
# The copy is what is committed, in target/mutations; the tree that you work in is never touched. A bug counts as found when the
# code compiles and the test fails; without any bug the same test has to pass (`make test`).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/acceptance/mutations
target=${CARGO_TARGET_DIR:-$root/target}
scratch=$target/mutations
copy=$scratch/sources
# Deliberate bugs need no fast code, and what our crates depend on is compiled already. All crates are selected each time, as
# `make test` does it.
all=(--release --locked --workspace)
version=$(sed -n 's/^version = //p' "$root/Cargo.toml" | head -n 1 | tr -d '"')
for manifest in "$root"/*/Cargo.toml; do
  crate=$(basename "$(dirname "$manifest")")
  # A dependency has that name too. The others have none, or the manifest's own settings for them would be second ones.
  [ "$crate" != console ] || crate="\"$crate@$version\""
  all+=(--config "profile.release.package.$crate.opt-level=0")
done

torture=
if [ "${1:-}" = --torture ]; then
  torture=1
  shift
fi

head_of() { sed -n "/^$/q; s/^$1: //p" "$here/$2.patch"; }

# The crates that were compiled already serve the copy too: theirs are the same sources. Links cost neither time nor space; what
# cargo knows of them is copied, since it writes into these files, and would take the tree's crates for compiled.
seed_target() {
  [ ! -d "$scratch/target/release" ] || return 0
  mkdir -p "$scratch/target/release"
  [ -d "$target/release/.fingerprint" ] || return 0
  cp -al "$target/release/deps" "$target/release/build" "$scratch/target/release/"
  cp -a "$target/release/.fingerprint" "$scratch/target/release/"
}

copy_sources() {
  rm -rf "$copy"
  mkdir -p "$copy"
  # With new times: what an earlier run has compiled, its last bug among it, is older.
  git -C "$root" archive HEAD | tar -xm -C "$copy"
}

# Without the ceiling git would take the copy for a part of the tree that it lies in, and skip its files.
change() { (cd "$copy" && GIT_CEILING_DIRECTORIES=$scratch git apply "$@"); }

in_copy() { (cd "$copy" && CARGO_TARGET_DIR=$scratch/target CARGO_INCREMENTAL=1 "$@"); }

# Whether the bug is found; says how.
is_found() {
  local name=$1 log=$scratch/$1.log
  if [ -n "$torture" ]; then
    in_copy cargo build "${all[@]}" >"$log" 2>&1 || return 2
    ! in_copy "$scratch/target/release/torture" "$(head_of Torture "$name")" 1 >>"$log" 2>&1
    return
  fi
  local arguments test
  read -ra arguments <<<"$(head_of Test "$name")"
  test=${arguments[-1]}
  # Without `-p CRATE` in front and the test's name at the end: `--lib`, or `--test` and its binary.
  arguments=("${arguments[@]:2:${#arguments[@]}-3}")
  : >"$log"
  if [ "${arguments[0]}" = --test ]; then
    in_copy cargo build "${all[@]}" >>"$log" 2>&1 || return 2
  fi
  in_copy cargo test "${all[@]}" "${arguments[@]}" --no-run >>"$log" 2>&1 || return 2
  ! in_copy cargo test "${all[@]}" "${arguments[@]}" -- --exact "$test" >>"$log" 2>&1 || return 1
  # A test that is not there does not fail, and one that overflows its stack says no more.
  grep -q -e "^test $test .*FAILED" -e "^test result: FAILED" -e 'overflowed its stack' "$log"
}

names=("$@")
if [ ${#names[@]} = 0 ]; then
  for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    [ -z "$(head_of "$([ -n "$torture" ] && echo Torture || echo Test)" "$name")" ] || names+=("$name")
  done
fi

mkdir -p "$scratch"
seed_target
copy_sources
missed=()
for name in "${names[@]}"; do
  change "$here/$name.patch"
  outcome=0
  is_found "$name" || outcome=$?
  change -R "$here/$name.patch"
  case $outcome in
    0) printf 'found    %-32s %s\n' "$name" "$(head_of Breaks "$name")" ;;
    1) printf 'MISSED   %-32s %s\n' "$name" "$(head_of Breaks "$name")" && missed+=("$name") ;;
    *) printf 'BROKEN   %-32s see %s\n' "$name" "$scratch/$name.log" && missed+=("$name") ;;
  esac
done
printf '%d of %d bugs found\n' $((${#names[@]} - ${#missed[@]})) ${#names[@]}
[ ${#missed[@]} = 0 ]
