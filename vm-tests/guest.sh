#!/bin/sh
# Stage 2, process 1 of the guest: makes it a machine that runs containers, runs the command that boot.sh left
# in the share, writes its exit code there and powers off. With systemd as init it becomes that, whose only service runs the
# command (guest.sh command). /tmp is the overlay's, not a tmpfs: a repository or
# prepared images that lie there on the host stay visible.
set -e
share=/run/share

stage() {
  read -r uptime _ </proc/uptime
  echo "vm: $* at $uptime s" >/dev/console
}

# PATH, HOME, the repository, the time limit; one assignment a line, quoted by boot.sh.
# shellcheck disable=SC1091 # boot.sh writes it
. "$share/env"

run_command() {
  export TMPDIR=/state/tmp VM_COMMAND_PID=$$
  # shellcheck disable=SC3045 # dash, bash and busybox have it
  ulimit -n 1048576
  cd "$VM_REPO"
  set +e
  timeout -k 10 "$VM_TIMEOUT" sh "$share/command" >"$share/out" 2>&1 </dev/null
  rc=$?
  stage "command ended with $rc"

  dmesg >"$share/dmesg.log"
  cd /
  sync
  # The verdict. boot.sh trusts this file alone: QEMU ends with 0 after a panic, too.
  echo "$rc" >"$share/rc"
  sync
  "$VM_BUSYBOX" poweroff -f
}
if [ "${1:-}" = command ]; then run_command; fi
stage 'host root mounted'

mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr

# A kernel with modules: they, its configuration and the device nodes whose opening loads one, as on its own machine.
if [ -d "$VM_KERNEL_FILES" ]; then
  release=$(uname -r)
  mkdir -p /lib/modules
  mount --bind "$VM_KERNEL_FILES/lib/modules" /lib/modules
  cp "$VM_KERNEL_FILES/config" "/boot/config-$release"
  while read -r _ node type; do
    case $type in c*) [ -e "/dev/$node" ] || mknod "/dev/$node" c "$(echo "${type#c}" | cut -d: -f1)" "${type#*:}" ;; esac
  done <"/lib/modules/$release/modules.devname"
fi

# The host may have cgroup v1 mounts as directories here; on the guest's fresh sysfs there is the mount point.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# shellcheck disable=SC2013 # words are what is wanted
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

"$VM_BUSYBOX" hostname nydus-vm
"$VM_BUSYBOX" ip link set lo up

# All state is on this disk: no file system of the cache, of containerd or of an upper directory may be 9p.
mkdir -p /state
mount -t ext4 /dev/vda /state
mkdir -p /state/tmp "$HOME"
chmod 1777 /state/tmp
stage 'ready'

[ "$VM_INIT" = systemd ] || run_command

# The host's own units are not wanted here: these are all there are until a case brings some.
units=/run/systemd/system
mkdir -p "$units"
for target in basic sysinit shutdown vm; do printf '[Unit]\nDefaultDependencies=no\n' >"$units/$target.target"; done
echo 'Wants=vm.service' >>"$units/vm.target"
cat >"$units/vm.service" <<EOF
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh $share/guest.sh command
StandardOutput=null
StandardError=null
EOF
export SYSTEMD_UNIT_PATH=$units
exec /lib/systemd/systemd --unit=vm.target --log-target=kmsg
