import { lstat, open } from 'node:fs/promises'
import path from 'node:path'
import { FileSource } from '../common/byte-source.js'
import { fault, hasErrno } from '../common/fault.js'
import { detectFormat, parseSuperblock } from '../erofs/superblock.js'
import { parseSuperblockV5 } from '../erofs/v5/superblock.js'

/** Where image builders put the merged bootstrap in its layer, the present place first. */
const PLACES = [['image', 'image.boot'], ['image.boot']] as const

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
 * @throws RAFS_NOT_RAFS, RAFS_TRUNCATED, RAFS_FIELD, RAFS_UNSUPPORTED
 */
export async function checkBootstrap(fsPath: string): Promise<void> {
  const source = new FileSource(await findBootstrap(fsPath))
  try {
    if (detectFormat(source) === 'rafs-v5') parseSuperblockV5(source)
    else parseSuperblock(source)
  } finally {
    source.close()
  }
}

/** Makes a layer's bootstrap durable: who unpacks a layer flushes nothing. @throws RAFS_NOT_RAFS there is none */
export async function flushBootstrap(fsPath: string): Promise<void> {
  const file = await findBootstrap(fsPath)
  for (const part of [file, path.dirname(file), fsPath]) {
    const handle = await open(part, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
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
