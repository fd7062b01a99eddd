import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, statSync } from 'node:fs'
import path from 'node:path'
import type { Command } from 'commander'
import { MemorySource } from '../../common/byte-source.js'
import { asFault, fault, hasErrno } from '../../common/fault.js'
import { keepYoungSpaceSmall } from '../../common/garbage.js'
import { replaceFile } from '../../common/replace-file.js'
import type { BlobCipher } from '../../erofs/image-tree.js'
import { loadImage } from '../../erofs/load-image.js'
import { type BlobOutput, openBlobDirectory, openBlobFile } from '../../image/build/blob-output.js'
import { CompressPool } from '../../image/build/compress-pool.js'
import { DirectorySource } from '../../image/build/directory-source.js'
import { type BuiltImage, type LayerSource, buildImage } from '../../image/build/image-builder.js'
import { decompressLayer } from '../../image/tar/layer-stream.js'
import { DEFAULT_LIMITS } from '../../image/tar/limits.js'
import { readTar } from '../../image/tar/tar-reader.js'
import { readXattrs } from '../../native/xattr.js'
import { openBase } from './create-base.js'
import { type CreateRequest, addCreateOptions, createRequest } from './create-options.js'
import { readPrefetchPaths } from './prefetch-option.js'
import { writeReport } from './report.js'

/** `nydus-image create`: builds one layer. */
export function addCreate(command: Command): void {
  const create = command
    .command('create')
    .description('build an image, or a layer of one, from a directory or a tar archive')
    .argument('<source>', 'a directory, or an archive, which may come through a pipe')
  addCreateOptions(create).action(async (source: string) => {
    await runCreate(source, createRequest(create))
  })
}

async function runCreate(source: string, request: CreateRequest): Promise<void> {
  keepYoungSpaceSmall()
  for (const warning of request.warnings) process.stderr.write(`warning: ${warning}\n`)
  const layer = openSource(source, request)
  const base = openBase(request)
  const prefetchPaths = await readPrefetchPaths(request.prefetchPolicy)
  const pool = new CompressPool()
  try {
    const built = await buildImage(
      layer,
      await openOutput(request),
      { ...buildOptions(request, prefetchPaths), ...base },
      pool,
    )
    finish(built, request)
  } finally {
    await pool.close()
  }
}

function buildOptions(request: CreateRequest, prefetchPaths: readonly string[]) {
  const { version, chunkSize, batchSize, compressor, digester, toc, blobId, blobOffset } = request
  return {
    version,
    chunkSize,
    batchSize,
    compressor,
    digester,
    toc,
    blobOffset,
    ...(blobId !== undefined && { blobId }),
    ...(request.encrypt && { cipher: newCipher() }),
    alignedChunks: request.alignedChunk,
    inlineBootstrap: request.blobInlineMeta,
    explicitOwners: !request.repeatable,
    prefetchPolicy: request.prefetchPolicy,
    prefetchPaths,
    limits: DEFAULT_LIMITS,
  }
}

/** Two halves that are equal would be refused: chance does not make them. */
function newCipher(): BlobCipher {
  return { key: randomBytes(32), iv: randomBytes(16) }
}

function openSource(source: string, { sourceKind, prefetchPolicy }: CreateRequest): LayerSource {
  const isFile = statSource(source)
  if (sourceKind === 'directory') return new DirectorySource(source, readXattrs)
  if (prefetchPolicy === 'blob' && !isFile)
    throw fault('USAGE', '--prefetch-policy blob reads an archive twice: give a file, not a pipe')
  return { entries: () => readTar(decompressLayer(createReadStream(source), DEFAULT_LIMITS)) }
}

/** Whether it is a regular file. */
function statSource(source: string): boolean {
  try {
    return statSync(source).isFile()
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('FILE_MISSING', `there is no source ${source}: check the path`, { cause: err })
    throw asFault(err, 'FILE_UNREADABLE', `the source ${source} cannot be read`)
  }
}

function openOutput({ blobDir, blob = '' }: CreateRequest): Promise<BlobOutput> {
  return blobDir === undefined ? openBlobFile(blob) : openBlobDirectory(blobDir)
}

function finish(built: BuiltImage, request: CreateRequest): void {
  const { bootstrap, blobs, droppedXattrs } = built
  if (!request.disableCheck) loadImage(new MemorySource(bootstrap))
  const bootstrapPath = request.blobInlineMeta ? '' : placeBootstrap(bootstrap, request)
  if (droppedXattrs > 0)
    process.stderr.write(`warning: ${droppedXattrs} extended attributes have names that no image can hold\n`)
  const blobIds = blobs.map(({ id }) => id)
  process.stdout.write(
    `meta blob path: ${request.blobInlineMeta ? '<none>' : bootstrapPath}\n` +
      `data blob size: 0x${built.sizeBytes.toString(16)}\n` +
      `data blobs: ${JSON.stringify(blobIds)}\n`,
  )
  if (request.outputJson !== undefined) {
    const { version, compressor } = request
    writeReport(request.outputJson, { bootstrap: bootstrapPath, blobIds, version, compressor, pretty: true })
  }
}

function placeBootstrap(bytes: Buffer, { bootstrap, blobDir = '' }: CreateRequest): string {
  const target = bootstrap ?? path.join(blobDir, createHash('sha256').update(bytes).digest('hex'))
  replaceFile(target, bytes)
  return target
}
