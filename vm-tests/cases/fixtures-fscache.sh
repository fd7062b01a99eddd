#!/bin/sh
# Images made by other tools, full of awkward files, through the snapshotter and /dev/cachefiles: every entry as
# expected, cold; after the daemon was killed; and mounted anew after everything was stopped, with the registry gone.
# timeout: 1500
. "$(dirname "$0")/../lib.sh"

tags='nydus lz4'

prepare() {
  fixtures=${NYDUS_FIXTURES:-$REPO/../shared/fixtures}
  [ -d "$fixtures/oci-layout" ] || skip "the fixture images are not at $fixtures (NYDUS_FIXTURES names another place)"
  need_commands node containerd ctr docker-registry skopeo python3
  mkdir "$DATA/registry"
  start_registry "$DATA/registry" "$DATA/registry.log"
  for tag in $tags; do
    skopeo copy --dest-tls-verify=false "oci:$fixtures/oci-layout:$tag" "docker://$REGISTRY/torture:$tag"
    skopeo inspect --config --raw --tls-verify=false "docker://$REGISTRY/torture:$tag" | chain_id >"$DATA/$tag.chain"
  done
  stop_registry
  cp "$fixtures/check_tree.py" "$fixtures/torture/expected.jsonl" "$DATA/"
}

# Reads an image's configuration: the name of the snapshot that holds all its layers.
chain_id() {
  python3 -c '
import hashlib, json, sys
chain = None
for diff in json.load(sys.stdin)["rootfs"]["diff_ids"]:
    chain = diff if chain is None else "sha256:" + hashlib.sha256(f"{chain} {diff}".encode()).hexdigest()
print(chain)'
}

# By hand, since `ctr image mount` unpacks layers that a remote snapshotter does not have. Not a view: ctr gives it
# no label, and containerd's garbage collector takes it at once.
mount_image() {
  mkdir -p "$STATE/mnt-$1"
  ctr snapshots --snapshotter nydus prepare "work-$1" "$(cat "$DATA/$1.chain")"
  ctr snapshots --snapshotter nydus mounts "$STATE/mnt-$1" "work-$1" >"$STATE/mount.sh"
  sh -x "$STATE/mount.sh"
}
unmount_image() {
  umount "$STATE/mnt-$1"
  ctr snapshots --snapshotter nydus rm "work-$1"
}

check_tree() {
  python3 "$DATA/check_tree.py" "$1" "$DATA/expected.jsonl" >"$STATE/check" 2>&1 || true
  cat "$STATE/check" >&2
  verdict=$(tail -n 1 "$STATE/check")
  note "$2: $verdict"
  [ "$verdict" = '1684 entries, 0 differences' ] || die "$2: $verdict"
}

run() {
  trace_start
  start_registry "$DATA/registry" "$STATE/registry.log" 5000 readonly
  start_containerd
  start_snapshotter
  for tag in $tags; do
    ctr_remote image rpull --plain-http "$REGISTRY/torture:$tag" >&2
    mount_image "$tag"
    drop_caches
    check_tree "$STATE/mnt-$tag" "$tag cold"
  done
  show_reads

  stop_registry
  killed=$(nydusd_pids)
  [ -n "$killed" ] || die 'there is no nydusd to kill'
  for pid in $killed; do kill -9 "$pid"; done
  wait_for 60 'a new daemon' another_daemon
  for tag in $tags; do
    drop_caches
    check_tree "$STATE/mnt-$tag" "$tag, daemon killed, registry stopped"
  done

  # As after a reboot: no process, no mount, and nobody to ask; the chunk cache is all there is.
  before=$(traced cread)
  for tag in $tags; do unmount_image "$tag"; done
  kill -9 "$snapshotter_pid"
  for pid in $(nydusd_pids); do kill -9 "$pid"; done
  grep fsid= /proc/mounts | cut -d' ' -f2 | while read -r target; do umount "$target"; done
  rm "$SNAPSHOTTER_ADDRESS"
  start_snapshotter
  # containerd waits before it dials again.
  wait_for 120 'containerd reaching the snapshotter' ctr snapshots --snapshotter nydus ls
  for tag in $tags; do
    mount_image "$tag"
    drop_caches
    check_tree "$STATE/mnt-$tag" "$tag, everything restarted, registry stopped"
    unmount_image "$tag"
  done
  [ "$(traced cread)" -gt "$before" ] || die 'the new mounts asked nothing on /dev/cachefiles'
  note "READs answered after the restart: $(($(traced cread) - before))"
}

another_daemon() {
  now=$(nydusd_pids)
  [ -n "$now" ] && [ "$now" != "$killed" ]
}

case_main "$@"
