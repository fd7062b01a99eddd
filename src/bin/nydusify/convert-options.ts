import { Command, InvalidArgumentError, Option } from 'commander'
import { fault } from '../../common/fault.js'
import { DEFAULT_LIMITS } from '../../image/tar/limits.js'
import type { BackendConfigFlags } from '../backend-config.js'
import { chunkSizeOption, parseBatchSize, parseNumber } from '../parse-size.js'
import { type AccessFlags, accessOptions } from './access-options.js'
import { platformOptions } from './platforms.js'

/** Options of `nydusify convert`, as commander gives them. */
export interface ConvertFlags extends AccessFlags, BackendConfigFlags {
  backendType: string
  source: string
  sourceArchive?: string
  target?: string
  targetArchive?: string
  targetSuffix?: string
  compressor: 'zstd' | 'lz4_block' | 'none'
  fsChunkSize: number
  fsVersion: '5' | '6'
  batchSize: number
  chunkDict?: string
  chunkDictInsecure: boolean
  workDir: string
  platform?: string
  allPlatforms: boolean
  mergePlatform: boolean
  withReferrer: boolean
  reverse: boolean
  buildCache?: string
  buildCacheTag?: string
  buildCacheVersion: string
  buildCacheInsecure: boolean
  buildCacheMaxRecords: number
  oci: boolean
  prefetchDir: string
  prefetchPatterns: boolean
  outputJson?: string
  maxLayerSize: number
  maxCompressionRatio: number
}

/** Upstream's flags whose part comes with a later release, with their aliases; `<value>` marks those that take one. */
const LATER = [
  '--source-backend-type <type>',
  '--source-backend-config <json>',
  '--backend-force-push',
  '--oci-ref',
  '--encrypt-recipients <list>',
]

/** Upstream's flags that change nothing here, and why. */
const WITHOUT_EFFECT = {
  '--nydus-image <path>': 'the builder is part of this program',
  '--docker-v2-format': "the source's media types are kept unless --oci is given",
  '--fs-align-chunk': 'RAFS v6 chunks are always aligned',
  '--backend-aligned-chunk': 'RAFS v6 chunks are always aligned',
}

/** Declares upstream's options; each also comes from an environment variable of its name in capitals. */
export function addConvertOptions(command: Command): Command {
  const options = [
    new Option('--source <ref>', 'image to convert').makeOptionMandatory(),
    new Option('--source-archive <file>', 'OCI layout or archive that holds the source'),
    new Option('--target-archive <file>', 'OCI archive to write instead; a directory becomes a layout'),
    new Option('--target <ref>', 'where the converted image goes, with a tag').conflicts('targetSuffix'),
    new Option('--target-suffix <text>', 'the source with this appended to its tag is the target'),
    ...accessOptions(),
    new Option('--compressor <name>', 'of chunks').choices(['zstd', 'lz4_block', 'none']).default('zstd'),
    chunkSizeOption('--chunk-size, --fs-chunk-size <size>'),
    new Option('--fs-version <n>', 'RAFS version').choices(['5', '6']).default('6'),
    new Option('--work-dir <dir>', 'for temporary files').default('./tmp'),
    ...platformOptions(),
    new Option('--multi-platform, --merge-platform', 'an index of the plain and the nydus images').default(
      false,
    ),
    new Option('--with-referrer', 'the source becomes the subject of the manifest').default(false),
    new Option('--build-cache <ref>', 'image that remembers converted layers').conflicts('buildCacheTag'),
    new Option('--build-cache-tag <tag>', "the same, as a tag of the target's repository"),
    new Option('--build-cache-version <version>', 'a cache of another version is ignored').default('v1'),
    new Option('--build-cache-insecure', 'accept any certificate of the cache, or plain HTTP').default(false),
    new Option('--build-cache-max-records <n>', 'layers that the cache remembers, 1 to 200')
      .argParser(parseRecords)
      .default(200),
    new Option('--reverse', 'make a plain image of a nydus image').default(false),
    new Option('--oci', 'OCI media types even where the source has docker ones').default(false),
    new Option('--prefetch-dir <path>', 'directory to prefetch').default('/').conflicts('prefetchPatterns'),
    new Option('--prefetch-patterns', 'read paths to prefetch from standard input').default(false),
    new Option('--output-json <file>', 'write figures of the conversion'),
    new Option('--backend-type <type>', 'where blobs go')
      .choices(['registry', 'oss', 's3', 'localfs'])
      .default('registry'),
    new Option('--backend-config <json>', 'configuration of a storage backend; of localfs: {"dir": PATH}'),
    new Option('--backend-config-file <file>', 'the same in a file, which no process list shows'),
    new Option(
      '--batch-size <size>',
      'compress small files together up to this size; power of two, 0: each alone',
    )
      .argParser(parseBatchSize)
      .default(0, '0'),
    new Option(
      '--chunk-dict <dict>',
      'bootstrap:registry:REF or bootstrap:local:PATH, whose chunks are used again',
    ),
    new Option('--chunk-dict-insecure', 'accept any certificate of its registry, or plain HTTP').default(
      false,
    ),
    new Option('--max-layer-size <bytes>', 'refuse a layer with more uncompressed bytes')
      .argParser(parseNumber)
      .default(DEFAULT_LIMITS.maxBytes),
    new Option('--max-compression-ratio <n>', 'refuse a large layer that grows more than this')
      .argParser(parseNumber)
      .default(DEFAULT_LIMITS.maxRatio),
    ...[...LATER, ...Object.keys(WITHOUT_EFFECT)].map(flags => new Option(flags).hideHelp()),
  ]
  for (const option of options) command.addOption(option.env(environmentName(option)))
  return command
}

/**
 * Refuses options of a later release by name, and returns sentences about those that have no effect.
 * @throws UNIMPLEMENTED, USAGE
 */
export function checkConvertOptions(command: Command): string[] {
  const isGiven = (flags: string): boolean => {
    const name = new Option(flags).attributeName()
    const source = command.getOptionValueSource(name)
    const value: unknown = command.getOptionValue(name)
    return source !== undefined && source !== 'default' && value !== false
  }
  const later = LATER.find(isGiven)
  if (later !== undefined) throw comesLater(longName(later))
  const { backendType } = command.opts<Record<string, string>>()
  if (backendType !== 'registry' && backendType !== 'localfs')
    throw comesLater(`--backend-type ${backendType ?? ''}`)
  return Object.entries(WITHOUT_EFFECT)
    .filter(([flags]) => isGiven(flags))
    .map(([flags, why]) => `${longName(flags)} has no effect: ${why}`)
}

/** A flag in the environment is set by `1` or `true` and cleared by `0` or `false`, as upstream reads them. */
export function normalizeEnvironment(env: NodeJS.ProcessEnv, command: Command): void {
  for (const option of command.options) {
    const name = option.envVar
    if (name === undefined || option.required || option.optional) continue
    const value = env[name]?.toLowerCase()
    if (value === '' || value === '0' || value === 'false' || value === 'f') delete env[name]
  }
}

function environmentName(option: Option): string {
  return (option.long ?? '').replace(/^--/, '').replaceAll('-', '_').toUpperCase()
}

function longName(flags: string): string {
  return flags.split(' ', 1)[0] ?? flags
}

function comesLater(what: string): Error {
  return fault('UNIMPLEMENTED', `nydusify convert ${what} comes with a later release: leave it out`)
}

function parseRecords(text: string): number {
  const count = parseNumber(text)
  if (count < 1 || count > 200) throw new InvalidArgumentError('It must be a number from 1 to 200.')
  return count
}
