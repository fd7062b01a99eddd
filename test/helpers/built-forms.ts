import { createHash } from 'node:crypto'
import type { BlobReader } from '../../src/backend/reader.js'
import { MemorySource } from '../../src/common/byte-source.js'
import type { Compressor } from '../../src/common/codec.js'
import type { Digester } from '../../src/common/digest.js'
import { isFault } from '../../src/common/fault.js'
import { encodeImage } from '../../src/erofs/encode-image.js'
import type { ImageInode, RafsImage, RegularInode } from '../../src/erofs/image-tree.js'
import type { BlobOutput } from '../../src/image/build/blob-output.js'
import { CompressPool } from '../../src/image/build/compress-pool.js'
import { type BuildOptions, buildImage } from '../../src/image/build/image-builder.js'
import { ChunkReader } from '../../src/image/read/chunk-reader.js'
import { walkTree } from '../../src/image/read/walk-tree.js'
import { DEFAULT_LIMITS } from '../../src/image/tar/limits.js'
import { readTar } from '../../src/image/tar/tar-reader.js'
import { type TarItem, tarBytes } from './tar-bytes.js'

/** A small image in one form, as a build leaves it. */
export interface BuiltForm {
  readonly name: string
  readonly version: 5 | 6
  readonly bootstrap: Buffer
  /** Stored blobs by their ids. */
  readonly blobs: ReadonlyMap<string, Buffer>
}

type FormOptions = Pick<BuildOptions, 'version'> & Partial<BuildOptions>

export const CIPHER = {
  key: Buffer.from(Array.from({ length: 32 }, (_, i) => i * 7)),
  iv: Buffer.alloc(16, 9),
}
const INLINE = { inlineBootstrap: true, toc: true } as const
const form = (compressor: Compressor, digester: Digester) => ({ compressor, digester })

const FORMS: Record<string, FormOptions> = {
  'v5 none sha256': { version: 5, alignedChunks: true, ...form('none', 'sha256') },
  'v5 lz4': { version: 5, ...form('lz4_block', 'blake3') },
  'v5 zstd': { version: 5, ...form('zstd', 'blake3') },
  'v6 none sha256': { version: 6, ...form('none', 'sha256') },
  'v6 lz4': { version: 6, ...form('lz4_block', 'blake3') },
  'v6 zstd': { version: 6, ...form('zstd', 'blake3') },
  'v6 zstd inline': { version: 6, ...INLINE, ...form('zstd', 'blake3') },
  'v6 zstd batch': { version: 6, ...INLINE, batchSize: 4096, ...form('zstd', 'blake3') },
  'v6 zstd encrypt': { version: 6, ...INLINE, cipher: CIPHER, ...form('zstd', 'blake3') },
}

/** One image of each form that the builder makes, all of the same tree; `files`: how many small ones it has. */
export async function buildForms({ files = 40 } = {}): Promise<BuiltForm[]> {
  const pool = new CompressPool()
  try {
    const forms: BuiltForm[] = []
    for (const [name, options] of Object.entries(FORMS)) {
      forms.push(await buildForm(name, items(files), options, pool))
    }
    return forms
  } finally {
    await pool.close()
  }
}

/** An image of these items. */
export async function buildForm(
  name: string,
  items: TarItem[],
  options: FormOptions,
  pool: CompressPool,
): Promise<BuiltForm> {
  const archive = tarBytes(items)
  const blobs = new Map<string, Buffer>()
  const built = await buildImage(
    { entries: () => readTar(onePart(archive)) },
    memoryOutput(blobs),
    {
      chunkSize: 4096,
      compressor: 'zstd',
      digester: 'blake3',
      batchSize: 0,
      alignedChunks: false,
      inlineBootstrap: false,
      toc: false,
      blobOffset: 0,
      explicitOwners: true,
      prefetchPolicy: 'fs',
      prefetchPaths: ['/dir'],
      limits: DEFAULT_LIMITS,
      ...options,
    },
    pool,
  )
  // One that stands apart, and so knows its blob.
  return { name, version: options.version, bootstrap: encodeImage(built.image).bytes, blobs }
}

function items(files: number): TarItem[] {
  const words = Array.from({ length: 8000 }, (_, i) => ((i * i) % 977).toString(36)).join(' ')
  const data = Buffer.from(words)
  const noise = createHash('shake256', { outputLength: 9000 }).update('noise').digest()
  const items: TarItem[] = [
    { name: 'dir/', type: '5', mode: 0o755, pax: { 'SCHILY.xattr.user.of.dir': 'value' } },
    { name: 'dir/several-chunks', mode: 0o644, body: data.subarray(0, 20_001), mtime: 1e9 },
    { name: 'dir/raw', mode: 0o600, body: noise },
    { name: 'empty', mode: 0o600 },
    { name: 'same', mode: 0o640, body: data.subarray(0, 4096), uid: 7, gid: 8 },
    { name: 'hard', type: '1', linkname: 'dir/raw' },
    { name: 'attributes', mode: 0o755, body: Buffer.from('x'), pax: { 'SCHILY.xattr.user.a': 'b' } },
    { name: 'link', type: '2', linkname: 'dir/several-chunks' },
    { name: 'long-link', type: '2', linkname: 'y/'.repeat(45) },
    { name: 'chr', type: '3', mode: 0o600, device: ['1', '3'] },
    { name: 'fifo', type: '6', mode: 0o644 },
  ]
  for (let i = 0; i < files; i++)
    items.push({
      name: `many/entry-${String(i).padStart(3, '0')}`,
      mode: 0o644,
      body: data.subarray(i, 8 * i),
    })
  return items
}

async function* onePart(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes)
}

function memoryOutput(blobs: Map<string, Buffer>): BlobOutput {
  const parts: Buffer[] = []
  return {
    write: async bytes => void parts.push(Buffer.from(bytes)),
    finish: async blobId => {
      blobs.set(blobId, Buffer.concat(parts))
      return blobId
    },
    abort: async () => {},
  }
}

/** Reads stored blobs out of memory; what they do not hold is a fault, as it is of a file. */
export function memoryReader(blobId: string, blob: Uint8Array): BlobReader {
  const source = new MemorySource(blob)
  return {
    blobId,
    size: async () => source.sizeBytes,
    read: async (offset, length) => source.read(offset, length),
  }
}

/** What the tools see of an image: a line for each name, and the content of files, or the code of why it is refused. */
export interface SeenImage {
  /** By path: everything of its inode but the content. */
  readonly names: Map<string, string>
  /** By path of regular files: sha256 of the content, or the code of the fault. */
  readonly contents: Map<string, string>
}

/** @throws what the loader throws; the fault of a file stands in its place. */
export async function seeImage(image: RafsImage, blobs: ReadonlyMap<string, Uint8Array>): Promise<SeenImage> {
  const names = new Map<string, string>()
  const contents = new Map<string, string>()
  const chunks = new ChunkReader({ open: id => memoryReader(id, blobs.get(id) ?? new Uint8Array(0)) })
  const links = new Map<ImageInode, string>()
  for (const { path, inode } of walkTree(image.root)) {
    if (!links.has(inode)) links.set(inode, path)
    names.set(path, `${attributes(inode)} ${links.get(inode)}`)
    if (inode.type === 'regular') contents.set(path, await contentOf(inode, chunks))
  }
  return { names, contents }
}

async function contentOf(inode: RegularInode, chunks: ChunkReader): Promise<string> {
  const hash = createHash('sha256')
  try {
    for (const chunk of inode.chunks) hash.update(await chunks.read(chunk))
  } catch (err) {
    if (isFault(err)) return err.code
    throw err
  }
  return hash.digest('hex')
}

function attributes(inode: ImageInode): string {
  const { type, mode, uid, gid, mtimeSec, mtimeNsec, xattrs } = inode
  const pairs = [...(xattrs ?? [])]
    .map(([name, value]) => `${name}=${Buffer.from(value).toString('hex')}`)
    .sort()
  const special =
    inode.type === 'symlink'
      ? Buffer.from(inode.target).toString('hex')
      : inode.type === 'charDevice' || inode.type === 'blockDevice'
        ? `${inode.major}:${inode.minor}`
        : inode.type === 'regular'
          ? String(inode.sizeBytes)
          : ''
  return [type, mode, uid, gid, mtimeSec, mtimeNsec, special, ...pairs].join(' ')
}
