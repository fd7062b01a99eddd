import path from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { LocalFsBackend } from '../../backend/localfs.js'
import type { Backend } from '../../backend/reader.js'
import { replaceFile } from '../../common/replace-file.js'
import { encodeImage } from '../../erofs/encode-image.js'
import { openBlobDirectory } from '../../image/build/blob-output.js'
import { compactImage } from '../../image/build/compact.js'
import { CompressPool } from '../../image/build/compress-pool.js'
import { ChunkReader } from '../../image/read/chunk-reader.js'
import type { BackendConfigFlags } from '../backend-config.js'
import { openChunkDict } from './merge.js'
import { OpenBootstrap, openBackend } from './open-image.js'
import { logLevelOption } from './options.js'
import { writeReport } from './report.js'

interface CompactFlags extends BackendConfigFlags {
  readonly bootstrap: string
  readonly backendType?: string
  readonly blobDir: string
  readonly minUsedRatio: number
  readonly compactBlobSize: number
  readonly maxCompactSize: number
  readonly layersToCompact: number
  readonly chunkDict?: string
  readonly outputBootstrap?: string
  readonly outputJson?: string
}

/** `nydus-image compact`: blobs of an image anew, without what no file uses, and small ones together. */
export function addCompact(command: Command): void {
  command
    .command('compact')
    .description('write blobs of an image anew without what no file uses any more')
    .requiredOption('-B, --bootstrap <file>', 'the image')
    .requiredOption(
      '-D, --blob-dir <dir>',
      'where the new blobs go, and where the old ones are unless a backend is named',
    )
    .option('--backend-type <type>', 'where the old blobs are: registry')
    .option('--backend-config <json>', 'configuration of that backend')
    .option('--backend-config-file <file>', 'the same in a file, which no process list shows')
    .addOption(
      numberOption('--min-used-ratio <percent>', 'write blobs anew that are used less; 0 for none', 99, 0),
    )
    .addOption(
      numberOption(
        '--compact-blob-size <bytes>',
        'blobs of less are joined with their neighbours',
        2 ** 44,
        10 << 20,
      ),
    )
    .addOption(numberOption('--max-compact-size <bytes>', 'joined blobs are not larger', 2 ** 44, 100 << 20))
    .addOption(numberOption('--layers-to-compact <count>', 'leave images of fewer blobs as they are', 254, 0))
    .option('--chunk-dict <dictionary>', 'PATH or bootstrap=PATH: its blobs are left alone')
    .option(
      '-O, --output-bootstrap <file>',
      'the new bootstrap; default: the old name, ending in .bootstrap.compact',
    )
    .option('-J, --output-json <file>', 'write what the new image refers to as JSON')
    .addOption(logLevelOption())
    .action(compact)
}

async function compact(flags: CompactFlags): Promise<void> {
  const { backendType, blobDir } = flags
  const backend =
    backendType === undefined ? new LocalFsBackend({ dir: blobDir }) : openBackend(backendType, flags)
  try {
    await compactFrom(backend, flags)
  } finally {
    await backend.close()
  }
}

async function compactFrom(backend: Backend, flags: CompactFlags): Promise<void> {
  const output = flags.outputBootstrap ?? defaultOutput(flags.bootstrap)
  const dictionary = flags.chunkDict === undefined ? undefined : openChunkDict(flags.chunkDict)
  const bootstrap = OpenBootstrap.open(flags.bootstrap)
  const pool = new CompressPool()
  try {
    const image = bootstrap.load()
    const done = await compactImage(
      image,
      new ChunkReader(backend),
      () => openBlobDirectory(flags.blobDir),
      { ...flags, dictionary },
      pool,
    )
    const encoded = encodeImage(done.image)
    replaceFile(output, encoded.bytes)
    process.stdout.write(
      `${done.rewritten.length} of ${image.blobs.length} blobs were written anew: ${output}, data blobs:\n`,
    )
    const blobIds = encoded.blobs.map(({ id }) => id)
    for (const id of blobIds) process.stdout.write(`  ${id}\n`)
    if (flags.outputJson !== undefined) {
      const { version, compressor } = done.image
      writeReport(flags.outputJson, { bootstrap: output, blobIds, version, compressor, pretty: true })
    }
  } finally {
    await pool.close()
    bootstrap.close()
  }
}

function defaultOutput(bootstrap: string): string {
  const { dir, name } = path.parse(bootstrap)
  return path.join(dir, `${name}.bootstrap.compact`)
}

function numberOption(flags: string, description: string, largest: number, fallback: number): Option {
  const parse = (text: string): number => {
    const value = /^\d+$|^0x[0-9a-f]+$/i.test(text) ? Number(text) : NaN
    if (value >= 0 && value <= largest) return value
    throw new InvalidArgumentError(`A number from 0 to ${largest} is expected.`)
  }
  return new Option(flags, description).argParser(parse).default(fallback)
}
