/** Commands that ask the snapshotter's system controller. */
import type { Command } from 'commander'
import { SystemClient, type SystemDaemon } from '../../client/system-client.js'

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
