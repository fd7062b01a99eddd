#!/bin/sh
# Compiles the TypeScript into dist/, the library of native/ into dist/native/libnydus.so and native/holder.c into
# dist/native/nydus-holder; needs cc only.
set -eu
cd "$(dirname "$0")/.."
mkdir -p dist/native
${CC:-cc} -std=gnu11 -O2 -g -Wall -Wextra -Werror -fPIC -shared -pthread -fvisibility=hidden \
  -o dist/native/libnydus.so.new native/ioctl.c native/jobs.c native/mounts.c native/poller.c native/sockets.c
mv dist/native/libnydus.so.new dist/native/libnydus.so
${CC:-cc} -std=gnu11 -O2 -g -Wall -Wextra -Werror -o dist/native/nydus-holder.new native/holder.c
mv dist/native/nydus-holder.new dist/native/nydus-holder
node_modules/.bin/tsc -p tsconfig.json
chmod +x dist/src/bin/*.js 2>/dev/null || true
git rev-parse HEAD >dist/revision 2>/dev/null || echo unknown >dist/revision
