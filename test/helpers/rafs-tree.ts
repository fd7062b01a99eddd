import { createHash } from 'node:crypto'
import type { DecodedChunk } from '../../src/cache/layout.js'
import { RafsLayout } from '../../src/cache/rafs-layout.js'
import type { ByteSource, FileSource } from '../../src/common/byte-source.js'
import { parseStoredMeta, storedMetaRange } from '../../src/erofs/blob-meta.js'
import type { BlobEntry } from '../../src/erofs/blob-table.js'
import type { Bootstrap, WalkEntry } from '../../src/erofs/bootstrap.js'
import { deviceNumbers, type Inode } from '../../src/erofs/inode.js'
import type { ExpectedEntry } from './rafs-fixtures.js'

export interface CheckedTree {
  entries: number
  unverifiable: number
  differences: string[]
}

/** Decodes and verifies all chunks, rebuilds all files, and compares every entry with what the source layers hold. */
export async function checkTree(
  bootstrap: Bootstrap,
  open: (blobId: string) => FileSource,
  expected: ExpectedEntry[],
): Promise<CheckedTree> {
  const spaces: Uint8Array[] = []
  let unverifiable = 0
  for (const blob of bootstrap.blobs) {
    const source = open(blob.blobId)
    const decoded = await decodeBlob(bootstrap, blob, source)
    spaces.push(decoded.space)
    unverifiable += decoded.unverifiable
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

/** A blob's uncompressed address space: what its EROFS device holds. Every chunk with a digest is verified. */
export async function decodeBlob(
  bootstrap: Bootstrap,
  blob: BlobEntry,
  source: ByteSource,
): Promise<{ space: Uint8Array; unverifiable: number }> {
  let unverifiable = 0
  const range = storedMetaRange(blob)
  const meta = parseStoredMeta(blob, source.read(range.offset, range.length))
  const layout = new RafsLayout(blob, meta, bootstrap.chunkDigests(blob.index), { validate: true })
  const space = new Uint8Array(layout.uncompressedSize)
  for await (const decoded of decodeAll(layout, source)) {
    if (layout.verifiable(decoded.chunk)) layout.verify(decoded)
    else unverifiable++
    space.set(decoded.bytes, decoded.offset)
  }
  return { space, unverifiable }
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

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
