import t from 'tap'
import { describeBlobs } from '../../../src/cache/image-blobs.js'
import { MemorySource } from '../../../src/common/byte-source.js'
import { encodeImage } from '../../../src/erofs/encode-image.js'
import type { InodeReader } from '../../../src/erofs/inode-reader.js'
import { openInodeReader } from '../../../src/erofs/open-inode-reader.js'
import { fuzz, mutate, mutations, onlyFaults } from '../../helpers/fuzz.js'
import { directory, newBlob, newChunk, regular } from '../../helpers/made-tree.js'

const blob = newBlob('f', { features: 0x40000001 })
const file = (pieces: number): ReturnType<typeof regular> =>
  regular(Array.from({ length: pieces }, (_, i) => newChunk(blob, i, i === pieces - 1 ? 100 : 4096)))
const linked = file(1)
const plain = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 1, mtimeNsec: 2 }
const root = directory({
  big: directory(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`entry-${i}`, regular()]))),
  a: directory({ b: directory({ deep: file(9) }), linked }),
  linked,
  link: { ...plain, type: 'symlink', target: Buffer.from('a/b') },
  device: { ...plain, type: 'charDevice', major: 1, minor: 3 },
  attributes: regular([], { xattrs: new Map([['user.name', Buffer.from('value')]]) }),
})

/** What a server does with whatever a kernel asks: any call with any number, a walk from the root, odd places to go on. */
function useAll(reader: InodeReader): void {
  const { rootIno } = reader
  let entries = 0
  const seen = new Set<number>()
  const inode = (ino: number): void => {
    onlyFaults(() => reader.attributes(ino))
    onlyFaults(() => reader.xattrs(ino))
    onlyFaults(() => reader.readLink(ino))
    onlyFaults(() => reader.parentOf(ino))
    onlyFaults(() => reader.lookup(ino, Buffer.from('entry-77')))
    onlyFaults(() => {
      for (const { length, fileOffset, offset } of reader.extents(ino, 10, 20_000))
        if (!(length > 0 && offset >= 0 && fileOffset >= 10 && fileOffset + length <= 20_010))
          throw new Error(`extent ${fileOffset}+${length} at ${offset}`)
    })
  }
  const walk = (ino: number): void =>
    onlyFaults(() =>
      reader.readDirectory(ino, 0, (bytes, start, end, child, type, next) => {
        if (end - start < 1 || end - start > 255 || end > bytes.length || next <= 0)
          throw new Error('no entry')
        if (entries++ > 2000) return false
        if (entries < 60) inode(child)
        if (type === 'directory' && !seen.has(child)) {
          seen.add(child)
          walk(child)
        }
        return true
      }),
    )
  walk(rootIno)
  for (const ino of [0, 1, 2, 3, rootIno, rootIno + 1, 2 ** 31, 2 ** 40]) inode(ino)
  for (const from of [1, 11, 4095, 4097, 2 ** 33, 2 ** 53])
    onlyFaults(() => reader.readDirectory(rootIno, from, () => ++entries < 3000))
  onlyFaults(() => reader.prefetchInos())
}

for (const version of [6, 5] as const) {
  const image = encodeImage({
    version,
    chunkSize: 4096,
    compressor: 'none',
    digester: 'sha256',
    explicitOwners: true,
    root,
    prefetch: [root],
  })
  const bytes = Buffer.from(image.bytes)
  const hot = Array.from({ length: 6000 }, (_, i) => (i < 200 ? i : bytes.length - 6000 + i)).concat(
    Array.from({ length: 400 }, (_, i) => 1024 + i),
  )
  const input = mutations(
    bytes.length,
    hot.filter(at => at >= 0),
  )

  t.test(`v${version}: the image itself`, async t => {
    const reader = openInodeReader(new MemorySource(bytes))
    const a = reader.lookup(reader.rootIno, Buffer.from('a')) ?? -1
    t.equal(reader.lookup(a, Buffer.from('linked')), reader.lookup(reader.rootIno, Buffer.from('linked')))
    useAll(reader)
  })
  t.test(`v${version}: damaged images`, async t => {
    fuzz(
      t,
      input,
      mutation => onlyFaults(() => useAll(openInodeReader(new MemorySource(mutate(bytes, mutation))))),
      4000,
    )
  })
}

t.test('v5: chunk records', async t => {
  const { bytes } = encodeImage({
    version: 5,
    chunkSize: 4096,
    compressor: 'none',
    digester: 'sha256',
    explicitOwners: true,
    root: directory({ file: file(40), other: file(3) }),
    prefetch: [],
  })
  const input = mutations(
    bytes.length,
    Array.from({ length: bytes.length - 8192 }, (_, i) => 8192 + i),
  )
  const cases: Uint8Array[] = []
  fuzz(t, input, mutation => void (cases.length < 400 && cases.push(mutate(bytes, mutation))), 500)
  let sound = 0
  for (const damaged of cases) {
    const loaded = await Promise.all(
      blobsOf(damaged).map(({ layoutSource }) =>
        layoutSource({} as never)
          .load()
          .catch(rethrowErrors),
      ),
    )
    for (const layout of loaded) {
      if (layout === undefined) continue
      sound++
      let end = 0
      for (let chunk = 0; chunk < Math.min(layout.chunkCount, 1000); chunk++) {
        const { offset, length } = layout.chunkRange(chunk)
        if (offset < end || offset + length > layout.uncompressedSize) t.fail(`chunk ${chunk} at ${offset}`)
        end = offset + length
      }
    }
  }
  t.ok(sound > 20 && sound < cases.length, `${sound} of ${cases.length} were loaded`)
})

function blobsOf(bytes: Uint8Array): ReturnType<typeof describeBlobs> {
  let blobs: ReturnType<typeof describeBlobs> = []
  onlyFaults(() => (blobs = describeBlobs(new MemorySource(bytes))))
  return blobs
}

function rethrowErrors(err: unknown): undefined {
  onlyFaults(() => {
    throw err
  })
}
