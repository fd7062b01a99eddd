import path from 'node:path'
import { Option, type Command } from 'commander'
import { createBackend } from '../../backend/create.js'
import { fault } from '../../common/fault.js'
import { createLogger, type Logger, silentLogger } from '../../common/log.js'
import { KERNEL_CHOICES, type DriverChoice } from '../../daemon/choose-driver.js'
import { type ImagePair, checkManifests, fetchImagePair } from '../../image/check/check-image.js'
import { openRegistry } from '../../image/convert/registry-access.js'
import { dockerConfigCredentials } from '../../oci/docker-config.js'
import { hostPlatform } from '../../oci/platform.js'
import { type Reference, formatReference, parseReference, registryHost } from '../../oci/reference.js'
import type { RegistryClient } from '../../oci/registry-client.js'
import { RegistryStore } from '../../oci/registry-store.js'
import { backendConfigSource } from '../../snapshotter/backend-config.js'
import type { BackendConfig, BackendConfigSource } from '../../supervisor/image-mounts.js'
import { type BackendConfigFlags, readBackendConfig } from '../backend-config.js'
import { requireRoot } from '../run.js'
import { stopSignal } from './access.js'
import { serveMount } from './mount-work.js'
import { parsePlatform } from './platforms.js'

interface MountFlags extends BackendConfigFlags {
  target: string
  targetInsecure: boolean
  plainHttp: boolean
  backendType: string
  prefetch: boolean
  mountPath: string
  platform?: string
  workDir: string
  nydusd: string
  driver: DriverChoice
}

/** `nydusify mount`: a directory that shows an image's files, fetched when they are read. */
export function addMount(command: Command): void {
  command
    .command('mount')
    .alias('view')
    .description('mount an image until the command is stopped; files are fetched when they are read')
    .addOption(new Option('--target <ref>', 'the image').makeOptionMandatory())
    .option('--mount-path <dir>', 'where to mount it', './image-fs')
    .option('--work-dir <dir>', 'gets manifest, bootstrap, cache and socket, until the end', './tmp')
    .option('--platform <os/arch>', "of an index; default: linux on this machine's architecture")
    .option('--target-insecure', 'accept any certificate, or plain HTTP', false)
    .option('--plain-http', 'speak plain HTTP to the registry', false)
    .option('--backend-type <type>', 'where the data is: registry, localfs', 'registry')
    .option('--backend-config <json>', "configuration of that; default: the target's registry")
    .option('--backend-config-file <file>', 'the same in a file, which no process list shows')
    .addOption(
      new Option('--driver <name>', 'kernel path; `kernel` is fscache where there is one, else fanotify')
        .choices(KERNEL_CHOICES)
        .default('kernel'),
    )
    .option('--nydusd <path>', 'another nydusd than our own', '')
    .addOption(new Option('--prefetch', 'has no effect yet').default(false).hideHelp())
    .action((flags: MountFlags, self: Command) => mount(flags, self.optsWithGlobals<{ logLevel: string }>()))
}

async function mount(flags: MountFlags, { logLevel }: { logLevel: string }): Promise<void> {
  requireRoot('nydusify mount')
  const signal = stopSignal('the mount was stopped')
  const reference = parseReference(flags.target)
  const given = givenBackend(flags)
  if (flags.prefetch) process.stderr.write('nydusify: --prefetch has no effect yet: files come when read\n')
  const logger = createLogger({ name: 'nydusify', level: logLevel === 'info' ? 'warn' : logLevel })
  const { plainHttp, targetInsecure: insecure } = flags
  const client = await openRegistry({ domain: reference.domain, insecure, plainHttp })
  const { image, backend } = await (async () => {
    try {
      const image = await fetchImage(client, reference, flags, signal)
      return { image, backend: given ?? (await targetBackend(client, reference, insecure)) }
    } finally {
      await client.close()
    }
  })()
  await serveMount({
    image,
    imageRef: formatReference(reference),
    backend,
    backendConfig: configSource(given, backend, logger),
    mountPath: path.resolve(flags.mountPath),
    workDirectory: path.resolve(flags.workDir),
    nydusdPath: flags.nydusd,
    driver: flags.driver,
    signal,
    logger,
  })
}

/** What `--backend-config` says, checked before anything is started. @throws USAGE, CONFIG_*, UNIMPLEMENTED */
function givenBackend(flags: MountFlags): BackendConfig | undefined {
  const { backendType: type, backendConfig, backendConfigFile } = flags
  if (type === 'registry' && backendConfig === undefined && backendConfigFile === undefined) return undefined
  const config = readBackendConfig(type, flags)
  void createBackend(type, config, { logger: silentLogger }).close()
  return { type, config }
}

/** The registry that the image came from, as it was spoken to; without credentials. */
async function targetBackend(
  client: RegistryClient,
  { domain, repository }: Reference,
  skipVerify: boolean,
): Promise<BackendConfig> {
  const config = { scheme: await client.scheme(), host: registryHost(domain), repo: repository }
  return { type: 'registry', config: { ...config, skip_verify: skipVerify } }
}

/** With docker's credentials of the moment, unless the backend was given. */
function configSource(
  given: BackendConfig | undefined,
  backend: BackendConfig,
  logger: Logger,
): BackendConfigSource {
  return given
    ? () => Promise.resolve(given)
    : backendConfigSource(backend, dockerConfigCredentials(), logger)
}

async function fetchImage(
  client: RegistryClient,
  reference: Reference,
  { platform: word }: MountFlags,
  signal: AbortSignal,
): Promise<NonNullable<ImagePair['nydus']>> {
  const platform = word === undefined ? hostPlatform() : parsePlatform(word)
  const store = new RegistryStore(client, reference)
  const { nydus } = await fetchImagePair(store, platform, signal)
  if (!nydus)
    throw fault(
      'MANIFEST_UNSUPPORTED',
      `${store.name} is no nydus image: nydusify convert makes one of it, which can be mounted`,
    )
  checkManifests({ source: store, nydus })
  if (nydus.image.version === 5)
    throw fault(
      'RAFS_UNSUPPORTED',
      `${store.name} is RAFS v5, which no kernel mounts: convert it with --fs-version 6`,
    )
  return nydus
}
