#!/bin/sh
# Runs cases in the test VM: one boot of each kernel that a case names. Prints a line for each case and at the end
# "N passed, N failed" (", N skipped"). Exit 0 when none failed, 1 otherwise, 2 usage.
#
#   run.sh                 every case of vm-tests/cases
#   run.sh CASE...         these
#   run.sh --list          their names
#
# The logs (console, kernel, each case's own) stay in a directory that is named at the end; NYDUS_VM_LOGS sets it.
# NYDUS_VM_CASES names another directory of cases. What boot.sh reads from the environment works here too.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
cache=${NYDUS_VM_CACHE:-${HOME:-/root}/.cache/nydus-ts/vm}
cases_dir=${NYDUS_VM_CASES:-$here/cases}

say() { echo "run: $*" >&2; }
list() { for file in "$cases_dir"/*.sh; do basename "$file" .sh; done; }

case ${1:-} in
  --list) list; exit 0 ;;
  -*) say "unknown option $1; usage: run.sh [--list | CASE...]"; exit 2 ;;
  '')
    # shellcheck disable=SC2046 # names have no spaces
    set -- $(list)
    ;;
esac
for name; do
  [ -r "$cases_dir/$name.sh" ] || {
    say "there is no case '$name'; the cases are: $(list | tr '\n' ' ')"
    exit 2
  }
done

if [ -n "${NYDUS_VM_LOGS:-}" ]; then
  logs=$NYDUS_VM_LOGS
  mkdir -p "$logs"
else
  mkdir -p "$cache/logs"
  # The last ten runs are kept.
  find "$cache/logs" -mindepth 1 -maxdepth 1 -type d | sort -r | tail -n +10 | while read -r old; do rm -rf "$old"; done
  logs=$(mktemp -d "$cache/logs/$(date +%Y%m%d-%H%M%S).XXXX")
fi
run=$(mktemp -d "${TMPDIR:-/var/tmp}/nydus-vm.XXXXXX")
child=''
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
  if [ -n "$child" ]; then
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

passed=0
failed=0
skipped=0
skip() {
  echo "skip $1: $2"
  skipped=$((skipped + 1))
}
# In the background, so that a signal to us is handled at once; and it ends when we are killed with -9.
watched() {
  setpriv --pdeathsig TERM "$@" &
  child=$!
  status=0
  wait "$child" || status=$?
  child=''
  return "$status"
}

# tag CASE NAME DEFAULT: the value of a line "# NAME: VALUE" of the case.
tag() {
  value=$(sed -n "s/^# $2: *\([^ ]*\).*/\1/p" "$cases_dir/$1.sh")
  echo "${value:-$3}"
}

# run_boot KERNEL INIT CASE...
run_boot() {
  kernel=$1
  init=$2
  boot=$1-$2
  shift 2

  # The kernel first: without one there is nothing to prepare for.
  if watched "$here/kernels/$kernel.sh" >"$run/kernel" 2>"$logs/kernel-$kernel.log"; then :; else
    cat "$logs/kernel-$kernel.log" >&2
    for name; do
      if [ "$status" -eq 3 ]; then skip "$name" 'no test kernel'; else
        echo "FAIL $name: the test kernel cannot be made"
        failed=$((failed + 1))
      fi
    done
    return
  fi

  # On the host, what would take ten times as long in the guest.
  cases=''
  limit=60
  for name; do
    mkdir -p "$run/data/$name"
    if watched sh "$cases_dir/$name.sh" prepare "$run/data/$name" >"$logs/$name.prepare.log" 2>&1; then
      cases="$cases $name"
      limit=$((limit + $(tag "$name" timeout 120) + 30))
    elif [ "$status" -eq 77 ]; then
      skip "$name" "$(tail -n 1 "$logs/$name.prepare.log")"
    else
      echo "FAIL $name: its preparation on the host ended with $status; the end of its log:"
      tail -n 20 "$logs/$name.prepare.log" | sed 's/^/  | /'
      failed=$((failed + 1))
    fi
  done
  [ -n "$cases" ] || return 0

  vm=$run/vm-$boot
  # shellcheck disable=SC2086 # names have no spaces
  watched "$here/boot.sh" -k "$kernel" -i "$init" -t "$limit" -d "$vm" sh "$here/suite.sh" "$cases_dir" "$run/data" $cases \
    2>"$logs/boot-$boot.log" || true
  cp "$vm/console.log" "$logs/console-$boot.log" 2>/dev/null || true
  cp "$vm/share/dmesg.log" "$logs/dmesg-$boot.log" 2>/dev/null || true
  again=$(sed -n 's/ again$//p' "$vm/share/results" 2>/dev/null || true)
  if [ -n "$again" ]; then
    # shellcheck disable=SC2086 # names have no spaces
    watched "$here/boot.sh" -k "$kernel" -i "$init" -r -t "$limit" -d "$vm" sh "$here/suite.sh" --again "$cases_dir" "$run/data" $again \
      2>"$logs/boot-$boot-again.log" || true
    cp "$vm/console.log" "$logs/console-$boot-again.log" 2>/dev/null || true
  fi
  cp "$vm/share/"*.case.log "$logs/" 2>/dev/null || true
  if [ "$status" -eq 3 ]; then
    cat "$logs/boot-$boot.log" >&2
    for name in $cases; do skip "$name" 'the VM cannot be started here'; done
    return
  fi

  ended_early=''
  for name in $cases; do
    verdict=$(sed -n "s/^$name //p" "$vm/share/results" 2>/dev/null | tail -n 1)
    case $verdict in
      pass) passed=$((passed + 1)) ;;
      skip) skipped=$((skipped + 1)) ;;
      fail) failed=$((failed + 1)) ;;
      *)
        echo "FAIL $name: the VM ended before its verdict"
        failed=$((failed + 1))
        ended_early=yes
        ;;
    esac
  done
  [ -z "$ended_early" ] || sed 's/^/  | /' "$logs/boot-$boot.log"
  # Its disk is gigabytes.
  rm -rf "$vm"
}

machine() { echo "$(tag "$1" kernel fscache) $(tag "$1" init script)"; }
for name; do machine "$name"; done | sort -u >"$run/machines"
while read -r kernel init <&3; do
  of_machine=''
  last=''
  for name; do
    [ "$(machine "$name")" = "$kernel $init" ] || continue
    if grep -q '^# again:' "$cases_dir/$name.sh"; then last="$last $name"; else of_machine="$of_machine $name"; fi
  done
  # shellcheck disable=SC2086 # names have no spaces
  run_boot "$kernel" "$init" $of_machine $last
done 3<"$run/machines"

echo "logs: $logs"
if [ "$skipped" -gt 0 ]; then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ]
