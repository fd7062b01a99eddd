import { open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { type Command, Option } from 'commander'
import { LocalFsBackend } from '../../backend/localfs.js'
import { asFault, fault } from '../../common/fault.js'
import { ChunkReader } from '../../image/read/chunk-reader.js'
import { exportDisk } from '../../image/read/export-disk.js'
import { type VerityParameters, appendVerity } from '../../image/read/verity-tree.js'
import { OpenBootstrap } from './open-image.js'
import { logLevelOption } from './options.js'

interface ExportFlags {
  readonly block?: boolean
  readonly bootstrap: string
  readonly localfsDir: string
  readonly output?: string
  readonly verity?: boolean
}

/** `nydus-image export --block`: an image as one disk. */
export function addExport(command: Command): void {
  command
    .command('export')
    .description('write an image as one disk that the kernel mounts by itself')
    .option('--block', 'a raw disk: the only form there is')
    .requiredOption('-B, --bootstrap <file>', 'the image')
    .requiredOption('-D, --localfs-dir <dir>', 'directory of the data blobs, each under its id')
    .option(
      '-O, --output <file>',
      'the disk; default: the name of the bootstrap with .disk, in the directory of the blobs',
    )
    .option('--verity', 'append a tree of hashes and say what dm-verity must be told')
    .addOption(new Option('--threads <count>', "accepted for upstream's sake").hideHelp())
    .addOption(logLevelOption())
    .action(exportImage)
}

async function exportImage(flags: ExportFlags): Promise<void> {
  if (flags.block !== true)
    throw fault('USAGE', 'nydus-image export takes --block: a raw disk is the only form there is')
  const target = flags.output ?? path.join(flags.localfsDir, `${path.basename(flags.bootstrap)}.disk`)
  const bootstrap = OpenBootstrap.open(flags.bootstrap)
  const backend = new LocalFsBackend({ dir: flags.localfsDir })
  const beside = `${target}.${process.pid}.tmp`
  try {
    const disk = await open(beside, 'wx+', 0o644)
    let verity: VerityParameters | undefined
    try {
      const size = await exportDisk(bootstrap.source, new ChunkReader(backend), disk)
      if (flags.verity === true) verity = await appendVerity(disk, size)
    } finally {
      await disk.close()
    }
    await rename(beside, target)
    process.stdout.write(`${target}\n`)
    if (verity !== undefined) process.stdout.write(`dm-verity options: ${options(verity)}\n`)
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `${target} cannot be written`)
  } finally {
    await rm(beside, { force: true })
    await backend.close()
    bootstrap.close()
  }
}

/** As veritysetup takes them. */
function options({ dataBlocks, hashOffset, rootHash }: VerityParameters): string {
  return (
    '--no-superblock --format=1 -s "" --hash=sha256 --data-block-size=4096 --hash-block-size=4096 ' +
    `--data-blocks ${dataBlocks} --hash-offset ${hashOffset} ${rootHash}`
  )
}
