import { emptyBlob } from '../../src/erofs/empty-blob.js'
import type {
  DirectoryInode,
  ImageBlob,
  ImageChunk,
  ImageInode,
  InodeAttributes,
  RegularInode,
} from '../../src/erofs/image-tree.js'

/** Trees of the image tools, made by hand and told in lines. */

const plain: InodeAttributes = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 0, mtimeNsec: 0 }

export function directory(
  children: Record<string, ImageInode> = {},
  more: Partial<InodeAttributes> = {},
): DirectoryInode {
  const own = { ...plain, mode: 0o755, ...more }
  return { ...own, type: 'directory', implicit: false, children: new Map(Object.entries(children)) }
}

export function regular(
  chunks: readonly ImageChunk[] = [],
  more: Partial<InodeAttributes> = {},
): RegularInode {
  const sizeBytes = chunks.reduce((sum, { uncompressedSize }) => sum + uncompressedSize, 0)
  return { ...plain, ...more, type: 'regular', sizeBytes, chunks }
}

/** A blob that stands nowhere; `letter` is its id. */
export function newBlob(letter: string, more: Partial<ImageBlob> = {}): ImageBlob {
  const blob = emptyBlob({
    id: letter.repeat(64),
    chunkSize: 0x1000,
    compressor: 'none',
    digester: 'sha256',
    features: 0x40000001,
  })
  return { ...blob, ...more }
}

/** A chunk at the end of the blob; chunks of one `content` have one digest, in whatever blob. */
export function newChunk(blob: ImageBlob, content: number, size = 100): ImageChunk {
  const chunk = {
    blob,
    index: blob.chunkCount++,
    digest: (content + 1).toString(16).padStart(64, '0'),
    uncompressedOffset: blob.uncompressedSize,
    uncompressedSize: size,
    compressedOffset: blob.ciOffset,
    compressedSize: size,
  }
  blob.uncompressedSize += 4096
  blob.ciOffset += size
  blob.compressedSize = blob.ciOffset
  blob.ciCompressedSize = blob.ciUncompressedSize = blob.chunkCount * 16
  return chunk
}

/** A line for each name: path, everything of its inode but where it stands, and the first name of the same inode. */
export function describeTree(root: DirectoryInode): string[] {
  const lines: string[] = []
  const first = new Map<ImageInode, string>()
  const open: [string, ImageInode][] = [['', root]]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [path, inode] = next
    lines.push(`${path || '/'} ${describe(inode)}${first.has(inode) ? ` = ${first.get(inode)}` : ''}`)
    if (!first.has(inode)) first.set(inode, path)
    if (inode.type !== 'directory') continue
    const names = [...inode.children.keys()].sort((a, b) => (a < b ? 1 : -1))
    for (const name of names) open.push([`${path}/${name}`, inode.children.get(name)!])
  }
  return lines
}

function describe(inode: ImageInode): string {
  const { type, mode, uid, gid, mtimeSec, mtimeNsec } = inode
  const parts = [type, mode.toString(8), `${uid}:${gid}`, `${mtimeSec}.${mtimeNsec}`]
  for (const [name, value] of [...(inode.xattrs ?? [])].sort(([a], [b]) => (a < b ? -1 : 1)))
    parts.push(`${name}=${Buffer.from(value).toString('hex')}`)
  if (inode.type === 'symlink') parts.push(`-> ${Buffer.from(inode.target).toString('latin1')}`)
  if (inode.type === 'charDevice' || inode.type === 'blockDevice') parts.push(`${inode.major}/${inode.minor}`)
  if (inode.type === 'regular') {
    parts.push(String(inode.sizeBytes))
    for (const { blob, index, digest } of inode.chunks)
      parts.push(`${blob.id.slice(0, 8)}#${index}:${digest.slice(0, 8)}`)
  }
  return parts.join(' ')
}
