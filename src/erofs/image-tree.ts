import type { Compressor } from '../common/codec.js'
import type { Digester } from '../common/digest.js'

/** An image in memory, as it was read from a bootstrap of either version or is about to be written to one. */
export interface RafsImage {
  readonly version: 5 | 6
  /** Of every file of the image: power of two, 4 KiB to 16 MiB. */
  readonly chunkSize: number
  /** Of the image as a whole; each blob says its own. */
  readonly compressor: Compressor
  readonly digester: Digester
  /** False when owners mean nothing: a server shows its own then. */
  readonly explicitOwners: boolean
  /** In blob table order. */
  readonly blobs: readonly ImageBlob[]
  readonly root: DirectoryInode
  /** What to prefetch, in this order; the root stands for everything. */
  readonly prefetch: readonly ImageInode[]
}

/**
 * The tree that a bootstrap is written from and read into.
 *
 * Names are *byte strings*: each UTF-16 unit is one byte (`latin1`). A file name on Linux is bytes, and comparing such
 * strings with `<` orders them as the format wants them. An inode that several names share is one object in several
 * directories; only regular files may be shared.
 */
export type ImageInode = DirectoryInode | RegularInode | SymlinkInode | DeviceInode | PlainInode

export interface InodeAttributes {
  /** Permission, set-id and sticky bits (0 to 0o7777); the type bits follow from `type`. */
  mode: number
  uid: number
  gid: number
  /** Whole seconds since 1970, negative before; any safe integer. */
  mtimeSec: number
  /** 0 to 999,999,999. */
  mtimeNsec: number
  /** Whole names as byte strings, in any order; undefined when there are none. */
  xattrs?: ReadonlyMap<string, Uint8Array>
}

export interface DirectoryInode extends InodeAttributes {
  readonly type: 'directory'
  readonly children: Map<string, ImageInode>
  /** True for a parent that no entry of its layer describes: in a merge it leaves the lower one's attributes alone. */
  implicit: boolean
}

export interface RegularInode extends InodeAttributes {
  readonly type: 'regular'
  readonly sizeBytes: number
  /** One chunk for each `chunkSize` bytes of the file, the last one shorter. */
  readonly chunks: readonly ImageChunk[]
}

export interface SymlinkInode extends InodeAttributes {
  readonly type: 'symlink'
  readonly target: Uint8Array
}

export interface DeviceInode extends InodeAttributes {
  readonly type: 'charDevice' | 'blockDevice'
  readonly major: number
  readonly minor: number
}

export interface PlainInode extends InodeAttributes {
  readonly type: 'fifo' | 'socket'
}

/** One stored chunk of a blob. Files that share it share the object. */
export interface ImageChunk {
  readonly blob: ImageBlob
  /** Index in its blob. */
  readonly index: number
  /** Digest of the uncompressed bytes, 64 hex digits. */
  readonly digest: string
  readonly uncompressedOffset: number
  readonly uncompressedSize: number
  /** Known once the chunk has been stored. */
  compressedOffset: number
  /** Equal to `uncompressedSize` when the chunk is stored raw; 0 for a member of a batch. */
  compressedSize: number
  /** Where it lies in a batch of small chunks that were compressed together; undefined when it stands alone. */
  batch?: ChunkPlace | undefined
  /** CRC-32C of the uncompressed bytes, where the image carries one; it stands in for the digest then. */
  readonly crc32?: number | undefined
}

/** Small chunks compressed as one (rafs.md 2.5). Its bytes start at its members' `compressedOffset`. */
export interface ChunkBatch {
  /** Index of the batch in its blob. */
  readonly index: number
  /** Known once the batch has been stored; equal to `uncompressedSize` when it is stored raw. */
  compressedSize: number
  uncompressedSize: number
}

export interface ChunkPlace {
  readonly batch: ChunkBatch
  /** Of the chunk in the decompressed batch. */
  readonly offset: number
}

/** AES-128-XTS over the stored bytes of each chunk or batch and over the blob's metadata (rafs.md 4.4). */
export interface BlobCipher {
  /** 32 bytes: the data key and the tweak key. */
  readonly key: Uint8Array
  /** 16 bytes. */
  readonly iv: Uint8Array
}

/** What the blob table says about a blob (rafs.md 1.4); filled in while the blob is written. */
export interface ImageBlob {
  /** 64 hex digits, or the placeholder inside the blob itself. */
  id: string
  readonly chunkSize: number
  chunkCount: number
  readonly compressor: Compressor
  readonly digester: Digester
  features: number
  /** Of the whole stored blob; in the bootstrap inside a blob, where that bootstrap starts. */
  compressedSize: number
  uncompressedSize: number
  ciCompressor: Compressor
  ciOffset: number
  ciCompressedSize: number
  ciUncompressedSize: number
  /** Stored bytes at the start of the blob that hold what is to be prefetched; undefined where it has no such order. */
  prefetchSize?: number
  /** Undefined for a blob in the clear. */
  readonly cipher?: BlobCipher
  /** Bytes of the table of contents with its header, and their sha256; undefined when not known. */
  toc?: { readonly sizeBytes: number; readonly digest: Uint8Array }
  /** The metadata blob of a blob that refers to a layer of another image; undefined for others. */
  meta?: { readonly sizeBytes: number; readonly digest: Uint8Array }
}
