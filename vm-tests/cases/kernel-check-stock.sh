#!/bin/sh
# scripts/kernel-check.sh against Debian 12's own kernel: fscache no, fanotify no, FUSE yes.
# kernel: stock
# timeout: 120
. "$(dirname "$0")/../lib.sh"

# A fresh guest, or a clean one: FUSE is a module that nothing has needed yet; cachefiles is one that lacks the on-demand mode.
check_kernel() {
  status=0
  sh "$REPO/scripts/kernel-check.sh" --cache-dir "$STATE/cache" >"$STATE/$1" || status=$?
  [ "$status" -eq 4 ] || die "exit code $status, 4 expected: $(cat "$STATE/$1")"
  grep -q '^check=fscache status=fail .*EROFS_FS_ONDEMAND' "$STATE/$1" || die 'fscache is found possible'
  grep -q '^check=fanotify status=fail .*older than 6\.14' "$STATE/$1" || die 'fanotify is found possible'
  grep -q '^check=result status=warn .*FUSE only' "$STATE/$1" || die 'the result is not FUSE only'
}

run() {
  note "Linux $(uname -r)"
  check_kernel fresh
  grep -q '^check=fusedev status=warn .*modprobe fuse' "$STATE/fresh" || die 'modprobe fuse is not advised'

  modprobe fuse
  modprobe erofs
  modprobe cachefiles
  [ -c /dev/cachefiles ] || die 'the cachefiles module made no device'
  check_kernel loaded
  for check in fscache fanotify fuse fusedev; do note "$(grep "^check=$check " "$STATE/loaded")"; done
  ! grep 'modprobe' "$STATE/loaded" | grep -v '^check=virtiofs' || die 'a module is found missing that is loaded'
  grep -q '^check=fuse status=ok .*; protocol 7\.37 or newer; resend.*: no;' "$STATE/loaded" || die 'FUSE is not described'
  grep -q '^check=fusedev status=warn .*does not send requests again' "$STATE/loaded" || die 'the missing resend is not told'
}

case_main "$@"
