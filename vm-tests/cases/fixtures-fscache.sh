#!/bin/sh
# Images made by other tools, full of awkward files, through the snapshotter and /dev/cachefiles: every entry as
# expected, cold; after the daemon was killed; and mounted anew after everything was stopped, with the registry gone.
# timeout: 1500
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_torture nydus lz4; }

run() {
  trace_start
  start_registry "$DATA/registry" "$STATE/registry.log" 5000 readonly
  start_containerd
  start_snapshotter
  check_torture_cold nydus lz4
  show_reads
  check_torture_over_a_kill nydus lz4
  before=$(traced cread)
  check_torture_anew fsid= nydus lz4
  [ "$(traced cread)" -gt "$before" ] || die 'the new mounts asked nothing on /dev/cachefiles'
  note "READs answered after the restart: $(($(traced cread) - before))"
}

case_main "$@"
