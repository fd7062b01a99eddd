import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { PrivateContainerd } from '../test/helpers/containerd.js'
import type { DockerRegistry } from '../test/helpers/docker-registry.js'
import { say } from './say.js'

const FIRST_ANSWER_TIMEOUT_MS = 120_000
const RETRY_MS = 20

export interface Run {
  /** For the lines that tell how far it is. */
  name: string
  snapshotter: string
  reference: string
  /** Pulls the image; the clock runs. */
  pull: () => Promise<void>
}

export interface Result {
  driver: string
  fetchedBytes: number
  requests: number
  pullMs: number
  firstAnswerMs: number
}

/**
 * Pulls and starts the image with cold caches and waits for the first HTTP 200 of the application in it. `driverOf` is
 * asked while the container runs.
 */
export async function measure(
  run: Run,
  containerd: PrivateContainerd,
  registry: DockerRegistry,
  namespace: string,
  driverOf: () => string,
): Promise<Result> {
  dropPageCache()
  const seen = registry.accessLog.length
  const port = await freePort()
  const id = `app-${run.snapshotter}`
  const log = `${containerd.directory}/${id}.log`
  writeFileSync(log, '')
  const start = performance.now()
  await run.pull()
  const pullMs = performance.now() - start
  say(`${run.name}: pulled in ${seconds(pullMs)}; starting the container`)
  const place = ['--detach', '--net-host', '--env', `PORT=${port}`, '--log-uri', `file://${log}`]
  const ran = await containerd.ctr(
    ...['--namespace', namespace, 'run', ...containerd.runArgs, '--snapshotter', run.snapshotter],
    ...place,
    run.reference,
    id,
  )
  if (ran.code !== 0) throw new Error(`ctr run failed: ${ran.stderr}`)
  await firstAnswer(port, log)
  const firstAnswerMs = performance.now() - start
  say(`${run.name}: HTTP 200 from the application after ${seconds(firstAnswerMs)}`)
  const driver = driverOf()
  await stopContainer(containerd, namespace, id)
  const served = registry.accessLog.slice(seen).filter(line => line.method === 'GET')
  const fetchedBytes = served.reduce((sum, line) => sum + line.bytes, 0)
  return { driver, fetchedBytes, requests: served.length, pullMs, firstAnswerMs }
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`
}

async function stopContainer(containerd: PrivateContainerd, namespace: string, id: string): Promise<void> {
  const ctr = (...args: string[]): Promise<unknown> => containerd.ctr('--namespace', namespace, ...args)
  await ctr('task', 'kill', '--signal', 'SIGKILL', id)
  await ctr('task', 'delete', '--force', id)
  await ctr('container', 'delete', id)
}

/** Resolves at the first 200; a refused connection means that the application is not up yet. */
async function firstAnswer(port: number, log: string): Promise<void> {
  const deadline = performance.now() + FIRST_ANSWER_TIMEOUT_MS
  for (;;) {
    const status = await statusOf(port)
    if (status === 200) return
    if (performance.now() > deadline) {
      throw new Error(
        `no HTTP 200 in ${FIRST_ANSWER_TIMEOUT_MS / 1000} s; the container said:\n${readFileSync(log, 'utf8')}`,
      )
    }
    await delay(RETRY_MS)
  }
}

function statusOf(port: number): Promise<number | undefined> {
  return new Promise(resolve => {
    const request = http.get({ host: '127.0.0.1', port, path: '/', agent: false }, response => {
      response.resume()
      resolve(response.statusCode)
    })
    request.on('error', () => resolve(undefined))
  })
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** What was read before must not count: registry, image and programs come from the disk for both. */
function dropPageCache(): void {
  execFileSync('sync')
  writeFileSync('/proc/sys/vm/drop_caches', '3')
}
