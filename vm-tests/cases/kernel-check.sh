#!/bin/sh
# scripts/kernel-check.sh against a kernel whose abilities are known: fscache yes, fanotify no.
# timeout: 180
. "$(dirname "$0")/../lib.sh"

run() {
  check=$REPO/scripts/kernel-check.sh
  sh "$check" --cache-dir "$STATE/cache" >"$STATE/out" || die "exit code $?, 0 expected: $(cat "$STATE/out")"
  for driver in fscache fanotify; do note "$(grep "^check=$driver " "$STATE/out")"; done
  grep -q '^check=fscache status=ok' "$STATE/out" || die 'fscache is not found possible'
  grep -q '^check=fanotify status=fail' "$STATE/out" || die 'fanotify is found possible'
  grep -q '^check=fusedev status=ok' "$STATE/out" || die 'fusedev is not found possible'

  # The same as JSON, and without what a tmpfs and a plain user cannot have.
  sh "$check" --json --cache-dir "$STATE/cache" |
    node -e 'const o = JSON.parse(require("node:fs").readFileSync(0)); process.exit(o.drivers.fscache && !o.drivers.fanotify && o.exitCode === 0 ? 0 : 1)'
  status=0
  sh "$check" --cache-dir /run/cache >"$STATE/tmpfs" || status=$?
  [ "$status" -eq 4 ] || die "cache directory on tmpfs: exit code $status, 4 expected"
  grep -q '^check=fscache status=fail .*tmpfs' "$STATE/tmpfs" || die 'tmpfs is not given as the reason'

  # With the configuration out of sight, what is loaded tells the same.
  mount --bind /dev/null /proc/config.gz
  sh "$check" --cache-dir "$STATE/cache" >"$STATE/symbols"
  umount /proc/config.gz
  grep -q '^check=config status=warn' "$STATE/symbols" || die 'the missing configuration is not told'
  grep -q '^check=fscache status=ok' "$STATE/symbols" || die "without a configuration: $(cat "$STATE/symbols")"

  setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all sh "$check" --cache-dir "$STATE/cache" >"$STATE/user"
  grep -q '^check=privilege status=warn' "$STATE/user" || die 'a plain user is not warned'
}

case_main "$@"
