import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { fault } from '../../common/fault.js'
import { BLOCK_SIZE } from '../../erofs/format.js'
import { writeAll } from './export-disk.js'

const HASH_SIZE = 32
const HASHES_IN_BLOCK = BLOCK_SIZE / HASH_SIZE
/** Data that is read and hashed at once. */
const BLOCKS_AT_ONCE = 256

/** What dm-verity must be told of a device: blocks of 4096 bytes, format 1, sha256, no salt, no superblock. */
export interface VerityParameters {
  readonly dataBlocks: number
  /** Bytes before the tree. */
  readonly hashOffset: number
  /** 64 hex digits. */
  readonly rootHash: string
}

/**
 * Appends the tree of hashes that dm-verity checks a device by (kernel documentation, dm-verity: on-disk format): the
 * levels stand one after the other, the one that fits in a block first. Memory does not grow with the disk.
 */
export async function appendVerity(disk: FileHandle, sizeBytes: number): Promise<VerityParameters> {
  const dataBlocks = Math.ceil(sizeBytes / BLOCK_SIZE)
  const hashOffset = dataBlocks * BLOCK_SIZE
  const counts: number[] = []
  for (let blocks = dataBlocks; blocks > 1; counts.push(blocks)) blocks = Math.ceil(blocks / HASHES_IN_BLOCK)
  let below = { at: 0, blocks: dataBlocks }
  let end = hashOffset + counts.reduce((sum, blocks) => sum + blocks, 0) * BLOCK_SIZE
  await disk.truncate(end)
  for (const blocks of counts) {
    const at = end - blocks * BLOCK_SIZE
    await writeLevel(disk, below, at)
    below = { at, blocks }
    end = at
  }
  const [root] = hashBlocks(await readBlocks(disk, below.at, 1))
  return { dataBlocks, hashOffset, rootHash: Buffer.from(root ?? []).toString('hex') }
}

interface Level {
  readonly at: number
  readonly blocks: number
}

async function writeLevel(disk: FileHandle, { at, blocks }: Level, target: number): Promise<void> {
  for (let first = 0; first < blocks; first += BLOCKS_AT_ONCE) {
    const count = Math.min(BLOCKS_AT_ONCE, blocks - first)
    const hashes = hashBlocks(await readBlocks(disk, at + first * BLOCK_SIZE, count))
    await writeAll(disk, Buffer.concat(hashes), target + first * HASH_SIZE)
  }
}

function hashBlocks(bytes: Buffer): Buffer[] {
  const hashes: Buffer[] = []
  for (let at = 0; at < bytes.length; at += BLOCK_SIZE)
    hashes.push(
      createHash('sha256')
        .update(bytes.subarray(at, at + BLOCK_SIZE))
        .digest(),
    )
  return hashes
}

async function readBlocks(disk: FileHandle, at: number, count: number): Promise<Buffer> {
  const bytes = Buffer.alloc(count * BLOCK_SIZE)
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await disk.read(bytes, done, bytes.length - done, at + done)
    if (bytesRead === 0)
      throw fault('FILE_UNREADABLE', 'the disk was cut while its hashes were made: export it again')
    done += bytesRead
  }
  return bytes
}
