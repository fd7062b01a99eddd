/**
 * A node with readers on cold images, whose processes are killed one after the other. Only a blow that left a question of
 * the kernel unanswered counts; every byte that is read is looked at.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { asFault } from '../../src/common/fault.js'
import { processEnded } from '../../src/supervisor/daemon-process.js'
import { startDockerRegistry } from '../helpers/docker-registry.js'
import { LazyNode, until } from '../helpers/lazy-node.js'
import { scratch } from '../helpers/scratch.js'
import { seededRandom } from './content.js'
import { Findings } from './findings.js'
import { type ImageSize, pushStormImage } from './image.js'
import {
  type CountUnanswered,
  countUnanswered,
  keepsKernelDescriptor,
  kill,
  pidsOf,
  type StormDriver,
  type Target,
  TARGETS,
} from './kills.js'
import type { ReaderPace } from './readers.js'
import { startSlowProxy } from './slow-proxy.js'
import { Slot } from './slot.js'
import { type Blow, summarise, type Summary } from './summary.js'

export interface StormOptions {
  readonly driver: StormDriver
  /** Counted ones. */
  readonly kills: number
  readonly targets: readonly (Target | 'upgrade')[]
  readonly seed: number
  /** Images that are read at a time. */
  readonly slots: number
  readonly imageSize: ImageSize
  readonly pace: ReaderPace
  readonly lifeMs: number
  /** Of the registry. */
  readonly delayMs: number
  /** Shortest and longest pause between recovery and the next blow. */
  readonly calmMs: readonly [number, number]
  /** Told now and then. */
  readonly progress?: (words: string) => void
  /** Ends as soon as a reader has seen anything wrong. */
  readonly untilHarm?: boolean
  /** Gets the logs of daemons and snapshotters. */
  readonly logs?: string
  /** Environment of the snapshotter, and so of its daemons. */
  readonly env?: Readonly<Record<string, string>>
}

export const DEFAULTS = {
  targets: TARGETS as readonly Target[],
  slots: 2,
  imageSize: { files: 48, pagesAFile: 256, fioBytes: 16 << 20 },
  pace: { random: 2, large: 1, thinkMs: 25 },
  lifeMs: 25_000,
  delayMs: 40,
  calmMs: [300, 900] as const,
}

/** With keeping switched off the storm must fail: a check that cannot fail proves nothing. */
export const NEGATIVE_CONTROL = {
  untilHarm: true,
  targets: ['daemon'] as readonly Target[],
  env: { NYDUS_TEST_KEEPING: 'nobody' },
}

/** How it must fail: fanotify lets readers through to holes, FUSE ends the connection. */
export const CONTROL: Readonly<Record<StormDriver, (summary: Summary) => boolean>> = {
  fanotify: ({ zero }) => zero > 0,
  fscache: ({ failed }) => failed > 0,
  fusedev: ({ failed, words }) => failed > 0 && words.some(word => /ENOTCONN|not connected/.test(word)),
}

/** Kills in a row that met nobody waiting: then the storm tests nothing. */
const IDLE_BLOWS_MAX = 60
/** What comes back before the next blow. */
const RECOVERING = TARGETS.filter(target => target !== 'both')
/** How long readers and calls may take to end. */
const END_MS = 20_000
/** One in so many blows does not wait for what the last one killed. */
const HASTY = 0.15

const nowMs = (): number => Number(process.hrtime.bigint() / 1000n) / 1000

export async function runStorm(t: Pick<Test, 'teardown'>, options: StormOptions): Promise<Summary> {
  const storm = await Storm.prepare(t, options)
  return await storm.run()
}

class Storm {
  readonly #options: StormOptions
  readonly #node: LazyNode
  readonly #slots: Slot[]
  readonly #findings: Findings
  readonly #random: () => number
  readonly #unanswered: CountUnanswered
  readonly #blows: Blow[] = []
  /** Of snapshotters that have ended. */
  readonly #log: unknown[] = []
  #sample = { pid: 0, answered: 0 }
  #over = false
  /** Something else than a read went wrong: nothing more is to be learned. */
  #broken: Error | undefined

  private constructor(options: StormOptions, node: LazyNode, slots: Slot[], findings: Findings) {
    this.#options = options
    this.#node = node
    this.#slots = slots
    this.#findings = findings
    this.#random = seededRandom(options.seed)
    this.#unanswered = countUnanswered(options.driver, node)
  }

  static async prepare(t: Pick<Test, 'teardown'>, options: StormOptions): Promise<Storm> {
    const { driver, progress } = options
    const directory = scratch(t)
    const registry = await startDockerRegistry(t)
    const proxy = await startSlowProxy(registry.host, options.delayMs)
    t.teardown(() => proxy.close())
    const findings = new Findings()
    for (const [name, value] of Object.entries(options.env ?? {})) {
      process.env[name] = value
      t.teardown(() => delete process.env[name])
    }
    const flags = ['--daemon-mode', 'shared', '--daemon-backend', driver]
    const node = await LazyNode.start(t, directory, { flags, restarted: true })
    const slots: Slot[] = []
    for (let number = 0; number < options.slots; number++) {
      const image = await pushStormImage(registry, directory, number + 1, options.imageSize)
      const { pace, lifeMs } = options
      const seed = options.seed + number + 1
      slots.push(new Slot({ node, registryHost: proxy.host, image, seed, pace, lifeMs, findings }))
    }
    progress?.(`${options.slots} images are built; the storm begins (seed ${options.seed}) in ${directory}`)
    return new Storm(options, node, slots, findings)
  }

  async run(): Promise<Summary> {
    const startedMs = nowMs()
    const broken = (err: unknown): void => {
      this.#broken ??= asFault(err)
    }
    const reading = Promise.all(this.#slots.map(slot => slot.run())).catch(broken)
    const restarting = this.#keepSnapshotter()
    const isRead = (): boolean => this.#slots.some(({ root }) => root !== undefined)
    await until('an image is read', isRead)
      .then(() => this.#blowUntilEnough())
      .catch(broken)
    for (const slot of this.#slots) slot.stop()
    // Where nothing was kept calls may wait for ever: they end with the node.
    await Promise.race([reading, delay(END_MS, undefined, { ref: false })])
    this.#over = true
    await this.#node.snapshotter.end('SIGKILL')
    await restarting
    this.#saveLogs()
    if (this.#broken && this.#findings.clean) throw this.#broken
    const coldRounds = this.#slots.reduce((sum, { rounds }) => sum + rounds, 0)
    const seconds = (nowMs() - startedMs) / 1000
    return summarise(this.#options, this.#blows, this.#findings, { seconds, coldRounds })
  }

  #saveLogs(): void {
    const { logs } = this.#options
    if (logs === undefined) return
    mkdirSync(logs, { recursive: true })
    cpSync(path.join(this.#node.snapshotter.root, 'logs'), logs, { recursive: true })
    writeFileSync(path.join(logs, 'snapshotter.log'), lines(this.#log))
    writeFileSync(path.join(logs, 'blows.log'), lines(this.#blows))
  }

  /** As a service manager would: starts another when it has ended. */
  async #keepSnapshotter(): Promise<void> {
    while (!this.#over) {
      const { child } = this.#node.snapshotter
      if (child.exitCode === null && child.signalCode === null)
        await new Promise(resolve => child.once('exit', resolve))
      this.#log.push(...this.#node.snapshotter.log)
      if (this.#over) return
      try {
        await this.#node.startSnapshotter()
      } catch (err) {
        this.#findings.words.push(`the snapshotter did not start: ${String(err)}`)
        await delay(500)
      }
    }
  }

  async #blowUntilEnough(): Promise<void> {
    const { kills, targets, progress } = this.#options
    let counted = 0
    for (let idle = 0, turn = 0; counted < kills; turn++) {
      if (this.#broken || this.#enoughHarm) return
      const blow = await this.#blow(targets[turn % targets.length] ?? 'daemon')
      this.#blows.push(blow)
      idle = blow.unanswered > 0 ? 0 : idle + 1
      if (idle > IDLE_BLOWS_MAX) throw new Error('nobody waits for anything: the storm tests nothing')
      if (blow.unanswered > 0 && ++counted % 25 === 0) {
        const { failed, wrong, zero } = this.#findings.counts
        progress?.(`${counted} kills counted; ${failed} failed, ${wrong} wrong, ${zero} zero`)
      }
    }
    await this.#recovered('daemon')
  }

  async #blow(target: Target | 'upgrade'): Promise<Blow> {
    const hasty = this.#random() < HASTY
    // Where nothing is kept there is no holder to come back.
    const recovering =
      this.#options.untilHarm === true
        ? RECOVERING.filter(one => this.#options.targets.includes(one))
        : RECOVERING
    if (!hasty) {
      for (const one of recovering) await this.#recovered(one)
      // A pull that is killed again and again comes to no end, and nobody would read.
      await until(
        'an image is read',
        () => this.#enoughHarm || this.#slots.some(({ root }) => root !== undefined),
      )
    }
    if (target === 'upgrade') return await this.#upgrade()
    let pids: number[] = []
    await until(
      `there is a ${target}`,
      () => this.#enoughHarm || (pids = pidsOf(this.#node, target)).length > 0,
    )
    const [shortest, longest] = this.#options.calmMs
    if (!hasty) await delay(shortest + this.#random() * (longest - shortest))
    pids = pidsOf(this.#node, target)
    if (!this.#options.untilHarm) await until('somebody keeps', () => this.#keptBesides(pids))
    const served = await this.#served()
    const atMs = nowMs()
    await kill(pids)
    return { target, atMs, unanswered: this.#unanswered(), served }
  }

  /** The daemon is ended by appointment; its successor must not fail. */
  async #upgrade(): Promise<Blow> {
    for (const one of RECOVERING) await this.#recovered(one)
    const pids = pidsOf(this.#node, 'daemon')
    const served = await this.#served()
    const upgrading = this.#node.upgrade()
    await Promise.race([upgrading, ...pids.map(pid => processEnded(pid))])
    const blow: Blow = { target: 'upgrade', atMs: nowMs(), unanswered: this.#unanswered(), served }
    const { code, stderr } = await upgrading
    if (code !== 0) this.#findings.failed(`an upgrade failed: ${stderr}`)
    return blow
  }

  /** Nobody promises anything when all who keep descriptors are dead at one time. */
  async #keptBesides(dying: readonly number[]): Promise<boolean> {
    const keepers = (['snapshotter', 'holder'] as const).flatMap(one => pidsOf(this.#node, one))
    if (keepers.some(pid => !dying.includes(pid) && keepsKernelDescriptor(pid))) return true
    // One that does not answer yet is found by nobody.
    const daemon = await this.#node.withDaemon(client => client.info()).catch(() => undefined)
    return daemon !== undefined && !dying.includes(daemon.pid) && keepsKernelDescriptor(daemon.pid)
  }

  get #enoughHarm(): boolean {
    return this.#options.untilHarm === true && !this.#findings.clean
  }

  /** Waits until the process is there and serves. */
  async #recovered(target: Target): Promise<void> {
    await until(`the ${target} is back`, async () => {
      if (this.#enoughHarm) return true
      const pids = pidsOf(this.#node, target)
      if (pids.length === 0) return false
      if (target === 'snapshotter') return pids.every(keepsKernelDescriptor)
      if (target !== 'daemon' && target !== 'both') return true
      return await this.#node
        .withDaemon(client => client.info())
        .then(
          ({ state }) => state === 'RUNNING',
          () => false,
        )
    })
  }

  /** Events that were answered since the last time. */
  async #served(): Promise<number> {
    const ids = this.#options.driver === 'fusedev' ? this.#fuseIds() : ['']
    try {
      const now = await this.#node.withDaemon(async client => {
        const { pid } = await client.info()
        let answered = 0
        for (const id of ids) answered += answeredIn(await client.getText(`/api/v1/metrics${id}`))
        return { pid, answered }
      })
      const before = now.pid === this.#sample.pid ? this.#sample.answered : 0
      this.#sample = now
      return Math.max(0, now.answered - before)
    } catch {
      // It does not serve yet.
      return 0
    }
  }

  #fuseIds(): string[] {
    const names = this.#slots.flatMap(({ root }) =>
      root === undefined ? [] : [root.split('/').at(-1) ?? ''],
    )
    return names.map(name => `?id=${encodeURIComponent(`/${name}`)}`)
  }
}

const READ = 4

function answeredIn(metrics: string): number {
  const { events_answered: events, fop_hits: hits } = JSON.parse(metrics) as {
    events_answered?: number
    fop_hits: number[]
  }
  return events ?? hits[READ] ?? 0
}

function lines(items: readonly unknown[]): string {
  return items.map(item => `${JSON.stringify(item)}\n`).join('')
}
