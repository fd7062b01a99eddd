#!/bin/sh
# Says which ways of serving an image lazily this kernel has, why not the others, and what to do about it.
# Looks only: opens no device, mounts nothing, creates nothing. Needs no Node; without root it says what it could
# not see.
#
#   kernel-check.sh [--json] [--cache-dir DIR] [--sysroot DIR]
#
#   --json           one JSON object instead of a line for each check
#   --cache-dir DIR  the daemon's cache directory (its nearest existing parent is judged); default
#                    /var/lib/containerd/io.containerd.snapshotter.v1.nydus/cache
#   --sysroot DIR    read /proc, /sys, /dev and /boot below DIR: another machine's, or a test's
#
# Exit 0: the kernel can serve (fscache or fanotify); 4: FUSE only; 5: nothing; 2: usage.
# Every line is:  check=NAME status=ok|warn|fail detail="..." hint="..."
set -u

json=no
cache_dir=/var/lib/containerd/io.containerd.snapshotter.v1.nydus/cache
sysroot=''

usage() {
  echo "kernel-check: $*; usage: kernel-check.sh [--json] [--cache-dir DIR] [--sysroot DIR]" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    --json) json=yes ;;
    --cache-dir | --sysroot)
      [ $# -ge 2 ] || usage "$1 needs a directory"
      if [ "$1" = --sysroot ]; then sysroot=${2%/}; else cache_dir=$2; fi
      shift
      ;;
    --cache-dir=*) cache_dir=${1#*=} ;;
    --sysroot=*) sysroot=${1#*=} ;;
    -h | --help)
      sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p;}' "$0"
      exit 0
      ;;
    *) usage "unknown argument '$1'" ;;
  esac
  shift
done
case $cache_dir in
  /*) ;;
  *) usage "the cache directory must be an absolute path, not '$cache_dir'" ;;
esac
[ -z "$sysroot" ] || [ -d "$sysroot/proc" ] || usage "there is no directory '$sysroot/proc'"

# --- how a check is told

json_items=''
escaped() { printf %s "$1" | sed 's/\\/\\\\/g; s/"/\\"/g' | tr '\n\t' '  '; }
# tell CHECK STATUS DETAIL [HINT]
tell() {
  if [ "$json" = yes ]; then
    json_items="$json_items${json_items:+,}
    {\"check\": \"$1\", \"status\": \"$2\", \"detail\": \"$(escaped "$3")\", \"hint\": \"$(escaped "${4:-}")\"}"
  else
    printf 'check=%s status=%s detail="%s" hint="%s"\n' "$1" "$2" "$(escaped "$3")" "$(escaped "${4:-}")"
  fi
}

# A driver's verdict: every reason against it and every remedy, in the order they were found.
begin_driver() {
  reasons=''
  remedies=''
  unsure=''
  notes=''
}
against() {
  reasons="$reasons${reasons:+; }$1"
  [ -z "${2:-}" ] || remedies="$remedies${remedies:+; }$2"
}
# Not known to be missing, not seen either.
not_seen() {
  unsure="$unsure${unsure:+; }$1"
  [ -z "${2:-}" ] || remedies="$remedies${remedies:+; }$2"
}
remark() {
  notes="$notes${notes:+; }$1"
  [ -z "${2:-}" ] || remedies="$remedies${remedies:+; }$2"
}
# end_driver NAME: tells it and sets verdict to yes or no. What cannot be seen is not promised.
end_driver() {
  verdict=no
  if [ -n "$reasons" ]; then
    tell "$1" fail "not possible: $reasons" "$remedies"
  elif [ -n "$unsure" ]; then
    tell "$1" warn "cannot be told: $unsure" "$remedies"
  else
    verdict=yes
    if [ -n "$notes" ]; then tell "$1" warn "possible: $notes" "$remedies"; else tell "$1" ok possible; fi
  fi
}

# --- what there is to see

release=$(cat "$sysroot/proc/sys/kernel/osrelease" 2>/dev/null) || release=''
[ -n "$release" ] || [ -n "$sysroot" ] || release=$(uname -r)
major=$(printf %s "$release" | sed -n 's/^\([0-9][0-9]*\)\.\([0-9][0-9]*\).*/\1/p')
minor=$(printf %s "$release" | sed -n 's/^\([0-9][0-9]*\)\.\([0-9][0-9]*\).*/\2/p')
version=$((${major:-0} * 1000 + ${minor:-0}))
before() { [ "$version" -lt $(($1 * 1000 + $2)) ]; }

config=''
config_from=''
if [ -r "$sysroot/proc/config.gz" ] && config=$(gzip -dc "$sysroot/proc/config.gz" 2>/dev/null); then
  config_from=/proc/config.gz
else
  for file in "/boot/config-$release" "/lib/modules/$release/config" "/usr/lib/modules/$release/config"; do
    if [ -r "$sysroot$file" ]; then
      config=$(cat "$sysroot$file")
      config_from=$file
      break
    fi
  done
fi
# Only the options asked for below: the whole text is 300 kB and would be searched a dozen times.
config=$(printf '%s\n' "$config" | grep -E '^CONFIG_(EROFS_FS|EROFS_FS_ONDEMAND|EROFS_FS_BACKED_BY_FILE|CACHEFILES|CACHEFILES_ONDEMAND|FANOTIFY|FANOTIFY_ACCESS_PERMISSIONS|FUSE_FS|FUSE_PASSTHROUGH|VIRTIO_FS|OVERLAY_FS)=')
# option NAME: y, m, n, or ? when the configuration cannot be read.
option() {
  if [ -z "$config_from" ]; then
    echo '?'
  else
    value=$(printf '%s\n' "$config" | sed -n "s/^CONFIG_$1=//p")
    echo "${value:-n}"
  fi
}

# Names of the kernel's functions: what is built in or loaded now, readable without root on most machines.
symbols=$(grep -E ' (cachefiles_ondemand_copen|cachefiles_ondemand_restore|erofs_fscache_register_fs|erofs_fileio_submit_bio|fsnotify_pre_content|do_sys_openat2)([[:space:]]|$)' "$sysroot/proc/kallsyms" 2>/dev/null |
  awk '{ print $3 }')
has_symbol() { printf '%s\n' "$symbols" | grep -qx "$1"; }
# Any kernel with a readable list has this one.
symbols_readable() { has_symbol do_sys_openat2; }

filesystems=$(awk '{ print $NF }' "$sysroot/proc/filesystems" 2>/dev/null)
has_filesystem() { printf '%s\n' "$filesystems" | grep -qx "$1"; }
has_misc() { awk '{ print $2 }' "$sysroot/proc/misc" 2>/dev/null | grep -qx "$1"; }

# needs OPTION SYMBOL WHY HINT: judges an option by the configuration, else by a function that it builds. An option
# that makes a module is told by the module's own check.
needs() {
  case $(option "$1") in
    y | m) ;;
    n) against "$3 (CONFIG_$1 is off)" "$4" ;;
    *)
      if has_symbol "$2"; then :; elif symbols_readable; then
        not_seen "neither the kernel configuration nor $2 in /proc/kallsyms is there to show CONFIG_$1" "$4"
      else
        not_seen "the kernel configuration cannot be read, so CONFIG_$1 is unknown" \
          "put the kernel's configuration at /boot/config-$release"
      fi
      ;;
  esac
}

# Privilege: bit 21 is CAP_SYS_ADMIN.
status_field() { sed -n "s/^$1:[[:space:]]*//p" "$sysroot/proc/self/status" 2>/dev/null; }
uid=$(status_field Uid | awk '{ print $2 }')
capabilities=$(status_field CapEff)
has_admin=no
case $(printf %s "$capabilities" | sed 's/.*\(.\).....$/\1/') in [2367aAbBeEfF]) has_admin=yes ;; esac
user_map=$(awk '{ print $1, $2, $3 }' "$sysroot/proc/self/uid_map" 2>/dev/null | head -n 1)

# The cache directory: its nearest existing parent, symbolic links resolved, and the last mount that covers it.
existing=$cache_dir
while [ "$existing" != / ] && [ ! -d "$sysroot$existing" ]; do existing=$(dirname -- "$existing"); done
[ -n "$sysroot" ] || existing=$(cd -P -- "$existing" 2>/dev/null && pwd -P) || existing=/
# Fields: mount options, type, super options.
mount_of=$(DIR=$existing awk '
  function plain(path) { gsub(/\\040/, " ", path); gsub(/\\011/, "\t", path); gsub(/\\134/, "\\", path); return path }
  {
    target = plain($5)
    prefix = target == "/" ? "/" : target "/"
    if (index(ENVIRON["DIR"] "/", prefix) != 1 || length(target) < longest) next
    longest = length(target)
    for (i = 7; i < NF; i++) if ($i == "-") found = $6 " " $(i + 1) " " $(i + 3)
  }
  END { print found }' "$sysroot/proc/self/mountinfo" 2>/dev/null)
fs_type=$(printf %s "$mount_of" | cut -d' ' -f2)
has_mount_option() {
  case ,$(printf %s "$mount_of" | cut -d' ' -f1),$(printf %s "$mount_of" | cut -d' ' -f3), in *,"$1",*) return 0 ;; esac
  return 1
}

# --- the ground that every driver stands on

if [ "$version" -gt 0 ]; then
  tell kernel ok "Linux $release"
else
  tell kernel warn 'the kernel version cannot be read' 'run this with /proc mounted'
fi
if [ -n "$config_from" ]; then
  tell config ok "configuration read from $config_from"
else
  tell config warn "no kernel configuration in /proc/config.gz or /boot/config-$release: judged by what is loaded" \
    "put the kernel's configuration at /boot/config-$release"
fi

privileged=yes
if [ "${uid:-0}" != 0 ]; then
  # The daemon will run as root: the answers below are for root.
  tell privilege warn "not run as root (uid $uid): judged as if it were; other privileges could not be seen" \
    'run it again as root, where the snapshotter will run'
elif [ "$has_admin" = no ]; then
  privileged=no
  tell privilege fail 'root without CAP_SYS_ADMIN: no file system can be mounted' \
    'run outside of the container, or give it CAP_SYS_ADMIN'
elif [ -n "$user_map" ] && [ "$user_map" != '0 0 4294967295' ]; then
  privileged=userns
  tell privilege fail 'root of a user namespace: cachefiles and fanotify want the first one' \
    'run outside of the user namespace'
elif [ "$(status_field Seccomp)" = 2 ]; then
  tell privilege warn 'CAP_SYS_ADMIN is there, but a seccomp filter may refuse mount, fanotify_init or bpf' \
    'run outside of the container, or with seccomp unconfined'
else
  tell privilege ok 'root with CAP_SYS_ADMIN'
fi

if [ -z "$mount_of" ]; then
  tell cache-dir warn "the mount of $existing cannot be seen in /proc/self/mountinfo" 'run this with /proc mounted'
elif has_mount_option ro; then
  tell cache-dir fail "$existing is on a read-only $fs_type" 'choose a writable --cache-dir'
else
  tell cache-dir ok "$existing is on $fs_type"
fi

overlay=yes
if has_filesystem overlay; then
  tell overlay ok 'overlayfs is there'
elif [ "$(option OVERLAY_FS)" = n ]; then
  overlay=no
  tell overlay fail 'this kernel has no overlayfs: no container can be started over an image' \
    'boot a kernel with CONFIG_OVERLAY_FS'
else
  tell overlay warn 'overlayfs is not loaded' 'modprobe overlay'
fi

# --- the drivers

common_needs() {
  case $privileged in
    no) against 'no CAP_SYS_ADMIN' 'run with CAP_SYS_ADMIN' ;;
    userns) [ "$1" = fuse ] || against 'not in the first user namespace' 'run outside of the user namespace' ;;
  esac
  [ "$overlay" = yes ] || against 'no overlayfs' 'boot a kernel with CONFIG_OVERLAY_FS'
}
erofs_needs() {
  if has_filesystem erofs; then :; else
    case $(option EROFS_FS) in
      y | m) remark 'the erofs module is not loaded' 'modprobe erofs' ;;
      n) against 'no EROFS (CONFIG_EROFS_FS is off)' 'boot a kernel with EROFS' ;;
      *) not_seen 'erofs is not in /proc/filesystems, a module may exist' 'modprobe erofs, then run this again' ;;
    esac
  fi
}
cache_needs() {
  [ -n "$mount_of" ] || not_seen 'the file system of the cache directory is unknown'
  ! has_mount_option ro || against "the cache directory is on a read-only $fs_type" 'choose a writable --cache-dir'
}

begin_driver
common_needs fscache
if before 5 19; then
  against "Linux $major.$minor is older than 5.19, the first with EROFS over fscache" 'boot a newer kernel'
elif ! before 7 2; then
  against "Linux $major.$minor has no EROFS over fscache any more (removed in 7.2)" 'use fanotify'
else
  erofs_needs
  rebuild='boot a kernel built with CONFIG_CACHEFILES_ONDEMAND=y and CONFIG_EROFS_FS_ONDEMAND=y (most distributions leave them off), or use another driver'
  if [ -n "$config_from" ] && { [ "$(option EROFS_FS_ONDEMAND)" = n ] || [ "$(option CACHEFILES_ONDEMAND)" = n ]; }; then
    against 'the kernel is built without on-demand mode (CONFIG_EROFS_FS_ONDEMAND or CONFIG_CACHEFILES_ONDEMAND is off)' "$rebuild"
  else
    needs CACHEFILES_ONDEMAND cachefiles_ondemand_copen 'no on-demand mode of cachefiles' "$rebuild"
    needs EROFS_FS_ONDEMAND erofs_fscache_register_fs 'no EROFS over fscache' "$rebuild"
    if ! has_misc cachefiles; then
      if [ -n "$config_from" ]; then
        remark 'the cachefiles module is not loaded' 'modprobe cachefiles'
      else
        not_seen 'cachefiles is not in /proc/misc, a module may exist' 'modprobe cachefiles, then run this again'
      fi
    elif [ ! -e "$sysroot/dev/cachefiles" ]; then
      against 'the kernel has cachefiles but there is no /dev/cachefiles here' \
        'give this container the device, or mknod it (major 10, minor as in /proc/misc)'
    fi
  fi
  cache_needs
  case $fs_type in
    ext4 | xfs | '') ;;
    btrfs) remark 'cachefiles on btrfs is little tried' 'prefer a cache directory on ext4 or xfs' ;;
    ext3 | ext2 | f2fs) remark "cachefiles on $fs_type is not tried" 'prefer a cache directory on ext4 or xfs' ;;
    *) against "cachefiles takes no cache directory on $fs_type (it wants temporary files, user attributes, direct I/O)" \
      'put the cache directory on ext4 or xfs (--cache-dir)' ;;
  esac
  ! has_mount_option nouser_xattr || against 'the cache directory is mounted with nouser_xattr' 'mount it without nouser_xattr'
  ! has_mount_option idmapped || against 'the cache directory is on an id-mapped mount' 'choose another --cache-dir'
  if before 6 8; then
    remark "Linux $major.$minor cannot hand requests to a restarted daemon (restore came with 6.8)" 'boot 6.8 or newer'
  elif ! before 7 1; then
    remark 'late 7.1 kernels may have it removed' 'use fanotify'
  fi
fi
end_driver fscache
fscache=$verdict

begin_driver
common_needs fanotify
if before 6 14; then
  against "Linux $major.$minor is older than 6.14, the first with pre-content events" 'boot 6.15 or newer'
else
  erofs_needs
  needs EROFS_FS_BACKED_BY_FILE erofs_fileio_submit_bio 'EROFS cannot mount a file' \
    'boot a kernel built with CONFIG_EROFS_FS_BACKED_BY_FILE=y'
  needs FANOTIFY_ACCESS_PERMISSIONS fsnotify_pre_content 'fanotify has no permission events' \
    'boot a kernel built with CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y'
  cache_needs
  case $fs_type in
    ext4 | xfs | btrfs | '') ;;
    *) against "$fs_type has no pre-content events" 'put the cache directory on ext4, xfs or btrfs (--cache-dir)' ;;
  esac
  ! before 6 15 || remark '6.14 is the first release with pre-content events' 'prefer 6.15 or newer'
fi
end_driver fanotify
fanotify=$verdict

# What the FUSE of this kernel offers a daemon. The protocol is the one that the release came with: the exact number is
# told to a daemon alone, and a distribution may have added to it.
if has_filesystem fuse; then
  fuse_state=available
else
  case $(option FUSE_FS) in
    y | m) fuse_state=unloaded ;;
    n) fuse_state=absent ;;
    *) fuse_state=unknown ;;
  esac
fi
protocol_minor=''
for known in 5.4:31 5.10:32 5.11:33 5.14:34 5.16:35 5.17:36 6.1:37 6.2:38 6.6:39 6.9:40 6.12:41 6.14:42 6.15:43 6.18:45; do
  known_release=${known%:*}
  before "${known_release%.*}" "${known_release#*.}" || protocol_minor=${known#*:}
done
fuse_resend=no
fuse_idmap=no
fuse_passthrough=no
before 6 9 || fuse_resend=yes
before 6 12 || fuse_idmap=yes
if before 6 9; then :; else
  case $(option FUSE_PASSTHROUGH) in
    y) fuse_passthrough=yes ;;
    '?') fuse_passthrough=unknown ;;
  esac
fi
fuse_device=no
[ ! -e "$sysroot/dev/fuse" ] || fuse_device=yes
case $fuse_state in
  available) fuse_detail='in the kernel' ;;
  unloaded) fuse_detail='a module that is not loaded' ;;
  absent) fuse_detail='not in this kernel' ;;
  unknown) fuse_detail='not loaded, a module may exist' ;;
esac
if [ "$fuse_state" = absent ]; then
  tell fuse fail "$fuse_detail" 'boot a kernel with CONFIG_FUSE_FS'
else
  fuse_detail="$fuse_detail; /dev/fuse: $fuse_device; protocol 7.${protocol_minor:-30 or older}${protocol_minor:+ or newer}"
  fuse_detail="$fuse_detail; resend after a daemon's death: $fuse_resend; id-mapped mounts: $fuse_idmap; passthrough: $fuse_passthrough"
  if [ "$fuse_state" = available ] && [ "$fuse_device" = yes ]; then tell fuse ok "$fuse_detail"; else
    tell fuse warn "$fuse_detail" 'see fusedev'
  fi
fi

begin_driver
common_needs fuse
case $fuse_state in
  available)
    [ "$fuse_device" = yes ] || against 'the kernel has FUSE but there is no /dev/fuse here' \
      'give this container the device, or: mknod /dev/fuse c 10 229'
    ;;
  unloaded) remark 'the fuse module is not loaded' 'modprobe fuse' ;;
  absent) against 'no FUSE (CONFIG_FUSE_FS is off)' 'boot a kernel with CONFIG_FUSE_FS' ;;
  unknown) not_seen 'fuse is not in /proc/filesystems, a module may exist' 'modprobe fuse, then run this again' ;;
esac
[ -n "$reasons" ] || [ "$fuse_resend" = yes ] || remark "Linux $major.$minor does not send requests again to a restarted daemon (came with 6.9)"
end_driver fusedev
fusedev=$verdict

# Served to a guest by a virtual machine monitor: of this kernel it needs nothing, of the guest's this. Not
# counted in the result.
begin_driver
if ! has_filesystem virtiofs; then
  case $(option VIRTIO_FS) in
    y | m) remark 'the virtiofs module is not loaded' 'modprobe virtiofs' ;;
    n) against 'as a guest, this kernel has no virtiofs (CONFIG_VIRTIO_FS is off)' 'only guests need it' ;;
    *) not_seen 'as a guest: virtiofs is not in /proc/filesystems' 'only guests need it; modprobe virtiofs' ;;
  esac
fi
end_driver virtiofs-guest

paths=''
[ "$fscache" = no ] || paths=fscache
[ "$fanotify" = no ] || paths="$paths${paths:+, }fanotify"
if [ -n "$paths" ]; then
  code=0
  tell result ok "the kernel can serve images: $paths"
elif [ "$fusedev" = yes ]; then
  code=4
  paths=fusedev
  tell result warn 'no kernel path; FUSE only' 'see the hints of fscache and fanotify'
else
  code=5
  tell result fail 'no way to serve an image lazily' 'see the hints of fscache, fanotify and fusedev'
fi
if [ "$json" = yes ]; then
  printf '{\n  "kernel": "%s",\n  "cacheDir": "%s",\n' "$(escaped "$release")" "$(escaped "$cache_dir")"
  boolean() {
    case $1 in
      yes) echo true ;;
      no) echo false ;;
      *) echo null ;;
    esac
  }
  printf '  "drivers": {"fscache": %s, "fanotify": %s, "fusedev": %s},\n' \
    "$(boolean "$fscache")" "$(boolean "$fanotify")" "$(boolean "$fusedev")"
  printf '  "fuse": {"state": "%s", "device": %s, "protocolMinor": %s, "resend": %s, "idmap": %s, "passthrough": %s},\n' \
    "$fuse_state" "$(boolean "$fuse_device")" "${protocol_minor:-null}" "$(boolean "$fuse_resend")" \
    "$(boolean "$fuse_idmap")" "$(boolean "$fuse_passthrough")"
  printf '  "exitCode": %s,\n  "checks": [%s\n  ]\n}\n' "$code" "$json_items"
fi
exit "$code"
