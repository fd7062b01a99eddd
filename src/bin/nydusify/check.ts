import { mkdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Option, type Command } from 'commander'
import { createBackend } from '../../backend/create.js'
import type { Backend } from '../../backend/reader.js'
import { asFault, fault } from '../../common/fault.js'
import { silentLogger } from '../../common/log.js'
import {
  type ImagePair,
  checkManifests,
  compareImages,
  fetchImagePair,
} from '../../image/check/check-image.js'
import { type StoreAccess, openSource } from '../../image/convert/open-store.js'
import { type WantedPlatform, hostPlatform } from '../../oci/platform.js'
import { parseReference } from '../../oci/reference.js'
import { readBackendConfig } from '../backend-config.js'
import { type RegistryFlags, registryOptions } from './access-options.js'
import { stopSignal } from './access.js'
import { parsePlatform } from './platforms.js'

interface CheckFlags extends RegistryFlags {
  target: string
  source?: string
  targetArchive?: string
  sourceArchive?: string
  platform?: string
  workDir: string
  targetBackendType?: string
  targetBackendConfig?: string
  targetBackendConfigFile?: string
}

/** `nydusify check`: manifest, bootstrap, and with a source every file. */
export function addCheck(command: Command): void {
  const check = command
    .command('check')
    .description('check an image, and that it is the same as the one it was made from')
    .addOption(new Option('--target <ref>', 'image to check').makeOptionMandatory())
    .option('--source <ref>', 'image to compare every file with')
    .option('--target-archive <file>', 'OCI layout or archive that holds the target')
    .option('--source-archive <file>', 'OCI layout or archive that holds the source')
    .option('--platform <os/arch>', "of an index; default: linux on this machine's architecture")
    .option('--work-dir <dir>', 'gets manifests, configs and bootstraps; what was there is lost', './output')
    .option('--target-backend-type <type>', 'where the data of the target is: registry, localfs')
    .option('--target-backend-config <json>', 'configuration of that backend')
    .option('--target-backend-config-file <file>', 'the same in a file, which no process list shows')
    .addOption(new Option('--multi-platform', 'has no effect: an index is known by itself').hideHelp())
    .addOption(new Option('--nydus-image <path>', 'has no effect').hideHelp())
    .addOption(new Option('--nydusd <path>', 'has no effect: files are read without a mount').hideHelp())
    .action(run)
  for (const option of registryOptions()) check.addOption(option)
}

async function run(flags: CheckFlags): Promise<void> {
  const signal = stopSignal('the check was stopped')
  const platform = flags.platform === undefined ? hostPlatform() : parsePlatform(flags.platform)
  const { plainHttp, targetArchive, sourceArchive, source } = flags
  if (sourceArchive !== undefined && source === undefined)
    throw fault('USAGE', '--source-archive needs --source: the name of the image in it')
  const target = access(flags.target, targetArchive, flags.targetInsecure, plainHttp)
  const original =
    source === undefined ? undefined : access(source, sourceArchive, flags.sourceInsecure, plainHttp)
  const data = openData(flags)
  try {
    await emptyDirectory(flags.workDir)
    await withPair(target, platform, path.join(flags.workDir, 'target'), signal, async made => {
      if (original === undefined) return
      await withPair(original, platform, path.join(flags.workDir, 'source'), signal, async from => {
        const tell = (difference: string): void => void process.stderr.write(`${difference}\n`)
        const { files, names } = await compareImages(from, data ? { ...made, data } : made, tell, signal)
        process.stdout.write(`${names} names and ${files} files are the same\n`)
      })
    })
  } finally {
    await data?.close()
  }
  process.stdout.write(`verified image ${flags.target}\n`)
}

/** The backend that has the data of the target. @throws USAGE, CONFIG_*, UNIMPLEMENTED */
function openData(flags: CheckFlags): Backend | undefined {
  const { targetBackendType: type, targetBackendConfig, targetBackendConfigFile } = flags
  if (type === undefined) return undefined
  const given = {
    ...(targetBackendConfig !== undefined && { backendConfig: targetBackendConfig }),
    ...(targetBackendConfigFile !== undefined && { backendConfigFile: targetBackendConfigFile }),
  }
  return createBackend(type, readBackendConfig(type, given), { logger: silentLogger })
}

async function withPair(
  access: StoreAccess,
  platform: WantedPlatform,
  directory: string,
  signal: AbortSignal,
  run: (pair: ImagePair) => Promise<void>,
): Promise<void> {
  const source = await openSource(access)
  try {
    const pair = await fetchImagePair(source, platform, signal)
    await writeOutput(pair, directory)
    checkManifests(pair)
    await run(pair)
  } finally {
    await source.close()
  }
}

function access(
  reference: string,
  archive: string | undefined,
  insecure: boolean,
  plainHttp: boolean,
): StoreAccess {
  return { reference: parseReference(reference), archive, insecure, plainHttp }
}

/** Leaves what was checked where a person can look at it. */
async function writeOutput({ plain, nydus }: ImagePair, directory: string): Promise<void> {
  const files = new Map<string, Uint8Array | string>()
  if (plain) {
    files.set('oci_manifest.json', plain.bytes)
    files.set('oci_config.json', JSON.stringify(plain.config.document, null, 2))
  }
  if (nydus) {
    files.set('nydus_manifest.json', nydus.bytes)
    files.set('nydus_config.json', JSON.stringify(nydus.config.document, null, 2))
    for (const [name, bytes] of nydus.files)
      files.set(path.join('nydus_bootstrap', path.join('/', name)), bytes)
  }
  try {
    for (const [name, bytes] of files) {
      const file = path.join(directory, name)
      await mkdir(path.dirname(file), { recursive: true })
      await writeFile(file, bytes)
    }
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `${directory} cannot be written`)
  }
}

async function emptyDirectory(directory: string): Promise<void> {
  try {
    for (const name of ['source', 'target'])
      await rm(path.join(directory, name), { recursive: true, force: true })
    await mkdir(directory, { recursive: true })
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `the work directory ${directory} cannot be written`)
  }
}
