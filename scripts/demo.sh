#!/bin/sh
# npm run demo: one image made from this machine, pulled and started lazily and in full, with the times of both.
#
#   demo.sh [--keep] [--vm] [--daemon-backend fscache|fusedev]
#
#   --keep  leave the work folder (logs, registry, caches) behind and name it
#   --vm    run in the test VM (a kernel with cachefiles on-demand) even where this kernel could serve
#   --daemon-backend fusedev  mount the image by FUSE, which every kernel has; default fscache, the kernel path
#
# Installs what is missing: Debian packages, npm packages, the build. The work folder is a new directory below
# NYDUS_DEMO_DIR (default /var/tmp). Everything runs in a process and a mount namespace of its own: their end takes
# every process and mount along, however the demo ends; then the folder is removed. Exit 0 when the table was printed.
set -eu
cd "$(dirname "$0")/.."

keep=''
vm=''
inside=''
layout=''
backend=fscache
usage='demo.sh [--keep] [--vm] [--daemon-backend fscache|fusedev]'
expected=''
for option; do
  case $expected$option in
    backend=*) backend=${option} expected='' ;;
    --keep) keep=yes ;;
    --vm) vm=yes ;;
    --inside) inside=yes ;; # what it says to itself in the VM: everything is installed, do not ask the kernel
    --layout=*) layout=${option#*=} ;; # and where the image is that it built before
    --daemon-backend) expected=backend= ;;
    --daemon-backend=*) backend=${option#*=} ;;
    *) echo "demo: unknown option $option; usage: $usage" >&2; exit 2 ;;
  esac
done
case $expected$backend in
  fscache | fusedev) ;;
  *) echo "demo: --daemon-backend takes fscache or fusedev; usage: $usage" >&2; exit 2 ;;
esac
say() { echo "demo: $*"; }

if [ -z "$inside" ]; then
  command -v node >/dev/null || { say 'Node is not installed: install Node 20.18.1 or newer' >&2; exit 4; }
  say 'installing the Debian packages that are missing (containerd, runc, docker-registry, a compiler)'
  sh scripts/setup-debian.sh demo
  sh scripts/setup-npm.sh
  say 'building'
  sh scripts/build.sh
fi
if [ "$(id -u)" != 0 ]; then
  say 'mounts need root: going on with sudo'
  exec sudo env "PATH=$PATH" "NYDUS_DEMO_DIR=${NYDUS_DEMO_DIR:-}" sh scripts/demo.sh "$@"
fi
if [ -z "$inside" ]; then
  status=0
  sh scripts/kernel-check.sh >/dev/null || status=$?
  case $status-$backend in
    0-* | 4-fusedev) ;;
    4-* | 5-*)
      say 'this kernel cannot serve images lazily (sh scripts/kernel-check.sh says why)'
      vm=yes
      ;;
    *) say "kernel-check.sh ended with $status" >&2; exit 1 ;;
  esac
fi

directory=$(mktemp -d "${NYDUS_DEMO_DIR:-/var/tmp}/nydus-demo.XXXXXX")
runner=''
# shellcheck disable=SC2317 # the traps call it
cleanup() {
  if [ -n "$runner" ]; then
    # Process 1 of the namespace: the kernel ends all others with it and takes the mounts away before it is reaped.
    first=''
    [ -n "$vm" ] || first=$(cat "/proc/$runner/task/$runner/children" 2>/dev/null || true)
    # shellcheck disable=SC2086 # one number or none
    if [ -n "$first" ]; then kill -KILL $first; else kill "$runner"; fi 2>/dev/null || true
    wait "$runner" 2>/dev/null || true
  fi
  # runc leaves the directory of a containerd namespace in each hierarchy.
  find /sys/fs/cgroup -depth -type d -path "*/$(basename "$directory")*" -exec rmdir {} + 2>/dev/null || true
  if [ -n "$keep" ]; then say "the work folder is $directory"; else rm -rf "$directory"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
# In the background, so that a signal to this script is handled at once.
watched() {
  "$@" &
  runner=$!
  status=0
  wait "$runner" || status=$?
  runner=''
  return "$status"
}

if [ -n "$vm" ]; then
  say 'running in the test VM, on a kernel with cachefiles on-demand; the first time builds that kernel'
  sh scripts/setup-debian.sh vm
  watched node dist/demo/build.js "$directory/layout"
  watched sh vm-tests/boot.sh -t 1800 -d "$directory/vm" -e NYDUS_DEMO_DIR=/state/tmp \
    sh scripts/demo.sh --inside "--layout=$directory/layout" "--daemon-backend=$backend"
  exit
fi

# A /run of its own: shims put their sockets there whatever containerd's configuration says. The shell stays process 1,
# because it reaps what is orphaned; setpriv ends all of it should this script be killed.
# shellcheck disable=SC2317 # watched calls it
contained() {
  # shellcheck disable=SC2016 # for the inner shell
  TMPDIR=$directory exec setpriv --pdeathsig KILL \
    unshare --mount --pid --fork --kill-child --mount-proc \
    sh -c 'exec 2>&3; mount -t tmpfs -o mode=755 none /run && node dist/demo/main.js "$@"; exit $?' \
    demo "$directory" "$backend" ${layout:+"$layout"} 3>&2 2>"$directory/unshare.log"
}
status=0
watched contained || status=$?
cat "$directory/unshare.log" >&2
exit "$status"
