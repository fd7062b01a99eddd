import { existsSync } from 'node:fs'
import path from 'node:path'
import { type Command, Option } from 'commander'
import { isBlobId } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { replaceFileWith } from '../../common/replace-file.js'
import { BlobPool } from '../../erofs/blob-pool.js'
import { encodeImagePieces } from '../../erofs/encode-image.js'
import { ChunkDict } from '../../image/build/chunk-dict.js'
import { ImageMerger, type SourceBlob } from '../../image/build/merge-images.js'
import { OpenBootstrap } from './open-image.js'
import { logLevelOption } from './options.js'
import { type PrefetchPolicy, prefetchPolicyOption, readPrefetchPaths } from './prefetch-option.js'
import { writeReport } from './report.js'

interface MergeFlags {
  bootstrap: string
  parentBootstrap?: string
  blobDir?: string
  chunkDict?: string
  prefetchPolicy: PrefetchPolicy
  outputJson?: string
  blobDigests?: string[]
  originalBlobIds?: string[]
  blobSizes?: string[]
  blobTocDigests?: string[]
  blobTocSizes?: string[]
}

/** `nydus-image merge`: the images of several layers, lowest first, become one. */
export function addMerge(command: Command): void {
  command
    .command('merge')
    .description('lay the bootstraps of several layers over one another')
    .argument('<source...>', 'bootstraps of layers, or blobs that hold them, lowest layer first')
    .requiredOption('-B, --bootstrap <file>', 'the merged bootstrap')
    .option('--parent-bootstrap <file>', 'the image that all sources are laid over')
    .option('-D, --blob-dir <directory>', 'where a source that is named by its blob id lies')
    .option('--chunk-dict <dictionary>', 'PATH or bootstrap=PATH: what the layers were built with')
    .addOption(prefetchPolicyOption())
    .addOption(list('--blob-digests <list>', 'sha256 of each data blob'))
    .addOption(list('--original-blob-ids <list>', 'id of each data blob, where it is not its digest'))
    .addOption(list('--blob-sizes <list>', 'bytes of each data blob'))
    .addOption(list('--blob-toc-digests <list>', 'sha256 of the table of contents of each data blob'))
    .addOption(list('--blob-toc-sizes <list>', 'bytes of the table of contents of each data blob'))
    .option('-J, --output-json <file>', 'write what the merged image refers to as JSON')
    .addOption(new Option('-C, --config <file>', "accepted for upstream's sake: no blob is read").hideHelp())
    .addOption(logLevelOption())
    .action(merge)
}

async function merge(sources: readonly string[], flags: MergeFlags): Promise<void> {
  const blobs = sourceBlobs(sources.length, flags)
  const prefetch = await readPrefetchPaths(flags.prefetchPolicy)
  const dictionary = flags.chunkDict === undefined ? undefined : openChunkDict(flags.chunkDict)
  const merger = new ImageMerger(dictionary)
  const { parentBootstrap } = flags
  if (parentBootstrap !== undefined)
    withBootstrap(parentBootstrap, ({ source }) => merger.addParent(parentBootstrap, source))
  for (const [index, name] of sources.entries())
    withBootstrap(sourcePath(name, flags.blobDir), ({ source }) =>
      merger.add({ path: name, blob: blobs[index] ?? {} }, source),
    )
  const image = merger.finish(flags.prefetchPolicy === 'fs' ? prefetch : [])
  const { pieces, blobs: mergedBlobs } = encodeImagePieces(image)
  replaceFileWith(flags.bootstrap, pieces)
  const blobIds = mergedBlobs.map(({ id }) => id)
  process.stdout.write(`merged ${sources.length} layers into ${flags.bootstrap}, data blobs:\n`)
  for (const id of blobIds) process.stdout.write(`  ${id}\n`)
  if (flags.outputJson !== undefined) {
    const { version, compressor } = image
    writeReport(flags.outputJson, { bootstrap: flags.bootstrap, blobIds, version, compressor, pretty: true })
  }
}

/** A dictionary as the command line names it. @throws USAGE, FILE_MISSING, FILE_UNREADABLE, RAFS_* */
export function openChunkDict(name: string, pool = new BlobPool()): ChunkDict {
  const [, kind, file = name] = /^([a-z]+)=(.*)$/.exec(name) ?? []
  if (kind !== undefined && kind !== 'bootstrap')
    throw fault('USAGE', `a chunk dictionary of kind ${kind} is not known: give bootstrap=PATH`)
  return withBootstrap(file, ({ source, identify }) => new ChunkDict(source, { pool, identify }))
}

/** A source as the command line names it. */
function sourcePath(name: string, blobDirectory: string | undefined): string {
  const stored = blobDirectory !== undefined && isBlobId(name) && !existsSync(name)
  return stored ? path.join(blobDirectory, name) : name
}

/** Opens a bootstrap for as long as `use` takes. */
function withBootstrap<T>(file: string, use: (bootstrap: OpenBootstrap) => T): T {
  const opened = OpenBootstrap.open(file)
  try {
    return use(opened)
  } finally {
    opened.close()
  }
}

type Lists = Pick<
  MergeFlags,
  'blobDigests' | 'originalBlobIds' | 'blobSizes' | 'blobTocDigests' | 'blobTocSizes'
>

function list(flags: string, description: string): Option {
  const items = (value: string) => value.split(',')
  return new Option(flags, `${description}, with commas, one for each source`).argParser(items)
}

/** What the lists say of each source; an item that is empty leaves what the bootstrap says. @throws USAGE */
function sourceBlobs(count: number, lists: Lists): SourceBlob[] {
  const digests = (name: keyof Lists) =>
    column(name, lists[name], count, isBlobId, '64 lower-case hex digits')
  const sizes = (name: keyof Lists) =>
    column(name, lists[name], count, item => /^\d{1,15}$/.test(item), 'a number of bytes').map(item =>
      item === undefined ? undefined : Number(item),
    )
  const known = {
    digest: digests('blobDigests'),
    originalId: digests('originalBlobIds'),
    sizeBytes: sizes('blobSizes'),
    tocDigest: digests('blobTocDigests'),
    tocSizeBytes: sizes('blobTocSizes'),
  }
  return Array.from({ length: count }, (_, index) => ({
    digest: known.digest[index],
    originalId: known.originalId[index],
    sizeBytes: known.sizeBytes[index],
    tocDigest: known.tocDigest[index],
    tocSizeBytes: known.tocSizeBytes[index],
  }))
}

function column(
  name: keyof Lists,
  items: readonly string[] | undefined,
  count: number,
  valid: (item: string) => boolean,
  wanted: string,
): (string | undefined)[] {
  if (items === undefined) return []
  const option = `--${name.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)}`
  if (items.length !== count)
    throw fault('USAGE', `${option} has ${items.length} items for ${count} sources: give one for each source`)
  const wrong = items.find(item => item !== '' && !valid(item))
  if (wrong !== undefined)
    throw fault('USAGE', `${option} has ${JSON.stringify(wrong)}: ${wanted} is expected`)
  return items.map(item => (item === '' ? undefined : item))
}
