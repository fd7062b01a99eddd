import fc from 'fast-check'
import { type TarItem, gnuLongName, tarItem } from './tar-bytes.js'

const octal = (value: number): string => value.toString(8).padStart(11, '0')
const chain = fc.array(fc.constantFrom('d', 'e', 'lib'), { maxLength: 2 })
const leaf = fc.oneof(
  { weight: 9, arbitrary: fc.constantFrom('a', 'b', 'é', 'n'.repeat(70)) },
  fc.constant('d'),
)
const file = fc.tuple(chain, leaf).map(([parts, last]) => [...parts, last].join('/'))
const name = fc.oneof(
  { weight: 60, arbitrary: file },
  { weight: 10, arbitrary: file.map(text => `./${text}`) },
  { weight: 10, arbitrary: file.map(text => text.replaceAll('/', '//')) },
  { weight: 5, arbitrary: file.map(text => `${text}/`) },
  fc.constantFrom('.', './', '../x', '/abs', 'a/../b', ''),
)
const bytes = fc.uint8Array({ maxLength: 1300 }).map(body => Buffer.from(body))
const mostly = <T>(usual: fc.Arbitrary<T>, ...odd: T[]): fc.Arbitrary<T> =>
  fc.oneof({ weight: 40, arbitrary: usual }, fc.constantFrom(...odd))
const time = mostly(
  fc.constantFrom('0', '1', '1.5', '-1', '-1.25', '+7', '1700000000.123456789', '4294967296.1', '1.'),
  '.5',
  'x',
)
const id = fc.constantFrom(0, 1, 1000, 65_535, 2 ** 31, 2 ** 32 - 2)
const version = fc.constantFrom('ustar\u000000', 'ustar\u000000', 'ustar  \0', '\0\0\0\0\0\0\0\0')

/** GNU's sparse files; the second one's map stands before its data. */
const sparse = fc
  .record({ name: file, hole: fc.nat({ max: 9000 }), body: bytes, kind: fc.nat({ max: 3 }) })
  .map(({ name, hole, body, kind }): TarItem => {
    const size = hole + body.length + 100
    const head = { 'GNU.sparse.name': name, 'GNU.sparse.realsize': String(size), 'GNU.sparse.major': '1' }
    const old = { 'GNU.sparse.size': String(size), 'GNU.sparse.numblocks': '1' }
    const map = Buffer.from(`1\n${hole}\n${body.length}\n`.padEnd(512, '\0'))
    switch (kind) {
      case 0:
        return { name, body, pax: { ...old, 'GNU.sparse.map': `${hole},${body.length}` } }
      case 1:
        return { name: 'x', body: Buffer.concat([map, body]), pax: { ...head, 'GNU.sparse.minor': '0' } }
      case 2:
        return {
          name,
          body,
          pax: { ...old, 'GNU.sparse.offset': String(hole), 'GNU.sparse.numbytes': String(body.length) },
        }
      default:
        return { name, body, pax: { ...head, 'GNU.sparse.minor': '9' } }
    }
  })

const pax = fc.dictionary(
  fc.constantFrom(
    'path',
    'linkpath',
    'uid',
    'gid',
    'mtime',
    'size',
    'hdrcharset',
    'comment',
    'SCHILY.xattr.user.k',
  ),
  fc.constant(''),
  { maxKeys: 3 },
)
const paxValues = fc.record({
  path: name,
  linkpath: file,
  uid: mostly(fc.constantFrom('', '5', '70000', '4294967294'), '1e3'),
  gid: mostly(fc.constantFrom('', '6', '+6'), '0x6'),
  mtime: time,
  size: mostly(fc.constant(''), '0', '700', '-1'),
  hdrcharset: fc.constant('BINARY'),
  comment: fc.constantFrom('', 'x=y\n'),
  'SCHILY.xattr.user.k': fc.constantFrom('', 'v', 'a\0b\n', 'ÿ=').map(text => Buffer.from(text, 'latin1')),
})

const plain = fc
  .record({
    name,
    type: fc.oneof(
      { weight: 40, arbitrary: fc.constantFrom('0', '5') },
      { weight: 20, arbitrary: fc.constantFrom('\0', '1', '2', '3', '4', '6') },
      fc.constantFrom('g', '7', 'M'),
    ),
    linkname: fc.oneof(file, name),
    mode: fc.constantFrom(0o644, 0o755, 0o4755, 0o1777, 0),
    uid: id,
    gid: id,
    mtime: fc.constantFrom(0, 1, 1_600_000_000, 2 ** 31, 2 ** 33, -1, -100_000),
    body: fc.oneof(fc.constant(Buffer.alloc(0)), bytes),
    device: fc.constantFrom<[string, string]>(
      ['', ''],
      ['0000001', '0000003'],
      ['0000377', '0100000'],
      ['0', '0'],
    ),
    keys: fc.option(pax, { nil: {} }),
    values: paxValues,
    magic: version,
  })
  .map(({ keys, values, magic, ...item }): TarItem => {
    const records = Object.fromEntries(Object.entries(values).filter(([key]) => key in keys))
    const own = Object.keys(records).length > 0 ? { pax: records } : {}
    // What has no data may state a size all the same.
    const noData = '123456'.includes(item.type) ? { body: Buffer.alloc(0), size: item.body.length } : {}
    // containerd makes parents for the name of a global header, too.
    const global = item.type === 'g' ? { name: 'g', body: Buffer.from('9 uid=77\n') } : {}
    return {
      ...item,
      ...own,
      ...noData,
      ...global,
      patch: header => void header.fill(0, 257, 265).write(magic, 257, 'latin1'),
    }
  })

const item = fc.oneof(
  { weight: 60, arbitrary: plain.map(tarItem) },
  { weight: 5, arbitrary: sparse.map(tarItem) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(name, fc.constantFrom('L' as const, 'K' as const))
      .map(([text, type]) => gnuLongName(text, type)),
  },
  fc.constant(Buffer.alloc(512)),
)

/** Archives with and without their last blocks, cut, and damaged where it may not be noticed. */
export const tarArchive = fc
  .record({
    items: fc.array(item, { maxLength: 8 }),
    tail: fc.constantFrom(0, 512, 1024, 10_240),
    cut: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.nat({ max: 1100 })),
    junk: fc.oneof({ weight: 5, arbitrary: fc.constant('') }, fc.constant(octal(7))),
    flip: fc.oneof(
      { weight: 9, arbitrary: fc.constant(undefined) },
      fc.tuple(fc.nat(), fc.nat({ max: 255 })),
    ),
  })
  .map(({ items, tail, cut, junk, flip }) => {
    const whole = Buffer.concat([...items, Buffer.alloc(tail), Buffer.from(junk)])
    const bytes = whole.subarray(0, Math.max(0, whole.length - cut))
    if (flip && bytes.length > 0) bytes.writeUInt8(flip[1], flip[0] % bytes.length)
    return bytes
  })
