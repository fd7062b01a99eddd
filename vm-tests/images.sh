# Images that several cases serve, sourced after lib.sh: how they are made on the host and compared in the guest.
# shellcheck shell=sh

# --- app: two layers of real files, 30 MB, converted by our nydusify; the second adds, changes and removes some of the
# first. In DATA: registry/ with app:oci and app:nydus, expected with a digest of every file.

# What a container does: a digest of every file of the image.
app_digests='cd / && find bin data -type f | sort | xargs sha256sum'

prepare_app() {
  need_commands node containerd ctr runc docker-registry skopeo umoci busybox
  mkdir -p "$DATA/first/bin" "$DATA/first/data" "$DATA/second/data/undici/new" "$DATA/second/data/pino" "$DATA/rootfs"
  cp "$(command -v busybox)" "$DATA/first/bin/busybox"
  for applet in sh cat find sort xargs sha256sum sleep; do ln -s busybox "$DATA/first/bin/$applet"; done
  for package in typescript undici pino; do cp -RL "$REPO/node_modules/$package" "$DATA/first/data/$package"; done
  head -c 3000000 /dev/urandom >"$DATA/second/data/undici/new/random"
  : >"$DATA/second/data/undici/new/empty"
  echo changed >"$DATA/second/data/undici/package.json"
  : >"$DATA/second/data/pino/.wh.README.md"
  umoci init --layout "$DATA/oci"
  umoci new --image "$DATA/oci:app"
  add_layers "$DATA/oci:app" "$DATA/first" "$DATA/second"

  umoci raw unpack --image "$DATA/oci:app" "$DATA/rootfs"
  (cd "$DATA/rootfs" && busybox sh -c 'find bin data -type f | sort | xargs sha256sum') >"$DATA/expected"
  grep -q '  data/undici/new/random$' "$DATA/expected" || die 'the second layer is not there'
  ! grep -q '  data/pino/README.md$' "$DATA/expected" || die 'the second layer removed nothing'
  [ "$(wc -l <"$DATA/expected")" -gt 300 ] || die 'the image holds too few files'
  convert_app
}

# convert_app: the image at DATA/oci:app into DATA/registry, with $convert_options.
convert_options=''
convert_app() {
  mkdir "$DATA/registry"
  start_registry "$DATA/registry" "$DATA/registry.log"
  skopeo copy --dest-tls-verify=false "oci:$DATA/oci:app" "docker://$REGISTRY/app:oci"
  # shellcheck disable=SC2086 # several words, or none
  node dist/src/bin/nydusify.js convert --source "$REGISTRY/app:oci" --target "$REGISTRY/app:nydus" $convert_options
  skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/app:nydus"
  stop_registry
}

# run_app_plain: the image as it was, on overlayfs; the digests stay in STATE/plain.
run_app_plain() {
  ctr image pull --plain-http "$REGISTRY/app:oci" >&2
  ctr run --rm "$REGISTRY/app:oci" plain /bin/sh -c "$app_digests" >"$STATE/plain"
  cmp "$STATE/plain" "$DATA/expected" || die 'overlayfs gives other files than the source has'
}

# run_app_lazily: the converted one, first a container that stays, so that the mount is there to be looked at.
run_app_lazily() {
  ctr_remote image rpull --plain-http "$REGISTRY/app:nydus" >&2
  ctr run -d --snapshotter=nydus "$REGISTRY/app:nydus" holder /bin/sh -c 'sleep 100000'
  ctr run --rm --snapshotter=nydus "$REGISTRY/app:nydus" lazy /bin/sh -c "$app_digests" >"$STATE/lazy"
}
check_app() {
  cmp "$STATE/lazy" "$STATE/plain" || die 'the output differs from that on overlayfs'
  cmp "$STATE/lazy" "$DATA/expected" || die 'files differ from their source'
  note "$(wc -l <"$STATE/lazy") files: sha256 equal to the source, output equal to overlayfs's"
}

# remove_app: container and image go.
remove_app() {
  ctr task kill --signal KILL holder
  wait_for 20 'the container ended' sh -c 'ctr task ls | grep -q "holder.*STOPPED"'
  ctr task rm holder || true
  ctr container rm holder
  ctr image rm --sync "$REGISTRY/app:nydus" >&2
}

# --- two files of $held_bytes random bytes each, from a registry that can be made to hold its answers back.

held_bytes=8000000
prepare_held() {
  need_commands node containerd ctr runc docker-registry skopeo umoci busybox
  mkdir -p "$DATA/rootfs/bin" "$DATA/rootfs/data"
  cp "$(command -v busybox)" "$DATA/rootfs/bin/busybox"
  for applet in sh sleep sha256sum ls; do ln -s busybox "$DATA/rootfs/bin/$applet"; done
  for name in first second; do head -c "$held_bytes" /dev/urandom >"$DATA/rootfs/data/$name"; done
  umoci init --layout "$DATA/oci"
  umoci new --image "$DATA/oci:app"
  add_layers "$DATA/oci:app" "$DATA/rootfs"
  convert_app
}

# start_held: registry, containerd, snapshotter and a container `holder` of the image. hold and release_held say whether the
# registry answers.
start_held() {
  start_registry "$DATA/registry" "$STATE/registry.log" 5001 readonly
  mkdir "$STATE/hold"
  node "$REPO/vm-tests/hold-proxy.js" 5000 5001 "$STATE/hold/on" >"$STATE/proxy.log" 2>&1 &
  cleanup_pids="$cleanup_pids $!"
  wait_for 30 'the proxy listening' grep -q listening "$STATE/proxy.log"
  image=127.0.0.1:5000/app:nydus
  start_containerd
  start_snapshotter
  ctr_remote image rpull --plain-http "$image" >&2
  ctr run -d --snapshotter=nydus "$image" holder /bin/sleep 100000
}
hold() { touch "$STATE/hold/on"; }
release_held() { rm "$STATE/hold/on"; }

# read_in_container ID NAME: its sha256, as the container sees it.
read_in_container() { ctr task exec --exec-id "$1" holder /bin/sha256sum "/data/$2" | cut -d' ' -f1; }
expected() { sha256sum "$DATA/rootfs/data/$1" | cut -d' ' -f1; }

# read_over_a_kill: the daemon is killed while a reader waits for it; the reader gets its bytes of the next.
read_over_a_kill() {
  hold
  read_in_container reader first >"$STATE/first" &
  reader=$!
  wait_for 60 'the read reaching the registry' grep -q ^held "$STATE/proxy.log"
  note "$(grep -c ^held "$STATE/proxy.log") requests held back, the reader waits"
  kill_daemon
  kill -0 "$reader" || die "the reader did not wait: $(cat "$STATE/first")"
  release_held
  wait "$reader" || die 'the read failed'
  [ "$(cat "$STATE/first")" = "$(expected first)" ] || die 'the read gave wrong bytes'
  note 'daemon killed while a reader waited: right bytes'

  # What was never read is served on by the new one.
  [ "$(read_in_container again second)" = "$(expected second)" ] || die 'a later read gave wrong bytes'
  note 'a later read: right bytes'
}

# --- torture: images made by other tools, full of awkward files. In DATA: registry/ and, for each tag, the name of the
# snapshot that holds all its layers.

# prepare_torture TAG...
prepare_torture() {
  fixtures=${NYDUS_FIXTURES:-$REPO/../shared/fixtures}
  [ -d "$fixtures/oci-layout" ] || skip "the fixture images are not at $fixtures (NYDUS_FIXTURES names another place)"
  need_commands node containerd ctr docker-registry skopeo python3
  mkdir "$DATA/registry"
  start_registry "$DATA/registry" "$DATA/registry.log"
  for tag; do
    skopeo copy --dest-tls-verify=false "oci:$fixtures/oci-layout:$tag" "docker://$REGISTRY/torture:$tag"
    skopeo inspect --config --raw --tls-verify=false "docker://$REGISTRY/torture:$tag" | chain_id >"$DATA/$tag.chain"
  done
  stop_registry
  cp "$fixtures/check_tree.py" "$fixtures/torture/expected.jsonl" "$DATA/"
}

# Reads an image's configuration: the name of the snapshot that holds all its layers.
chain_id() {
  python3 -c '
import hashlib, json, sys
chain = None
for diff in json.load(sys.stdin)["rootfs"]["diff_ids"]:
    chain = diff if chain is None else "sha256:" + hashlib.sha256(f"{chain} {diff}".encode()).hexdigest()
print(chain)'
}

# By hand, since `ctr image mount` unpacks layers that a remote snapshotter does not have. Not a view: ctr gives it
# no label, and containerd's garbage collector takes it at once.
mount_image() {
  mkdir -p "$STATE/mnt-$1"
  ctr snapshots --snapshotter nydus prepare "work-$1" "$(cat "$DATA/$1.chain")"
  ctr snapshots --snapshotter nydus mounts "$STATE/mnt-$1" "work-$1" >"$STATE/mount.sh"
  sh -x "$STATE/mount.sh"
}
unmount_image() {
  umount "$STATE/mnt-$1"
  ctr snapshots --snapshotter nydus rm "work-$1"
}

check_tree() {
  python3 "$DATA/check_tree.py" "$1" "$DATA/expected.jsonl" >"$STATE/check" 2>&1 || true
  cat "$STATE/check" >&2
  verdict=$(tail -n 1 "$STATE/check")
  note "$2: $verdict"
  [ "$verdict" = '1684 entries, 0 differences' ] || die "$2: $verdict"
}

# check_torture_cold TAG...: each pulled and mounted, every entry compared.
check_torture_cold() {
  for tag; do
    ctr_remote image rpull --plain-http "$REGISTRY/torture:$tag" >&2
    mount_image "$tag"
    drop_caches
    check_tree "$STATE/mnt-$tag" "$tag cold"
  done
}

# check_torture_over_a_kill TAG...: the same mounts after the daemon was killed, with the registry gone.
check_torture_over_a_kill() {
  stop_registry
  kill_daemon
  for tag; do
    drop_caches
    check_tree "$STATE/mnt-$tag" "$tag, daemon killed, registry stopped"
  done
}

# check_torture_anew TYPE TAG...: as after a reboot. No process, no mount of that type (a pattern of /proc/mounts), and
# nobody to ask; the chunk cache is all there is.
check_torture_anew() {
  mounts=$1
  shift
  for tag; do unmount_image "$tag"; done
  kill -9 "$snapshotter_pid"
  for pid in $(nydusd_pids); do kill -9 "$pid"; done
  grep "$mounts" /proc/mounts | cut -d' ' -f2 | while read -r target; do umount "$target"; done
  rm "$SNAPSHOTTER_ADDRESS"
  start_snapshotter
  # containerd waits before it dials again.
  wait_for 120 'containerd reaching the snapshotter' ctr snapshots --snapshotter nydus ls
  for tag; do
    mount_image "$tag"
    drop_caches
    check_tree "$STATE/mnt-$tag" "$tag, everything restarted, registry stopped"
    unmount_image "$tag"
  done
}
