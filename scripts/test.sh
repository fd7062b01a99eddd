#!/bin/sh
# npm test: installs what the tests need, builds, checks types, lint and format, runs every test and the VM cases.
#
#   test.sh [--no-vm]
#
# Ends with "N passed, N failed, N skipped": assertions of the test files and cases of the VM, each counted once.
# Needs root for mounts, containers and the cache directories; without it those tests are skipped, and say so.
# Exit 0 when nothing failed.
set -eu
cd "$(dirname "$0")/.."

vm=yes
for option; do
  case $option in
    --no-vm) vm='' ;;
    *) echo "test: unknown option $option; usage: test.sh [--no-vm]" >&2; exit 2 ;;
  esac
done
say() { echo "test: $*"; }

command -v node >/dev/null || { say 'Node is not installed: install Node 20.18.1 or newer' >&2; exit 4; }
if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }; then
  sh scripts/setup-debian.sh test
else
  say 'Debian packages are not installed from here: tests that miss one are skipped'
fi
sh scripts/setup-npm.sh
say 'building'
sh scripts/build.sh

logs=$(mktemp -d "${TMPDIR:-/tmp}/nydus-tests.XXXXXX")
passed=0 failed=0 skipped=0

say 'checking lint and format'
if npx --no-install eslint . && npx --no-install prettier --check . >"$logs/prettier.log" 2>&1; then
  passed=$((passed + 1))
else
  cat "$logs/prettier.log" 2>/dev/null || true
  say 'FAILED: lint or format'
  failed=$((failed + 1))
fi

# Each file is a program that prints TAP. Those that touch nothing outside themselves run two at a time; the others mount,
# drop caches and look at what is mounted, one at a time; the VMs, which touch nothing of this machine, run beside them. A line a file as it ends, and the report of each that failed.
say 'running the tests'
export logs
find dist/test/unit dist/test/fuzz -name '*.test.js' | sort | xargs -P 2 -n 1 sh scripts/test-file.sh || true
vm_pid=''
if [ -n "$vm" ]; then
  say 'running the VM cases beside the others (the first time builds a kernel: some minutes)'
  sh vm-tests/run.sh >"$logs/vm.log" &
  vm_pid=$!
  trap 'kill "$vm_pid" 2>/dev/null || true' EXIT
fi
find dist/test -name '*.test.js' -not -path '*/unit/*' -not -path '*/fuzz/*' | sort |
  xargs -n 1 sh scripts/test-file.sh || true
node scripts/tap-summary.mjs "$logs"/*.tap >"$logs/counts"
# shellcheck disable=SC2046 # three numbers
set -- $(tail -n 1 "$logs/counts")
sed '$d' "$logs/counts"
passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))

if [ -n "$vm" ]; then
  say 'waiting for the VM cases'
  wait "$vm_pid" || true
  trap - EXIT
  sed '$d' "$logs/vm.log"
  # shellcheck disable=SC2046 # three numbers
  set -- $(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed\(, \([0-9]*\) skipped\)\{0,1\}$/\1 \2 \4/p' "$logs/vm.log")
  if [ $# -ge 2 ]; then
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + ${3:-0}))
  else
    tail -n 20 "$logs/vm.log"
    failed=$((failed + 1))
  fi
fi

if [ "$failed" -gt 0 ]; then say "logs: $logs"; else rm -rf "$logs"; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
