#!/bin/sh
# The guest is the machine that the other cases need: Node, registry and containerd run, a container runs under
# limits, and the kernel goes live in on-demand mode.
# timeout: 300
. "$(dirname "$0")/../lib.sh"

prepare() {
  need_commands node containerd ctr runc docker-registry skopeo umoci busybox
  # A one-layer image, made without a registry.
  mkdir -p "$DATA/rootfs/bin"
  cp "$(command -v busybox)" "$DATA/rootfs/bin/busybox"
  ln -s busybox "$DATA/rootfs/bin/sh"
  umoci init --layout "$DATA/oci"
  umoci new --image "$DATA/oci:busybox"
  add_layers "$DATA/oci:busybox" "$DATA/rootfs"
  skopeo copy "oci:$DATA/oci:busybox" "docker-archive:$DATA/busybox.tar:localhost/busybox:1"
}

run() {
  note "kernel $(uname -r), node $(node --version)"
  [ "$(stat -f -c %T "$STATE")" = ext2/ext3 ] || die "$STATE is not on ext4"

  # On-demand mode, through the kernel's own answer: the device takes one bind, as `nydusd` does it.
  [ -c /dev/cachefiles ] || die 'there is no /dev/cachefiles'
  mkdir "$STATE/cachefiles"
  node -e '
    const fs = require("node:fs")
    const fd = fs.openSync("/dev/cachefiles", "r+")
    for (const command of [`dir ${process.argv[1]}`, "tag boot", "bind ondemand"]) fs.writeSync(fd, command)
  ' "$STATE/cachefiles"
  [ -d "$STATE/cachefiles/cache" ] || die 'bind ondemand made no cache directory'
  note 'bind ondemand: accepted'

  # What must not be there, or a case could pass another way.
  if node -e 'require("node:fs").readFileSync("/proc/config.gz")' >/dev/null; then
    gzip -dc /proc/config.gz | grep -qx '# CONFIG_EROFS_FS_BACKED_BY_FILE is not set'
    gzip -dc /proc/config.gz | grep -qx '# CONFIG_FANOTIFY_ACCESS_PERMISSIONS is not set'
  fi

  mkdir "$STATE/registry"
  start_registry "$STATE/registry" "$STATE/registry.log"
  skopeo copy --dest-tls-verify=false "docker-archive:$DATA/busybox.tar" "docker://$REGISTRY/busybox:1" >&2
  start_containerd
  ctr image pull --plain-http "$REGISTRY/busybox:1" >&2
  answer=$(ctr run --rm --memory-limit 67108864 --cpu-quota 100000 --cpu-period 100000 --seccomp --net-host \
    "$REGISTRY/busybox:1" hello /bin/sh -c 'echo hello from $((6 * 7))')
  [ "$answer" = 'hello from 42' ] || die "the container said '$answer'"
  note "container: $answer"
}

case_main "$@"
