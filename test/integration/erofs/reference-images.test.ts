import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { gunzipSync } from 'node:zlib'
import { extract } from 'tar-stream'
import t from 'tap'
import type { DecodedChunk } from '../../../src/cache/layout.js'
import { RafsLayout } from '../../../src/cache/rafs-layout.js'
import { FileSource, MemorySource, type ByteSource } from '../../../src/common/byte-source.js'
import { parseMetaFile, parseStoredMeta, storedMetaRange } from '../../../src/erofs/blob-meta.js'
import { Bootstrap, type WalkEntry } from '../../../src/erofs/bootstrap.js'
import { deviceNumbers, type Inode } from '../../../src/erofs/inode.js'
import { extractBootstrap, readSections, readToc } from '../../../src/erofs/toc.js'
import {
  fixturesDirectory,
  rafsV6Images,
  readExpected,
  type ExpectedEntry,
} from '../../helpers/rafs-fixtures.js'

const fixtures = fixturesDirectory()
if (fixtures === undefined) {
  t.pass('no images of the reference tools at hand', { skip: 'fixtures are not part of the source tree' })
} else {
  const expected = readExpected(fixtures)

  for (const image of rafsV6Images(fixtures)) {
    t.test(image.name, async t => {
      const source = new FileSource(image.bootstrap)
      t.teardown(() => source.close())
      const bootstrap = Bootstrap.open(source)
      const checked = await checkTree(
        bootstrap,
        blobId => new FileSource(path.join(image.blobs, blobId)),
        expected,
      )
      t.same(checked.differences, [])
      t.equal(checked.entries, 1684)
      // The chunks of replaced files have no digest in a merged bootstrap: some, but few.
      t.ok(
        checked.unverifiable > 0 && checked.unverifiable < 10,
        `${checked.unverifiable} unverifiable chunks`,
      )
    })
  }

  for (const tag of ['nydus', 'lz4']) {
    t.test(`OCI image ${tag}`, async t => {
      const layout = path.join(fixtures, 'oci-layout')
      const layer = await readBootstrapLayer(layout, tag)
      const image = layer.get('image/image.boot')
      if (image === undefined) throw new Error('no bootstrap in the last layer')
      const bootstrap = Bootstrap.open(new MemorySource(image))
      const open = (blobId: string) => new FileSource(path.join(layout, 'blobs/sha256', blobId))
      const checked = await checkTree(bootstrap, open, expected)
      t.same(checked.differences, [])
      t.equal(checked.entries, 1684)
      for (const blob of bootstrap.blobs) {
        const file = layer.get(`image/${blob.blobId}.blob.meta`)
        if (file === undefined) continue
        const range = storedMetaRange(blob)
        if (tag === 'lz4') {
          // The reference converter cannot unpack lz4 metadata and writes the header alone.
          t.throws(() => parseMetaFile(blob, file), { code: 'BLOB_META_INVALID', message: /4096 bytes long/ })
          continue
        }
        const stored = parseStoredMeta(blob, open(blob.blobId).read(range.offset, range.length))
        t.same(
          columns(parseMetaFile(blob, file)),
          columns(stored),
          'the metadata file says what the blob says',
        )
      }
      t.ok(bootstrap.blobs.some(blob => layer.has(`image/${blob.blobId}.blob.meta`)))
    })
  }

  t.test('blobs with a table of contents carry their own bootstrap', async t => {
    for (const name of ['v6-zstd-inline', 'v6-zstd-batch', 'v6-encrypt']) {
      const image = rafsV6Images(fixtures).find(image => image.name === name)
      if (image === undefined) throw new Error(name)
      const merged = Bootstrap.open(new FileSource(image.bootstrap))
      for (const blob of merged.blobs) {
        const source = new FileSource(path.join(image.blobs, blob.blobId))
        const sections = readSections(source)
        t.same(
          sections.map(section => section.name),
          ['image.blob', 'blob.meta', 'blob.digest', 'image.boot', 'rafs.blob.toc'],
        )
        t.equal(sections[1]?.offset, blob.ciOffset)
        t.equal(readToc(source)?.length, 5)
        const inlined = extractBootstrap(source)
        if (inlined === undefined) throw new Error('no bootstrap inside')
        const own = Bootstrap.open(new MemorySource(inlined))
        t.equal(own.blobs[0]?.chunkCount, blob.chunkCount)
        t.equal([...own.walk()].length, own.superblock.inos)
        source.close()
      }
    }
  })

  t.test('RAFS v5 is named, and its way out', async t => {
    for (const name of ['v5-lz4', 'v5-zstd-sha256']) {
      const source = new FileSource(path.join(fixtures, 'rafs', name, 'merged.boot'))
      t.throws(() => Bootstrap.open(source), { code: 'RAFS_UNSUPPORTED', message: /v5.*FUSE.*RAFS v6/ })
      source.close()
    }
  })

  t.test('zran can be walked; its data is refused by name', async t => {
    const layer = await readBootstrapLayer(path.join(fixtures, 'oci-layout'), 'zran')
    const bootstrap = Bootstrap.open(new MemorySource(layer.get('image/image.boot') ?? new Uint8Array(0)))
    t.equal([...bootstrap.walk()].length, 1685)
    for (const blob of bootstrap.blobs)
      t.throws(() => parseStoredMeta(blob, new Uint8Array(0)), { code: 'RAFS_UNSUPPORTED', message: /zran/ })
  })
}

interface Checked {
  entries: number
  unverifiable: number
  differences: string[]
}

/** Decodes and verifies all chunks, rebuilds all files, and compares every entry with what the source layers hold. */
async function checkTree(
  bootstrap: Bootstrap,
  open: (blobId: string) => FileSource,
  expected: ExpectedEntry[],
): Promise<Checked> {
  const spaces: Uint8Array[] = []
  let unverifiable = 0
  for (const blob of bootstrap.blobs) {
    const source = open(blob.blobId)
    const range = storedMetaRange(blob)
    const meta = parseStoredMeta(blob, source.read(range.offset, range.length))
    const layout = new RafsLayout(blob, meta, bootstrap.chunkDigests(blob.index), { validate: true })
    const space = new Uint8Array(layout.uncompressedSize)
    for await (const decoded of decodeAll(layout, source)) {
      if (layout.verifiable(decoded.chunk)) layout.verify(decoded)
      else unverifiable++
      space.set(decoded.bytes, decoded.offset)
    }
    spaces.push(space)
    source.close()
  }
  const differences: string[] = []
  const tree = new Map<string, WalkEntry>()
  for (const entry of bootstrap.walk()) if (entry.parent) tree.set(hex(entry.path()), entry)
  for (const want of expected) {
    const key = want.path_hex ?? hex(Buffer.from(want.path ?? ''))
    const entry = tree.get(key)
    tree.delete(key)
    const got = entry && describe(bootstrap, entry.inode, spaces)
    for (const [field, value] of Object.entries(want)) {
      if (field === 'path' || field === 'path_hex' || (field === 'mode' && want.type === 'l')) continue
      const found = got?.[field]
      if (JSON.stringify(sorted(found)) !== JSON.stringify(sorted(value)))
        differences.push(
          `${want.path ?? key} ${field}: want ${JSON.stringify(value)}, got ${JSON.stringify(found)}`,
        )
    }
    const more = Object.keys(got?.['xattrs'] ?? {}).length - Object.keys(want.xattrs ?? {}).length
    if (more > 0) differences.push(`${want.path ?? key} has ${more} xattrs too many`)
    const path = want.path_hex ? Buffer.from(want.path_hex, 'hex') : (want.path ?? '')
    if (bootstrap.lookup(path)?.nid !== entry?.inode.nid)
      differences.push(`${want.path ?? key} is not looked up`)
  }
  for (const entry of tree.values()) differences.push(`${Buffer.from(entry.path()).toString()} is too many`)
  return { entries: expected.length, unverifiable, differences }
}

async function* decodeAll(layout: RafsLayout, source: ByteSource): AsyncGenerator<DecodedChunk> {
  for (let chunk = 0; chunk < layout.chunkCount;) {
    const extent = layout.extentOf(chunk)
    yield* await layout.decode(extent, source.read(extent.storedOffset, extent.storedLength))
    chunk = extent.firstChunk + extent.chunkCount
  }
}

const LETTERS: Record<Inode['type'], string> = {
  regular: 'f',
  directory: 'd',
  symlink: 'l',
  charDevice: 'c',
  blockDevice: 'b',
  fifo: 'p',
  socket: 's',
}

function describe(bootstrap: Bootstrap, inode: Inode, spaces: Uint8Array[]): Record<string, unknown> {
  const { type, uid, gid, mtime } = inode
  const seen: Record<string, unknown> = {
    type: LETTERS[type],
    mode: (inode.mode & 0o7777).toString(8).padStart(4, '0'),
    uid,
    gid,
    mtime,
  }
  if (type === 'regular') {
    const hash = createHash('sha256')
    for (const chunk of bootstrap.fileChunks(inode)) {
      const start = chunk.uncompressedOffset
      hash.update(spaces[chunk.blobIndex]?.subarray(start, start + chunk.length) ?? '')
    }
    Object.assign(seen, { size: inode.size, nlink: inode.nlink, sha256: hash.digest('hex') })
  }
  if (type === 'symlink') seen['target'] = Buffer.from(bootstrap.readLink(inode)).toString()
  if (type === 'charDevice' || type === 'blockDevice') {
    const { major, minor } = deviceNumbers(inode)
    seen['rdev'] = [major, minor]
  }
  const xattrs = bootstrap
    .xattrs(inode)
    .map(({ name, value }) => [Buffer.from(name).toString(), hex(value)] as const)
  if (xattrs.length > 0) seen['xattrs'] = Object.fromEntries(xattrs)
  return seen
}

/** Objects compare without regard to the order of their keys. */
function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
}

function columns({ chunks }: ReturnType<typeof parseMetaFile>): number[][] {
  return Array.from({ length: chunks.count }, (_, chunk) => [
    chunks.offset(chunk),
    chunks.size(chunk),
    chunks.compressedOffset(chunk),
    chunks.compressedSize(chunk),
  ])
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

/** The files of the last layer of a tag in an OCI layout. */
async function readBootstrapLayer(layout: string, tag: string): Promise<Map<string, Uint8Array>> {
  const read = (digest: string) => readFileSync(path.join(layout, 'blobs', digest.replace(':', '/')))
  const index = JSON.parse(readFileSync(path.join(layout, 'index.json'), 'utf8')) as {
    manifests: { digest: string; annotations: Record<string, string> }[]
  }
  const found = index.manifests.find(m => m.annotations['org.opencontainers.image.ref.name'] === tag)
  const manifest = JSON.parse(read(found?.digest ?? '').toString()) as { layers: { digest: string }[] }
  const files = new Map<string, Uint8Array>()
  const tar = extract()
  tar.end(gunzipSync(read(manifest.layers.at(-1)?.digest ?? '')))
  for await (const entry of tar) {
    const parts: Buffer[] = []
    for await (const part of entry) parts.push(part as Buffer)
    files.set(entry.header.name, Buffer.concat(parts))
  }
  return files
}
