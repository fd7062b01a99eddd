import { type Command, Option } from 'commander'
import { fault } from '../../common/fault.js'
import { isBlobId } from '../../common/digest.js'
import type { WhiteoutSpec } from '../../image/build/merge.js'
import { chunkSizeOption, parseBatchSize, parseNumber } from '../parse-size.js'
import { logLevelOption } from './options.js'
import { type PrefetchPolicy, prefetchPolicyOption } from './prefetch-option.js'

/** Options of `nydus-image create`, as commander gives them. */
export interface CreateFlags {
  type: string
  bootstrap?: string
  blobDir?: string
  blob?: string
  blobInlineMeta: boolean
  blobId?: string
  blobOffset: number
  chunkSize: number
  batchSize: number
  compressor: 'zstd' | 'lz4_block' | 'none'
  digester: 'blake3' | 'sha256'
  fsVersion: '5' | '6'
  features?: string
  chunkDict?: string
  parentBootstrap?: string
  alignedChunk: boolean
  repeatable: boolean
  disableCheck: boolean
  whiteoutSpec: WhiteoutSpec
  prefetchPolicy: PrefetchPolicy
  encrypt: boolean
  outputJson?: string
  backendType?: string
  backendConfig?: string
}

/** Kinds of source that are built, by upstream's names of them. */
const SOURCES: Readonly<Record<string, 'directory' | 'tar'>> = {
  'dir-rafs': 'directory',
  directory: 'directory',
  'tar-rafs': 'tar',
  'targz-rafs': 'tar',
}
const LATER_TYPES = [
  'estargz-rafs',
  'estargz-ref',
  'estargztoc-ref',
  'tar-tarfs',
  'targz-ref',
  'stargz_index',
]

/** Upstream's options whose part comes with a later release. */
const LATER = [
  '--external-blob <file>',
  '--blob-data-size <size>',
  '--blob-cache-dir <dir>',
  '--attributes <file>',
]

/** Declares upstream's options. */
export function addCreateOptions(command: Command): Command {
  const types = [...Object.keys(SOURCES), ...LATER_TYPES]
  const options = [
    new Option('-t, --type <type>', 'what the source is: dir-rafs, tar-rafs or targz-rafs (any compression)')
      .choices(types)
      .default('dir-rafs'),
    new Option('--source-type <type>').choices(types).hideHelp(),
    new Option('-B, --bootstrap <file>', "the image's metadata; in --blob-dir under its sha256 without it"),
    new Option('-D, --blob-dir <dir>', 'directory for the data blob, which gets the name of its id'),
    new Option('-b, --blob <file>', 'file or pipe for the data blob').conflicts('blobDir'),
    new Option('--blob-inline-meta', 'put the bootstrap into the blob')
      .default(false)
      .conflicts(['bootstrap', 'blobId']),
    new Option('--inline-bootstrap').default(false).hideHelp(),
    new Option('--blob-id <id>', 'instead of the sha256 of the blob: 64 hex digits'),
    new Option('--blob-offset <offset>').argParser(parseNumber).default(0).hideHelp(),
    chunkSizeOption('--chunk-size <size>'),
    new Option('--batch-size <size>', 'compress files of less than half of it together; power of two')
      .argParser(parseBatchSize)
      .default(0),
    new Option('--compressor <name>', 'of chunks').choices(['zstd', 'lz4_block', 'none']).default('zstd'),
    new Option('--digester <name>', 'of chunks').choices(['blake3', 'sha256']).default('blake3'),
    new Option('-v, --fs-version <n>', 'RAFS version').choices(['5', '6']).default('6'),
    new Option('--features <list>', 'blob-toc: a table of contents and chunk digests in the blob'),
    new Option(
      '--chunk-dict <dictionary>',
      'PATH or bootstrap=PATH: an image whose chunks are not stored again',
    ),
    new Option('--parent-bootstrap <file>', 'the image that the source is laid over'),
    new Option(
      '--aligned-chunk',
      'chunks on uncompressed multiples of 4096; RAFS v6 always has it so',
    ).default(false),
    new Option('--repeatable', 'leave owners out, for the same bytes whoever owns the source').default(false),
    new Option('--disable-check').default(false).hideHelp(),
    new Option('--whiteout-spec <spec>', 'how the source says what it deletes of the parent')
      .choices(['oci', 'overlayfs', 'none'])
      .default('oci'),
    prefetchPolicyOption(),
    new Option('-E, --encrypt', 'encrypt the blob with AES-128-XTS; its key stands in the bootstrap').default(
      false,
    ),
    new Option('-J, --output-json <file>', 'write what the image refers to as JSON'),
    new Option('--backend-type <type>').hideHelp(),
    new Option('--backend-config <json>').hideHelp(),
    new Option('-C, --config <file>').hideHelp(),
    ...LATER.map(flags => new Option(flags).hideHelp()),
    logLevelOption(),
  ]
  for (const option of options) command.addOption(option)
  return command
}

export interface CreateRequest extends CreateFlags {
  readonly sourceKind: 'directory' | 'tar'
  readonly version: 5 | 6
  readonly toc: boolean
  /** Sentences about options that are given for nothing. */
  readonly warnings: readonly string[]
}

/** What the flags together ask for. @throws USAGE, UNIMPLEMENTED */
export function createRequest(command: Command): CreateRequest {
  const flags = { ...command.opts<CreateFlags & { inlineBootstrap: boolean; sourceType?: string }>() }
  flags.blobInlineMeta ||= flags.inlineBootstrap
  flags.type = flags.sourceType ?? flags.type
  const later = LATER.find(option => command.getOptionValue(new Option(option).attributeName()) !== undefined)
  if (later !== undefined) throw comesLater(later.split(' ', 1)[0] ?? later)
  const sourceKind = SOURCES[flags.type]
  if (sourceKind === undefined) throw comesLater(`--type ${flags.type}`)
  const warnings = takeLegacyBackend(flags)
  checkOutputs(flags)
  const toc = checkFeatures(flags.features)
  const version = flags.fsVersion === '5' ? 5 : 6
  checkVersion(version, flags, toc)
  return { ...flags, sourceKind, version, toc, warnings }
}

/** Where blobs go was said so before there was --blob-dir. */
function takeLegacyBackend(flags: CreateFlags): string[] {
  const { backendType, backendConfig } = flags
  if (backendType === undefined && backendConfig === undefined) return []
  if (backendType !== 'localfs')
    throw usage('--backend-type is localfs where an image is built: give --blob-dir')
  let config: unknown
  try {
    config = JSON.parse(backendConfig ?? '')
  } catch (err) {
    throw fault('USAGE', '--backend-config is no JSON: give --blob-dir instead', { cause: err })
  }
  const { dir, blob_file: file } = Object(config) as { dir?: unknown; blob_file?: unknown }
  if (typeof dir === 'string') flags.blobDir ??= dir
  else if (typeof file === 'string') flags.blob ??= file
  else throw usage('--backend-config has neither dir nor blob_file: give --blob-dir instead')
  return ['--backend-type and --backend-config are deprecated: give --blob-dir or --blob']
}

function checkOutputs({ bootstrap, blobDir, blob, blobInlineMeta, blobId }: CreateFlags): void {
  if (blobDir === undefined && blob === undefined)
    throw usage('the data blob has no place: give --blob-dir or --blob')
  if (blobDir !== undefined && blob !== undefined)
    throw usage('the data blob has two places: give --blob-dir or --blob')
  if (bootstrap === undefined && blobDir === undefined && !blobInlineMeta)
    throw usage('the bootstrap has no place: give --bootstrap, or --blob-inline-meta to have it in the blob')
  if (blobInlineMeta && (bootstrap !== undefined || blobId !== undefined))
    throw usage('with the bootstrap in the blob there is neither --bootstrap nor --blob-id: leave them out')
  if (blobId !== undefined && !isBlobId(blobId)) throw usage('--blob-id must be 64 lower-case hex digits')
}

function checkFeatures(features = ''): boolean {
  const names = features.split(',').filter(name => name !== '')
  const unknown = names.find(name => name !== 'blob-toc')
  if (unknown !== undefined) throw usage(`--features ${unknown} is not known: there is blob-toc`)
  return names.length > 0
}

function checkVersion(version: 5 | 6, flags: CreateFlags, toc: boolean): void {
  const { batchSize, chunkSize, encrypt } = flags
  if (batchSize > chunkSize)
    throw usage(`--batch-size is at most the chunk size, 0x${chunkSize.toString(16)}`)
  if (version === 6) return
  const only = toc
    ? '--features blob-toc'
    : batchSize > 0
      ? '--batch-size'
      : encrypt
        ? '--encrypt'
        : undefined
  if (only !== undefined) throw usage(`${only} needs RAFS v6: leave it out, or --fs-version 5`)
}

function usage(sentence: string): Error {
  return fault('USAGE', sentence)
}

function comesLater(what: string): Error {
  return fault('UNIMPLEMENTED', `nydus-image create ${what} comes with a later release: leave it out`)
}
