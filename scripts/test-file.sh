#!/bin/sh
# Runs one test file for test.sh: its TAP goes to $logs, with a failure of its own where it ends badly without one.
file=$1
logs=${logs:?set by test.sh}
tap="$logs/$(echo "${file#dist/test/}" | tr / -).tap"
started=$(date +%s)
status=0
TAP_TIMEOUT=600 timeout -k 10 900 node "$file" >"$tap" 2>&1 || status=$?
if [ "$status" -ne 0 ] && ! grep -q '^ *not ok' "$tap"; then
  echo "not ok 1 - $file ended with status $status" >>"$tap"
fi
word='ok    '
if [ "$status" -ne 0 ]; then word=FAILED; fi
echo "$word ${file#dist/test/} ($(($(date +%s) - started)) s)"
if [ "$status" -ne 0 ]; then grep -A 25 '^ *not ok' "$tap" | head -n 60 | sed 's/^/  | /'; fi
