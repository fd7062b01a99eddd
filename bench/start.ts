/** From the start of containerd-nydus-grpc to its first answer, with 1,000 snapshots, beside a bare start of Node. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { SnapshotsClient } from '../test/helpers/snapshots-client.js'
import { startSnapshotsServer } from '../test/helpers/snapshots-server.js'
import { median, report } from './figures.js'
import type { Stage } from './stage.js'

const PROGRAM = path.resolve(import.meta.dirname, '../src/bin/containerd-nydus-grpc.js')
const CHAINS = 100
const LAYERS = 9

export async function benchStart(stage: Stage, rounds: number): Promise<void> {
  const directory = path.join(stage.directory, 'start')
  mkdirSync(directory)
  await fill(directory)
  const socket = path.join(directory, 'run/grpc.sock')
  const flags = ['--root', path.join(directory, 'root'), '--address', socket, '--daemon-mode', 'none']
  const [bare, connected, answered]: [number[], number[], number[]] = [[], [], []]
  for (let round = 0; round < rounds; round++) {
    const beganMs = performance.now()
    await once(spawn(process.execPath, ['-e', '0']), 'exit')
    bare.push(performance.now() - beganMs)
    // As after a kill or a boot: no socket is there.
    rmSync(socket, { force: true })
    const startedMs = performance.now()
    const child = spawn(process.execPath, [PROGRAM, ...flags], { stdio: 'ignore' })
    const ended = once(child, 'exit')
    while (!(await listens(socket))) await delay(1)
    connected.push(performance.now() - startedMs)
    const client = new SnapshotsClient(socket)
    await client.stat('0/0')
    answered.push(performance.now() - startedMs)
    client.close()
    child.kill('SIGKILL')
    await ended
  }
  const ms = (values: readonly number[]): string => `${median(values).toFixed(0)} ms`
  report({
    name: 'start to a serving socket, 1,000 snapshots',
    value: median(connected),
    unit: ' ms',
    target: { atMost: 300 },
    detail: `first Stat answered after ${ms(answered)}; node -e 0 takes ${ms(bare)}`,
  })
}

async function fill(directory: string): Promise<void> {
  const server = await startSnapshotsServer(directory)
  const chains = Array.from({ length: CHAINS }, async (_, chain) => {
    let parent = ''
    for (let layer = 0; layer < LAYERS; layer++) {
      const name = `${chain}/${layer}`
      const labels = { 'containerd.io/gc.root': 'x', layer: 'l'.repeat(80) }
      await server.client.prepare(`${name}-prepared`, parent)
      await server.client.commit(name, `${name}-prepared`, labels)
      parent = name
    }
    await server.client.prepare(`${chain}/top`, parent)
  })
  await Promise.all(chains)
  await server.close()
}

async function listens(socket: string): Promise<boolean> {
  return await new Promise<boolean>(resolve => {
    const probe = connect(socket)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => {
      resolve(false)
    })
  })
}
