/**
 * One image in the life that nodes give it, again and again: pulled, mounted, read and run while it is cold, removed with
 * its cache, so that it is cold when it comes again.
 */
import { readdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CtrResult } from '../helpers/containerd.js'
import type { LazyNode } from '../helpers/lazy-node.js'
import { seededRandom, sha256Of } from './content.js'
import type { Findings } from './findings.js'
import type { StormImage } from './image.js'
import { linksOf, pidsOf } from './kills.js'
import { type ReaderPace, startReaders } from './readers.js'

export interface SlotOptions {
  readonly node: LazyNode
  readonly registryHost: string
  readonly image: StormImage
  readonly seed: number
  readonly pace: ReaderPace
  /** After this long the image is made cold again, read or not. */
  readonly lifeMs: number
  readonly findings: Findings
}

/** A call that does not succeed for so long although everything that was killed came back. */
const CALL_DEADLINE_MS = 90_000

export class Slot {
  /** How often its image was cold. */
  rounds = 0
  /** Where the image of now is; undefined while there is none. */
  root: string | undefined
  readonly #options: SlotOptions
  readonly #random: () => number
  readonly #stop = new AbortController()

  constructor(options: SlotOptions) {
    this.#options = options
    this.#random = seededRandom(options.seed)
  }

  /** Goes on until {@link stop}. */
  async run(): Promise<void> {
    while (!this.#stop.signal.aborted) await this.#round()
  }

  stop(): void {
    this.#stop.abort()
  }

  async #round(): Promise<void> {
    const { node, image, registryHost, pace, lifeMs, findings } = this.#options
    const reference = `${registryHost}/${image.name}`
    const key = `storm-${image.plan.image}-${this.rounds++}`
    await this.#call('rpull', () => node.rpull(reference))
    await this.#call('prepare', async () => {
      const made = await node.prepare(key, reference)
      return made.stderr.includes('already exists') ? { ...made, code: 0 } : made
    })
    this.root = await this.#imageOf(key)
    const readers = startReaders(this.root, image, Math.floor(this.#random() * 2 ** 32), pace, findings)
    const container = this.#runContainer(reference, `${key}-run`)
    const timer = new AbortController()
    const signal = AbortSignal.any([timer.signal, this.#stop.signal])
    await Promise.race([readers.done, delay(lifeMs, undefined, { signal }).catch(() => undefined)])
    timer.abort()
    await readers.stop()
    await container
    this.root = undefined
    if (this.#stop.signal.aborted) return
    await this.#call('snapshots rm', async () =>
      gone(await node.ctr('snapshots', '--snapshotter', 'nydus', 'rm', key)),
    )
    await this.#call('images rm', () => node.ctr('images', 'rm', '--sync', reference))
    await this.#call('cull', () => this.#makeCold())
  }

  async #imageOf(key: string): Promise<string> {
    let root = ''
    await this.#call('mounts', async () => {
      root = await this.#options.node.imageOf(key)
      return { code: root === '' ? 1 : 0, stdout: '', stderr: 'no lower directory' }
    })
    return root
  }

  /** A new container that reads a few files over some seconds; what it read is compared. */
  async #runContainer(reference: string, id: string): Promise<void> {
    const { node, image, findings } = this.#options
    const files = image.plan.files.filter(() => this.#random() < 0.15).slice(0, 6)
    const script = `for f in ${files.map(file => `/${file.path}`).join(' ')}; do sha256sum $f || exit 7; sleep 0.5; done`
    const wanted = files.map(file => `${sha256Of(image.plan.image, file)}  /${file.path}\n`).join('')
    for (let attempt = 0; attempt < 5 && !this.#stop.signal.aborted; attempt++) {
      const name = `${id}-${attempt}`
      const { code, stdout, stderr } = await node.run(reference, name, ['/bin/busybox', 'sh', '-c', script])
      if (code === 0 && stdout === wanted) return void findings.containers++
      // What was read is right as far as it goes, whatever became of containerd.
      const lines = stdout.split('\n').slice(0, -1)
      const bad = lines.find(line => !wanted.includes(line))
      if (bad !== undefined) findings.wrong(`container ${name} read ${bad}`)
      if (code === 7 || /I\/O error|Input\/output|not connected|Bus error/.test(stderr))
        findings.failed(`container ${name}: ${stderr.slice(-300)}`)
      findings.repeatedCalls++
      await this.#call('task delete', async () => gone(await node.ctr('task', 'delete', '--force', name)))
      await this.#call('container delete', async () => gone(await node.ctr('container', 'delete', name)))
      const remove = ['snapshots', '--snapshotter', 'nydus', 'rm', name]
      await this.#call('snapshots rm', async () => gone(await node.ctr(...remove)))
    }
  }

  /** Takes the cached bytes of the image as soon as nobody has them open. */
  async #makeCold(): Promise<CtrResult> {
    const { node, image } = this.#options
    const cache = path.join(node.snapshotter.root, 'cache')
    const files = readdirSync(cache).filter(name => name.startsWith(`${image.blobId}.blob.`))
    const { state } = await node.withDaemon(client => client.info())
    // A successor that does not serve yet has not opened what is mounted.
    const open = pidsOf(node, 'daemon').flatMap(pid => linksOf(pid))
    if (state === 'RUNNING' && !open.some(link => link.includes(image.blobId))) {
      for (const name of files) rmSync(path.join(cache, name))
      return { code: 0, stdout: '', stderr: '' }
    }
    // A container that died with containerd may have it: what nobody names is collected now.
    await node.ctr('leases', 'create', '--id', 'storm')
    await node.ctr('leases', 'delete', '--sync', 'storm')
    return { code: 1, stdout: '', stderr: 'its blob is still in use' }
  }

  /** Calls until it succeeds: any of the servers may have been killed under it. */
  async #call(what: string, run: () => Promise<CtrResult>): Promise<void> {
    const startedMs = Date.now()
    for (;;) {
      const { code, stderr } = await run().catch((err: unknown) => ({ code: 1, stderr: String(err) }))
      if (code === 0 || this.#stop.signal.aborted) return
      this.#options.findings.repeatedCalls++
      if (Date.now() - startedMs > CALL_DEADLINE_MS) throw new Error(`${what} does not succeed: ${stderr}`)
      await delay(250)
    }
  }
}

/** Removed before its answer was lost: that is what was wanted. */
function gone(result: CtrResult): CtrResult {
  return result.stderr.includes('not found') ? { ...result, code: 0 } : result
}
