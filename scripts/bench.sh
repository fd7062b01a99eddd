#!/bin/sh
# npm run bench [PART ...]: builds, and prints the figures of bench/README.md as they come out on this machine.
#
# Parts: cold-read, warm-read, idle-memory, first-run, merge, convert, chunk-cache; all of them when none is named. Needs root, a kernel
# path (scripts/kernel-check.sh), docker-registry, curl, fio, gzip and zstd. NYDUS_BENCH_ROUNDS (default 5) sets how
# often each side of a ratio is measured. Exit 0 when all was measured, whether or not a figure is met.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo 'bench: mounts need root: run it with sudo' >&2
  exit 4
fi
sh scripts/setup-npm.sh
sh scripts/build.sh
[ $# -gt 0 ] || set -- cold-read warm-read idle-memory first-run merge convert chunk-cache
for part; do
  case $part in
    convert | chunk-cache) node "dist/bench/$part.js" ;;
    *) node dist/bench/main.js "$part" ;;
  esac
done
