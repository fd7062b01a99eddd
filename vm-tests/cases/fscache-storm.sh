#!/bin/sh
# Kill after kill over /dev/cachefiles, each while a reader waits for bytes that the registry holds back: the daemon, daemon
# and snapshotter, holder and daemon, containerd and daemon, in turn. No failed read, no wrong byte.
# NYDUS_VM_STORM_KILLS says how many (default 4: each of them once).
# timeout: 3000
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

# A read takes 256 KiB at most of what lies between two of them.
step=20

prepare() {
  echo "${NYDUS_VM_STORM_KILLS:-4}" >"$DATA/kills"
  held_bytes=$(((${NYDUS_VM_STORM_KILLS:-4} + 1) * step * 65536))
  convert_options='--chunk-size 0x10000'
  prepare_held
}

# read_block NUMBER: 64 KiB of the image, by the mount that all containers of it share.
read_block() { dd if="$mnt/data/first" bs=65536 skip=$(($1 * step)) count=1 2>/dev/null; }
right_block() { dd if="$DATA/rootfs/data/first" bs=65536 skip=$(($1 * step)) count=1 2>/dev/null; }
held_requests() { grep -c ^held "$STATE/proxy.log" || true; }
more_held() { [ "$(held_requests)" -gt "$held_before" ]; }
unanswered() { echo $(($(traced read) - $(traced cread))); }

kill_with_daemon() {
  killed=$(nydusd_pids)
  # shellcheck disable=SC2086 # several
  kill -9 "$@" $killed
}

# blow NUMBER: what it names dies and comes back.
blow() {
  case $(($1 % 4)) in
    0) kill_with_daemon ;;
    1)
      kill_with_daemon "$snapshotter_pid"
      wait "$snapshotter_pid" || true
      rm "$SNAPSHOTTER_ADDRESS"
      start_snapshotter
      ;;
    2)
      holder=$(grep -lsx nydus-holder /proc/[0-9]*/comm | sed 's|[^0-9]||g')
      [ -n "$holder" ] || die 'there is no holder to kill'
      kill_with_daemon "$holder"
      ;;
    3)
      kill_with_daemon "$containerd_pid"
      wait "$containerd_pid" || true
      start_containerd
      ;;
  esac
  wait_for 180 'a new daemon' another_daemon
}

run() {
  trace_start
  start_held
  mnt=$(sed -n 's/^[^ ]* \([^ ]*\) erofs .*fsid=.*/\1/p' /proc/mounts)
  [ -d "$mnt/data" ] || die "no mount by fsid=: $mnt"
  kills=$(cat "$DATA/kills")
  counted=0
  number=0
  while [ "$number" -lt "$kills" ]; do
    held_before=$(held_requests)
    hold
    read_block "$number" >"$STATE/block" &
    reader=$!
    wait_for 120 'the read reaching the registry' more_held
    [ "$(unanswered)" -eq 0 ] || counted=$((counted + 1))
    blow "$number"
    kill -0 "$reader" || die "read $number did not wait"
    release_held
    wait "$reader" || die "read $number failed"
    right_block "$number" | cmp - "$STATE/block" || die "read $number gave wrong bytes"
    number=$((number + 1))
  done
  note "$kills kills, $counted of them with a request of the kernel unanswered: 0 failed reads, 0 wrong bytes"
  [ "$counted" -eq "$kills" ] || die 'some kills met no waiting request'
  [ "$(read_in_container last first)" = "$(expected first)" ] || die 'the whole file reads wrong'
  show_reads
}

case_main "$@"
