/**
 * A daemon killed on a kernel that does not send its requests again: the successor knows them from the journal. This kernel
 * could; it is not asked.
 */
import { type ChildProcessWithoutNullStreams, execFile, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { mount } from '../../../src/native/mount.js'
import { openPidfd, takeDescriptor } from '../../../src/native/process.js'
import { fuseMissing, FuseServing, serveFuse } from '../../helpers/fuse-serving.js'

const run = promisify(execFile)
const options = { skip: fuseMissing }
const FILES = 40

/** A small image at many paths, and the daemons that show it one after the other. */
class Lineage {
  readonly sums: string
  readonly #directory: string
  readonly #paths: readonly string[]
  #serving: FuseServing

  private constructor(serving: FuseServing, sums: string, paths: readonly string[]) {
    this.#serving = serving
    this.#directory = serving.directory
    this.sums = sums
    this.#paths = paths
  }

  static async begin(t: Test, journalPath: string, paths: readonly string[]): Promise<Lineage> {
    const serving = await serveFuse(t, { failover: 'journal', journalPath })
    const { directory } = serving
    const tree = path.join(directory, 'tree')
    mkdirSync(path.join(tree, 'small'), { recursive: true })
    writeFileSync(path.join(tree, 'large'), randomBytes(3_000_000))
    for (let file = 0; file < FILES; file++)
      writeFileSync(path.join(tree, `small/${file}`), randomBytes(file * 300))
    mkdirSync(path.join(directory, 'blobs'))
    const tool = path.resolve(import.meta.dirname, '../../../src/bin/nydus-image.js')
    const outputs = ['--blob-dir', path.join(directory, 'blobs'), '--bootstrap', path.join(directory, 'boot')]
    await run(process.execPath, [tool, 'create', ...outputs, tree])
    const { stdout: sums } = await run('sh', ['-c', WALK, 'sh', tree])
    const lineage = new Lineage(serving, sums, paths)
    await lineage.#show(t)
    return lineage
  }

  get serving(): FuseServing {
    return this.#serving
  }

  at(image: string, file: string): string {
    return path.join(this.#serving.mountpoint, image, file)
  }

  /** A successor with the descriptor that somebody kept. */
  async succeed(
    t: Test,
    journalPath: string,
    between: () => Promise<void> | void = () => undefined,
  ): Promise<void> {
    const dead = this.#serving
    const [kept] = await dead.call('descriptors')
    const state = await dead.call('state')
    const pidfd = openPidfd(dead.child.pid ?? 0)
    const sessionFd = takeDescriptor(pidfd, kept?.fd ?? -1)
    closeSync(pidfd)
    await between()
    await dead.kill()
    const heir = new FuseServing(this.#directory, sessionFd)
    closeSync(sessionFd)
    t.teardown(() => heir.kill())
    this.#serving = heir
    const predecessor = { state, sessionFd: 4 }
    await heir.call('open', { mountpoint: heir.mountpoint, failover: 'journal', journalPath, predecessor })
    await this.#show(t)
  }

  async #show(t: Test): Promise<void> {
    for (const image of this.#paths)
      await this.#serving.call('show', {
        path: image,
        bootstrap: path.join(this.#directory, 'boot'),
        blobs: path.join(this.#directory, 'blobs'),
        cache: path.join(this.#directory, 'cache'),
      })
    await this.#serving.call('start')
    t.comment(`serving as ${this.#serving.child.pid}`)
  }
}

/** Everything of a tree, in lines. */
const WALK = 'cd "$1" && find . -printf "%p %y %m\\n" | sort && find . -type f | sort | xargs sha256sum'
const sha256 = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex')

function readSum(file: string): Promise<string> {
  return run('sha256sum', [file]).then(({ stdout }) => stdout.split(' ')[0] ?? '')
}

t.test('a read that waits for the backend, and requests that nobody has read', options, async t => {
  const journal = path.join(t.testdir(), 'requests')
  const lineage = await Lineage.begin(t, journal, ['/a'])
  const { serving } = lineage
  const right = sha256(path.join(serving.directory, 'tree/large'))
  await serving.call('hold')
  const asked = once(serving.events, 'read')
  const read = readSum(lineage.at('a', 'large'))
  await asked
  const { connection } = await serving.call('state')
  const connections = path.join(serving.directory, 'connections')
  mkdirSync(connections)
  await mount({ source: 'fusectl', target: connections, type: 'fusectl', timeoutMs: 10_000 })
  const waiting = path.join(connections, String(connection), 'waiting')
  let stat: Promise<unknown> = Promise.resolve()
  await lineage.succeed(t, journal, async () => {
    serving.child.kill('SIGSTOP')
    const before = Number(readFileSync(waiting, 'utf8'))
    stat = run('stat', [lineage.at('a', 'small/7')])
    while (Number(readFileSync(waiting, 'utf8')) === before) await new Promise(setImmediate)
  })
  t.equal(await read, right)
  await t.resolves(stat)
})

t.test('killed again and again under walks through everything', options, async t => {
  const journal = path.join(t.testdir(), 'requests')
  const paths = Array.from({ length: 24 }, (_, image) => `/image${image}`)
  const lineage = await Lineage.begin(t, journal, paths)
  // Each path is read once: nothing of it is remembered by the kernel.
  const script = `for at in "$@"; do sum=$(walk "$at" | sha256sum); echo "$sum"; done`
  const walkers: ChildProcessWithoutNullStreams[] = [0, 1].map(half =>
    spawn('sh', [
      '-c',
      `walk() { ${WALK}; }; ${script}`,
      'sh',
      ...paths.filter((_, i) => i % 2 === half).map(at => path.join(lineage.serving.mountpoint, at)),
    ]),
  )
  t.teardown(() => walkers.forEach(walker => walker.kill()))
  const right = createHash('sha256').update(lineage.sums).digest('hex')
  const seen: string[] = []
  let killing: Promise<void> = Promise.resolve()
  const ends = walkers.map(async walker => {
    for await (const line of createInterface(walker.stdout)) {
      seen.push(line)
      if (seen.length % 5 === 0) killing = killing.then(() => lineage.succeed(t, journal))
    }
  })
  await Promise.all(ends)
  await killing
  t.equal(seen.length, paths.length)
  t.strictSame([...new Set(seen)], [`${right}  -`], 'every walk saw everything')
})
