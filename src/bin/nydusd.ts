#!/usr/bin/env node
import { closeSync, mkdirSync, realpathSync, statSync, writeSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { BlobCacheEntry } from '../client/api.js'
import { addLaterCommands, commandLine } from '../common/command-line.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import { createLogger, type Logger } from '../common/log.js'
import { readVersion } from '../common/version.js'
import { DRIVER_CHOICES, type DriverChoice } from '../daemon/choose-driver.js'
import { Daemon, type DaemonOptions } from '../daemon/daemon.js'
import type { FuseServiceOptions } from '../daemon/fuse-service.js'
import { readKeptDescriptors } from '../daemon/kept-descriptors.js'
import { parseBlobEntry } from '../daemon/request-bodies.js'
import type { FailoverPolicy } from '../fuse/server.js'
import { getOpenFileLimits, setOpenFileLimits } from '../native/descriptor.js'
import { findMount } from '../native/mount-table.js'
import { endProcess } from '../native/process.js'
import { firstMount, type FirstMountOptions, readConfig } from './nydusd/first-mount.js'
import { standBy } from './nydusd/standby.js'
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

interface MountOptions {
  mountpoint?: string
  fuseThreads?: number
  threadNum?: number
  failoverPolicy: FailoverPolicy
  runDir?: string
  validate: boolean
}

interface FuseOptions extends GlobalOptions, MountOptions, FirstMountOptions {
  sharedDir?: string
  writable?: boolean
  dedupDb?: string
  sock?: string
}

interface SingletonOptions extends GlobalOptions, MountOptions {
  fscache?: string
  fscacheTag?: string
  fscacheThreads?: number
  driver: DriverChoice
}

/** Services of upstream whose part comes with a later release. */
const LATER = ['virtiofs', 'nbd', 'uffd']
/** A worker takes 9 MiB, and answers thousands of requests a second. */
const MAX_WORKERS = 16

function program(): Command {
  const command = commandLine('nydusd')
    .description('daemon that serves lazily loaded container images; without a command it is `fuse`')
    .version(versionText(), '--version', 'print the version')
    .usage('[options] [fuse|singleton] [options]')
    .argument('[command...]')
    .action(async (words: readonly string[], options: FuseOptions) => {
      const [word] = words
      if (word !== undefined)
        throw fault('USAGE', `unknown command ${JSON.stringify(word)}: nydusd --help lists them`)
      await fuseMain(options)
    })
  addGlobalOptions(command)
  addFuseOptions(command)
  const fuse = command
    .command('fuse')
    .description('one FUSE mount, with any number of images in it')
    .action(async (_options: unknown, self: Command) => fuseMain(self.optsWithGlobals()))
  addGlobalOptions(fuse)
  addFuseOptions(fuse)
  const singleton = command
    .command('singleton')
    .description('one shared daemon for the images of a node, through a kernel path')
    .option('-F, --fscache <dir>', 'cache directory; enables the service')
    .option('--fscache-tag <tag>', 'tag of the kernel cache')
    .option('--fscache-threads <n>', "accepted for upstream's sake: one event loop serves", integer)
    .addOption(
      new Option('--driver <name>', '`kernel`: fscache where there is one, else fanotify, else fuse')
        .choices(DRIVER_CHOICES)
        .default('kernel'),
    )
    .action(async (_options: unknown, self: Command) => singletonMain(self.optsWithGlobals()))
  addGlobalOptions(singleton)
  addMountOptions(singleton)
  addLaterCommands(command, LATER, 'nydusd fuse, and nydusd singleton for the kernel paths')
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
    .option('--upgrade', 'wait in INIT: for instances or a takeover, and /api/v1/daemon/start', false)
}

function addMountOptions(command: Command): void {
  command
    .option('-M, --mountpoint <dir>', 'where the FUSE mount is')
    .option('--fuse-threads <n>', 'workers that answer requests, 1 to 1024; at most 16 are started', threads)
    .addOption(new Option('--thread-num <n>').argParser(threads).hideHelp())
    .addOption(
      new Option('--failover-policy <policy>', 'how requests of a dead predecessor are got')
        .choices(['none', 'resend', 'flush'])
        .default('resend'),
    )
    .option('--run-dir <dir>', 'where what a successor needs lives, on /run; default: beside the API socket')
    .option('--no-validate', 'do not check chunk digests')
}

function addFuseOptions(command: Command): void {
  addMountOptions(command)
  command
    .option('-B, --bootstrap <file>', 'image to mount from the start')
    .option('-D, --localfs-dir <dir>', 'directory of blobs and cache, instead of --config')
    .option('--prefetch-files <file>', "list of absolute paths, one a line, instead of the image's own")
    .option('-m, --virtual-mountpoint <path>', 'where in the mount the image is', '/')
  // Of older releases, of other services, and of parts that come later: the last are refused by name.
  for (const flags of ['--metadata <file>', '--hybrid-mode', '-s, --shared-dir <dir>', '--writable'])
    command.addOption(new Option(flags).hideHelp())
  for (const flags of ['--dedup-db <file>', '--sock <path>']) command.addOption(new Option(flags).hideHelp())
}

/** What holds for every service. */
function begin(options: GlobalOptions): void {
  requireRoot('nydusd')
  // What is made here is root's alone, the API socket first of all.
  process.umask(0o077)
  if ((options.id === undefined) !== (options.supervisor === undefined)) {
    throw fault('USAGE', '--id and --supervisor go together: give both or neither')
  }
}

async function fuseMain(options: FuseOptions): Promise<void> {
  begin(options)
  refuseLater(options)
  const { mountpoint } = options
  if (mountpoint === undefined)
    throw fault('USAGE', 'nydusd fuse needs --mountpoint DIR: an existing directory')
  const image = firstMount(options, process.env['IMAGE_PULL_AUTH'])
  const defaultConfig = options.config === undefined ? undefined : readConfig(options.config)
  await serve(options, true, {
    fuse: fuseOptions(options, mountpoint),
    ...(image && { firstMount: image }),
    ...(defaultConfig !== undefined && { config: defaultConfig }),
  })
}

async function singletonMain(options: SingletonOptions): Promise<void> {
  begin(options)
  const { fscache, apisock, mountpoint, driver, fscacheTag } = options
  if (fscache === undefined)
    throw fault('USAGE', 'nydusd singleton needs --fscache DIR: the directory of the cache')
  if (apisock === undefined)
    throw fault('USAGE', 'nydusd singleton needs --apisock PATH: images are bound there')
  if (driver === 'fuse' && mountpoint === undefined)
    throw fault('USAGE', '--driver fuse needs --mountpoint DIR: an existing directory')
  const entries = options.config === undefined ? [] : readEntries(options.config)
  const runDirectory = options.runDir ?? dirname(apisock)
  mkdirSync(runDirectory, { recursive: true, mode: 0o700 })
  const kernel = {
    cacheDirectory: existingDirectory(fscache),
    ...(fscacheTag !== undefined && { fscacheTag }),
    driver,
    runDirectory,
  }
  const fuse = mountpoint === undefined ? undefined : fuseOptions(options, mountpoint)
  await serve(options, false, { kernel, ...(fuse && { fuse }) }, async daemon => {
    for (const entry of entries) await daemon.bind(entry)
  })
}

/** @param unmounts - whether a signal takes the FUSE mount away; else it is the supervisor's */
async function serve(
  options: GlobalOptions & MountOptions,
  unmounts: boolean,
  services: Pick<DaemonOptions, 'kernel' | 'fuse' | 'firstMount' | 'config'>,
  prepare: (daemon: Daemon) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  const logger = createLogger({
    name: 'nydusd',
    level: options.logLevel,
    ...(options.logFile === undefined ? {} : { file: options.logFile }),
  })
  raiseOpenFiles(options.rlimitNofile, logger)
  logger.info({ ...readVersion(), argv: process.argv.slice(2) }, 'nydusd starts')
  const daemonOptions: DaemonOptions = {
    ...services,
    id: options.id ?? null,
    supervisor: options.supervisor ?? null,
    ...(options.apisock === undefined ? {} : { apiSocket: options.apisock }),
    passive: options.upgrade,
    validate: options.validate,
    kept: readKeptDescriptors(process.env['NYDUS_KEPT_DESCRIPTORS']),
    logger,
  }
  Daemon.checkInherited(daemonOptions)
  standBy(readyFd())
  hasServed = true
  const daemon = await Daemon.open(daemonOptions)
  let signals = 0
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (++signals > 1) process.kill(process.pid, 'SIGKILL')
      daemon.stop({ unmount: unmounts })
    })
  }
  await daemon.run(async () => {
    await prepare(daemon)
    tellReady()
  })
  logger.info('nydusd ends')
}

function fuseOptions(options: GlobalOptions & MountOptions, mountpoint: string): FuseServiceOptions {
  const { apisock } = options
  // The state holds credentials: only where somebody said that it may lie, or who started us keeps descriptors.
  const isKept = apisock !== undefined && process.env['NYDUS_KEPT_DESCRIPTORS'] !== undefined
  const runDir = options.runDir ?? (isKept ? dirname(apisock) : undefined)
  const workers = options.fuseThreads ?? options.threadNum
  // An upgraded daemon's socket is api1.sock, then api2.sock: the state that it takes over is api.sock's.
  const name = apisock === undefined ? 'nydusd' : basename(apisock, '.sock').replace(/^api\d+$/, 'api')
  return {
    mountpoint: realMountpoint(mountpoint),
    failover: options.failoverPolicy,
    ...(workers !== undefined && { workers: Math.min(workers, MAX_WORKERS) }),
    ...(runDir !== undefined && { stateDirectory: join(runDir, `${name}.fuse`) }),
  }
}

/** Of a mountpoint with something mounted the name is taken as it is: asking for it could wait for ourselves. */
function realMountpoint(path: string): string {
  const absolute = resolve(path)
  if (findMount(absolute)) return absolute
  try {
    return realpathSync(absolute)
  } catch (err) {
    const code = hasErrno(err, 'ENOENT') ? 'FILE_MISSING' : 'MOUNTPOINT_INVALID'
    throw fault(code, `--mountpoint ${path} does not exist: create it`, { cause: err })
  }
}

function refuseLater(options: FuseOptions): void {
  const given = [
    ['--shared-dir', options.sharedDir],
    ['--writable', options.writable],
    ['--dedup-db', options.dedupDb],
    ['--sock', options.sock],
  ].find(([, value]) => value !== undefined)
  if (given)
    throw fault(
      'UNIMPLEMENTED',
      `${given[0]} comes with a later release: leave it out to serve images by FUSE`,
    )
}

/** Images to bind at start: `blobs` of a JSON object. What else it holds is no business of ours, as upstream has it. */
function readEntries(path: string): BlobCacheEntry[] {
  const text = readConfig(path)
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
/** Nobody may be left to hear it: we hold what we were given then, for whoever comes and finds our socket. */
function tellReady(): void {
  const fd = readyFd()
  if (fd === undefined) return
  try {
    writeSync(fd, 'READY\n')
  } catch (err) {
    if (!hasErrno(err, 'EPIPE')) throw err
  } finally {
    closeSync(fd)
  }
}

function readyFd(): number | undefined {
  const text = process.env['NYDUS_READY_FD']
  return text === undefined ? undefined : Number(text)
}

/** Unanswered events each hold a descriptor. Where the limit cannot be raised we go on with what there is. */
function raiseOpenFiles(wanted: number, logger: Logger): void {
  if (wanted === 0) return
  const limits = getOpenFileLimits()
  if (limits.soft >= wanted) return
  try {
    setOpenFileLimits({ soft: wanted, hard: Math.max(wanted, limits.hard) })
  } catch {
    setOpenFileLimits({ soft: limits.hard, hard: limits.hard })
    logger.warn({ wanted, limit: limits.hard }, 'the limit of open files cannot be raised as far as asked')
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

function integer(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('a whole number is wanted.')
  return Number(text)
}

function threads(text: string): number {
  const count = integer(text)
  if (count < 1 || count > 1024) throw new InvalidArgumentError('1 to 1024 are possible.')
  return count
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

let hasServed = false
run(
  'nydusd',
  async argv => {
    await program().parseAsync([...argv], { from: 'user' })
  },
  // Workers that wait in the kernel keep an ordinary exit from coming to an end.
  exitCode => {
    if (hasServed) endProcess(exitCode)
  },
)
