#!/usr/bin/env bash
# Usage: run.sh [--latency] SOCKET
#
# Runs containerd's snapshotter suite against the snapshots API on the unix
# socket SOCKET and ends with 'conformance: P passed, F failed, S skipped'.
# With --latency it prints call latencies instead.
# Exit status: 0 if cases ran and none failed, 1 otherwise, 2 on a usage error,
# 3 if Go cannot build the suite (no network, an older Go).
#
# Needs root, Go 1.26.6 or newer, and a server without snapshots in the same
# mount namespace. SNAPSHOTTER_NAME matters on containerd's own socket only.
set -euo pipefail

pattern='^TestConformance$'
if [[ ${1-} == --latency ]]; then
  pattern='^TestLatency$'
  shift
fi
if [[ $# -ne 1 || $1 == -* ]]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
export SNAPSHOTTER_SOCKET=$1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/snapshotter-conformance
mkdir -p "$cache"
GOWORK=off go test -C "$here" -c -o "$cache/conformance.test" . || exit 3

if [[ $pattern == *Latency* ]]; then
  exec "$cache/conformance.test" -test.timeout 10m -test.run "$pattern" -test.v
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
"$cache/conformance.test" -test.timeout 10m -test.run "$pattern" -test.v 2>&1 | tee "$log" || status=$?

# A case that began and has no verdict (a panic, the timeout) failed, and so
# did the run if its exit status says so and no case does.
awk -v status="$status" '
  $1 == "===" && $2 == "RUN"                 { began[$3] = 1 }
  $1 == "---" && $3 ~ /^TestConformance(\/|$)/ { verdict[$3] = $2 }
  END {
    for (name in began) {
      if (name !~ /\//) continue
      if (verdict[name] == "PASS:") passed++
      else if (verdict[name] == "SKIP:") skipped++
      else failed++
    }
    if (status != 0 && !failed) failed++
    if (verdict["TestConformance"] == "SKIP:") skipped++
    printf "conformance: %d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit !(passed && !failed)
  }' "$log"
