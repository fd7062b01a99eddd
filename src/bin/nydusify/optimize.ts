import { readFile } from 'node:fs/promises'
import { Option, type Command } from 'commander'
import { asFault, fault, hasErrno } from '../../common/fault.js'
import { formatSize } from '../../image/convert/convert-progress.js'
import { optimizeImage } from '../../image/convert/optimize.js'
import { hostPlatform } from '../../oci/platform.js'
import { type AccessFlags, accessOptions } from './access-options.js'
import { stopSignal, withImages } from './access.js'
import { parsePlatform } from './platforms.js'

interface OptimizeFlags extends AccessFlags {
  source: string
  target: string
  prefetchFiles: string
  platform?: string
  workDir: string
}

/** `nydusify optimize`: the files that a start reads go into a blob of their own. */
export function addOptimize(command: Command): void {
  const optimize = command
    .command('optimize')
    .description('put the files of an access list into a data blob of their own, to be prefetched')
    .addOption(new Option('--source <ref>', 'nydus image, or file://PATH').makeOptionMandatory())
    .addOption(new Option('--target <ref>', 'where the new image goes, or file://PATH').makeOptionMandatory())
    .addOption(
      new Option(
        '--prefetch-files <file>',
        'JSON: {"version":"v1","files":[{"path":"/bin/sh"}]}',
      ).makeOptionMandatory(),
    )
    .addOption(
      new Option('--policy <name>', 'how the image is laid out anew')
        .choices(['separated-blob-with-prefetch-files'])
        .default('separated-blob-with-prefetch-files'),
    )
    .option('--platform <os/arch>', "of an index; default: linux on this machine's architecture")
    .option('--work-dir <dir>', 'for temporary files', './tmp')
    .addOption(new Option('--nydus-image <path>', 'has no effect').hideHelp())
    .action(run)
  for (const option of accessOptions()) optimize.addOption(option)
}

async function run(flags: OptimizeFlags): Promise<void> {
  const signal = stopSignal('the work was stopped: nothing was published')
  const files = parseAccessList(await readList(flags.prefetchFiles), flags.prefetchFiles)
  const platform = flags.platform === undefined ? hostPlatform() : parsePlatform(flags.platform)
  await withImages(flags.source, flags.target, flags, async (source, target) => {
    const request = { source, target, platform, files, workDirectory: flags.workDir, signal }
    const { digest, files: count, skipped, blobSizeBytes } = await optimizeImage(request)
    if (skipped > 0)
      process.stderr.write(`nydusify: ${skipped} listed paths are no files with data, or are listed twice\n`)
    process.stdout.write(
      `optimized ${source.name} to ${target.name}@${digest}\n${count} files in ${formatSize(blobSizeBytes)}\n`,
    )
  })
}

async function readList(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('FILE_MISSING', `there is no access list ${file}: check the path`, { cause: err })
    throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be read`)
  }
}

/** The paths of an access list; of a file all is taken, whatever ranges stand there. @throws USAGE */
function parseAccessList(json: string, name: string): string[] {
  try {
    const list = JSON.parse(json) as { version?: unknown; files?: { path?: unknown }[] }
    const paths = list.files?.map(({ path }) => path)
    if (list.version === 'v1' && paths?.every((path): path is string => typeof path === 'string'))
      return paths
  } catch {
    // Told below.
  }
  throw fault('USAGE', `${name} is no access list: it is {"version":"v1","files":[{"path":"/…"}]}`)
}
