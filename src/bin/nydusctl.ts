#!/usr/bin/env node
import type { Command } from 'commander'
import type { DaemonInfo, InstanceInfo } from '../client/api.js'
import { DaemonClient } from '../client/daemon-client.js'
import { addLaterCommands, commandLine } from '../common/command-line.js'
import { fault } from '../common/fault.js'
import { readVersion } from '../common/version.js'
import { run } from './run.js'

interface GlobalFlags {
  sock?: string
  raw: boolean
}

const BUILT = 'info, set log-level, metrics cache, instances list'

function program(): Command {
  const command = commandLine('nydusctl')
    .description('asks a running nydusd, through its API socket')
    .version(`nydusctl ${readVersion().version}`, '--version', 'print the version')
    .option('-S, --sock <path>', 'API socket of the daemon')
    .option('-r, --raw', 'print what the daemon answers as it is', false)
  command
    .command('info')
    .description('version, state and driver of the daemon')
    .action(showing('/api/v1/daemon', body => infoText(body as DaemonInfo)))
  command
    .command('set')
    .description('change a setting of the running daemon')
    .command('log-level')
    .description('how much it logs from now on')
    .argument('<level>', 'off, error, warn, info, debug or trace')
    .action((level: string, _flags: unknown, self: Command) =>
      withDaemon(self, client => client.setLogLevel(level)),
    )
  const metrics = command.command('metrics').description('what the daemon counts')
  metrics
    .command('cache')
    .description('the chunk cache')
    .action(showing('/api/v1/metrics/blobcache', body => cacheText(body as Record<string, unknown>)))
  addLaterCommands(metrics, ['backend', 'fsstats'], 'nydusctl metrics cache')
  command
    .command('instances')
    .description('the images that the daemon serves')
    .command('list')
    .description('one line an image: domain, fsid, complete blobs of all, bytes, bootstrap')
    .action(showing('/api/v2/blobs', body => instancesText(body as InstanceInfo[])))
  addLaterCommands(command, ['mount', 'umount'], BUILT)
  return command
}

/** The action of a command that shows the answer of one GET. */
function showing(path: string, text: (body: unknown) => string) {
  return async (_flags: unknown, self: Command): Promise<void> => {
    const answer = await withDaemon(self, client => client.getText(path))
    const { raw } = self.optsWithGlobals<GlobalFlags>()
    process.stdout.write(raw ? `${answer}\n` : text(JSON.parse(answer)))
  }
}

async function withDaemon<T>(self: Command, use: (client: DaemonClient) => Promise<T>): Promise<T> {
  const { sock } = self.optsWithGlobals<GlobalFlags>()
  if (sock === undefined)
    throw fault('USAGE', 'nydusctl needs --sock PATH: the API socket that nydusd was started with')
  const client = new DaemonClient(sock)
  try {
    return await use(client)
  } finally {
    await client.close()
  }
}

function infoText({ version, state, driver, pid, id }: DaemonInfo): string {
  return table([
    ['Version', version.package_ver],
    ['Commit', version.git_commit],
    ['Build time', version.build_time],
    ['Profile', version.profile],
    ['Status', state],
    ['Driver', driver],
    ['Process', String(pid)],
    ...(id === null ? [] : [['Id', id]]),
  ])
}

function cacheText(metrics: Record<string, unknown>): string {
  return table(
    Object.entries(metrics).map(([name, value]) => [
      name,
      Array.isArray(value) ? `${value.length}` : String(value),
    ]),
  )
}

function instancesText(instances: readonly InstanceInfo[]): string {
  return instances
    .map(({ domain_id: domain, id, blobs, metadata_path: path }) => {
      const complete = blobs.filter(blob => blob.complete).length
      const bytes = blobs.reduce((sum, blob) => sum + blob.size_bytes, 0)
      return `${domain} ${id} ${complete}/${blobs.length} ${bytes} ${path}\n`
    })
    .join('')
}

function table(rows: readonly (readonly string[])[]): string {
  const width = Math.max(...rows.map(([name = '']) => name.length)) + 2
  return rows.map(([name = '', value = '']) => `${`${name}:`.padEnd(width)}${value}\n`).join('')
}

run('nydusctl', async argv => {
  await program().parseAsync(argv, { from: 'user' })
})
