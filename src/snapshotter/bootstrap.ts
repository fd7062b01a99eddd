import { constants } from 'node:fs'
import { lstat, open } from 'node:fs/promises'
import path from 'node:path'
import { fault, hasErrno } from '../common/fault.js'

/** Where image builders put the merged bootstrap in its layer, the present place first. */
const PLACES = [['image', 'image.boot'], ['image.boot']] as const

/** Magic numbers, little-endian: erofs_fs.h EROFS_SUPER_MAGIC_V1 at 1024; RAFS v5 has its own at 0. */
const EROFS_MAGIC = 0xe0f5e1e2
const EROFS_MAGIC_OFFSET = 1024
const RAFS_V5_MAGIC = 0x52414653

/**
 * The bootstrap in the content of a layer. Links are not followed: a layer is somebody else's, and its links could
 * point out of it.
 * @throws RAFS_NOT_RAFS there is none
 */
export async function findBootstrap(fsPath: string): Promise<string> {
  for (const place of PLACES) {
    const file = path.join(fsPath, ...place)
    const parents = place.slice(0, -1).map(name => path.join(fsPath, name))
    if (await isPlain(file, parents)) return file
  }
  throw fault(
    'RAFS_NOT_RAFS',
    'the layer is labelled a nydus bootstrap and holds no file image/image.boot: convert the image again',
    { context: { fsPath } },
  )
}

/**
 * Refuses a layer whose bootstrap cannot be mounted, before others can stand on it.
 * @throws RAFS_NOT_RAFS, RAFS_TRUNCATED, RAFS_UNSUPPORTED
 */
export async function checkBootstrap(fsPath: string): Promise<void> {
  const file = await findBootstrap(fsPath)
  const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    const head = Buffer.alloc(EROFS_MAGIC_OFFSET + 128)
    const { bytesRead } = await handle.read(head, 0, head.length, 0)
    if (bytesRead >= 4 && head.readUInt32LE(0) === RAFS_V5_MAGIC)
      throw fault(
        'RAFS_UNSUPPORTED',
        'the bootstrap is RAFS version 5, which the kernel cannot mount: convert the image to version 6',
      )
    if (bytesRead < head.length)
      throw fault(
        'RAFS_TRUNCATED',
        `the bootstrap image/image.boot has only ${bytesRead} bytes: convert the image again`,
      )
    if (head.readUInt32LE(EROFS_MAGIC_OFFSET) !== EROFS_MAGIC)
      throw fault(
        'RAFS_NOT_RAFS',
        'the bootstrap image/image.boot is no EROFS file system (wrong magic number): convert the image again',
      )
  } finally {
    await handle.close()
  }
}

async function isPlain(file: string, parents: readonly string[]): Promise<boolean> {
  try {
    for (const parent of parents) if (!(await lstat(parent)).isDirectory()) return false
    return (await lstat(file)).isFile()
  } catch (err) {
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'ENOTDIR')) return false
    throw err
  }
}
