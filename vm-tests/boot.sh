#!/bin/sh
# Boots the test VM and runs one command in it, in the repository's directory, as root.
#
#   boot.sh [-k KERNEL] [-i INIT] [-t SECONDS] [-d DIR] [-r] [-e NAME=VALUE]... COMMAND [ARG]...
#
#   -k KERNEL      a name of vm-tests/kernels: fscache (default) or stock
#   -i INIT        process 1 of the guest: script (default), or systemd, which has no units but the guest's own
#   -t SECONDS     time for the command (default 300); the VM itself is ended two minutes later at the latest
#   -d DIR         where disk, console log and share go (default: a temporary directory, removed at the end)
#   -r             the disk is that of an earlier run in DIR, as it was left
#   -e NAME=VALUE  a variable of the command's environment
#
# The guest sees the host's file system read-only below a tmpfs, has loopback only, and 8 GB of ext4 on /state.
# The command's output goes to standard output as it comes. Exit code: the command's own; 124 when its time was
# up; 125 when the VM ended without a verdict (panic, dead line); 3 when something is not installed; 2 usage.
# NYDUS_VM_ACCEL=tcg|kvm (default: kvm where it really works), NYDUS_VM_CPUS, NYDUS_VM_MEMORY, NYDUS_VM_KERNEL.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
repo=$(dirname -- "$here")
cache=${NYDUS_VM_CACHE:-${HOME:-/root}/.cache/nydus-ts/vm}

say() { echo "boot: $*" >&2; }
quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

seconds=300
run=''
environment=''
kernel_name=fscache
init=script
old_disk=''
while getopts k:i:t:d:re: option; do
  case $option in
    k) kernel_name=$OPTARG ;;
    i) init=$OPTARG ;;
    r) old_disk=yes ;;
    t) seconds=$OPTARG ;;
    d) run=$OPTARG ;;
    e) environment="$environment
export ${OPTARG%%=*}=$(quoted "${OPTARG#*=}")" ;;
    *) say "usage: boot.sh [-k KERNEL] [-i INIT] [-t SECONDS] [-d DIR] [-r] [-e NAME=VALUE]... COMMAND [ARG]..."; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { say "no command given; usage: boot.sh [-k KERNEL] [-t SECONDS] [-d DIR] COMMAND [ARG]..."; exit 2; }
[ -x "$here/kernels/$kernel_name.sh" ] || { say "there is no kernel '$kernel_name' in $here/kernels"; exit 2; }

case $repo/ in
  /run/* | /proc/* | /sys/* | /dev/* | /state/*)
    say "the repository is at $repo, where the guest has a file system of its own: move it elsewhere"
    exit 2
    ;;
esac
[ "$(uname -m)" = x86_64 ] || { say "the test VM is an x86-64 machine; this one is $(uname -m)"; exit 3; }

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=''
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v cpio >/dev/null || missing="$missing cpio"
command -v mkfs.ext4 >/dev/null || missing="$missing e2fsprogs"
case $init in
  script) ;;
  systemd) [ -x /lib/systemd/systemd ] || missing="$missing systemd" ;;
  *) say "there is no init '$init': script or systemd"; exit 2 ;;
esac
busybox=$(command -v busybox) || missing="$missing busybox-static"
if [ -n "$missing" ]; then
  say "the test VM cannot be started: install these packages:$missing (sh scripts/setup-debian.sh test)"
  exit 3
fi
kernel=$("$here/kernels/$kernel_name.sh")

own_run=''
qemu=''
tail=''
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
  [ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
  [ -z "$tail" ] || kill "$tail" 2>/dev/null || true
  [ -z "$qemu" ] || wait "$qemu" 2>/dev/null || true
  [ -z "$own_run" ] || rm -rf "$own_run"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [ -z "$run" ]; then
  run=$(mktemp -d "${TMPDIR:-/var/tmp}/nydus-vm.XXXXXX")
  own_run=$run
fi
mkdir -p "$run/share" "$run/initramfs/bin"

# The initramfs holds busybox, our script and what the kernel needs as far as the host's files.
cp "$here/init" "$run/initramfs/init"
cp "$busybox" "$run/initramfs/bin/busybox"
chmod 755 "$run/initramfs/init" "$run/initramfs/bin/busybox"
ln -sf busybox "$run/initramfs/bin/sh"
[ ! -d "$kernel.d/initramfs" ] || cp -r "$kernel.d/initramfs" "$run/initramfs/modules"
(
  cd "$run/initramfs"
  mkdir -p dev proc sys lower rw newroot
  find . | cpio --quiet -o -H newc | gzip -1
) >"$run/initrd.gz"

# A device node that opens is no proof: under some hypervisors a KVM guest never runs an instruction. So a
# kernel is booted as far as the initramfs, once per boot of the host.
kvm_works() {
  [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
  answer=$cache/kvm-$(cat /proc/sys/kernel/random/boot_id)
  if [ ! -e "$answer" ]; then
    mkdir -p "$cache"
    rm -f "$cache"/kvm-*
    timeout -k 1 8 qemu-system-x86_64 -nodefaults -no-user-config -machine q35 -accel kvm -cpu max -m 512M \
      -display none -no-reboot -kernel "$kernel" -initrd "$run/initrd.gz" \
      -append 'console=ttyS0 quiet panic=-1 vm.probe' -serial "file:$run/probe.log" \
      </dev/null >/dev/null 2>&1 || true
    if grep -q 'probe answered' "$run/probe.log" 2>/dev/null; then echo yes; else echo no; fi >"$answer"
  fi
  [ "$(cat "$answer")" = yes ]
}
accel=${NYDUS_VM_ACCEL:-}
if [ -z "$accel" ]; then
  if kvm_works; then accel=kvm; else accel=tcg; fi
fi
[ "$accel" != tcg ] || accel=tcg,thread=multi

cp "$here/guest.sh" "$run/share/guest.sh"
cat >"$run/share/env" <<EOF
export PATH=$(quoted "$PATH")
export HOME=/root
export LANG=C.UTF-8
export VM_REPO=$(quoted "$repo")
export VM_BUSYBOX=$(quoted "$busybox")
export VM_KERNEL_FILES=$(quoted "$kernel.d")
export VM_INIT=$init
export VM_TIMEOUT=$seconds$environment
EOF
{
  printf exec
  for word; do
    printf ' '
    quoted "$word"
  done
  echo
} >"$run/share/command"
rm -f "$run/share/rc"
: >"$run/share/out"

# What the guest wrote is in the host's memory and outlives the VM: nothing needs to be flushed.
if [ -z "$old_disk" ]; then
  truncate -s 8G "$run/disk.img"
  mkfs.ext4 -q -F "$run/disk.img"
fi

# pdeathsig: even a boot.sh that was killed with -9 takes its VM along.
# multidevs=remap: without it the guest confuses /proc, /sys and /dev, silently.
setpriv --pdeathsig TERM timeout -k 5 "$((seconds + 120))" qemu-system-x86_64 -nodefaults -no-user-config -machine q35 \
  -accel "$accel" -cpu max -smp "${NYDUS_VM_CPUS:-2}" -m "${NYDUS_VM_MEMORY:-3G}" -display none -no-reboot \
  -kernel "$kernel" -initrd "$run/initrd.gz" -append 'console=ttyS0 quiet panic=-1' \
  -serial "file:$run/console.log" \
  -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap \
  -device virtio-9p-pci,fsdev=root,mount_tag=root \
  -fsdev "local,id=share,path=$run/share,security_model=none" \
  -device virtio-9p-pci,fsdev=share,mount_tag=share \
  -drive "file=$run/disk.img,if=none,id=d0,format=raw,cache=unsafe" -device virtio-blk-pci,drive=d0 \
  -device virtio-rng-pci </dev/null >"$run/qemu.log" 2>&1 &
qemu=$!
tail -n +1 -f --pid="$qemu" "$run/share/out" &
tail=$!
wait "$qemu" || true
qemu=''
wait "$tail" || true
tail=''

if [ -s "$run/share/rc" ]; then
  exit "$(cat "$run/share/rc")"
fi
say "the VM ended without a verdict; the end of its console:"
tail -n 20 "$run/console.log" "$run/qemu.log" >&2 2>/dev/null || true
exit 125
