import { digestOf, type Digester } from '../../src/common/digest.js'
import { emptyBlob } from '../../src/erofs/empty-blob.js'
import type {
  DirectoryInode,
  ImageBlob,
  ImageChunk,
  ImageInode,
  InodeAttributes,
  RegularInode,
} from '../../src/erofs/image-tree.js'

export const SAMPLE_CHUNK_SIZE = 4096

const attributes: InodeAttributes = { mode: 0o644, uid: 1, gid: 2, mtimeSec: 3, mtimeNsec: 4 }

export function sampleDirectory(
  children: Record<string, ImageInode>,
  more: Partial<InodeAttributes> = {},
): DirectoryInode {
  const own = { ...attributes, mode: 0o755, implicit: false, ...more }
  const sorted = Object.entries(children).sort(([a], [b]) => (a < b ? -1 : 1))
  return { ...own, type: 'directory', children: new Map(sorted) }
}

/** A blob of a RAFS v5 image: chunks packed, no metadata of its own. */
export function sampleBlob(id: string, digester: Digester = 'blake3'): ImageBlob {
  return emptyBlob({
    id: id.repeat(64),
    chunkSize: SAMPLE_CHUNK_SIZE,
    compressor: 'none',
    digester,
    features: 0x40000000,
  })
}

/** A file of new chunks at the end of the blob; `parts` receives their bytes. */
export function sampleFile(
  blob: ImageBlob,
  data: Uint8Array,
  more: Partial<InodeAttributes> = {},
  parts: Uint8Array[] = [],
): RegularInode {
  const chunks: ImageChunk[] = []
  for (let at = 0; at < data.length; at += blob.chunkSize) {
    const bytes = data.subarray(at, at + blob.chunkSize)
    parts.push(bytes)
    chunks.push({
      blob,
      index: blob.chunkCount++,
      digest: Buffer.from(digestOf(blob.digester, bytes)).toString('hex'),
      uncompressedOffset: blob.uncompressedSize,
      uncompressedSize: bytes.length,
      compressedOffset: blob.compressedSize,
      compressedSize: bytes.length,
    })
    blob.uncompressedSize += bytes.length
    blob.compressedSize += bytes.length
  }
  return { ...attributes, ...more, type: 'regular', sizeBytes: data.length, chunks }
}

/** A small tree with one of everything that the formats hold. */
export function sampleTree(digester: Digester = 'blake3'): { root: DirectoryInode; shared: RegularInode } {
  const first = sampleBlob('a', digester)
  const second = sampleBlob('b', digester)
  const shared = sampleFile(first, Buffer.alloc(10_000, 'shared '), { mode: 0o4755, uid: 4294967294 })
  const xattrs = new Map([
    ['security.capability', Buffer.from([1, 0, 0, 2, 255])],
    ['user.empty', Buffer.alloc(0)],
    ['user.name', Buffer.from('value')],
  ])
  const root = sampleDirectory({
    dir: sampleDirectory(
      {
        again: shared,
        deep: sampleDirectory({ empty: sampleFile(first, Buffer.alloc(0)), sub: sampleDirectory({}) }),
        'name \xff\x01': sampleFile(second, Buffer.alloc(5000, 'second'), {
          mtimeSec: -5,
          mtimeNsec: 999_999_999,
        }),
      },
      { xattrs: new Map([['trusted.of.dir', Buffer.from('x')]]) },
    ),
    fifo: { ...attributes, type: 'fifo' },
    link: { ...attributes, mode: 0o777, type: 'symlink', target: Buffer.from('dir/again') },
    null: { ...attributes, type: 'charDevice', major: 4095, minor: 0xabcde },
    shared,
    sock: { ...attributes, type: 'socket' },
    vda: { ...attributes, type: 'blockDevice', major: 254, minor: 1, mtimeSec: 2 ** 40 },
    with: sampleFile(first, Buffer.from('attributes'), { xattrs }),
    ['x'.repeat(255)]: sampleFile(first, Buffer.alloc(4096, 1)),
  })
  return { root, shared }
}
