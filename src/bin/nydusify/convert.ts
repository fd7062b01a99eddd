import { text } from 'node:stream/consumers'
import { writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { asFault, fault } from '../../common/fault.js'
import { readVersion } from '../../common/version.js'
import { type ConvertRequest, type ConvertResult, convertImage } from '../../image/convert/convert.js'
import { ConvertProgress, formatSize } from '../../image/convert/convert-progress.js'
import { openRegistry } from '../../image/convert/registry-access.js'
import { DEFAULT_LIMITS } from '../../image/tar/limits.js'
import { type WantedPlatform, hostPlatform } from '../../oci/platform.js'
import { type Reference, formatReference, parseReference } from '../../oci/reference.js'
import { type ConvertFlags, addConvertOptions, checkConvertOptions } from './convert-options.js'

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
  const platform = flags.platform === undefined ? hostPlatform() : parsePlatform(flags.platform)
  const prefetch = flags.prefetchPatterns ? lines(await text(process.stdin)) : [flags.prefetchDir]
  const { plainHttp } = flags
  const sourceClient = await openRegistry({
    domain: source.domain,
    insecure: flags.sourceInsecure,
    plainHttp,
  })
  try {
    const targetClient = await openRegistry({
      domain: target.domain,
      insecure: flags.targetInsecure,
      plainHttp,
      retryLimit: flags.pushRetryCount,
      retryDelayMs: flags.pushRetryDelay,
    })
    try {
      const { fsChunkSize: chunkSize, compressor, maxLayerSize, maxCompressionRatio } = flags
      const limits = { ...DEFAULT_LIMITS, maxBytes: maxLayerSize, maxRatio: maxCompressionRatio }
      const request: ConvertRequest = {
        source,
        sourceClient,
        target,
        targetClient,
        platform,
        layer: { chunkSize, compressor, digester: 'blake3', limits },
        oci: flags.oci,
        prefetch,
        workDirectory: flags.workDir,
        builder: `nydus-ts ${readVersion().version}`,
        signal: stopSignal(),
        observer: new ConvertProgress(process.stderr),
      }
      await report(await convertImage(request), target, flags.outputJson)
    } finally {
      await targetClient.close()
    }
  } finally {
    await sourceClient.close()
  }
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

function parsePlatform(list: string): WantedPlatform {
  if (list.includes(','))
    throw fault('UNIMPLEMENTED', 'more than one --platform comes with a later release: name one')
  const [os = '', architecture = '', variant, ...more] = list.split('/')
  if (os !== 'linux' || architecture === '' || variant === '' || more.length > 0)
    throw fault('USAGE', `--platform ${list} is none of linux/ARCH or linux/ARCH/VARIANT`)
  return { os, architecture, ...(variant === undefined ? {} : { variant }) }
}

/** The first signal stops the conversion tidily, the second one at once. */
function stopSignal(): AbortSignal {
  const controller = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      controller.abort(fault('CANCELLED', 'the conversion was stopped: nothing was published'))
    })
  }
  return controller.signal
}

async function report(result: ConvertResult, target: Reference, outputJson?: string): Promise<void> {
  const { sourceSizeBytes, targetSizeBytes, uploadedBytes, elapsedMs, digest } = result
  process.stdout.write(
    `converted ${formatReference(result.source.reference)} to ${formatReference(target)}@${digest}\n` +
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
