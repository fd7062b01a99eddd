#!/bin/sh
# The product's main job in a kernel that can do it through /dev/cachefiles alone: an image converted by our
# nydusify is pulled and run, and every file in it reads as in its source and as overlayfs gives it.
# timeout: 1500
. "$(dirname "$0")/../lib.sh"

# What the container does: a digest of every file of the image.
digests='cd / && find bin data -type f | sort | xargs sha256sum'

prepare() {
  need_commands node containerd ctr runc docker-registry skopeo umoci busybox
  # Two layers of real files, 30 MB: the second one adds, changes and removes some of the first.
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

  mkdir "$DATA/registry"
  start_registry "$DATA/registry" "$DATA/registry.log"
  skopeo copy --dest-tls-verify=false "oci:$DATA/oci:app" "docker://$REGISTRY/app:oci"
  node dist/src/bin/nydusify.js convert --source "$REGISTRY/app:oci" --target "$REGISTRY/app:nydus"
  skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/app:nydus"
  stop_registry
}

run() {
  trace_start
  start_registry "$DATA/registry" "$STATE/registry.log" 5000 readonly
  start_containerd
  start_snapshotter

  ctr image pull --plain-http "$REGISTRY/app:oci" >&2
  ctr run --rm "$REGISTRY/app:oci" plain /bin/sh -c "$digests" >"$STATE/plain"
  cmp "$STATE/plain" "$DATA/expected" || die 'overlayfs gives other files than the source has'
  [ "$(traced read)" -eq 0 ] || die 'the plain image was read through /dev/cachefiles'

  ctr_remote image rpull --plain-http "$REGISTRY/app:nydus" >&2
  # One that stays, so that the mount is there to be looked at.
  ctr run -d --snapshotter=nydus "$REGISTRY/app:nydus" holder /bin/sh -c 'sleep 100000'
  ctr run --rm --snapshotter=nydus "$REGISTRY/app:nydus" lazy /bin/sh -c "$digests" >"$STATE/lazy"
  show_reads
  cmp "$STATE/lazy" "$STATE/plain" || die 'the output differs from that on overlayfs'
  cmp "$STATE/lazy" "$DATA/expected" || die 'files differ from their source'
  note "$(wc -l <"$STATE/lazy") files: sha256 equal to the source, output equal to overlayfs's"

  # The last one out unmounts.
  ctr task kill --signal KILL holder
  wait_for 20 'the container ended' sh -c 'ctr task ls | grep -q "holder.*STOPPED"'
  ctr task rm holder || true
  ctr container rm holder
  ctr image rm --sync "$REGISTRY/app:nydus" >&2
  wait_for 60 'the image unmounted' sh -c '! grep -q fsid= /proc/mounts'
}

case_main "$@"
