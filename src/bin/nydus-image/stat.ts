import { readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { type Command, Option } from 'commander'
import { asFault, fault, isFault } from '../../common/fault.js'
import { type ImageStat, addImage, newStat, statDocument } from '../../image/read/image-stat.js'
import { OpenBootstrap } from './open-image.js'
import { configOption, logLevelOption } from './options.js'

interface StatFlags {
  readonly bootstrap?: string
  readonly blobDir?: string
  readonly target?: string
  readonly outputJson?: string
}

/** `nydus-image stat`: counts of files and chunks, and what a target would share with them. */
export function addStat(command: Command): void {
  command
    .command('stat')
    .description('count files and chunks of images, and what another image shares with them')
    .option('-B, --bootstrap <file>', 'the image')
    .option('-D, --blob-dir <dir>', 'instead: a directory of images; every file without an extension is one')
    .option('-T, --target <file>', 'an image to compare with them')
    .option('-J, --output-json <file>', 'write the counts as JSON')
    .addOption(
      new Option('--digester <name>', "accepted for upstream's sake: each image says its own").hideHelp(),
    )
    .addOption(configOption())
    .addOption(logLevelOption())
    .action(stat)
}

function stat(flags: StatFlags): void {
  const { bootstrap, blobDir, target, outputJson } = flags
  if ((bootstrap === undefined) === (blobDir === undefined))
    throw fault('USAGE', 'nydus-image stat takes --bootstrap FILE or --blob-dir DIR')
  const base = newStat()
  const seen = new Set<string>()
  const none = new Set<string>()
  if (bootstrap !== undefined) addFile(base, bootstrap, none, seen)
  else for (const file of imageFiles(blobDir ?? '')) addFileIfImage(base, file, none, seen)
  const targetStat = newStat()
  if (target !== undefined) addFile(targetStat, target, seen, new Set())
  print('base', base)
  if (target !== undefined) print('target', targetStat)
  if (outputJson === undefined) return
  writeDocument(outputJson, {
    dedup_enabled: true,
    target_enabled: target !== undefined,
    base_image: statDocument(base),
    target_image: statDocument(targetStat),
  })
}

function imageFiles(directory: string): string[] {
  try {
    const entries = readdirSync(directory, { withFileTypes: true })
    return entries
      .filter(entry => entry.isFile() && path.extname(entry.name) === '')
      .map(entry => path.join(directory, entry.name))
      .sort()
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `${directory} cannot be read`)
  }
}

/** A blob without a bootstrap inside is passed over, and named. */
function addFileIfImage(stat: ImageStat, file: string, known: ReadonlySet<string>, seen: Set<string>): void {
  try {
    addFile(stat, file, known, seen)
  } catch (err) {
    if (!isFault(err, 'RAFS_NOT_RAFS')) throw err
    process.stderr.write(`nydus-image: ${file} has no bootstrap and is left out\n`)
  }
}

function addFile(stat: ImageStat, file: string, known: ReadonlySet<string>, seen: Set<string>): void {
  const bootstrap = OpenBootstrap.open(file)
  try {
    addImage(stat, bootstrap.load(), known, seen)
  } finally {
    bootstrap.close()
  }
}

function print(name: string, stat: ImageStat): void {
  const { dirs, files, symlinks, fileSize, chunks, compSize, uncompSize, dedup, own, ref } = stat
  const lines = [
    `${dirs} directories, ${files} files of ${fileSize} bytes, ${symlinks} symlinks`,
    `${chunks} chunks, ${compSize} bytes compressed, ${uncompSize} uncompressed`,
    `${dedup.chunks} different ones, ${dedup.compSize} bytes compressed, ${dedup.uncompSize} uncompressed`,
    `${own.chunks} of these its own (${own.compSize} bytes), ${ref.chunks} known before (${ref.compSize} bytes)`,
  ]
  process.stdout.write(`${name} image:\n${lines.map(line => `  ${line}\n`).join('')}`)
}

function writeDocument(file: string, document: object): void {
  try {
    writeFileSync(file, `${JSON.stringify(document, null, 2)}\n`)
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be written`)
  }
}
