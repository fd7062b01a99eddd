import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { SnapshotsClient } from '../../helpers/snapshots-client.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'
import { startSnapshotter } from '../../helpers/snapshotter-process.js'

const ROUNDS = 8
const WORKERS = 6

/** What the calls so far have answered, and what a killed server may or may not have done. */
interface Model {
  readonly present: Map<string, { kind: string; parent: string }>
  readonly absent: Set<string>
  readonly unknown: Set<string>
  acknowledged: number
}

/** Grows and removes chains of its own until the server is gone. */
async function work(
  client: SnapshotsClient,
  prefix: string,
  model: Model,
  onAnswer: () => void,
): Promise<void> {
  const call = async (names: string[], run: () => Promise<unknown>, done: () => void): Promise<void> => {
    try {
      await run()
    } catch (err) {
      for (const name of names) model.unknown.add(name)
      throw err
    }
    done()
    model.acknowledged++
    onAnswer()
  }
  let parent = ''
  for (let index = 0; ; index++) {
    const key = `${prefix}-${index}-active`
    const name = `${prefix}-${index}`
    const below = parent
    await call(
      [key],
      () => client.prepare(key, below),
      () => model.present.set(key, { kind: 'active', parent: below }),
    )
    await call(
      [key, name],
      () => client.commit(name, key),
      () => {
        model.present.delete(key)
        model.absent.add(key)
        model.present.set(name, { kind: 'committed', parent: below })
      },
    )
    parent = name
    if (index % 3 !== 2) continue
    await call(
      [name],
      () => client.remove(name),
      () => {
        model.present.delete(name)
        model.absent.add(name)
      },
    )
    parent = below
  }
}

t.test(
  'killed in the middle of writing, again and again',
  { skip: rootMissing, timeout: 120_000 },
  async t => {
    const directory = scratch(t)
    const model: Model = { present: new Map(), absent: new Set(), unknown: new Set(), acknowledged: 0 }
    for (let round = 0; round < ROUNDS; round++) {
      const server = await startSnapshotter(t, directory)
      const { client } = server
      const snapshots = path.join(server.root, 'snapshots')

      const listed = new Map((await client.list()).map(info => [info.name, info]))
      for (const [name, expected] of model.present) {
        if (model.unknown.has(name)) continue
        const info = listed.get(name)
        if (info?.kind !== expected.kind || info.parent !== expected.parent)
          t.match(info, expected, `round ${round}: ${name} was acknowledged`)
      }
      for (const name of model.absent)
        if (!model.unknown.has(name) && listed.has(name)) t.fail(`round ${round}: ${name} was removed`)
      for (const { name, kind, parent } of listed.values()) {
        if (parent !== '' && !listed.has(parent))
          t.fail(`round ${round}: ${name} has lost its parent ${parent}`)
        if (kind !== 'active') continue
        const [mount] = await client.mounts(name)
        const own =
          mount?.options.find(option => option.startsWith('upperdir='))?.slice(9) ?? mount?.source ?? ''
        if (!existsSync(own)) t.fail(`round ${round}: ${name} has no directory`)
      }
      await client.cleanup()
      const directories = readdirSync(snapshots)
      t.equal(directories.length, listed.size, `round ${round}: ${listed.size} snapshots, a directory each`)
      t.notOk(
        directories.some(name => name.startsWith('new-')),
        'and nothing half-made',
      )
      // What nobody was told is whatever it is by now.
      for (const name of model.unknown) {
        const info = listed.get(name)
        if (info) model.present.set(name, { kind: info.kind, parent: info.parent })
        else model.present.delete(name)
        model.absent.delete(name)
      }
      model.unknown.clear()

      const killAt = model.acknowledged + 15 + round * 7
      const onAnswer = (): void => {
        if (model.acknowledged === killAt) server.child.kill('SIGKILL')
      }
      const workers = Array.from({ length: WORKERS }, (_, index) =>
        work(client, `r${round}w${index}`, model, onAnswer),
      )
      await Promise.allSettled(workers)
      t.match(await server.end('SIGKILL'), { signal: 'SIGKILL' })
      client.close()
    }
    t.ok(model.acknowledged > ROUNDS * 15, `${model.acknowledged} calls were acknowledged`)
  },
)
