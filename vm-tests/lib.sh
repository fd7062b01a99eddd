# Sourced by every case, which defines prepare (on the host, optional) and run (in the guest) and ends with
# `case_main "$@"`. Both get DATA, the directory that prepare fills and run reads; run also gets STATE, an empty
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
  wait_left=$(($1 * 5))
  wait_what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    wait_left=$((wait_left - 1))
    [ "$wait_left" -gt 0 ] || die "$wait_what did not happen in time (waited for: $*)"
    sleep 0.2
  done
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
# which ctr and ctr-remote read.
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
  cleanup_pids="$cleanup_pids $!"
  wait_for 60 'containerd answering' ctr --address "$CONTAINERD_ADDRESS" version
}

cleanup_pids=''
case_cleanup() {
  for pid in $cleanup_pids; do kill "$pid" 2>/dev/null || true; done
  for pid in $cleanup_pids; do wait "$pid" 2>/dev/null || true; done
}

prepare() { :; }

case_main() {
  DATA=$2
  trap case_cleanup EXIT
  trap 'exit 143' INT TERM HUP
  cd "$REPO"
  case $1 in
    prepare) prepare ;;
    run)
      set -x
      run
      ;;
  esac
}
