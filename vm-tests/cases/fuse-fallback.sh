#!/bin/sh
# The product's main job on Debian's stock kernel, started as on any other (--daemon-backend fscache): it falls back to FUSE
# by itself, says so once in its log and in its metrics, and every file reads as in its source and on overlayfs.
# kernel: stock
# timeout: 1500
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_app; }

run() {
  start_registry "$DATA/registry" "$STATE/registry.log" 5000 readonly
  start_containerd
  snapshotter_options='--metrics-address 127.0.0.1:9110'
  start_snapshotter
  run_app_plain
  run_app_lazily
  show_fuse
  check_app

  [ "$(grep -c 'all images are served by FUSE' "$STATE/nydus/logs/nydusd.log")" -eq 1 ] || die 'the log does not tell it once'
  note "$(grep -o '"msg":"[^"]*served by FUSE[^"]*"' "$STATE/nydus/logs/nydusd.log")"
  busybox wget -q -O "$STATE/metrics" http://127.0.0.1:9110/v1/metrics
  note "$(grep '^nydus_snapshotter_fallback_images_total' "$STATE/metrics")"
  grep -q '^nydus_snapshotter_fallback_images_total{requested="kernel",reason="kernel"} 1$' "$STATE/metrics" ||
    die 'the metrics do not count the image'
  grep -q '^nydus_snapshotter_driver_info{.*driver="fuse"' "$STATE/metrics" || die 'the metrics do not name the driver'

  remove_app
  wait_for 60 'the image hidden' sh -c "[ -z \"\$(ls '$STATE/nydus/mnt')\" ]"
}

case_main "$@"
