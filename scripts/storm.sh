#!/bin/sh
# npm run storm -- --driver fanotify|fscache|fusedev [--kills N] [--target LIST] [--seed S] [--negative-control]:
# readers on cold images while processes of the node are killed with -9 (test/storm/README.md). Builds first. Needs root,
# containerd, runc, docker-registry, skopeo, busybox; fio where it is installed. Exit 0: nobody saw a failed read or a
# wrong byte, and every kill counted.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo 'storm: mounts need root: run it with sudo' >&2
  exit 4
fi
sh scripts/build.sh
exec node dist/test/storm/main.js "$@"
