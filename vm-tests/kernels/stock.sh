#!/bin/sh
# Fetches Debian 12's own kernel, 6.1, which serves an image by FUSE alone: no on-demand mode of cachefiles, no
# pre-content events, no EROFS mount of a file. Prints the path of the kernel image. Beside it lie
#
#   IMAGE.d/initramfs/    modules that the initramfs loads, named in the order in which they go in
#   IMAGE.d/lib/modules/  these and those that cases use, as modprobe wants them
#   IMAGE.d/config        the kernel's configuration
#
#   stock.sh            fetch and unpack it, or find it in the cache; nothing is installed
#   stock.sh --print    print where it is; exit 1 when it is not there yet
#
# The cache is $NYDUS_VM_CACHE, default ~/.cache/nydus-ts/vm: a kernel that is there is not asked for again. apt checks
# what it fetches. Exit 3: this distribution has no such kernel, or something needed is not installed.
set -eu

cache=${NYDUS_VM_CACHE:-${HOME:-/root}/.cache/nydus-ts/vm}
boot_modules='virtio_pci virtio_blk virtio_rng 9pnet_virtio 9p overlay ext4'
more_modules='crc32c_generic fuse virtiofs erofs cachefiles loop'

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
say() { echo "stock: $*" >&2; }

newest() {
  for found in "$cache"/stock-*/vmlinuz; do [ ! -s "$found" ] || echo "$found"; done | sort -V | tail -n 1
}
image=$(newest)
if [ -n "$image" ]; then
  echo "$image"
  exit 0
fi
case ${1:-} in
  '') ;;
  --print) exit 1 ;;
  *) say "unknown argument $1; usage: stock.sh [--print]"; exit 2 ;;
esac

missing=''
need_command() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need_command depmod kmod
need_command dpkg-deb dpkg
need_command apt-get apt
if [ -n "$missing" ]; then
  say "Debian's kernel cannot be fetched: install these packages:$missing (sh scripts/setup-debian.sh vm)"
  exit 3
fi

mkdir -p "$cache"
# Two runs at once: the second waits, then finds the first one's result.
exec 9>"$cache/stock.lock"
flock 9
image=$(newest)
if [ -n "$image" ]; then
  echo "$image"
  exit 0
fi

# Debian 13 calls its own something else; then there is none.
find_package() { apt-cache pkgnames linux-image-6.1.0- 2>/dev/null | grep -x 'linux-image-6\.1\.0-[0-9]*-amd64' | sort -V | tail -n 1; }
work=$(mktemp -d "$cache/stock-part.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
fetch() {
  package=$(find_package) && [ -n "$package" ] && (
    cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$package" >&2 9>&-
  )
}
# Package lists may be missing or out of date; whoever is not root must do with those that are there.
fetch || { apt-get -q update >&2 9>&- || true; fetch; } || {
  say "apt has no package linux-image-6.1.0-N-amd64 for this distribution: it is Debian 12's kernel"
  exit 3
}

release=${package#linux-image-}
# From here on paths are relative: modprobe writes its own with what -d gives it.
cd "$work"
version=$(dpkg-deb -f ./*.deb Version)
dpkg-deb -x ./*.deb all
depmod -b all "$release"
# files MODULE...: below lib/modules, each with what it needs, in the order in which they go in.
files() {
  for module; do modprobe -d all -S "$release" --show-depends "$module"; done |
    sed -n 's|^insmod .*/lib/modules/\([^ ]*\).*|\1|p' | awk '!seen[$0]++'
}
beside=$work/out/vmlinuz.d
mkdir -p "$beside/initramfs" "$beside/lib/modules/$release"
number=100
# shellcheck disable=SC2086 # names have no spaces
for file in $(files $boot_modules); do
  cp "all/lib/modules/$file" "$beside/initramfs/$number-$(basename "$file")"
  number=$((number + 1))
done
# shellcheck disable=SC2086 # names have no spaces
wanted=$(files $boot_modules $more_modules)
cd all/lib/modules
# shellcheck disable=SC2086 # names have no spaces
cp --parents $wanted "$release"/modules.order "$release"/modules.builtin* "$beside/lib/modules"
depmod -b "$beside" "$release"
cd "$work"
cp "all/boot/config-$release" "$beside/config"
cp "all/boot/vmlinuz-$release" out/vmlinuz
mv out "$cache/stock-$version"
say "$package $version is in the cache"
echo "$cache/stock-$version/vmlinuz"
