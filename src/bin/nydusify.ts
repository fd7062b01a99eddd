#!/usr/bin/env node
import { text } from 'node:stream/consumers'
import { writeFile } from 'node:fs/promises'
import { type Command, Option } from 'commander'
import { addLaterCommands, commandLine } from '../common/command-line.js'
import { asFault, fault } from '../common/fault.js'
import { readVersion } from '../common/version.js'
import { type ConvertRequest, type ConvertResult, convertImage } from '../image/convert.js'
import { ConvertProgress, formatSize } from '../image/convert-progress.js'
import { DEFAULT_LIMITS } from '../image/limits.js'
import { openRegistry } from '../image/registry-access.js'
import { type WantedPlatform, hostPlatform } from '../oci/platform.js'
import { type Reference, formatReference, parseReference } from '../oci/reference.js'
import {
  type ConvertFlags,
  addConvertOptions,
  checkConvertOptions,
  normalizeEnvironment,
} from './nydusify-options.js'
import { run } from './run.js'

/** Commands of upstream whose part comes with a later release. */
const LATER = ['check', 'mount', 'view', 'build', 'pack', 'copy', 'chunkdict', 'optimize', 'commit']

function program(): Command {
  const command = commandLine('nydusify')
    .description('converts container images to nydus images')
    .version(`nydusify ${readVersion().version}`, '--version', 'print the version')
    .option('-D, --debug', 'the same as --log-level debug')
    .addOption(
      new Option('--log-level <level>', 'how much to log')
        .choices(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'panic'])
        .default('info'),
    )
    .option('--log-file <file>', 'accepted; messages go to standard error')
  const convert = addConvertOptions(command.command('convert'))
    .description('convert an image of a registry to RAFS v6, into a registry')
    .action((flags: ConvertFlags, self: Command) => convertMain(flags, self))
  normalizeEnvironment(process.env, convert)
  addLaterCommands(command, LATER, 'nydusify convert')
  return command
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

run('nydusify', async argv => {
  await program().parseAsync(argv, { from: 'user' })
})
