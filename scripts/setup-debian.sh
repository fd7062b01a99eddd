#!/bin/sh
# Installs the Debian or Ubuntu packages that the demo and the tests use: only those that are missing.
#
#   setup-debian.sh [--check | --list] SET...
#
#   build   a C and C++ compiler (the native library, npm's native modules)
#   demo    build, and a container runtime, a registry, the image tools
#   vm      what builds and runs the test VM's kernel
#   test    demo and vm, and other people's image tools to compare with
#
#   --check  install nothing; name what is missing and exit 1 if something is
#   --list   print the packages of the sets
#
# As root, or through sudo. Exit 0: all is there; 1: apt failed, or --check found something missing; 2: usage;
# 3: no apt, or neither root nor sudo.
set -eu

say() { echo "setup: $*"; }
usage() {
  echo "setup: $*; usage: setup-debian.sh [--check | --list] build|demo|vm|test..." >&2
  exit 2
}

build='gcc g++ libc6-dev make python3'
demo="$build ca-certificates curl containerd runc docker-registry busybox-static erofs-utils umoci zstd"
vm='qemu-system-x86 e2fsprogs cpio busybox-static bc bison flex libelf-dev libssl-dev xz-utils gcc make libc6-dev kmod systemd linux-source-6.12'
test="$demo $vm skopeo jq lz4 util-linux fio git rsync"

action=install
packages=''
for word; do
  case $word in
    --check) action=check ;;
    --list) action=list ;;
    build) packages="$packages $build" ;;
    demo) packages="$packages $demo" ;;
    vm) packages="$packages $vm" ;;
    test) packages="$packages $test" ;;
    *) usage "unknown argument '$word'" ;;
  esac
done
[ -n "$packages" ] || usage 'no set of packages given'
packages=$(echo "$packages" | tr ' ' '\n' | grep . | sort -u)
if [ "$action" = list ]; then
  echo "$packages"
  exit 0
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  say 'this machine has no apt; install by your own means what these Debian packages hold:' "$(echo "$packages" | tr '\n' ' ')" >&2
  exit 3
fi
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# A program that came another way (Docker's own containerd.io, say) is as good, and apt would replace it.
provided() {
  case $1 in
    containerd) command -v containerd && command -v ctr ;;
    runc | skopeo | umoci | docker-registry | curl | jq | git) command -v "$1" ;;
    busybox-static) command -v busybox ;;
    *) return 1 ;;
  esac >/dev/null
}
installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
missing=''
for package in $packages; do
  installed "$package" || provided "$package" || missing="$missing $package"
done
if [ -z "$missing" ]; then
  say 'every package is there'
  exit 0
fi
if [ "$action" = check ]; then
  say "missing:$missing"
  exit 1
fi

sudo=''
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || {
    say "as root, please, or with sudo installed: apt-get install$missing" >&2
    exit 3
  }
  sudo=sudo
fi

say "apt-get update, then install:$missing"
$sudo apt-get update -q >/dev/null || say 'apt-get update failed; going on with the lists that are there' >&2

# The kernel's source has another name on Ubuntu, and another configuration: the VM then takes a kernel by path.
wanted=''
for package in $missing; do
  if [ "$package" = linux-source-6.12 ] && [ -z "$(apt-cache show linux-source-6.12 2>/dev/null)" ]; then
    say 'linux-source-6.12 is not in this distribution: VM cases are skipped, or take NYDUS_VM_KERNEL=/path/to/bzImage'
  else
    wanted="$wanted $package"
  fi
done
[ -n "$wanted" ] || exit 0

# shellcheck disable=SC2086 # names have no spaces
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $wanted || {
  say "apt-get could not install:$wanted" >&2
  exit 1
}

# Debian starts a registry for the whole network, without a password, as soon as it is installed.
case " $wanted " in
  *' docker-registry '*)
    if [ -d /run/systemd/system ]; then
      say 'stopping and disabling the docker-registry service that the package started; only its program is needed'
      $sudo systemctl disable --now docker-registry || true
    fi
    ;;
esac
say 'done'
