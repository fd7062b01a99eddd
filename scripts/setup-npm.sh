#!/bin/sh
# Installs the npm packages of package-lock.json, unless they are there. A node_modules that is a link belongs to
# somebody else and is used as it is: npm ci would empty what it points to.
set -eu
cd "$(dirname "$0")/.."

if [ -L node_modules ]; then
  echo 'setup: node_modules is a link: using the packages it points to'
elif [ -d node_modules ] && npm ls --all >/dev/null 2>&1; then
  echo 'setup: every npm package is there'
else
  echo 'setup: installing npm packages (npm ci)'
  npm ci --no-audit --no-fund
fi
