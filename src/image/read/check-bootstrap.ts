/** The check of a RAFS v6 bootstrap by itself: tables, tree, and what each says of the other. */
import type { ByteSource } from '../../common/byte-source.js'
import { type BlobEntry, hasFeature, parseBlobTable } from '../../erofs/blob-table.js'
import { Bootstrap } from '../../erofs/bootstrap.js'
import { type DeviceSlot, parseDeviceTable } from '../../erofs/device-table.js'
import * as F from '../../erofs/format.js'
import { parseSuperblock, type Superblock } from '../../erofs/superblock.js'
import { CheckedChunks } from './check-chunks.js'
import { TreeCheck, type TreeFacts } from './check-tree.js'
import { inPart, partFault } from './parts.js'

export interface CheckedBootstrap extends TreeFacts {
  readonly superblock: Superblock
  /** In blob table order. */
  readonly blobs: readonly BlobEntry[]
  readonly records: CheckedChunks
  /** What is odd but does no harm. */
  readonly warnings: readonly string[]
}

/** @throws RAFS_* whose context names the part */
export function checkBootstrapV6(source: ByteSource): CheckedBootstrap {
  const superblock = inPart('superblock', () => parseSuperblock(source))
  const devices = inPart('device table', () => parseDeviceTable(source, superblock.deviceCount))
  const blobs = inPart('blob table', () => parseBlobTable(source, superblock.blobTable, superblock.chunkSize))
  // What is left for it to find is that the two tables disagree.
  const bootstrap = inPart('device table', () => Bootstrap.open(source))
  const read = source.read(0, source.sizeBytes)
  const bytes = Buffer.from(read.buffer, read.byteOffset, read.length)
  checkFlags(superblock, blobs)
  checkDevices(bytes, superblock, devices, blobs)
  const records = new CheckedChunks(bytes, superblock.chunkTable, blobs)
  const tree = new TreeCheck(bytes, superblock, blobs, records)
  const facts = tree.run()
  const prefetch = inPart('prefetch table', () => bootstrap.prefetchNids())
  const warnings = prefetch
    .filter(nid => !tree.has(nid))
    .map(nid => `the prefetch table lists inode ${nid}, which the tree does not have: it is left out`)
  return { ...facts, superblock, blobs, records, warnings }
}

function checkFlags({ flags }: Superblock, blobs: readonly BlobEntry[]): void {
  const at = F.RAFS_SUPERBLOCK_OFFSET + F.RAFS_SB_OFF.flags
  const encrypted = blobs.some(blob => hasFeature(blob, 'encrypted'))
  if (encrypted && (flags & F.RAFS_FLAGS.encryptionAes128Xts) === 0)
    throw partFault('superblock', at, `flags 0x${flags.toString(16)} do not say that a blob is encrypted`)
}

/** On one disk made of bootstrap and blobs, the blobs follow one another (rafs.md 1.3). */
function checkDevices(
  bytes: Buffer,
  sb: Superblock,
  devices: readonly DeviceSlot[],
  blobs: readonly BlobEntry[],
): void {
  let end = bytes.length
  let blocks = 0
  for (const [index, { blocks: own, mappedBlock: mapped }] of devices.entries()) {
    const at = F.DEVICE_TABLE_OFFSET + index * F.DEVICE_SLOT_SIZE
    blocks += own
    // Bootstraps of early builders, and of more data than a disk takes, have no such addresses.
    if (mapped === 0) continue
    if (mapped * sb.blockSize < end || (mapped * sb.blockSize) % F.FLAT_DEVICE_ALIGNMENT !== 0)
      throw partFault(
        'device table',
        at + F.DEVICE_OFF.mappedBlock,
        `field mapped_blkaddr of blob ${index} is ${mapped}: a multiple of ${F.FLAT_DEVICE_ALIGNMENT / sb.blockSize} ` +
          `is expected, and what stands before it ends at byte ${end}`,
      )
    end = (mapped + own) * sb.blockSize
  }
  const at = F.SUPERBLOCK_OFFSET + F.SB_OFF.blocks
  const stated = bytes.readUInt32LE(at)
  // Early builders wrote a constant.
  if (stated === F.BLOCK_SIZE || stated === Math.min(blocks, 0xffffffff)) return
  for (const [index, { blocks: own }] of devices.entries()) {
    const expected = Math.ceil((blobs[index]?.uncompressedSize ?? 0) / sb.blockSize)
    if (own !== expected)
      throw partFault(
        'device table',
        F.DEVICE_TABLE_OFFSET + index * F.DEVICE_SLOT_SIZE + F.DEVICE_OFF.blocks,
        `field blocks of blob ${index} is ${own}: its ${blobs[index]?.uncompressedSize} bytes take ${expected}`,
      )
  }
  throw partFault('superblock', at, `field blocks is ${stated}: the devices have ${blocks}`)
}
