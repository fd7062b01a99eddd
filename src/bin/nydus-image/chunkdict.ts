import { type Command, Option } from 'commander'
import { replaceFile } from '../../common/replace-file.js'
import { encodeImage } from '../../erofs/encode-image.js'
import { DictGenerator } from '../../image/build/generate-dict.js'
import { OpenBootstrap } from './open-image.js'
import { logLevelOption } from './options.js'
import { writeReport } from './report.js'

interface GenerateFlags {
  readonly bootstrap: string
  readonly database?: string
  readonly outputJson?: string
}

/** `nydus-image chunkdict generate`: a dictionary of the chunks of many images. */
export function addChunkDict(command: Command): void {
  command
    .command('chunkdict')
    .description('make chunk dictionaries')
    .command('generate')
    .description('collect the chunks of images into a dictionary for create and merge')
    .argument('<source...>', 'bootstraps of images')
    .requiredOption('-B, --bootstrap <file>', 'the dictionary')
    .option('-J, --output-json <file>', 'write what the dictionary refers to as JSON')
    .option('--database <url>', "accepted for upstream's sake: the chunks are collected in memory")
    .addOption(new Option('-D, --blob-dir <dir>', "accepted for upstream's sake: no blob is read").hideHelp())
    .addOption(new Option('-C, --config <file>', "accepted for upstream's sake").hideHelp())
    .addOption(new Option('-v, --verbose', "accepted for upstream's sake").hideHelp())
    .addOption(logLevelOption())
    .action(generate)
}

function generate(sources: readonly string[], flags: GenerateFlags): void {
  if (flags.database !== undefined && flags.database !== 'sqlite://:memory:')
    process.stderr.write(
      `nydus-image: no database is written to ${flags.database}: the dictionary needs none\n`,
    )
  const generator = new DictGenerator()
  for (const source of sources) {
    const bootstrap = OpenBootstrap.open(source)
    try {
      generator.add(source, bootstrap.source)
    } finally {
      bootstrap.close()
    }
  }
  const image = generator.finish()
  const encoded = encodeImage(image)
  replaceFile(flags.bootstrap, encoded.bytes)
  const blobIds = encoded.blobs.map(({ id }) => id)
  process.stdout.write(`${generator.size} chunks of ${blobIds.length} blobs: ${flags.bootstrap}\n`)
  if (flags.outputJson !== undefined) {
    const { version, compressor } = image
    writeReport(flags.outputJson, { bootstrap: flags.bootstrap, blobIds, version, compressor, pretty: true })
  }
}
