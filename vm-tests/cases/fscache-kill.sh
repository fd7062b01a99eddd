#!/bin/sh
# The daemon is killed with -9 while a reader waits for it and the registry is silent: the read ends with the right
# bytes, the mount lives on.
# timeout: 900
. "$(dirname "$0")/../lib.sh"

prepare() {
  need_commands node containerd ctr runc docker-registry skopeo umoci busybox
  mkdir -p "$DATA/rootfs/bin" "$DATA/rootfs/data" "$DATA/registry"
  cp "$(command -v busybox)" "$DATA/rootfs/bin/busybox"
  for applet in sh sleep sha256sum; do ln -s busybox "$DATA/rootfs/bin/$applet"; done
  for name in first second; do head -c 8000000 /dev/urandom >"$DATA/rootfs/data/$name"; done
  umoci init --layout "$DATA/oci"
  umoci new --image "$DATA/oci:app"
  add_layers "$DATA/oci:app" "$DATA/rootfs"

  start_registry "$DATA/registry" "$DATA/registry.log"
  skopeo copy --dest-tls-verify=false "oci:$DATA/oci:app" "docker://$REGISTRY/app:oci"
  node dist/src/bin/nydusify.js convert --source "$REGISTRY/app:oci" --target "$REGISTRY/app:nydus"
  skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/app:nydus"
  stop_registry
}

another_daemon() {
  now=$(nydusd_pids)
  [ -n "$now" ] && [ "$now" != "$killed" ]
}

# read_in_container ID NAME: its sha256, as the container sees it.
read_in_container() { ctr task exec --exec-id "$1" holder /bin/sha256sum "/data/$2" | cut -d' ' -f1; }
expected() { sha256sum "$DATA/rootfs/data/$1" | cut -d' ' -f1; }

run() {
  trace_start
  start_registry "$DATA/registry" "$STATE/registry.log" 5001 readonly
  mkdir "$STATE/hold"
  node "$REPO/vm-tests/hold-proxy.js" 5000 5001 "$STATE/hold/on" >"$STATE/proxy.log" 2>&1 &
  cleanup_pids="$cleanup_pids $!"
  wait_for 30 'the proxy listening' grep -q listening "$STATE/proxy.log"
  image=127.0.0.1:5000/app:nydus
  start_containerd
  start_snapshotter
  ctr_remote image rpull --plain-http "$image" >&2
  ctr run -d --snapshotter=nydus "$image" holder /bin/sleep 100000

  touch "$STATE/hold/on"
  read_in_container reader first >"$STATE/first" &
  reader=$!
  wait_for 60 'the read reaching the registry' grep -q ^held "$STATE/proxy.log"
  note "$(grep -c ^held "$STATE/proxy.log") requests held back, the reader waits"
  killed=$(nydusd_pids)
  [ -n "$killed" ] || die 'there is no nydusd to kill'
  for pid in $killed; do kill -9 "$pid"; done
  wait_for 60 'a new daemon' another_daemon
  kill -0 "$reader" || die "the reader did not wait: $(cat "$STATE/first")"
  rm "$STATE/hold/on"
  wait "$reader" || die 'the read failed'
  [ "$(cat "$STATE/first")" = "$(expected first)" ] || die 'the read gave wrong bytes'
  note 'daemon killed while a reader waited: right bytes'

  # What was never read is served on by the new one.
  [ "$(read_in_container again second)" = "$(expected second)" ] || die 'a later read gave wrong bytes'
  note 'a later read: right bytes'
  show_reads
}

case_main "$@"
