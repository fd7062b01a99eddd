#!/bin/sh
# Images made by other tools, full of awkward files, RAFS v5 among them, through the snapshotter and FUSE: every entry as
# expected, cold, and after the daemon was killed with the registry gone.
# kernel: stock
# timeout: 1500
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_torture nydus lz4 v5; }

run() {
  start_registry "$DATA/registry" "$STATE/registry.log" 5000 readonly
  start_containerd
  start_snapshotter
  check_torture_cold nydus lz4 v5
  show_fuse
  # One of them: a walk through all entries takes the guest half a minute.
  check_torture_over_a_kill v5
}

case_main "$@"
