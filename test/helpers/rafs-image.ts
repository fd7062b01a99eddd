import { COMPRESSORS } from '../../src/common/codec.js'
import { DIGESTERS } from '../../src/common/digest.js'
import * as F from '../../src/erofs/format.js'
import {
  buildBlob,
  features,
  type Blob,
  type Chunk,
  type Resolved,
  type TestImageOptions,
} from './rafs-blob.js'

/** A file of a test tree. */
export interface TestNode {
  name: string
  /** With type bits. */
  mode: number
  data?: Uint8Array
  target?: string
  children?: TestNode[]
  xattrs?: { index: number; suffix: string; value: string }[]
  rdev?: number
  /** Writes the 32-byte inode. */
  compact?: boolean
  uid?: number
  gid?: number
  mtime?: bigint
}

export interface TestImage {
  bootstrap: Buffer
  blob: Buffer
  blobId: string
  /** Nids by path; the root is ''. */
  nids: Map<string, number>
  /** Absolute offsets of tables. */
  chunkTable: number
  metaOffset: number
}

export const BLOB_TABLE = 4096

/**
 * Builds a RAFS v6 bootstrap and its one blob from the description of the format alone, sharing nothing with the reader
 * or with the product's writer but the table of constants.
 */
export function buildImage(children: TestNode[], options: TestImageOptions = {}): TestImage {
  const o = {
    compressor: 'zstd' as const,
    digester: 'blake3' as const,
    v2: false,
    chunkSize: 4096,
    chunkTable: true,
    ...options,
  }
  const root: TestNode = { name: '', mode: 0o40755, children }
  const chunks: Chunk[] = []
  const files: Uint8Array[] = []
  walk(root, '', node => {
    if (node.data) files.push(node.data)
  })
  const blob = buildBlob(files, chunks, o)
  const metaOffset = 8192
  const places = new Map<TestNode, { offset: number; dataBlock: number; paths: string }>()
  let next = metaOffset + 4096
  walk(root, '', (node, path) => {
    places.set(node, { offset: next, dataBlock: 0, paths: path })
    next = F.alignUp(next + inodeArea(node, o.chunkSize), 32)
  })
  next = F.alignUp(next, 4096)
  walk(root, '', node => {
    const full = Math.floor(flatData(node).length / 4096) * 4096
    const place = places.get(node)!
    place.dataBlock = next / 4096
    next += full
  })
  const chunkTable = next
  const tableSize = o.chunkTable ? chunks.length * F.CHUNK_RECORD_SIZE : 0
  const bootstrap = Buffer.alloc(F.alignUp(next + tableSize, 4096))
  const nid = (node: TestNode) => (places.get(node)!.offset - metaOffset) / 32
  const nids = new Map<string, number>()
  const perFile = fileChunks(root, chunks, o.chunkSize)
  const writeTree = (node: TestNode, parent: TestNode): void => {
    const place = places.get(node)!
    nids.set(place.paths, nid(node))
    const data = node.children ? dirents(node, parent, nid) : flatData(node)
    writeInode(bootstrap, node, place, data, perFile.get(node) ?? [], chunks, o.chunkSize)
    for (const child of node.children ?? []) writeTree(child, node)
  }
  writeTree(root, root)
  writeSuperblocks(bootstrap, o, { inos: nids.size, rootNid: nid(root), metaOffset, chunkTable, tableSize })
  writeBlobEntry(bootstrap, blob, chunks.length, o)
  if (tableSize > 0) writeChunkTable(bootstrap, chunkTable, chunks)
  for (const [index, prefetched] of (o.prefetch ?? []).entries())
    bootstrap.writeUInt32LE(prefetched, BLOB_TABLE + F.BLOB_ENTRY_SIZE + index * 4)
  return { bootstrap, blob: blob.bytes, blobId: blob.id, nids, chunkTable, metaOffset }
}

function walk(node: TestNode, path: string, visit: (node: TestNode, path: string) => void): void {
  visit(node, path)
  for (const child of node.children ?? [])
    walk(child, path === '' ? child.name : `${path}/${child.name}`, visit)
}

function xattrArea(node: TestNode): Buffer {
  if (!node.xattrs) return Buffer.alloc(0)
  const entries = node.xattrs.map(({ index, suffix, value }) => {
    const entry = Buffer.alloc(F.alignUp(4 + suffix.length + value.length, 4))
    entry.writeUInt8(suffix.length, 0)
    entry.writeUInt8(index, 1)
    entry.writeUInt16LE(value.length, 2)
    entry.write(suffix + value, 4, 'latin1')
    return entry
  })
  return Buffer.concat([Buffer.alloc(12), ...entries])
}

/** The data that counts towards full blocks; for a directory of the right length, whatever its nids. */
function flatData(node: TestNode): Buffer {
  if (node.children) return dirents(node, node, () => 0)
  return Buffer.from(node.target ?? '')
}

function inodeArea(node: TestNode, chunkSize: number): number {
  const head = (node.compact ? 32 : 64) + xattrArea(node).length
  if (node.data) return F.alignUp(head, 8) + 8 * Math.ceil(node.data.length / chunkSize)
  return head + (flatData(node).length % 4096)
}

function dirents(node: TestNode, parent: TestNode, nid: (node: TestNode) => number): Buffer {
  const named = [
    { name: Buffer.from('.'), node },
    { name: Buffer.from('..'), node: parent },
    ...(node.children ?? []).map(child => ({ name: Buffer.from(child.name, 'latin1'), node: child })),
  ].sort((a, b) => Buffer.compare(a.name, b.name))
  const blocks: Buffer[] = []
  for (let first = 0; first < named.length;) {
    let used = 0
    let count = 0
    while (first + count < named.length && used + 12 + named[first + count]!.name.length <= 4096) {
      used += 12 + named[first + count]!.name.length
      count++
    }
    const block = Buffer.alloc(first + count < named.length ? 4096 : used)
    let nameAt = count * 12
    for (const [index, entry] of named.slice(first, first + count).entries()) {
      block.writeBigUInt64LE(BigInt(nid(entry.node)), index * 12)
      block.writeUInt16LE(nameAt, index * 12 + 8)
      block.writeUInt8(direntType(entry.node.mode), index * 12 + 10)
      entry.name.copy(block, nameAt)
      nameAt += entry.name.length
    }
    blocks.push(block)
    first += count
  }
  return Buffer.concat(blocks)
}

function direntType(mode: number): number {
  const types = [0o100000, 0o40000, 0o20000, 0o60000, 0o10000, 0o140000, 0o120000]
  return types.indexOf(mode & 0o170000) + 1
}

function fileChunks(root: TestNode, chunks: Chunk[], chunkSize: number): Map<TestNode, number[]> {
  const perFile = new Map<TestNode, number[]>()
  let next = 0
  walk(root, '', node => {
    const count = Math.ceil((node.data?.length ?? 0) / chunkSize)
    perFile.set(
      node,
      Array.from({ length: count }, () => next++),
    )
  })
  if (next !== chunks.length) throw new Error('chunks were counted twice')
  return perFile
}

function writeInode(
  out: Buffer,
  node: TestNode,
  place: { offset: number; dataBlock: number },
  data: Buffer,
  indexes: number[],
  chunks: Chunk[],
  chunkSize: number,
): void {
  const at = place.offset
  const xattrs = xattrArea(node)
  const regular = (node.mode & 0o170000) === 0o100000
  const tail = data.length % 4096
  const layout = regular ? 4 : data.length > 0 && tail > 0 ? 2 : 0
  const size = regular ? (node.data?.length ?? 0) : data.length
  const u = regular ? 0x20 | Math.log2(chunkSize / 4096) : (node.rdev ?? place.dataBlock)
  out.writeUInt16LE((node.compact ? 0 : 1) | (layout << 1), at)
  out.writeUInt16LE(xattrs.length === 0 ? 0 : (xattrs.length - 12) / 4 + 1, at + 2)
  out.writeUInt16LE(node.mode, at + 4)
  const nlink = node.children ? 2 + node.children.filter(child => child.children).length : 1
  if (node.compact) {
    out.writeUInt16LE(nlink, at + 6)
    out.writeUInt32LE(size, at + 8)
    out.writeUInt32LE(u, at + 16)
    out.writeUInt16LE(node.uid ?? 0, at + 24)
    out.writeUInt16LE(node.gid ?? 0, at + 26)
  } else {
    out.writeBigUInt64LE(BigInt(size), at + 8)
    out.writeUInt32LE(u, at + 16)
    out.writeUInt32LE(node.uid ?? 0, at + 24)
    out.writeUInt32LE(node.gid ?? 0, at + 28)
    out.writeBigInt64LE(node.mtime ?? 0n, at + 32)
    out.writeUInt32LE(nlink, at + 44)
  }
  const end = at + (node.compact ? 32 : 64)
  xattrs.copy(out, end)
  data.copy(out, place.dataBlock * 4096, 0, data.length - tail)
  data.copy(out, end + xattrs.length, data.length - tail)
  const first = F.alignUp(end + xattrs.length, 8)
  for (const [index, chunk] of indexes.entries()) {
    out.writeUInt16LE(chunk & 0xffff, first + index * 8)
    out.writeUInt16LE(((chunk >> 16) << 8) | 1, first + index * 8 + 2)
    out.writeUInt32LE(chunks[chunk]!.offset / 4096, first + index * 8 + 4)
  }
}

function writeSuperblocks(
  out: Buffer,
  o: Resolved,
  place: { inos: number; rootNid: number; metaOffset: number; chunkTable: number; tableSize: number },
): void {
  out.writeUInt32LE(0xe0f5e1e2, 1024)
  out.writeUInt32LE(0x40000000, 1032)
  out.writeUInt8(12, 1036)
  out.writeUInt16LE(place.rootNid, 1038)
  out.writeBigUInt64LE(BigInt(place.inos), 1040)
  out.writeUInt32LE(place.metaOffset / 4096, 1064)
  out.writeUInt32LE(0xc, 1104)
  out.writeUInt16LE(1, 1110)
  out.writeUInt16LE(11, 1112)
  const compression = { none: 1, lz4_block: 2, gzip: 0x40, zstd: 0x80 }[o.compressor]
  const flags = compression | (o.digester === 'blake3' ? 4 : 8) | 0x10
  out.writeBigUInt64LE(BigInt(flags | (o.key ? 0x2000000 : 0x1000000)), 1152)
  out.writeBigUInt64LE(BigInt(BLOB_TABLE), 1160)
  out.writeUInt32LE(256, 1168)
  out.writeUInt32LE(o.chunkSize, 1172)
  out.writeBigUInt64LE(BigInt(place.tableSize > 0 ? place.chunkTable : 0), 1176)
  out.writeBigUInt64LE(BigInt(place.tableSize), 1184)
  if (o.prefetch) {
    out.writeBigUInt64LE(BigInt(BLOB_TABLE + 256), 1192)
    out.writeUInt32LE(o.prefetch.length * 4, 1200)
  }
}

function writeBlobEntry(out: Buffer, blob: Blob, chunkCount: number, o: Resolved): void {
  out.write(blob.id, 1408, 'ascii')
  out.writeUInt32LE(blob.uncompressedSize / 4096, 1408 + 64)
  out.writeUInt32LE(blob.uncompressedSize / 4096, 1060)
  const at = BLOB_TABLE
  out.write(blob.id, at, 'ascii')
  out.writeUInt32LE(o.chunkSize, at + 68)
  out.writeUInt32LE(chunkCount, at + 72)
  out.writeUInt32LE(COMPRESSORS[o.compressor], at + 76)
  out.writeUInt32LE(DIGESTERS[o.digester], at + 80)
  out.writeUInt32LE(features(o), at + 84)
  out.writeBigUInt64LE(BigInt(blob.bytes.length), at + 88)
  out.writeBigUInt64LE(BigInt(blob.uncompressedSize), at + 96)
  out.writeUInt32LE(COMPRESSORS[o.compressor], at + 108)
  out.writeBigUInt64LE(BigInt(blob.ciOffset), at + 112)
  out.writeBigUInt64LE(BigInt(blob.ciStored), at + 120)
  out.writeBigUInt64LE(BigInt(blob.ciSize), at + 128)
  if (o.key) {
    Buffer.from(o.key.key).copy(out, at + 168)
    Buffer.from(o.key.iv).copy(out, at + 200)
    out.writeUInt32LE(1, at + 216)
  }
}

function writeChunkTable(out: Buffer, at: number, chunks: Chunk[]): void {
  const order = chunks.map((chunk, index) => ({ chunk, index }))
  order.sort((a, b) => Buffer.compare(a.chunk.digest, b.chunk.digest) || a.index - b.index)
  for (const [slot, { chunk, index }] of order.entries()) {
    const base = at + slot * 80
    out.set(chunk.digest, base)
    out.writeUInt32LE(chunk.stored.length === chunk.bytes.length ? 0 : 1, base + 36)
    out.writeUInt32LE(chunk.stored.length, base + 40)
    out.writeUInt32LE(chunk.bytes.length, base + 44)
    out.writeBigUInt64LE(BigInt(chunk.storedOffset), base + 48)
    out.writeBigUInt64LE(BigInt(chunk.offset), base + 56)
    out.writeUInt32LE(index, base + 72)
  }
}
