/**
 * One flipped bit anywhere in an image: in three fields of each part the check names the part, and wherever it is, a reader
 * refuses or gives the right bytes. FUZZ_FLIPS sets how many random flips, FUZZ_SEED which.
 */
import fc from 'fast-check'
import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { type Fault, isFault } from '../../../src/common/fault.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import {
  BLOB_OFF,
  CHUNK_INDEX_OFF,
  CHUNK_OFF,
  DEVICE_OFF,
  DEVICE_TABLE_OFFSET,
  DIRENT_OFF,
  EXTENDED_INODE_OFF,
  RAFS_SB_OFF,
  RAFS_SUPERBLOCK_OFFSET,
  SB_OFF,
  SUPERBLOCK_OFFSET,
  XATTR_HEADER_SIZE,
  XATTR_OFF,
  alignUp,
} from '../../../src/erofs/format.js'
import { tailOffset } from '../../../src/erofs/inode.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { readSections } from '../../../src/erofs/toc.js'
import * as V5 from '../../../src/erofs/v5/format.js'
import { InodeRecord, latin1 } from '../../../src/erofs/v5/inode.js'
import { checkBlob } from '../../../src/image/read/check-blob.js'
import { checkBootstrap } from '../../../src/image/read/check.js'
import {
  type BuiltForm,
  type SeenImage,
  buildForms,
  memoryReader,
  seeImage,
} from '../../helpers/built-forms.js'

/** Bits of a part that are flipped, one at a time. */
interface Part {
  readonly name: string
  readonly inBlob: boolean
  /** Offset and bit. */
  readonly flips: readonly (readonly [offset: number, bit: number])[]
}

const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() & 0x7fffffff)
const RANDOM_FLIPS = Number(process.env['FUZZ_FLIPS'] ?? 300)

for (const form of await buildForms()) {
  t.test(form.name, async t => {
    const sound = await see(form)
    t.equal(await failureOf(() => check(form)), undefined, 'the image itself is sound')
    t.notOk([...sound.contents.values()].some(content => content.length < 64))

    for (const part of partsOf(form)) {
      for (const [offset, bit] of part.flips) {
        const damaged = flipped(form, part.inBlob, offset, bit)
        const failure = await failureOf(() => check(damaged))
        t.equal(
          failure?.context['part'],
          part.name,
          `byte ${offset}: ${failure?.message ?? 'nothing is wrong'}`,
        )
        t.equal(await wrongBytes(damaged, sound), undefined)
      }
    }

    const [, blob = Buffer.alloc(0)] = [...form.blobs][0] ?? []
    const place = fc.oneof(
      {
        weight: 3,
        arbitrary: fc.record({ inBlob: fc.constant(false), at: fc.nat(form.bootstrap.length - 1) }),
      },
      { weight: 1, arbitrary: fc.record({ inBlob: fc.constant(true), at: fc.nat(blob.length - 1) }) },
    )
    for (const [{ inBlob, at }, bit] of fc.sample(fc.tuple(place, fc.nat(7)), {
      seed,
      numRuns: RANDOM_FLIPS,
    })) {
      const wrong = await wrongBytes(flipped(form, inBlob, at, bit), sound)
      if (wrong !== undefined)
        t.fail(`byte ${at} bit ${bit} of the ${inBlob ? 'blob' : 'bootstrap'}: ${wrong}`)
    }
    t.pass(`${RANDOM_FLIPS} random flips, seed ${seed}`)
  })
}

function flipped(form: BuiltForm, inBlob: boolean, offset: number, bit: number): BuiltForm {
  const [id, blob] = [...form.blobs][0] ?? ['', Buffer.alloc(0)]
  const bytes = Buffer.from(inBlob ? blob : form.bootstrap)
  bytes.writeUInt8(bytes.readUInt8(offset) ^ (1 << bit), offset)
  return inBlob ? { ...form, blobs: new Map([[id, bytes]]) } : { ...form, bootstrap: bytes }
}

async function check({ bootstrap, blobs }: BuiltForm): Promise<void> {
  for (const expected of checkBootstrap(new MemorySource(bootstrap)).blobs) {
    const { blobId } = expected.entry
    await checkBlob(expected, memoryReader(blobId, blobs.get(blobId) ?? Buffer.alloc(0)))
  }
}

function see({ bootstrap, blobs }: BuiltForm): Promise<SeenImage> {
  return seeImage(loadImage(new MemorySource(bootstrap)), blobs)
}

/** The path of a file that reads as something else than it is; a renamed file may be any of the image's. */
async function wrongBytes(form: BuiltForm, sound: SeenImage): Promise<string | undefined> {
  let seen: SeenImage | undefined
  const failure = await failureOf(async () => void (seen = await see(form)))
  if (seen === undefined) return failure === undefined ? 'nothing' : undefined
  const all = new Set(sound.contents.values())
  for (const [path, content] of seen.contents) {
    const isFaultCode = content.length < 64
    const right = sound.contents.has(path) ? sound.contents.get(path) === content : all.has(content)
    if (!isFaultCode && !right) return path
  }
  return undefined
}

/** Anything thrown but a fault fails the test. */
async function failureOf(body: () => Promise<void>): Promise<Fault | undefined> {
  try {
    await body()
    return undefined
  } catch (err) {
    if (isFault(err)) return err
    throw err
  }
}

function partsOf(form: BuiltForm): Part[] {
  const parts = form.version === 5 ? partsOfV5(form.bootstrap) : partsOfV6(form.bootstrap)
  return [...parts.map(part => ({ ...part, inBlob: false })), ...partsOfBlob(form)]
}

function partsOfV6(bytes: Buffer): Omit<Part, 'inBlob'>[] {
  const bootstrap = Bootstrap.open(new MemorySource(bytes))
  const { blobTable, chunkTable } = bootstrap.superblock
  const inode = (path: string) => {
    const found = bootstrap.lookup(path)
    if (found === undefined) throw new Error(path)
    return found
  }
  const rafs = RAFS_SUPERBLOCK_OFFSET
  const file = inode('dir/several-chunks')
  const directory = tailOffset(inode('dir'))
  const xattrs = inode('attributes').offset + inode('attributes').headerSize + XATTR_HEADER_SIZE
  const chunks = alignUp(tailOffset(file), 8)
  const inodeOff = EXTENDED_INODE_OFF
  return [
    {
      name: 'superblock',
      flips: [
        [SUPERBLOCK_OFFSET + SB_OFF.inos, 0],
        [SUPERBLOCK_OFFSET + SB_OFF.blockBits, 0],
        [rafs + RAFS_SB_OFF.flags, 2],
        [rafs + RAFS_SB_OFF.chunkTableOffset + 1, 0],
      ],
    },
    {
      name: 'device table',
      flips: [
        [DEVICE_TABLE_OFFSET + DEVICE_OFF.tag, 0],
        [DEVICE_TABLE_OFFSET + DEVICE_OFF.blocks, 3],
        [DEVICE_TABLE_OFFSET + DEVICE_OFF.mappedBlock, 3],
      ],
    },
    {
      name: 'blob table',
      flips: [
        [blobTable.offset + BLOB_OFF.chunkSize, 4],
        [blobTable.offset + BLOB_OFF.compressor + 1, 0],
        [blobTable.offset + BLOB_OFF.blobIndex, 0],
      ],
    },
    {
      name: 'inode',
      flips: [
        [file.offset + inodeOff.format, 3],
        [file.offset + inodeOff.mode + 1, 7],
        [file.offset + inodeOff.nlink, 1],
      ],
    },
    {
      name: 'dirent',
      flips: [
        [directory + 2 * 12 + DIRENT_OFF.nid + 2, 3],
        [directory + 2 * 12 + DIRENT_OFF.nameOffset, 2],
        [directory + 2 * 12 + DIRENT_OFF.fileType, 1],
      ],
    },
    {
      name: 'xattr',
      flips: [
        [xattrs + XATTR_OFF.nameLength, 6],
        [xattrs + XATTR_OFF.nameIndex, 5],
        [xattrs + XATTR_OFF.valueSize, 5],
      ],
    },
    {
      name: 'chunk index',
      flips: [
        [chunks + CHUNK_INDEX_OFF.chunkLow, 0],
        [chunks + CHUNK_INDEX_OFF.device, 0],
        [chunks + CHUNK_INDEX_OFF.block, 0],
      ],
    },
    {
      name: 'chunk table',
      flips: [
        [chunkTable.offset + CHUNK_OFF.blobIndex, 0],
        [chunkTable.offset + CHUNK_OFF.flags, 5],
        [chunkTable.offset + CHUNK_OFF.uncompressedOffset, 0],
      ],
    },
  ]
}

function partsOfV5(bytes: Buffer): Omit<Part, 'inBlob'>[] {
  const O = V5.INODE_OFF
  const records = new Map<string, { offset: number; length: number }>()
  for (let index = 1; index <= bytes.readUInt32LE(V5.SB_OFF.inodeTableEntries); index++) {
    const offset = bytes.readUInt32LE(V5.SUPERBLOCK_SIZE + (index - 1) * 4) * 8
    const record = new InodeRecord(new MemorySource(bytes), offset, index)
    records.set(latin1(record.name()), { offset, length: record.chunksOffset() - offset })
  }
  const find = (name: string): { offset: number; length: number } => {
    const found = records.get(name)
    if (found === undefined) throw new Error(name)
    return found
  }
  const file = find('several-chunks')
  const chunks = file.offset + file.length
  const xattrs = find('attributes').offset + V5.INODE_SIZE + 16
  const blobTable = bytes.readUInt32LE(V5.SB_OFF.blobTableOffset)
  const extended = bytes.readUInt32LE(V5.SB_OFF.extendedBlobTableOffset)
  return [
    {
      name: 'superblock',
      flips: [
        [V5.SB_OFF.chunkSize, 0],
        [V5.SB_OFF.inodesCount, 0],
        [V5.SB_OFF.flags, 6],
      ],
    },
    {
      name: 'inode table',
      flips: [
        [V5.SUPERBLOCK_SIZE + 4 + 1, 7],
        [V5.SUPERBLOCK_SIZE + 4 + 3, 7],
        [V5.SUPERBLOCK_SIZE + 5 * 4 + 3, 6],
      ],
    },
    {
      name: 'blob table',
      flips: [
        [blobTable + V5.BLOB_PREFETCH_SIZE, 7],
        [blobTable + V5.BLOB_PREFETCH_SIZE + 63, 5],
        [extended + V5.EXTENDED_BLOB_OFF.compressedSize + 6, 0],
      ],
    },
    {
      name: 'inode',
      flips: [
        [file.offset + O.digest, 0],
        [file.offset + O.mode + 1, 7],
        [file.offset + O.childCount, 1],
      ],
    },
    {
      name: 'dirent',
      flips: [
        [find('chr').offset + V5.INODE_SIZE, 1],
        [find('dir').offset + V5.INODE_SIZE, 2],
        [find('fifo').offset + V5.INODE_SIZE, 2],
      ],
    },
    {
      name: 'xattr',
      flips: [
        [xattrs + 1, 4],
        [xattrs + V5.XATTRS_HEADER_SIZE, 6],
        [xattrs + V5.XATTRS_HEADER_SIZE + 2, 0],
      ],
    },
    {
      name: 'chunk table',
      flips: [
        [chunks + CHUNK_OFF.blobIndex, 0],
        [chunks + CHUNK_OFF.uncompressedSize, 0],
        [chunks + CHUNK_OFF.fileOffset, 3],
      ],
    },
  ]
}

function partsOfBlob({ version, bootstrap, blobs, name }: BuiltForm): Part[] {
  const [, blob = Buffer.alloc(0)] = [...blobs][0] ?? []
  const parts: Part[] = []
  const add = (part: string, ...offsets: number[]): void =>
    void parts.push({ name: part, inBlob: true, flips: offsets.map(offset => [offset, 3] as const) })
  add('chunk data', 0, 5000, 9000)
  if (version === 5) return parts
  const entry = Bootstrap.open(new MemorySource(bootstrap)).blobs[0]
  if (entry === undefined) throw new Error('no blob')
  const header = entry.ciOffset + entry.ciCompressedSize
  // The stored offset of a chunk where the infos are not compressed.
  add('blob meta', entry.ciOffset + 8, entry.ciOffset + 16 * 5 + 8, header, header + 12)
  if (!name.includes('inline')) return parts
  const sections = new Map(readSections(new MemorySource(blob)).map(section => [section.name, section]))
  const offsetOf = (section: string): number => sections.get(section)?.offset ?? 0
  const toc = offsetOf('rafs.blob.toc')
  add('TOC', toc + 24, toc + 128 + 56, toc + 2 * 128 + 64)
  const digests = offsetOf('blob.digest')
  add('blob digest', digests, digests + 40, digests + 100)
  add('tar header', blob.length - 512, blob.length - 512 + 124, entry.ciOffset - 512)
  return parts
}
