#!/bin/sh
# Images made by other tools, full of awkward files, through the snapshotter and /dev/cachefiles: every entry as
# expected, cold; after the daemon was killed; and mounted anew with the registry gone.
# timeout: 900
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
  done
  stop_registry
  cp "$fixtures/check_tree.py" "$fixtures/torture/expected.jsonl" "$DATA/"
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
    mkdir "$STATE/$tag"
    ctr_remote image rpull --plain-http "$REGISTRY/torture:$tag" >&2
    ctr image mount --snapshotter nydus "$REGISTRY/torture:$tag" "$STATE/$tag" >&2
    drop_caches
    check_tree "$STATE/$tag" "$tag cold"
  done
  show_reads

  stop_registry
  killed=$(nydusd_pids)
  [ -n "$killed" ] || die 'there is no nydusd to kill'
  for pid in $killed; do kill -9 "$pid"; done
  wait_for 60 'a new daemon' another_daemon
  for tag in $tags; do
    drop_caches
    check_tree "$STATE/$tag" "$tag, daemon killed, registry stopped"
  done

  for tag in $tags; do
    ctr image unmount --rm --snapshotter nydus "$STATE/$tag" >&2
    ctr image mount --snapshotter nydus "$REGISTRY/torture:$tag" "$STATE/$tag" >&2
    drop_caches
    check_tree "$STATE/$tag" "$tag, mounted anew, registry stopped"
    ctr image unmount --rm --snapshotter nydus "$STATE/$tag" >&2
  done
}

another_daemon() {
  now=$(nydusd_pids)
  [ -n "$now" ] && [ "$now" != "$killed" ]
}

case_main "$@"
