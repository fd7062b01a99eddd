import t from 'tap'
import { createHash } from 'node:crypto'
import { chainIds, configLabels, manifestLabels, snapshotLabels } from '../../../src/containerd/labels.js'

const digest = (n: number): string => `sha256:${createHash('sha256').update(String(n)).digest('hex')}`
const layer = (n: number, annotations: Record<string, string> = {}) => ({
  mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
  digest: digest(n),
  size: n,
  annotations,
})

t.test('a chain id hashes the chain below it and the diff id', t => {
  // An image of two known layers, as containerd names its snapshots.
  const base = 'sha256:0000000000000000000000000000000000000000000000000000000000000000'
  const next = 'sha256:1111111111111111111111111111111111111111111111111111111111111111'
  t.same(chainIds([]), [])
  t.same(chainIds([base, next]), [
    base,
    `sha256:${createHash('sha256').update(`${base} ${next}`).digest('hex')}`,
  ])
  t.end()
})

t.test('a layer is named to the snapshotter with its own annotations and no others', t => {
  const layers = [
    layer(1, { 'containerd.io/snapshot/nydus-blob': 'true', 'org.example/note': 'kept away' }),
    layer(2),
  ]
  const image = { reference: 'registry.example/app:1', manifestDigest: digest(9) }
  t.strictSame(snapshotLabels(image, layers, 0, digest(5)), {
    'containerd.io/snapshot/nydus-blob': 'true',
    'containerd.io/snapshot.ref': digest(5),
    'containerd.io/snapshot/cri.image-ref': 'registry.example/app:1',
    'containerd.io/snapshot/cri.manifest-digest': digest(9),
    'containerd.io/snapshot/cri.layer-digest': digest(1),
    'containerd.io/snapshot/cri.image-layers': `${digest(1)},${digest(2)}`,
  })
  t.equal(
    snapshotLabels(image, layers, 1, digest(5))['containerd.io/snapshot/cri.image-layers'],
    digest(2),
    'layers below are not listed',
  )
  t.end()
})

t.test('the list of layers is cut to what a label may hold', t => {
  const layers = Array.from({ length: 200 }, (_, i) => layer(i))
  const key = 'containerd.io/snapshot/cri.image-layers'
  const value = snapshotLabels({ reference: 'r', manifestDigest: digest(0) }, layers, 3, digest(1))[key] ?? ''
  t.ok(key.length + value.length <= 4096, `${key.length + value.length} bytes`)
  t.ok(key.length + value.length + 72 > 4096, 'one more would not fit')
  t.same(
    value.split(','),
    layers.slice(3, 3 + value.split(',').length).map(one => one.digest),
    'whole digests',
  )
  t.end()
})

t.test('labels for the garbage collector', t => {
  t.strictSame(manifestLabels(layer(7), [layer(1), layer(2)]), {
    'containerd.io/gc.ref.content.config': digest(7),
    'containerd.io/gc.ref.content.l.0': digest(1),
    'containerd.io/gc.ref.content.l.1': digest(2),
  })
  t.strictSame(configLabels('nydus', digest(3)), { 'containerd.io/gc.ref.snapshot.nydus': digest(3) })
  t.strictSame(configLabels('nydus', undefined), {}, 'an image without layers has no snapshot')
  t.end()
})
