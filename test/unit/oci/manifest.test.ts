import fc from 'fast-check'
import t from 'tap'
import { Fault } from '../../../src/common/fault.js'
import { ANNOTATION } from '../../../src/oci/annotations.js'
import {
  type Index,
  isNydusManifest,
  type Manifest,
  parseImageConfig,
  parseManifest,
} from '../../../src/oci/manifest.js'
import { bareMediaType, layerCompression, MEDIA_TYPE } from '../../../src/oci/media-types.js'
import { hostPlatform, isNydusEntry, selectManifest } from '../../../src/oci/platform.js'

const SOURCE = 'r.io/app:v1'
const digest = (n: number): string => `sha256:${n.toString(16).padStart(64, '0')}`
const descriptor = (n: number, mediaType: string = MEDIA_TYPE.ociLayerGzip): Record<string, unknown> => ({
  mediaType,
  digest: digest(n),
  size: n,
})
const document = (layers: unknown[], extra: object = {}): Record<string, unknown> => ({
  schemaVersion: 2,
  mediaType: MEDIA_TYPE.ociManifest,
  config: descriptor(1, MEDIA_TYPE.ociConfig),
  layers,
  ...extra,
})
const encode = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const parse = (value: unknown, type: string = MEDIA_TYPE.ociManifest): Manifest | Index =>
  parseManifest(encode(value), type, SOURCE)

t.test('a manifest', async t => {
  const boot = { ...descriptor(3), annotations: { [ANNOTATION.nydusBootstrap]: 'true' } }
  const subject = descriptor(9, MEDIA_TYPE.ociManifest)
  const manifest = parse(document([descriptor(2, MEDIA_TYPE.nydusBlob), boot], { subject })) as Manifest
  t.equal(manifest.kind, 'manifest')
  t.same(
    manifest.layers.map(l => [l.digest, l.size]),
    [
      [digest(2), 2],
      [digest(3), 3],
    ],
  )
  t.equal(manifest.subject?.digest, digest(9))
  t.ok(isNydusManifest(manifest))
  t.notOk(isNydusManifest(parse(document([boot, descriptor(2)])) as Manifest), 'only the last layer tells')
  t.notOk(isNydusManifest(parse(document([])) as Manifest))
  const docker = { ...document([]), mediaType: undefined }
  t.equal(parse(docker, MEDIA_TYPE.dockerManifest).mediaType, MEDIA_TYPE.dockerManifest)
  t.equal((parse(document([]), 'application/json') as Manifest).kind, 'manifest', 'its own word counts')
})

t.test('manifests that are refused', async t => {
  const layers = (n: number): unknown[] => Array.from({ length: n }, (_, i) => descriptor(i))
  t.equal((parse(document(layers(1000))) as Manifest).layers.length, 1000)
  const cases: [string, unknown, RegExp][] = [
    ['too many layers', document(layers(10_000)), /has 10000 layers/],
    ['no object', [], /not a JSON object/],
    ['null', null, /not a JSON object/],
    ['no version', { ...document([]), schemaVersion: 3 }, /no schemaVersion 2/],
    ['no layers', { ...document([]), layers: {} }, /no list of layers/],
    ['no config', { ...document([]), config: null }, /no descriptor at config/],
    ['bad digest', document([{ ...descriptor(1), digest: 'sha256:../..' }]), /layers\[0\].digest/],
    ['bad size', document([{ ...descriptor(1), size: -1 }]), /layers\[0\].size/],
    ['unsafe size', document([{ ...descriptor(1), size: 2 ** 60 }]), /layers\[0\].size/],
    ['no type', document([{ ...descriptor(1), mediaType: '' }]), /layers\[0\]/],
    ['bad annotations', document([{ ...descriptor(1), annotations: { a: 1 } }]), /layers\[0\].annotations/],
    ['both kinds', document([], { manifests: [] }), /both layers and manifests/],
  ]
  for (const [name, value, message] of cases)
    t.throws(() => parse(value), { code: 'MANIFEST_INVALID', message }, name)
  const cut = encode(document([])).subarray(0, 50)
  t.throws(() => parseManifest(cut, MEDIA_TYPE.ociManifest, SOURCE), {
    code: 'MANIFEST_INVALID',
    message: /^r.io\/app:v1 \(application\/vnd.oci.image.manifest.v1\+json\) is not complete JSON/,
  })
  const big = Buffer.alloc((4 << 20) + 1, ' ')
  t.throws(() => parseManifest(big, MEDIA_TYPE.ociManifest, SOURCE), { message: /bytes long/ })
  t.throws(() => parse({ schemaVersion: 1 }), { code: 'MANIFEST_UNSUPPORTED', message: /schema 1/ })
  t.throws(() => parse({ ...document([]), mediaType: 'text/x' }), { code: 'MANIFEST_UNSUPPORTED' })
  const hostile = `{"schemaVersion":2,"mediaType":"${MEDIA_TYPE.ociManifest}","layers":[],"config":
    ${JSON.stringify(descriptor(1))},"annotations":{"__proto__":"x"}}`
  const parsed = parseManifest(Buffer.from(hostile), MEDIA_TYPE.ociManifest, SOURCE)
  t.same(Object.keys(parsed.annotations), ['__proto__'])
})

t.test('an index and its platforms', async t => {
  const entry = (n: number, platform: object | undefined, extra: object = {}): object => ({
    ...descriptor(n, MEDIA_TYPE.ociManifest),
    ...(platform === undefined ? {} : { platform }),
    ...extra,
  })
  const host = hostPlatform()
  const index = parse(
    {
      schemaVersion: 2,
      manifests: [
        entry(1, { os: 'windows', architecture: host.architecture }),
        entry(2, host),
        entry(3, host, { artifactType: MEDIA_TYPE.nydusManifest }),
        entry(4, { os: 'linux', architecture: 'arm', variant: 'v6' }),
        entry(5, {
          os: 'linux',
          architecture: 'arm',
          variant: 'v7',
          'os.features': ['nydus.remoteimage.v1'],
        }),
        entry(6, { os: 'unknown', architecture: 'unknown' }),
        entry(7, undefined),
      ],
    },
    MEDIA_TYPE.ociIndex,
  ) as Index
  t.equal(index.kind, 'index')
  t.equal(selectManifest(index, 'plain').digest, digest(2))
  t.equal(selectManifest(index, 'nydus').digest, digest(3))
  const arm = { os: 'linux', architecture: 'arm' }
  t.equal(selectManifest(index, 'plain', arm).digest, digest(4), 'the plain one, though another variant')
  t.equal(selectManifest(index, 'nydus', arm).digest, digest(5))
  t.equal(selectManifest(index, 'plain', { ...arm, variant: 'v7' }).digest, digest(5), 'better than none')
  t.ok(isNydusEntry(index.manifests[4]!))
  t.throws(() => selectManifest(index, 'plain', { os: 'linux', architecture: 's390x' }), {
    code: 'REGISTRY_NOT_FOUND',
    message: /no manifest for linux\/s390x, only for windows\//,
  })
  t.throws(() => parse({ schemaVersion: 2, manifests: {} }, MEDIA_TYPE.dockerList), {
    code: 'MANIFEST_INVALID',
  })
  t.throws(
    () =>
      parse(
        { schemaVersion: 2, manifests: Array.from({ length: 10_001 }, () => ({})) },
        MEDIA_TYPE.dockerList,
      ),
    { message: /lists 10001/ },
  )
})

t.test('image configs', async t => {
  const config = {
    os: 'linux',
    architecture: 'arm64',
    variant: 'v8',
    rootfs: { diff_ids: [digest(1)] },
    x: 1,
  }
  const parsed = parseImageConfig(encode(config), SOURCE)
  t.same(parsed, {
    os: 'linux',
    architecture: 'arm64',
    variant: 'v8',
    diffIds: [digest(1)],
    document: config,
  })
  for (const rootfs of [
    undefined,
    {},
    { diff_ids: 'x' },
    { diff_ids: ['x'] },
    { diff_ids: Array(1001).fill(digest(1)) },
  ])
    t.throws(() => parseImageConfig(encode({ rootfs }), SOURCE), { code: 'MANIFEST_INVALID' })
})

t.test('media types', async t => {
  t.equal(layerCompression(MEDIA_TYPE.ociLayer), 'none')
  t.equal(layerCompression(MEDIA_TYPE.dockerLayerGzip), 'gzip')
  t.equal(layerCompression(MEDIA_TYPE.ociLayerZstd), 'zstd')
  t.equal(layerCompression(MEDIA_TYPE.nydusBlob), undefined)
  t.equal(bareMediaType('Application/JSON; charset=utf-8'), 'application/json')
  t.equal(bareMediaType(undefined), '')
})

t.test('whatever a registry sends is a manifest or a fault', async () => {
  const leaf = fc.oneof(
    fc.constantFrom(digest(1), MEDIA_TYPE.ociManifest, '', 0, 2, -1, null, true),
    fc.jsonValue(),
  )
  const field = fc.constantFrom(
    'schemaVersion',
    'mediaType',
    'config',
    'layers',
    'manifests',
    'digest',
    'size',
    'annotations',
    'platform',
    'os.features',
  )
  const { tree } = fc.letrec<{ tree: unknown }>(tie => ({
    tree: fc.oneof(
      { maxDepth: 4 },
      leaf,
      fc.dictionary(field, tie('tree'), { maxKeys: 6 }),
      fc.array(tie('tree'), { maxLength: 3 }),
      fc.dictionary(field, tie('tree'), { maxKeys: 4 }).map(extra => ({ ...document([]), ...extra })),
    ),
  }))
  const types = fc.constantFrom(
    MEDIA_TYPE.ociManifest,
    MEDIA_TYPE.ociIndex,
    MEDIA_TYPE.dockerList,
    'application/json',
  )
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 100 }),
    tree.map(value => encode(value)),
  )
  const harmless = (run: () => unknown): void => {
    try {
      run()
    } catch (err) {
      if (!(err instanceof Fault) || err.kind === 'internal') throw err
    }
  }
  fc.assert(
    fc.property(bytes, types, (input, type) => {
      harmless(() => parseManifest(input, type, SOURCE))
      harmless(() => parseImageConfig(input, SOURCE))
    }),
    { numRuns: 2000 },
  )
})
