import t from 'tap'
import type { SparseExtent } from '../../../../src/image/tar/sparse.js'
import { readTar } from '../../../../src/image/tar/tar-reader.js'
import { isHole } from '../../../../src/image/tar/zeros.js'
import { readAll } from '../../../helpers/read-archive.js'
import { type TarItem, paxRecords, pieces, tarBytes, tarItem } from '../../../helpers/tar-bytes.js'

const octal = (value: number): string => value.toString(8).padStart(11, '0')

/** GNU's old format: four extents in the header, 21 in each block behind it. */
function oldSparse(name: string, size: number, extents: SparseExtent[], data: Buffer): TarItem {
  const write = (block: Buffer, at: number, own: SparseExtent[], room: number, more: boolean): void => {
    for (const [i, { offset, length }] of own.slice(0, room).entries())
      block.write(`${octal(offset)}\0${octal(length)}`, at + 24 * i, 'latin1')
    block.writeUInt8(more ? 1 : 0, at + 24 * room)
  }
  const blocks: Buffer[] = []
  for (let i = 4; i < extents.length; i += 21) {
    const block = Buffer.alloc(512)
    write(block, 0, extents.slice(i), 21, extents.length > i + 21)
    blocks.push(block)
  }
  return {
    name,
    type: 'S',
    body: data,
    extension: Buffer.concat(blocks),
    patch: header => {
      header.write('ustar  \0', 257, 'latin1')
      write(header, 386, extents, 4, extents.length > 4)
      header.write(octal(size), 483)
    },
  }
}

const flat = (extents: SparseExtent[]): number[] => extents.flatMap(({ offset, length }) => [offset, length])

/** GNU's formats in PAX records. */
function sparse00(name: string, size: number, extents: SparseExtent[], data: Buffer): Buffer {
  const records = extents.flatMap(({ offset, length }) => [
    paxRecords({ 'GNU.sparse.offset': String(offset) }),
    paxRecords({ 'GNU.sparse.numbytes': String(length) }),
  ])
  const head = paxRecords({ 'GNU.sparse.size': String(size), 'GNU.sparse.numblocks': String(extents.length) })
  const x = tarItem({ name: 'x', type: 'x', body: Buffer.concat([head, ...records]) })
  return Buffer.concat([x, tarItem({ name, body: data })])
}

function sparse01(name: string, size: number, extents: SparseExtent[], data: Buffer): TarItem {
  const pax = {
    'GNU.sparse.major': '0',
    'GNU.sparse.minor': '1',
    'GNU.sparse.name': name,
    'GNU.sparse.size': String(size),
    'GNU.sparse.numblocks': String(extents.length),
    'GNU.sparse.map': flat(extents).join(','),
  }
  return { name: 'GNUSparseFile.0/f', pax, body: data }
}

function sparse10(name: string, size: number, extents: SparseExtent[], data: Buffer): TarItem {
  const pax = {
    'GNU.sparse.major': '1',
    'GNU.sparse.minor': '0',
    'GNU.sparse.name': name,
    'GNU.sparse.realsize': String(size),
  }
  const map = Buffer.from([extents.length, ...flat(extents)].map(value => `${value}\n`).join(''))
  const padding = Buffer.alloc((512 - (map.length % 512)) % 512)
  return { name: 'GNUSparseFile.0/f', pax, body: Buffer.concat([map, padding, data]) }
}

const forms = {
  old: (...args: Parameters<typeof oldSparse>) => tarItem(oldSparse(...args)),
  '0.0': sparse00,
  '0.1': (...args: Parameters<typeof oldSparse>) => tarItem(sparse01(...args)),
  '1.0': (...args: Parameters<typeof oldSparse>) => tarItem(sparse10(...args)),
}

const shapes: Record<string, { size: number; extents: SparseExtent[] }> = {
  'hole at both ends': { size: 100_000, extents: [{ offset: 4096, length: 1000 }] },
  'data at both ends': {
    size: 20_000,
    extents: [
      { offset: 0, length: 512 },
      { offset: 8192, length: 0 },
      { offset: 19_000, length: 1000 },
    ],
  },
  'no data': { size: 50_000, extents: [] },
  'no hole': { size: 700, extents: [{ offset: 0, length: 700 }] },
  'many extents': {
    size: 1_000_000,
    extents: Array.from({ length: 90 }, (_, i) => ({ offset: 10_000 * i + 7, length: 33 + i })),
  },
}

for (const [form, item] of Object.entries(forms))
  t.test(`sparse files of form ${form}`, async t => {
    for (const [shape, { size, extents }] of Object.entries(shapes)) {
      // Without an extent there is nothing in these records that would make it a sparse file.
      if (form === '0.0' && extents.length === 0) continue
      const want = Buffer.alloc(size)
      for (const { offset, length } of extents) want.fill(shape, offset, offset + length)
      const data = Buffer.concat(extents.map(({ offset, length }) => want.subarray(offset, offset + length)))
      const archive = Buffer.concat([item('f', size, extents, data), tarBytes([{ name: 'next' }])])
      for (const pieceSize of [300, 512, 1 << 20]) {
        const [file, next] = await readAll(archive, pieceSize)
        t.match(file?.entry, { type: 'regular', name: 'f', sizeBytes: size }, shape)
        t.equal(Buffer.compare(file?.body ?? Buffer.alloc(0), want), 0, `${shape} in pieces of ${pieceSize}`)
        t.equal(next?.entry.name, 'next')
      }
    }
    const bad: Record<string, [number, SparseExtent[], number]> = {
      'beyond the size': [1000, [{ offset: 900, length: 200 }], 200],
      overlapping: [
        1000,
        [
          { offset: 0, length: 200 },
          { offset: 100, length: 200 },
        ],
        400,
      ],
      'too little data': [1000, [{ offset: 0, length: 200 }], 100],
      'too much data': [1000, [{ offset: 0, length: 200 }], 300],
    }
    for (const [name, [size, extents, stored]] of Object.entries(bad)) {
      const archive = Buffer.concat([
        item('evil', size, extents, Buffer.alloc(stored, 1)),
        Buffer.alloc(1024),
      ])
      await t.rejects(readAll(archive), { code: 'TAR_INVALID', message: /"evil".*sparse/ }, name)
    }
  })

t.test('maps that lie', async t => {
  const refuse = (item: TarItem, message: RegExp): Promise<unknown> =>
    t.rejects(readAll(tarBytes([item])), { code: 'TAR_INVALID', message })
  const extents = [{ offset: 0, length: 5 }]
  const body = Buffer.from('hello')
  const item = sparse01('f', 100, extents, body)
  await refuse({ ...item, pax: { ...item.pax, 'GNU.sparse.numblocks': '7' } }, /as long as it says/)
  await refuse({ ...item, pax: { ...item.pax, 'GNU.sparse.map': '0,x' } }, /does not fit/)
  await refuse({ ...item, pax: { ...item.pax, 'GNU.sparse.size': '-1' } }, /does not fit/)
  const odd = tarItem({ name: 'x', type: 'x', body: paxRecords({ 'GNU.sparse.numbytes': '3' }) })
  await t.rejects(readAll(Buffer.concat([odd, tarItem({ name: 'f' })])), { code: 'TAR_INVALID' })
  const head = sparse10('f', 100, extents, body)
  for (const [map, message] of [
    ['x\n', /no valid length/],
    ['99999\n1\n', /cut/],
    ['', /cut/],
  ] as const)
    await refuse(
      { ...head, body: Buffer.concat([Buffer.from(map), Buffer.alloc(512 - map.length)]) },
      message,
    )
  const long = Buffer.concat([Buffer.from('999999\n'), Buffer.alloc(2 << 20, '1\n')])
  await refuse({ ...head, body: long }, /too long/)
  const endless = Buffer.alloc(512)
  endless.writeUInt8(1, 504)
  const old = oldSparse('f', 100, extents, body)
  const continued = (header: Buffer): void => (old.patch?.(header), void header.writeUInt8(1, 482))
  await refuse({ ...old, patch: continued, extension: Buffer.concat(Array(2100).fill(endless)) }, /too long/)
  const cut = tarItem({ ...old, patch: continued })
  await t.rejects(readAll(cut.subarray(0, 512)), { code: 'TAR_INVALID', message: /"f" is cut/ })
})

t.test('holes come at no cost, and not without end', async t => {
  const size = 32 * 2 ** 30
  const archive = tarBytes([sparse01('huge', size, [{ offset: 2 ** 30 + 5, length: 3 }], Buffer.from('abc'))])
  let bytes = 0
  let data = ''
  for await (const entry of readTar(pieces(archive)))
    if (entry.type === 'regular')
      for await (const piece of entry.body) {
        bytes += piece.length
        if (!isHole(piece)) data += Buffer.from(piece).toString()
      }
  t.equal(bytes, size)
  t.equal(data, 'abc')
  const two = tarBytes([1, 2].map(i => sparse01(`huge${i}`, size, [], Buffer.alloc(0))))
  await t.rejects(
    async () => {
      for await (const { name } of readTar(pieces(two), { maxBytes: size + 1 })) t.equal(name, 'huge1')
    },
    { code: 'IMAGE_TOO_LARGE', message: /"huge2"/ },
  )
})
