#!/bin/sh
# The daemon is killed with -9 while a reader waits for it and the registry is silent: the read ends with the right
# bytes, the mount lives on.
# timeout: 900
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../images.sh"

prepare() { prepare_held; }

run() {
  trace_start
  start_held
  read_over_a_kill
  show_reads
}

case_main "$@"
