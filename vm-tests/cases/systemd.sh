#!/bin/sh
# A node with systemd: snapshotter, daemon and holder are killed with -9 at once while a reader waits, and only the manager
# still has the kernel's descriptors; then the registry is gone, every process is started anew, and the machine is reset.
# Readers see no error, new containers start, every byte is right.
# init: systemd
# again: the image is complete and nothing but the disk is left
# timeout: 1500
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_held; }

unit=containerd-nydus-grpc
property() { systemctl show -p "$1" --value "$unit"; }

# start_snapshotter: the package's own unit, as deploy/ has it.
start_snapshotter() {
  mkdir -p /run/containerd-nydus
  ln -s "$REPO/dist/src/bin/containerd-nydus-grpc.js" "/usr/local/bin/$unit"
  cp "$REPO/deploy/$unit.service" /run/systemd/system/
  {
    echo "PATH=$PATH"
    echo "NYDUS_OPTIONS=--root $STATE/nydus --address $SNAPSHOTTER_ADDRESS --fs-driver fscache --log-level debug"
  } >"/etc/default/$unit"
  systemctl daemon-reload
  # Type=notify: it answers when the snapshotter serves.
  systemctl start "$unit"
}

holder_pids() { grep -lsx nydus-holder /proc/[0-9]*/comm | sed 's|[^0-9]||g'; }
kill_all_three() {
  killed=$(nydusd_pids)
  killed_main=$(property MainPID)
  killed_holder=$(holder_pids)
  for pid in "$killed" "$killed_main" "$killed_holder"; do [ "${pid:-0}" != 0 ] || die "not all three run"; done
  # shellcheck disable=SC2086 # several
  kill -9 $killed_main $killed_holder $killed
}
started_again() { [ "$(property MainPID)" -gt 1 ] && [ "$(property MainPID)" != "$killed_main" ] && [ "$(property SubState)" = running ]; }

# new_container ID: what it reads of the image is right.
new_container() {
  ctr run --rm --snapshotter=nydus "$image" "$1" /bin/sh -c 'sha256sum /data/first /data/second /bin/busybox' >"$STATE/$1"
  (cd "$DATA/rootfs" && sha256sum data/first data/second bin/busybox | sed 's|  |  /|') >"$STATE/right"
  cmp "$STATE/$1" "$STATE/right" || die "the container $1 read something else"
}
blobs_durable() {
  for map in "$STATE"/nydus/cache/*.chunk_map; do od -An -tx4 -j12 -N4 "$map" | grep -q 4d4d4150 || return 1; done
}

run() {
  trace_start
  start_held
  hold
  read_in_container reader first >"$STATE/first" &
  reader=$!
  wait_for 60 'the read reaching the registry' grep -q ^held "$STATE/proxy.log"
  stored=$(property NFileDescriptorStore)
  note "the manager keeps $stored descriptors"
  [ "$stored" -gt 0 ] || die 'the manager keeps no descriptor'
  kill_all_three
  wait_for 120 'the manager starting the snapshotter again' started_again
  wait_for 120 'a new daemon' another_daemon
  kill -0 "$reader" || die "the reader did not wait: $(cat "$STATE/first")"
  release_held
  wait "$reader" || die 'the read failed'
  [ "$(cat "$STATE/first")" = "$(expected first)" ] || die 'the read gave wrong bytes'
  [ "$(read_in_container again second)" = "$(expected second)" ] || die 'a later read gave wrong bytes'
  note "snapshotter, daemon and holder killed while a reader waited: right bytes; restarts: $(property NRestarts)"
  show_reads

  # Complete and on the disk; then the network goes, and every process of ours is started anew.
  new_container full
  wait_for 60 'the image complete and on the disk' blobs_durable
  for pid in $cleanup_pids; do [ "$pid" = "$containerd_pid" ] || kill "$pid" || true; done
  ! busybox wget -q -O - http://127.0.0.1:5000/v2/ 2>&1 || die 'the registry still answers'
  kill_daemon
  for pid in $(holder_pids); do kill -9 "$pid"; done
  systemctl restart "$unit"
  kill "$containerd_pid"
  tail -f /dev/null --pid="$containerd_pid"
  start_containerd
  [ "$(read_in_container old first)" = "$(expected first)" ] || die 'the old container reads something else'
  new_container offline
  note 'registry gone, every process restarted: old and new containers read right bytes'
}

run_again() {
  image=127.0.0.1:5000/app:nydus
  start_containerd
  start_snapshotter
  new_container reset
  ctr task rm holder || true
  ctr task start -d holder
  [ "$(read_in_container after first)" = "$(expected first)" ] || die 'the old container reads something else'
  note "machine reset, registry gone: old and new containers read right bytes"
}

case_main "$@"
