#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Command, InvalidArgumentError } from 'commander'
import type { BackendMetrics } from '../client/api.js'
import { DaemonClient } from '../client/daemon-client.js'
import { DEFAULT_SYSTEM_SOCKET } from '../client/system-client.js'
import { commandLine } from '../common/command-line.js'
import { asFault, fault } from '../common/fault.js'
import { readVersion } from '../common/version.js'
import { backendRates, backendText, cacheText, fsText, RATES_HEADER, ratesText } from './nydusctl/counters.js'
import { infoText, instancesText } from './nydusctl/info.js'
import { addSystemCommands } from './nydusctl/system.js'
import { run } from './run.js'

interface GlobalFlags {
  sock?: string
  raw: boolean
  json: boolean
}

interface MetricsFlags extends GlobalFlags {
  id?: string
  interval?: number
}

interface MountFlags {
  source: string
  config: string
  mountpoint: string
  type: string
}

function program(): Command {
  const command = commandLine('nydusctl')
    .description('asks a running nydusd, through its API socket, or the snapshotter above it')
    .version(`nydusctl ${readVersion().version}`, '--version', 'print the version')
    .option('-S, --sock <path>', 'API socket of the daemon')
    .option('--system-sock <path>', "the snapshotter's system.address", DEFAULT_SYSTEM_SOCKET)
    .option('-r, --raw', 'print what the daemon answers as it is', false)
    .option('-j, --json', 'print JSON to be read, one document', false)
  command
    .command('info')
    .description('version, state and driver of the daemon, and what it has mounted')
    .action(showing('/api/v1/daemon', infoText))
  command
    .command('set')
    .description('change a setting of the running daemon')
    .command('log-level')
    .description('how much it logs from now on')
    .argument('<level>', 'off, error, warn, info, debug or trace')
    .action((level: string, _flags: unknown, self: Command) =>
      withDaemon(self, client => client.setLogLevel(level)),
    )
  addMetrics(command.command('metrics').description('what the daemon counts'))
  command
    .command('instances')
    .description('the images that the daemon serves through a kernel path')
    .command('list')
    .description('one line an image: domain, fsid, complete blobs of all, bytes, bootstrap')
    .action(showing('/api/v2/blobs', instancesText))
  command
    .command('mount')
    .description('show an image in the FUSE mount of the daemon')
    .requiredOption('-s, --source <bootstrap>', 'bootstrap of the image')
    .requiredOption('-c, --config <file>', 'configuration of its backend and cache, in any version')
    .requiredOption('-m, --mountpoint <path>', 'where it is shown, from the root of the FUSE mount')
    .option('-t, --type <type>', 'what the source is', 'rafs')
    .action(mount)
  command
    .command('umount')
    .description('take an image away again')
    .argument('[mountpoint]', 'where it is shown')
    .option('-m, --mountpoint <path>', 'the same')
    .action(umount)
  addSystemCommands(command)
  return command
}

function addMetrics(metrics: Command): void {
  const add = (name: string, description: string): Command =>
    metrics
      .command(name)
      .description(description)
      .option('-i, --id <id>', 'of which mount, where there are several')
  add('cache', 'the chunk cache').action(showing('/api/v1/metrics/blobcache', cacheText))
  add('fsstats', 'what a mount was asked, or the driver of a kernel path').action(
    showing('/api/v1/metrics', fsText),
  )
  const showBackend = showing('/api/v1/metrics/backend', backendText)
  add('backend', 'reads of the storage backend')
    .option('-I, --interval <seconds>', 'go on, with a line for what happened since the one before', seconds)
    .action((flags: MetricsFlags, self: Command) =>
      flags.interval === undefined ? showBackend(flags, self) : watchBackend(flags.interval, self),
    )
}

/** The action of a command that shows the answer of one GET. */
function showing<T>(path: string, text: (body: T) => string) {
  return async (_flags: unknown, self: Command): Promise<void> => {
    const { raw, json } = self.optsWithGlobals<GlobalFlags>()
    const answer = await withDaemon(self, client => client.getText(path + idOf(self)))
    const body = (): unknown => JSON.parse(answer)
    if (raw) process.stdout.write(`${answer}\n`)
    else process.stdout.write(json ? `${JSON.stringify(body(), null, 2)}\n` : text(body() as T))
  }
}

/** Until it is interrupted or the daemon is gone. */
async function watchBackend(interval: number, self: Command): Promise<void> {
  const { raw, json } = self.optsWithGlobals<GlobalFlags>()
  const path = `/api/v1/metrics/backend${idOf(self)}`
  await withDaemon(self, async client => {
    if (!raw && !json) process.stdout.write(RATES_HEADER)
    let [before, beganMs] = [await client.getText(path), performance.now()]
    while (process.stdout.writable) {
      await sleep(interval * 1000)
      const [after, nowMs] = [await client.getText(path), performance.now()]
      const [was, is] = [before, after].map(text => JSON.parse(text) as BackendMetrics)
      if (!was || !is) return
      const rates = backendRates(was, is, (nowMs - beganMs) / 1000)
      process.stdout.write(raw ? `${after}\n` : json ? `${JSON.stringify(rates)}\n` : ratesText(rates))
      ;[before, beganMs] = [after, nowMs]
    }
  })
}

async function mount(flags: MountFlags, self: Command): Promise<void> {
  const command = { source: resolve(flags.source), fs_type: flags.type, config: readConfig(flags.config) }
  await withDaemon(self, client => client.mount(flags.mountpoint, command))
}

/** Upstream's own takes the path without its option. */
async function umount(
  path: string | undefined,
  flags: { mountpoint?: string },
  self: Command,
): Promise<void> {
  const mountpoint = flags.mountpoint ?? path
  if (mountpoint === undefined || (path ?? mountpoint) !== mountpoint)
    throw fault('USAGE', 'nydusctl umount needs one path: nydusctl umount -m /NAME')
  await withDaemon(self, client => client.umount(mountpoint))
}

function readConfig(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (err) {
    throw asFault(err, 'CONFIG_MISSING', `--config ${file} cannot be read`)
  }
}

function idOf(self: Command): string {
  const { id } = self.optsWithGlobals<MetricsFlags>()
  return id === undefined ? '' : `?id=${encodeURIComponent(id)}`
}

async function withDaemon<T>(self: Command, use: (client: DaemonClient) => Promise<T>): Promise<T> {
  const { sock } = self.optsWithGlobals<GlobalFlags>()
  if (sock === undefined)
    throw fault('USAGE', 'nydusctl needs --sock PATH: the API socket that nydusd was started with')
  const client = new DaemonClient(sock, { userAgent: 'nydusctl' })
  try {
    return await use(client)
  } finally {
    await client.close()
  }
}

function seconds(text: string): number {
  const value = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0 || value > 86_400)
    throw new InvalidArgumentError('seconds, more than 0 and at most 86400, are wanted.')
  return value
}

run('nydusctl', async argv => {
  await program().parseAsync(argv, { from: 'user' })
})
