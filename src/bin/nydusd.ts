#!/usr/bin/env node
import { closeSync, mkdirSync, readFileSync, realpathSync, statSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { BlobCacheEntry } from '../client/api.js'
import { addLaterCommands, commandLine } from '../common/command-line.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import { createLogger } from '../common/log.js'
import { readVersion } from '../common/version.js'
import { DRIVER_CHOICES, type DriverChoice } from '../daemon/choose-driver.js'
import { Daemon } from '../daemon/daemon.js'
import { readKeptDescriptors } from '../daemon/kept-descriptors.js'
import { parseBlobEntry } from '../daemon/request-bodies.js'
import { getOpenFileLimits, setOpenFileLimits } from '../native/descriptor.js'
import { requireRoot, run } from './run.js'

interface GlobalOptions {
  apisock?: string
  config?: string
  id?: string
  supervisor?: string
  logLevel: string
  logFile?: string
  logRotationSize: number
  rlimitNofile: number
  upgrade: boolean
}

interface SingletonOptions extends GlobalOptions {
  fscache?: string
  fscacheTag?: string
  fscacheThreads?: number
  driver: DriverChoice
  runDir?: string
  validate: boolean
}

/** Services of upstream whose part comes with a later release. */
const LATER = ['fuse', 'virtiofs', 'nbd', 'uffd']
/** Their options, which upstream takes without a sub-command too, and those of its older releases. */
const LATER_OPTIONS = [
  '-M, --mountpoint <dir>',
  '-B, --bootstrap <file>',
  '--metadata <file>',
  '-D, --localfs-dir <dir>',
  '-s, --shared-dir <dir>',
  '--prefetch-files <file>',
  '-m, --virtual-mountpoint <path>',
  '--fuse-threads <n>',
  '--thread-num <n>',
  '--failover-policy <policy>',
  '--writable',
  '--dedup-db <file>',
  '--sock <path>',
  '--hybrid-mode',
]

function program(): Command {
  const command = commandLine('nydusd')
    .description('daemon that serves lazily loaded container images')
    .version(versionText(), '--version', 'print the version')
    .usage('[options] singleton [options]')
    .argument('[command...]')
    .action((words: readonly string[]) => {
      throw noService(words[0])
    })
  addGlobalOptions(command)
  for (const flags of LATER_OPTIONS) command.addOption(new Option(flags).hideHelp())
  const singleton = command
    .command('singleton')
    .description('one shared daemon for the images of a node, through a kernel path')
    .option('-F, --fscache <dir>', 'cache directory; enables the service')
    .option('--fscache-tag <tag>', 'tag of the kernel cache')
    .option('--fscache-threads <n>', "accepted for upstream's sake: one event loop serves", integer)
    .addOption(
      new Option('--driver <name>', 'kernel path; `kernel` is fscache where there is one, else fanotify')
        .choices(DRIVER_CHOICES)
        .default('kernel'),
    )
    .option('--run-dir <dir>', 'where the journal of events lives, on /run; default: beside the API socket')
    .option('--no-validate', 'do not check chunk digests')
    .action(async (_options: unknown, self: Command) => singletonMain(self.optsWithGlobals()))
  addGlobalOptions(singleton)
  addLaterCommands(command, LATER, 'nydusd singleton, which serves the kernel paths')
  return command
}

function addGlobalOptions(command: Command): void {
  command
    .option('-A, --apisock <path>', 'unix socket of the API')
    .option('-C, --config <file>', 'configuration file')
    .option('--id <id>', 'instance id; needs --supervisor')
    .option('--supervisor <path>', "the supervisor's socket; needs --id")
    .addOption(
      new Option('-l, --log-level <level>', 'how much to log')
        .choices(['trace', 'debug', 'info', 'warn', 'error'])
        .default('info'),
    )
    .option('-L, --log-file <file>', 'append the log to a file; default: standard error')
    .option('--log-rotation-size <mb>', 'accepted; rotation is left to logrotate', integer, 0)
    .option('--rlimit-nofile <n>', 'open files to ask for; 0 leaves the limit alone', integer, 1_000_000)
    .option('--upgrade', 'wait in INIT for instances and /api/v1/daemon/start', false)
}

async function singletonMain(options: SingletonOptions): Promise<void> {
  requireRoot('nydusd')
  // What is made here is root's alone, the API socket first of all.
  process.umask(0o077)
  if (options.fscache === undefined) {
    throw fault('USAGE', 'nydusd singleton needs --fscache DIR: the directory of the cache')
  }
  if (options.apisock === undefined) {
    throw fault('USAGE', 'nydusd singleton needs --apisock PATH: images are bound there')
  }
  if ((options.id === undefined) !== (options.supervisor === undefined)) {
    throw fault('USAGE', '--id and --supervisor go together: give both or neither')
  }
  const entries = options.config === undefined ? [] : readEntries(options.config)
  const logger = createLogger({
    name: 'nydusd',
    level: options.logLevel,
    ...(options.logFile === undefined ? {} : { file: options.logFile }),
  })
  raiseOpenFiles(options.rlimitNofile, logger.warn.bind(logger))
  const runDirectory = options.runDir ?? dirname(options.apisock)
  mkdirSync(runDirectory, { recursive: true, mode: 0o700 })
  const daemon = await Daemon.open({
    id: options.id ?? null,
    supervisor: options.supervisor ?? null,
    kernel: {
      cacheDirectory: existingDirectory(options.fscache),
      ...(options.fscacheTag === undefined ? {} : { fscacheTag: options.fscacheTag }),
      driver: options.driver,
      runDirectory,
    },
    apiSocket: options.apisock,
    passive: options.upgrade,
    validate: options.validate,
    kept: readKeptDescriptors(process.env['NYDUS_KEPT_DESCRIPTORS']),
    logger,
  })
  let signals = 0
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (++signals > 1) process.kill(process.pid, 'SIGKILL')
      daemon.stop()
    })
  }
  logger.info({ ...readVersion(), argv: process.argv.slice(2) }, 'nydusd starts')
  await daemon.run(async () => {
    for (const entry of entries) await daemon.bind(entry)
    tellReady()
  })
  logger.info('nydusd ends')
}

/** Images to bind at start: `blobs` of a JSON object. What else it holds is no business of ours, as upstream has it. */
function readEntries(path: string): BlobCacheEntry[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('CONFIG_MISSING', `--config ${path}: there is no such file`, { cause: err })
    throw asFault(err, 'CONFIG_MISSING', `--config ${path} cannot be read`)
  }
  let blobs: unknown
  try {
    const config: unknown = JSON.parse(text)
    blobs = typeof config === 'object' && config !== null && 'blobs' in config ? config.blobs : []
  } catch {
    // The text of the parser's error quotes the file, which may hold credentials.
    throw fault('CONFIG_INVALID', `invalid configuration file ${path}: it is not JSON`)
  }
  if (!Array.isArray(blobs)) throw fault('CONFIG_INVALID', `${path}: blobs must be a list`)
  return blobs.map(parseBlobEntry)
}

/** Tells whoever started us, through the descriptor that it named, that the API answers. */
function tellReady(): void {
  const text = process.env['NYDUS_READY_FD']
  if (text === undefined) return
  const fd = Number(text)
  writeSync(fd, 'READY\n')
  closeSync(fd)
}

/** Unanswered events each hold a descriptor. Where the limit cannot be raised we go on with what there is. */
function raiseOpenFiles(wanted: number, warn: (context: object, message: string) => void): void {
  if (wanted === 0) return
  const limits = getOpenFileLimits()
  if (limits.soft >= wanted) return
  try {
    setOpenFileLimits({ soft: wanted, hard: Math.max(wanted, limits.hard) })
  } catch {
    setOpenFileLimits({ soft: limits.hard, hard: limits.hard })
    warn({ wanted, limit: limits.hard }, 'the limit of open files cannot be raised as far as asked')
  }
}

function existingDirectory(path: string): string {
  let real: string
  try {
    real = realpathSync(path)
  } catch (err) {
    if (!hasErrno(err, 'ENOENT')) throw asFault(err, 'FILE_UNREADABLE', `the cache directory ${path}`)
    throw fault('FILE_MISSING', `the cache directory ${path} does not exist: create it`, { cause: err })
  }
  if (!statSync(real).isDirectory())
    throw fault('USAGE', `--fscache ${path} is no directory: name the directory of the cache`)
  return real
}

/** Without a sub-command upstream serves one FUSE mount. */
function noService(word: string | undefined): Error {
  return word === undefined
    ? fault('UNIMPLEMENTED', 'serving by FUSE comes with a later release: there is nydusd singleton')
    : fault('USAGE', `unknown command ${JSON.stringify(word)}: nydusd --help lists them`)
}

function integer(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('a whole number is wanted.')
  return Number(text)
}

/** Upstream's five lines; tools read the second word of the first. */
function versionText(): string {
  const { version, revision, buildTime } = readVersion()
  return [
    `Version: \t${version}`,
    `Git Commit: \t${revision}`,
    `Build Time: \t${buildTime}`,
    'Profile: \trelease',
    `Rustc: \tnode ${process.version}`,
  ].join('\n')
}

run('nydusd', async argv => {
  await program().parseAsync([...argv], { from: 'user' })
})
