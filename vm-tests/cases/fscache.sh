#!/bin/sh
# The product's main job in a kernel that can do it through /dev/cachefiles alone: an image converted by our
# nydusify is pulled and run, and every file in it reads as in its source and as overlayfs gives it.
# timeout: 1500
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_app; }

run() {
  trace_start
  start_registry "$DATA/registry" "$STATE/registry.log" 5000 readonly
  start_containerd
  start_snapshotter

  run_app_plain
  [ "$(traced read)" -eq 0 ] || die 'the plain image was read through /dev/cachefiles'
  run_app_lazily
  show_reads
  check_app

  # The last one out unmounts.
  remove_app
  wait_for 60 'the image unmounted' sh -c '! grep -q fsid= /proc/mounts'
}

case_main "$@"
