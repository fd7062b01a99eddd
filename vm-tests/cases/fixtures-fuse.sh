#!/bin/sh
# Images made by other tools, full of awkward files, RAFS v5 among them, through the snapshotter and FUSE: every entry as
# expected, cold; after the daemon was killed; and mounted anew after everything was stopped, with the registry gone.
# kernel: stock
# timeout: 900
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_torture nydus lz4 v5; }

run() {
  start_registry "$DATA/registry" "$STATE/registry.log" 5000 readonly
  start_containerd
  start_snapshotter
  check_torture_cold nydus lz4 v5
  show_fuse
  check_torture_over_a_kill nydus lz4 v5
  check_torture_anew '/nydus/mnt fuse' nydus lz4 v5
}

case_main "$@"
