#!/bin/sh
# Runs in the guest: the cases one after the other, each bounded, each on a clean machine. Called by run.sh.
#
#   suite.sh CASES DATA CASE...            CASES/CASE.sh is run; DATA/CASE is what it prepared on the host
#   suite.sh --again CASES DATA CASE...    after a reset, with what the first run left on the disk
#
# A case's standard output is shown as it comes; its standard error goes to its log in the share. Each verdict is
# one line of the share's file `results`.
set -u

share=/run/share
phase=run
if [ "$1" = --again ]; then
  phase=run_again
  shift
fi
cases=$1
data=$2
shift 2

# Every process but process 1, this one, guest.sh's `timeout` above it and guest.sh; a kernel thread has no executable.
kill_rest() {
  for round in 1 2 3 4 5; do
    left=''
    for dir in /proc/[0-9]*; do
      pid=${dir#/proc/}
      case $pid in 1 | "$$" | "$PPID" | "$VM_COMMAND_PID") continue ;; esac
      [ -e "$dir/exe" ] || continue
      left="$left $pid"
      kill -9 "$pid" 2>/dev/null
    done
    [ -n "$left" ] || return 0
    sleep "0.$round"
  done
  echo "  could not end: $left"
}

unmount_rest() {
  cut -d' ' -f2 /proc/self/mounts | grep -vxF -f "$baseline" | tac | while read -r target; do
    umount "$target" || umount -l "$target"
  done
}

# Newest first: what needs a module comes before it. A kernel that has everything built in lists nothing.
unload_rest() {
  cut -d' ' -f1 /proc/modules 2>/dev/null | grep -vxF -f "$modules" | while read -r module; do rmmod "$module"; done
}

modules=/run/modules-at-start
cut -d' ' -f1 /proc/modules >"$modules" 2>/dev/null
baseline=/run/mounts-at-start
cut -d' ' -f2 /proc/self/mounts >"$baseline"
[ "$phase" = run_again ] || : >"$share/results"

for name; do
  file=$cases/$name.sh
  limit=$(sed -n 's/^# timeout: *\([0-9]*\).*/\1/p' "$file")
  read -r started _ </proc/uptime
  mkdir -p "/state/$name"
  STATE=/state/$name timeout -k 10 "${limit:-120}" sh "$file" "$phase" "$data/$name" 2>>"$share/$name.case.log" </dev/null
  status=$?
  read -r ended _ </proc/uptime
  took=$((${ended%.*} - ${started%.*}))
  case $status in
    0)
      verdict=pass
      if [ "$phase" = run ] && grep -q '^# again:' "$file"; then verdict=again; fi
      echo "ok   $name ($took s$([ "$phase" = run ] || echo ', after the reset'))"
      ;;
    77)
      echo "skip $name: $(tail -n 1 "$share/$name.case.log")"
      verdict=skip
      ;;
    *)
      case $status in
        124 | 137) echo "FAIL $name ($took s): its time of ${limit:-120} s was up; the end of its log:" ;;
        *) echo "FAIL $name ($took s, exit $status); the end of its log:" ;;
      esac
      tail -n 40 "$share/$name.case.log" | sed 's/^/  | /'
      verdict=fail
      ;;
  esac
  echo "$name $verdict" >>"$share/results"
  # No word to anyone: this is how a machine loses its power.
  if [ "$verdict" = again ]; then echo b >/proc/sysrq-trigger; fi
  {
    kill_rest
    unmount_rest
    unload_rest
    rm -rf "/state/$name"
  } >>"$share/$name.case.log" 2>&1
done
# The verdicts are in `results`; run.sh counts them.
exit 0
