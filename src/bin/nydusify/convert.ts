import { text } from 'node:stream/consumers'
import { writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { asFault, fault } from '../../common/fault.js'
import { readVersion } from '../../common/version.js'
import { type ConvertRequest, type ConvertResult, convertImage } from '../../image/convert/convert.js'
import { reverseImage } from '../../image/convert/reverse.js'
import type { Platforms } from '../../image/convert/source-image.js'
import { ConvertProgress, formatSize } from '../../image/convert/convert-progress.js'
import { BuildCache, type BuildCacheOptions } from '../../image/convert/build-cache.js'
import { createBackend } from '../../backend/create.js'
import { silentLogger } from '../../common/log.js'
import { BlobPool } from '../../erofs/blob-pool.js'
import { openRegistryStore, openSource, openTarget } from '../../image/convert/open-store.js'
import type { LayerOptions } from '../../image/build/build-layer.js'
import { DEFAULT_LIMITS } from '../../image/tar/limits.js'
import type { ImageSource, ImageStore, ImageTarget } from '../../oci/image-store.js'
import { BlobDirectory } from '../../oci/blob-directory.js'
import { type Reference, formatReference, parseReference } from '../../oci/reference.js'
import { readBackendConfig } from '../backend-config.js'
import { pushAccess } from './access-options.js'
import { type ConvertFlags, addConvertOptions, checkConvertOptions } from './convert-options.js'
import { stopSignal } from './access.js'
import { openDictionary } from './dictionary.js'
import { parsePlatforms } from './platforms.js'

/** `nydusify convert`: a plain image becomes a nydus image. */
export function addConvert(command: Command): Command {
  return addConvertOptions(command.command('convert'))
    .description('convert an image of a registry to RAFS v6, into a registry')
    .action((flags: ConvertFlags, self: Command) => convertMain(flags, self))
}

async function convertMain(flags: ConvertFlags, self: Command): Promise<void> {
  for (const sentence of checkConvertOptions(self)) process.stderr.write(`nydusify: ${sentence}\n`)
  const source = parseReference(flags.source)
  const target = targetReference(source, flags)
  const platforms = parsePlatforms(flags)
  const prefetch = flags.prefetchPatterns ? lines(await text(process.stdin)) : [flags.prefetchDir]
  const { fsChunkSize: chunkSize, compressor, maxLayerSize, maxCompressionRatio } = flags
  const limits = { ...DEFAULT_LIMITS, maxBytes: maxLayerSize, maxRatio: maxCompressionRatio }
  const { batchSize, fsVersion } = flags
  const version = fsVersion === '5' ? 5 : 6
  if (batchSize > 0 && (version === 5 || batchSize > chunkSize))
    throw fault('USAGE', '--batch-size needs --fs-version 6, and is at most --chunk-size')
  const backend = await openBackend(flags)
  const plain: LayerOptions = { chunkSize, compressor, digester: 'blake3', version, batchSize, limits }
  const signal = stopSignal('the conversion was stopped: nothing was published')
  const observer = new ConvertProgress(process.stderr)
  await withStores(flags, source, target, async stores => {
    if (flags.reverse) {
      await reverseMain(flags, stores, platforms, signal)
      return
    }
    const pool = new BlobPool()
    const dictionary = await openDictionary(flags, stores.opened, pool, signal)
    dictionary?.requireKind(plain)
    const layer: LayerOptions = { ...plain, ...(dictionary && { knownChunks: dictionary.chunks }) }
    const options = { layer, dictionary, pool }
    const request: ConvertRequest = {
      source: stores.source,
      target: stores.target,
      ...(backend && { backend }),
      platforms,
      mergePlatform: flags.mergePlatform,
      withReferrer: flags.withReferrer,
      layer,
      ...(await openCache(flags, stores, options, signal)),
      ...(dictionary && { dictionary }),
      pool,
      oci: flags.oci,
      prefetch,
      workDirectory: flags.workDir,
      builder: `nydus-ts ${readVersion().version}`,
      signal,
      observer,
    }
    await report(await convertImage(request), flags.outputJson)
  })
}

/** The directory of `--backend-type localfs`. @throws USAGE, CONFIG_*, FILE_UNREADABLE */
async function openBackend(flags: ConvertFlags): Promise<BlobDirectory | undefined> {
  const { backendType, buildCache, buildCacheTag, reverse } = flags
  if (backendType === 'registry') return undefined
  if (reverse || buildCache !== undefined || buildCacheTag !== undefined)
    throw fault('USAGE', `--backend-type ${backendType} goes neither with --build-cache nor with --reverse`)
  const config = readBackendConfig(backendType, flags)
  await createBackend(backendType, config, { logger: silentLogger }).close()
  const { dir } = config
  if (typeof dir === 'string' && dir !== '') return BlobDirectory.open(dir)
  throw fault('CONFIG_INVALID', 'a conversion to localfs needs the directory of the blobs: {"dir": PATH}')
}

async function reverseMain(
  flags: ConvertFlags,
  { source, target }: Stores,
  platforms: Platforms,
  signal: AbortSignal,
): Promise<void> {
  const { oci, workDir: workDirectory } = flags
  const result = await reverseImage({ source, target, platforms, oci, workDirectory, signal })
  if (result.droppedSockets > 0)
    process.stderr.write(`nydusify: ${result.droppedSockets} sockets are left out: no layer can hold them\n`)
  await report({ ...result, source, target }, flags.outputJson)
}

interface Stores {
  readonly source: ImageSource
  readonly target: ImageTarget
  readonly cache: ImageStore | undefined
  /** Notes what is to be closed with them. */
  readonly opened: <T extends Closable>(opening: Promise<T>) => Promise<T>
}

interface Closable {
  close(): Promise<void>
}

async function withStores(
  flags: ConvertFlags,
  source: Reference,
  target: Reference,
  run: (stores: Stores) => Promise<void>,
): Promise<void> {
  const { plainHttp, sourceArchive, targetArchive, buildCacheTag: tag } = flags
  const closing: Closable[] = []
  const opened = async <T extends Closable>(opening: Promise<T>): Promise<T> => {
    const store = await opening
    closing.unshift(store)
    return store
  }
  const push = pushAccess(flags)
  const cacheReference = tag === undefined ? optionalReference(flags.buildCache) : { ...target, tag }
  if (cacheReference && targetArchive !== undefined)
    throw fault('USAGE', '--build-cache needs a registry as target: leave out --target-archive')
  try {
    const { sourceInsecure, targetInsecure, buildCacheInsecure } = flags
    const access = { reference: source, archive: sourceArchive, insecure: sourceInsecure, plainHttp }
    await run({
      opened,
      source: await opened(openSource(access)),
      target: await opened(
        openTarget({ ...push, reference: target, archive: targetArchive, insecure: targetInsecure }),
      ),
      cache:
        cacheReference &&
        (await opened(
          openRegistryStore({
            ...push,
            reference: cacheReference,
            insecure: buildCacheInsecure || (tag !== undefined && targetInsecure),
          }),
        )),
    })
  } finally {
    for (const store of closing) await store.close()
  }
}

async function openCache(
  flags: ConvertFlags,
  { cache: store, target }: Stores,
  layerOptions: Pick<BuildCacheOptions, 'layer' | 'dictionary' | 'pool'>,
  signal: AbortSignal,
): Promise<{ cache?: BuildCache }> {
  if (!store) return {}
  const { buildCacheVersion: version, buildCacheMaxRecords: maxRecords } = flags
  // A cache goes with a registry as target only.
  const options = { ...layerOptions, store, target: target as ImageStore, version, maxRecords }
  return { cache: await BuildCache.open(options, signal) }
}

function optionalReference(reference: string | undefined): Reference | undefined {
  return reference === undefined ? undefined : parseReference(reference)
}

function targetReference(source: Reference, { target, targetSuffix }: ConvertFlags): Reference {
  if ((target ?? '') === '' && (targetSuffix ?? '') === '')
    throw fault('USAGE', 'nydusify convert needs --target REF or --target-suffix TEXT: where the image goes')
  if (targetSuffix !== undefined && source.tag === undefined)
    throw fault('USAGE', '--target-suffix needs a source with a tag: give --target instead')
  const reference =
    target === undefined
      ? parseReference(formatReference({ ...source, tag: `${source.tag ?? ''}${targetSuffix ?? ''}` }))
      : parseReference(target)
  if (reference.digest !== undefined && target !== undefined)
    throw fault('USAGE', `--target ${target} names a digest: an image is pushed under a tag`)
  return reference
}

async function report(result: ConvertResult, outputJson?: string): Promise<void> {
  const { sourceSizeBytes, targetSizeBytes, uploadedBytes, elapsedMs, digest } = result
  process.stdout.write(
    `converted ${result.source.name} to ${result.target.name}@${digest}\n` +
      `${formatSize(sourceSizeBytes)} -> ${formatSize(targetSizeBytes)} (${formatSize(uploadedBytes)} uploaded) ` +
      `in ${(elapsedMs / 1000).toFixed(1)} s\n`,
  )
  if (outputJson === undefined) return
  const figures = {
    SourceImageSize: sourceSizeBytes,
    TargetImageSize: targetSizeBytes,
    // Nanoseconds, as Go counts durations.
    ConversionElapsed: Math.round(elapsedMs * 1e6),
  }
  await writeFile(outputJson, `${JSON.stringify(figures)}\n`).catch((err: unknown) => {
    throw asFault(err, 'FILE_UNREADABLE', `the image is converted, but ${outputJson} cannot be written`)
  })
}

function lines(input: string): string[] {
  return input
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '')
}
