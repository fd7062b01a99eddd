#!/bin/sh
# A kernel that does not send again what a killed daemon had read: the daemon is killed with -9 while a reader waits for
# the registry, then several times under a storm of requests of every kind. Nobody waits for ever, and every byte is right.
# kernel: stock
# timeout: 1200
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_held; }

# storm NUMBER: walks through the image again and again, with nothing remembered, until the file `calm` appears.
storm() {
  turns=0
  until [ -e "$STATE/calm" ]; do
    echo 3 >/proc/sys/vm/drop_caches
    ctr task exec --exec-id "storm-$1-$turns" holder /bin/sh -c 'ls -laR /data /bin >/dev/null && sha256sum /data/*' >"$STATE/storm-$1"
    cmp "$STATE/storm-$1" "$STATE/right" || die "storm $1 read something else"
    turns=$((turns + 1))
  done
  echo "$turns" >"$STATE/storm-$1.turns"
}

run() {
  # Here the device is there, and only its on-demand mode is missing.
  modprobe cachefiles
  start_held
  show_fuse
  read_over_a_kill

  (cd "$DATA/rootfs" && sha256sum data/* | sed 's|  |  /|') >"$STATE/right"
  storm 1 &
  storms=$!
  storm 2 &
  storms="$storms $!"
  for round in 1 2; do
    sleep "$round"
    kill_daemon
  done
  : >"$STATE/calm"
  for pid in $storms; do wait "$pid" || die 'a storm ended badly'; done
  note "2 daemons killed under $(cat "$STATE/storm-1.turns") and $(cat "$STATE/storm-2.turns") walks: every file right"
}

case_main "$@"
