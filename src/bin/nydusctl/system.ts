/** Commands that ask the snapshotter's system controller. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { SystemClient, type SystemDaemon, type SystemDescriptor } from '../../client/system-client.js'
import { addDoctor } from './doctor.js'
import { columnsText } from './show.js'

/** Of all daemons of a node, one after the other. */
const UPGRADE_TIMEOUT_MS = 600_000

interface SystemFlags {
  systemSock: string
  raw: boolean
  json: boolean
}

export function addSystemCommands(command: Command): void {
  command
    .command('daemons')
    .description('the daemons of the snapshotter')
    .command('list')
    .description('one line a daemon: id, process, driver, images, API socket')
    .action(showingSystem('/api/v1/daemons', daemonsText))
  command
    .command('fds')
    .description('one line a kernel descriptor: daemon and name, and who keeps it open')
    .action(showingSystem('/api/v1/fds', descriptorsText))
  command
    .command('upgrade')
    .description('put daemons of another nydusd in the place of all, while their images are read')
    .option('--nydusd <path>', 'the new program; default: the configured one, as it is now')
    .action(upgrade)
  addDoctor(command)
}

async function upgrade({ nydusd }: { nydusd?: string }, self: Command): Promise<void> {
  const body = { nydusd_path: nydusd === undefined ? '' : resolve(nydusd) }
  await withSystem(self, client => client.put('/api/v1/daemons/upgrade', body), UPGRADE_TIMEOUT_MS)
}

/** The action of a command that shows the answer of one GET. */
export function showingSystem<T>(path: string, text: (body: T) => string) {
  return async (_flags: unknown, self: Command): Promise<void> => {
    const { raw, json } = self.optsWithGlobals<SystemFlags>()
    const answer = await withSystem(self, client => client.getText(path))
    if (raw) process.stdout.write(`${answer}\n`)
    else if (json) process.stdout.write(`${JSON.stringify(JSON.parse(answer), null, 2)}\n`)
    else process.stdout.write(text(JSON.parse(answer) as T))
  }
}

/** @param timeoutMs of one call */
export async function withSystem<T>(
  self: Command,
  use: (client: SystemClient) => Promise<T>,
  timeoutMs?: number,
): Promise<T> {
  const { systemSock } = self.optsWithGlobals<SystemFlags>()
  const client = new SystemClient(systemSock, {
    userAgent: 'nydusctl',
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  })
  try {
    return await use(client)
  } finally {
    await client.close()
  }
}

function daemonsText(daemons: readonly SystemDaemon[]): string {
  return daemons
    .map(({ id, pid, driver, instances, api_socket: socket }) => {
      const images = Object.keys(instances).length
      return `${id} ${pid} ${driver === '' ? '-' : driver} ${images} ${socket}\n`
    })
    .join('')
}

const HOLDERS = ['daemon', 'snapshotter', 'holder', 'manager']

/** As long as one has it open, who reads waits for a successor of a daemon that died. */
export function descriptorsText(descriptors: readonly SystemDescriptor[]): string {
  const rows = descriptors.map(({ daemon, name, holders }) => [
    `${daemon}/${name}`,
    ...HOLDERS.map(holder => (holders.includes(holder) ? 'yes' : '-')),
  ])
  return columnsText([['descriptor', ...HOLDERS], ...rows])
}
