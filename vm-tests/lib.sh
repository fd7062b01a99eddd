# Sourced by every case, which defines prepare (on the host, optional) and run (in the guest) and ends with
# `case_main "$@"`. A case with a line "# again: REASON" comes last of its boot: the VM is reset after its run, at once and
# with nothing flushed, and boots again on the same disk for run_again, with the same STATE. Both get DATA, the directory that prepare fills and run reads; run also gets STATE, an empty
# directory on ext4. In both, REPO is the repository and the working directory. A "# timeout: SECONDS" line in
# a case bounds its run (default 120). What a case writes to standard error goes to its log.
# shellcheck shell=sh

set -eu
REPO=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# The line a reader of the suite's output shall see.
note() { echo "  $*"; }
die() {
  echo "$*" >&2
  exit 1
}
# The case cannot run here: counted apart, with the reason.
skip() {
  echo "$*" >&2
  exit 77
}
need_commands() {
  for word; do
    command -v "$word" >/dev/null 2>&1 || skip "$word is not installed (sh scripts/setup-debian.sh test)"
  done
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
  # Its turns would fill the log.
  { set +x; } 2>/dev/null
  read -r wait_until _ </proc/uptime
  wait_until=$((${wait_until%.*} + $1))
  wait_what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    read -r wait_now _ </proc/uptime
    [ "${wait_now%.*}" -lt "$wait_until" ] || die "$wait_what did not happen in time (waited for: $*)"
    sleep 0.2
  done
  echo "+ wait_for $*: it happened" >&2
  [ -z "$tracing_commands" ] || set -x
}
tracing_commands=''

# add_layers IMAGE DIR...: each directory becomes a layer. (umoci insert 0.4 writes archives without their end.)
add_layers() {
  add_image=$1
  shift
  for dir; do
    tar -C "$dir" --owner=0 --group=0 --numeric-owner -cf "$DATA/layer.tar" .
    umoci raw add-layer --image "$add_image" "$DATA/layer.tar"
  done
  rm "$DATA/layer.tar"
}

# start_registry STORAGE LOG [PORT [readonly]]: sets REGISTRY and registry_pid. Port 0 takes a free one.
start_registry() {
  registry_config=$2.yml
  {
    echo 'version: 0.1'
    echo 'log: {level: info}'
    echo 'storage:'
    echo "  filesystem: {rootdirectory: $1}"
    echo '  delete: {enabled: false}'
    [ "${4:-}" != readonly ] || echo '  maintenance: {uploadpurging: {enabled: false}, readonly: {enabled: true}}'
    echo "http: {addr: '127.0.0.1:${3:-0}'}"
  } >"$registry_config"
  docker-registry serve "$registry_config" >"$2" 2>&1 &
  registry_pid=$!
  cleanup_pids="$cleanup_pids $registry_pid"
  wait_for 60 'the registry listening' grep -q 'listening on' "$2"
  REGISTRY=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$2" | head -n 1)
}

stop_registry() {
  kill "$registry_pid"
  wait "$registry_pid" 2>/dev/null || true
}

# start_containerd: a private one in $STATE, with our snapshotter's socket as a plugin. Sets CONTAINERD_ADDRESS,
# which ctr and ctr-remote read, and containerd_pid.
start_containerd() {
  CONTAINERD_ADDRESS=/run/containerd-test/containerd.sock
  SNAPSHOTTER_ADDRESS=/run/containerd-nydus/containerd-nydus-grpc.sock
  export CONTAINERD_ADDRESS
  mkdir -p "$STATE/containerd" /run/containerd-test /run/containerd-nydus
  cat >"$STATE/containerd.toml" <<EOF
version = 2
root = "$STATE/containerd"
state = "/run/containerd-test/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$CONTAINERD_ADDRESS"
[proxy_plugins.nydus]
  type = "snapshot"
  address = "$SNAPSHOTTER_ADDRESS"
EOF
  containerd --config "$STATE/containerd.toml" >&2 &
  containerd_pid=$!
  cleanup_pids="$cleanup_pids $containerd_pid"
  wait_for 120 'containerd answering' ctr --address "$CONTAINERD_ADDRESS" version
}

# start_snapshotter: the product, on the kernel path this kernel has, with $snapshotter_options. Waits until it serves.
# Sets snapshotter_pid; its log is STATE/snapshotter.log.
snapshotter_options=''
start_snapshotter() {
  # shellcheck disable=SC2086 # several words, or none
  node "$REPO/dist/src/bin/containerd-nydus-grpc.js" --root "$STATE/nydus" --address "$SNAPSHOTTER_ADDRESS" \
    --nydusd "$REPO/dist/src/bin/nydusd.js" \
    --daemon-mode shared --daemon-backend fscache --log-level debug --log-to-stdout $snapshotter_options >>"$STATE/snapshotter.log" 2>&1 &
  snapshotter_pid=$!
  cleanup_pids="$cleanup_pids $snapshotter_pid"
  wait_for 180 'the snapshotter serving' sh -c "[ -S '$SNAPSHOTTER_ADDRESS' ] || ! kill -0 $snapshotter_pid"
  [ -S "$SNAPSHOTTER_ADDRESS" ] || die 'the snapshotter ended'
}

ctr_remote() { node "$REPO/dist/src/bin/ctr-remote.js" --address "$CONTAINERD_ADDRESS" "$@"; }

# Process ids of the daemon.
nydusd_pids() {
  grep -lsx nydusd /proc/[0-9]*/comm | sed 's|[^0-9]||g'
}

# kill_daemon: with -9, and waits for its successor.
kill_daemon() {
  killed=$(nydusd_pids)
  [ -n "$killed" ] || die 'there is no nydusd to kill'
  for pid in $killed; do kill -9 "$pid"; done
  wait_for 180 'a new daemon' another_daemon
}
another_daemon() {
  now=$(nydusd_pids)
  [ -n "$now" ] && [ "$now" != "$killed" ]
}

# trace_start: from now on the kernel writes down what it asks on /dev/cachefiles and what is answered.
trace_start() {
  tracing=/sys/kernel/tracing
  mount -t tracefs tracefs "$tracing"
  # What another case left behind.
  : >"$tracing/trace"
  echo 8192 >"$tracing/buffer_size_kb"
  for event in open copen read cread close; do
    echo 1 >"$tracing/events/cachefiles/cachefiles_ondemand_$event/enable"
  done
}
# traced EVENT: how often. cread is a READ that was answered.
traced() { grep -c "cachefiles_ondemand_$1:" "$tracing/trace" || true; }

# show_reads: prints the proof that the kernel served by cachefiles: the mounts by fsid=, the READs answered.
# Fails when there are none.
show_reads() {
  grep 'fsid=' /proc/mounts >"$STATE/fsid" || die 'no mount by fsid= in /proc/mounts'
  while read -r line; do note "$line"; done <"$STATE/fsid"
  answered=$(traced cread)
  note "READs on /dev/cachefiles: $(traced read) asked, $answered answered"
  [ "$answered" -gt 0 ] || die 'no READ was answered on /dev/cachefiles'
}

# show_fuse: prints the proof that FUSE serves.
show_fuse() {
  grep "^[^ ]* $STATE/nydus/mnt fuse" /proc/mounts >"$STATE/fuse" || die 'no FUSE mount in /proc/mounts'
  while read -r line; do note "$line"; done <"$STATE/fuse"
}

drop_caches() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}

cleanup_pids=''
case_cleanup() {
  for pid in $cleanup_pids; do kill "$pid" 2>/dev/null || true; done
  # What hangs is ended by suite.sh.
  for pid in $cleanup_pids; do timeout 20 tail -f /dev/null --pid="$pid" || true; done
  # Into the log of the case: these outlive the guest.
  for log in ${STATE:+"$STATE/snapshotter.log" "$STATE"/nydus/logs/*.log}; do
    [ ! -e "$log" ] || { echo "--- $log" && tail -n 300 "$log"; } >&2
  done
}

prepare() { :; }

case_main() {
  DATA=$2
  trap case_cleanup EXIT
  trap 'exit 143' INT TERM HUP
  cd "$REPO"
  case $1 in
    prepare) prepare ;;
    run | run_again)
      tracing_commands=yes
      set -x
      "$1"
      ;;
  esac
}
