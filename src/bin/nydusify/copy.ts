import { Option, type Command } from 'commander'
import { formatSize } from '../../image/convert/convert-progress.js'
import { copyImage } from '../../image/convert/copy.js'
import type { Platforms } from '../../image/convert/source-image.js'
import { type AccessFlags, accessOptions } from './access-options.js'
import { stopSignal, withImages } from './access.js'
import { parsePlatforms, platformOptions } from './platforms.js'

interface CopyFlags extends AccessFlags {
  source: string
  target: string
  platform?: string
  allPlatforms: boolean
}

/** `nydusify copy`, and the same from and to an archive as `save` and `load`. */
export function addCopy(command: Command): void {
  const copy = command
    .command('copy')
    .description('copy an image of any kind between registries, OCI archives and layouts (file://PATH)')
    .addOption(new Option('--source <ref>', 'image, or file://PATH').makeOptionMandatory())
    .addOption(new Option('--target <ref>', 'where it goes, or file://PATH').makeOptionMandatory())
    .addOption(new Option('--work-dir <dir>', 'has no effect: nothing is stored on the way').hideHelp())
    .action((flags: CopyFlags) => run(flags.source, flags.target, flags, parsePlatforms(flags)))
  for (const option of [...platformOptions(), ...accessOptions()]) copy.addOption(option)

  const save = command
    .command('save')
    .description('write an image with all its platforms to an OCI archive')
    .addOption(new Option('--source <ref>', 'the image').makeOptionMandatory())
    .addOption(new Option('-o, --output <file>', 'the archive').makeOptionMandatory())
    .action((flags: CopyFlags & { output: string }) =>
      run(flags.source, `file://${flags.output}`, flags, 'all'),
    )
  const load = command
    .command('load')
    .description('put the image of an OCI archive into a registry')
    .addOption(new Option('-i, --input <file>', 'the archive').makeOptionMandatory())
    .addOption(new Option('--target <ref>', 'where it goes').makeOptionMandatory())
    .action((flags: CopyFlags & { input: string }) =>
      run(`file://${flags.input}`, flags.target, flags, 'all'),
    )
  for (const option of accessOptions()) {
    save.addOption(option)
    load.addOption(option)
  }
}

async function run(source: string, target: string, flags: AccessFlags, platforms: Platforms): Promise<void> {
  const signal = stopSignal('the copy was stopped: nothing was published')
  await withImages(source, target, flags, async (from, to) => {
    const observer = {
      copied: ({ digest, size }: { digest: string; size: number }, movedBytes: number): void => {
        const how = movedBytes > 0 ? formatSize(size) : 'there already'
        process.stderr.write(`${digest.slice(0, 19)} ${how}\n`)
      },
    }
    const { digest, sizeBytes, movedBytes } = await copyImage({
      source: from,
      target: to,
      platforms,
      signal,
      observer,
    })
    process.stdout.write(
      `copied ${from.name} to ${to.name}@${digest}\n${formatSize(sizeBytes)} (${formatSize(movedBytes)} moved)\n`,
    )
  })
}
