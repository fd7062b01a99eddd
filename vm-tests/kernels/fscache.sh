#!/bin/sh
# Builds a kernel with cachefiles on-demand from Debian's kernel source and prints the path of the bzImage.
#
#   fscache.sh            build it, or find it in the cache
#   fscache.sh --print    print where it would be; exit 1 when it is not there yet
#
# The cache ($NYDUS_VM_CACHE, default ~/.cache/nydus-ts/vm) is keyed by the options and the version of the
# source package, so a change of either builds anew. NYDUS_VM_KERNEL=/path/to/bzImage skips all of this.
# NYDUS_VM_JOBS sets make's -j. Exit 3: something needed is not installed (the message says what).
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
fragment=$here/fscache.config
package=linux-source-6.12
tarball=/usr/src/$package.tar.xz
cache=${NYDUS_VM_CACHE:-${HOME:-/root}/.cache/nydus-ts/vm}

say() { echo "fscache: $*" >&2; }

if [ -n "${NYDUS_VM_KERNEL:-}" ]; then
  [ -r "$NYDUS_VM_KERNEL" ] || { say "NYDUS_VM_KERNEL=$NYDUS_VM_KERNEL cannot be read"; exit 3; }
  echo "$NYDUS_VM_KERNEL"
  exit 0
fi

print_only=no
case ${1:-} in
  '') ;;
  --print) print_only=yes ;;
  *) say "unknown argument $1; usage: fscache.sh [--print]"; exit 2 ;;
esac

# The tarball's own hash would cost a second; the package version says as much. A tarball put there by hand
# (another distribution) has no version: its size and time stand in.
version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null) ||
  version=$(stat -c 'file-%s-%Y' "$tarball" 2>/dev/null) || version=none
key=$({ echo "$version"; grep CONFIG_ "$fragment"; } | sha256sum | cut -c1-16)
image=$cache/bzImage-$key

if [ -s "$image" ]; then
  echo "$image"
  exit 0
fi
if [ "$print_only" = yes ]; then
  echo "$image"
  exit 1
fi

missing=''
need_command() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need_file() { [ -e "$1" ] || missing="$missing $2"; }
need_file "$tarball" "$package"
need_command gcc gcc
need_command make make
need_command bc bc
need_command bison bison
need_command flex flex
need_command xz xz-utils
need_command cpio cpio
need_file /usr/include/libelf.h libelf-dev
need_file /usr/include/openssl/opensslv.h libssl-dev
if [ -n "$missing" ]; then
  say "the test kernel cannot be built: install these Debian packages:$missing"
  say "(sh scripts/setup-debian.sh test does it), or give a kernel by NYDUS_VM_KERNEL=/path/to/bzImage"
  exit 3
fi

mkdir -p "$cache"
# Two runs at once: the second waits, then finds the first one's result.
exec 9>"$cache/build.lock"
flock 9
if [ -s "$image" ]; then
  echo "$image"
  exit 0
fi

work=$cache/build-$key
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
log=$cache/build-$key.log
started=$(date +%s)
say "building $package $version (5 to 20 minutes; log: $log)"
tar -xf "$tarball" -C "$work" --strip-components=1
cd "$work"

run() {
  "$@" >>"$log" 2>&1 9>&- || {
    say "'$*' failed; the end of $log:"
    tail -n 20 "$log" >&2
    exit 1
  }
}
: >"$log"
run make tinyconfig
run scripts/kconfig/merge_config.sh -m .config "$fragment"
run make olddefconfig

refused=$(sed -n -e 's/^\(CONFIG_[A-Za-z0-9_]*=.*\)$/\1/p' "$fragment" | while read -r line; do
  grep -qxF "$line" .config || echo "$line"
done
sed -n -e 's/^# \(CONFIG_[A-Za-z0-9_]*\) is not set$/\1/p' "$fragment" | while read -r name; do
  if grep -q "^$name=" .config; then echo "$name is set"; fi
done)
if [ -n "$refused" ]; then
  say "this source does not take these options of $fragment:"
  echo "$refused" >&2
  exit 1
fi

run make "-j${NYDUS_VM_JOBS:-$(nproc)}" bzImage
cp .config "$cache/config-$key"
cp arch/x86/boot/bzImage "$image.part"
mv "$image.part" "$image"
say "built in $(($(date +%s) - started)) s"
echo "$image"
