import type { ImageInode, RafsImage, RegularInode } from '../../erofs/image-tree.js'
import type { ChunkReader } from './chunk-reader.js'
import {
  TAR_BLOCK,
  type TarItem,
  type TarItemType,
  encodeTarHeader,
  tarEnd,
  tarPadding,
} from './encode-tar.js'
import { walkTree } from './walk-tree.js'

/** Takes the bytes of an archive in order; it may keep them. Ready for more when it resolves. */
export type ByteSink = (bytes: Uint8Array) => Promise<void>

export interface Unpacked {
  readonly entries: number
  /** Bytes of regular files, hard links once. */
  readonly fileBytes: number
  /** Sockets, which tar cannot hold: left out. */
  readonly sockets: number
}

/**
 * Writes an image as a PAX archive that keeps everything of it: nanoseconds and times far away, extended attributes,
 * large owners, names of any bytes, hard links, devices. The root is the entry `./`; the order is that of the names, and
 * equal images give equal archives. Whiteouts of a layer's own image stay the files that they are in it.
 * @throws what `ChunkReader.read` and the sink throw
 */
export async function unpackToTar(image: RafsImage, chunks: ChunkReader, sink: ByteSink): Promise<Unpacked> {
  const out = new Pieces(sink)
  const firstNames = new Map<RegularInode, string>()
  let [entries, fileBytes, sockets] = [0, 0, 0]
  for (const { path, inode } of walkTree(image.root)) {
    const { type } = inode
    if (type === 'socket') {
      sockets++
      continue
    }
    entries++
    const linked = inode.type === 'regular' ? firstNames.get(inode) : undefined
    await out.write(encodeTarHeader(tarItem(path, inode, linked === undefined ? type : 'hardlink', linked)))
    if (inode.type !== 'regular' || linked !== undefined) continue
    firstNames.set(inode, path)
    fileBytes += inode.sizeBytes
    for (const chunk of inode.chunks) await out.write(await chunks.read(chunk))
    await out.write(ZEROS.subarray(0, tarPadding(inode.sizeBytes)))
  }
  await out.write(tarEnd())
  await out.flush()
  return { entries, fileBytes, sockets }
}

/** @param linked - another name of the file, which the archive has already */
function tarItem(path: string, inode: ImageInode, type: TarItemType, linked: string | undefined): TarItem {
  const { mode, uid, gid, mtimeSec, mtimeNsec, xattrs } = inode
  const isDevice = inode.type === 'charDevice' || inode.type === 'blockDevice'
  return {
    name: type === 'directory' ? `${path === '' ? '.' : path}/` : path,
    type,
    mode,
    uid,
    gid,
    mtimeSec,
    mtimeNsec,
    sizeBytes: inode.type === 'regular' && linked === undefined ? inode.sizeBytes : 0,
    linkName: inode.type === 'symlink' ? Buffer.from(inode.target).toString('latin1') : (linked ?? ''),
    major: isDevice ? inode.major : 0,
    minor: isDevice ? inode.minor : 0,
    ...(xattrs !== undefined && linked === undefined ? { xattrs } : {}),
  }
}

const ZEROS = Buffer.alloc(TAR_BLOCK)
const PIECE_BYTES = 256 * 1024

/** Gathers small writes into pieces; large ones pass through. */
class Pieces {
  readonly #sink: ByteSink
  #piece = Buffer.allocUnsafe(PIECE_BYTES)
  #filled = 0

  constructor(sink: ByteSink) {
    this.#sink = sink
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.length > PIECE_BYTES - this.#filled) await this.flush()
    if (bytes.length > PIECE_BYTES / 4) {
      await this.flush()
      await this.#sink(bytes)
      return
    }
    this.#piece.set(bytes, this.#filled)
    this.#filled += bytes.length
  }

  async flush(): Promise<void> {
    if (this.#filled === 0) return
    await this.#sink(this.#piece.subarray(0, this.#filled))
    this.#piece = Buffer.allocUnsafe(PIECE_BYTES)
    this.#filled = 0
  }
}
