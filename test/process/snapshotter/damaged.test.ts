import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { ClassicLevel } from 'classic-level'
import t, { type Test } from 'tap'
import type { DoctorReport } from '../../../src/client/system-client.js'
import { execNode } from '../../helpers/lazy-node.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'
import type { SnapshotsClient } from '../../helpers/snapshots-client.js'
import { type SnapshotterProcess, startSnapshotter } from '../../helpers/snapshotter-process.js'

const CHAINS = 100
const LAYERS = 9

type Stored = Record<string, unknown>
type Records = ReadonlyMap<string, { key: string; stored: Stored }>

/** 1,000 snapshots: 100 chains `N/0` … `N/8` with the writable `N/top` above. */
async function fill(client: SnapshotsClient): Promise<void> {
  const chains = Array.from({ length: CHAINS }, async (_, chain) => {
    let parent = ''
    for (let layer = 0; layer < LAYERS; layer++) {
      await client.prepare(`${chain}/prepared-${layer}`, parent)
      await client.commit(`${chain}/${layer}`, `${chain}/prepared-${layer}`, { layer: String(layer) })
      parent = `${chain}/${layer}`
    }
    await client.prepare(`${chain}/top`, parent)
  })
  await Promise.all(chains)
}

/** The state and the directories of a snapshotter that does not run, to be damaged. */
class Victim {
  readonly #root: string
  readonly #db: ClassicLevel
  readonly #records: Records

  private constructor(root: string, db: ClassicLevel, records: Records) {
    this.#root = root
    this.#db = db
    this.#records = records
  }

  static async open(root: string): Promise<Victim> {
    const db = new ClassicLevel(path.join(root, 'state'))
    const entries = await db.iterator({ gte: 'snapshot/', lt: 'snapshot/\uffff' }).all()
    const records = entries.map(([key, text]) => {
      const stored = JSON.parse(text) as Stored
      return [String(stored['name']), { key, stored }] as const
    })
    return new Victim(root, db, new Map(records))
  }

  id(name: string): string {
    return String(this.#records.get(name)?.stored['id'])
  }

  directory(name: string, ...below: string[]): string {
    return path.join(this.#root, 'snapshots', this.id(name), ...below)
  }

  async write(name: string, text: string): Promise<void> {
    await this.#db.put(this.#records.get(name)?.key ?? '', text)
  }

  async change(name: string, fields: Stored): Promise<void> {
    await this.write(name, JSON.stringify({ ...this.#records.get(name)?.stored, ...fields }))
  }

  async close(): Promise<void> {
    await this.#db.close()
  }
}

interface Damage {
  readonly what: string
  readonly do: (victim: Victim, chain: number) => unknown
  /** Whose calls fail, and the reason that they tell. Default: the top of the chain. */
  readonly fails?: string
  readonly reason?: RegExp
  /** What else of the chain is damaged by it. */
  readonly also?: readonly string[]
  /** The name under which it is kept, where its own cannot be read. */
  readonly unnamed?: boolean
}

const remove = (file: string): void => rmSync(file, { recursive: true })
const everything = ['0', '1', '2', '3', '4', '5', '6', '7', '8', 'top']

const DAMAGES: readonly Damage[] = [
  { what: 'directory gone', do: (v, c) => remove(v.directory(`${c}/top`)), reason: /is gone/ },
  { what: 'fs gone', do: (v, c) => remove(v.directory(`${c}/top`, 'fs')), reason: /fs is gone/ },
  {
    what: 'fs a file',
    do: (v, c) => {
      remove(v.directory(`${c}/top`, 'fs'))
      writeFileSync(v.directory(`${c}/top`, 'fs'), '')
    },
    reason: /is no directory/,
  },
  {
    what: 'work a file',
    do: (v, c) => {
      remove(v.directory(`${c}/top`, 'work'))
      writeFileSync(v.directory(`${c}/top`, 'work'), '')
    },
    reason: /work is no directory/,
  },
  { what: 'work gone: made again', do: (v, c) => remove(v.directory(`${c}/top`, 'work')) },
  {
    what: 'directory of the layer below gone',
    do: (v, c) => remove(v.directory(`${c}/8`)),
    fails: '8',
    reason: /is gone/,
  },
  { what: 'not JSON', do: (v, c) => v.write(`${c}/top`, '{"id": 1'), reason: /not JSON/, unnamed: true },
  { what: 'null', do: (v, c) => v.write(`${c}/top`, 'null'), reason: /no object/, unnamed: true },
  {
    what: 'fields missing',
    do: (v, c) => v.write(`${c}/top`, JSON.stringify({ name: `${c}/top`, parent: `${c}/8` })),
    reason: /lacks id, kind/,
  },
  {
    what: 'unknown kind',
    do: (v, c) => v.change(`${c}/top`, { kind: 'frozen' }),
    reason: /unknown kind "frozen"/,
  },
  {
    what: 'no such parent',
    do: (v, c) => v.change(`${c}/top`, { parent: 'nowhere' }),
    reason: /"nowhere" below it: there is no such snapshot/,
  },
  { what: 'parent no text', do: (v, c) => v.change(`${c}/top`, { parent: 7 }), reason: /parent/ },
  {
    what: 'a circle',
    do: (v, c) => v.change(`${c}/0`, { parent: `${c}/8` }),
    reason: /are a circle/,
    also: everything,
  },
  {
    what: 'id of another',
    do: (v, c) => v.change(`${c}/top`, { id: v.id(`${c}/8`) }),
    reason: /that of directory/,
  },
  {
    what: 'name of another',
    do: (v, c) => v.change(`${c}/top`, { name: `${c}/8` }),
    fails: '8',
    reason: /have one name/,
  },
  {
    what: 'of a newer release',
    do: (v, c) => v.change(`${c}/top`, { version: 2 }),
    reason: /version 2, of a newer release/,
  },
  { what: 'labels no texts', do: (v, c) => v.change(`${c}/top`, { labels: { a: 1 } }), reason: /labels/ },
  { what: 'usage no number', do: (v, c) => v.change(`${c}/top`, { usage: 'x' }), reason: /usage/ },
  { what: 'time no number', do: (v, c) => v.change(`${c}/top`, { createdNs: 'now' }), reason: /time/ },
  {
    what: 'a layer in the middle not JSON',
    do: (v, c) => v.write(`${c}/4`, '\u0000'),
    reason: /"\d+\/4" below it: there is no such snapshot/,
    also: ['5', '6', '7', '8', 'top'],
  },
  {
    what: 'a layer below not committed',
    do: (v, c) => v.change(`${c}/8`, { kind: 'active' }),
    reason: /below it is active, not committed/,
  },
]

const MIDDLE = DAMAGES.findIndex(({ what }) => what.includes('in the middle'))

async function doctor(server: SnapshotterProcess): Promise<{ code: number; report: DoctorReport }> {
  const system = path.join(path.dirname(server.socket), 'system.sock')
  const { code, stdout, stderr } = await execNode('nydusctl', ['--system-sock', system, '--json', 'doctor'])
  if (stdout === '') throw new Error(stderr)
  return { code, report: JSON.parse(stdout) as DoctorReport }
}

async function checkHealthy(t: Test, client: SnapshotsClient): Promise<void> {
  const failures: string[] = []
  for (let chain = DAMAGES.length; chain < CHAINS; chain++) {
    try {
      for (const name of everything) await client.stat(`${chain}/${name}`)
      const mounts = await client.mounts(`${chain}/top`)
      if (!mounts[0]?.options.some(option => option.startsWith('upperdir=')))
        failures.push(`${chain}: mounts`)
      await client.prepare(`${chain}/new`, `${chain}/8`)
      await client.remove(`${chain}/new`)
    } catch (err) {
      failures.push(`${chain}: ${String(err)}`)
    }
  }
  t.strictSame(failures, [], `${CHAINS - DAMAGES.length} chains of ${everything.length} work`)
}

t.test('1,000 snapshots, 20 of them damaged', { skip: rootMissing, timeout: 240_000 }, async t => {
  const directory = scratch(t)
  const first = await startSnapshotter(t, directory)
  await fill(first.client)
  t.match(await doctor(first), { code: 0, report: { findings: [], snapshots: CHAINS * everything.length } })
  await first.end('SIGKILL')
  const victim = await Victim.open(first.root)
  for (const [chain, damage] of DAMAGES.entries()) await damage.do(victim, chain)
  await victim.close()

  const server = await startSnapshotter(t, directory)
  const { client } = server
  await checkHealthy(t, client)
  t.ok(
    server.log.some(({ msg }) => /is not what was written/.test(String(msg))),
    'it is said loudly',
  )
  const { code, report } = await doctor(server)
  t.equal(code, 1)
  const found = new Map(report.findings.map(({ subject, problem }) => [subject, problem]))
  for (const [chain, { what, fails = 'top', reason, also = [], unnamed }] of DAMAGES.entries()) {
    const name = unnamed === true ? `damaged/${victim.id(`${chain}/top`)}` : `${chain}/${fails}`
    if (!reason) {
      await client.mounts(`${chain}/top`)
      t.ok(existsSync(victim.directory(`${chain}/top`, 'work')), what)
      continue
    }
    const call = fails === 'top' ? client.mounts(name) : client.prepare(`${chain}/on-it`, name)
    const details = await call.then(
      () => 'no error',
      (err: unknown) => (err as { details?: string }).details ?? String(err),
    )
    t.match(details, reason, what)
    t.match(
      details,
      /remove it .*, and pull again.*\(SNAPSHOT_DAMAGED\)$/,
      `${what}: the next step, the code`,
    )
    t.match(found.get(name), reason, `${what}: the doctor knows`)
    for (const other of also) t.ok(found.has(`${chain}/${other}`), `${what}: and of ${other}`)
  }

  await t.test('each can be removed, the whole chain with it', async t => {
    const left: string[] = []
    for (const [chain, { unnamed }] of DAMAGES.entries()) {
      const id = victim.id(`${chain}/top`)
      if (unnamed === true) {
        const system = path.join(path.dirname(server.socket), 'system.sock')
        t.equal((await execNode('nydusctl', ['--system-sock', system, 'doctor', '--remove', id])).code, 0)
      }
      // Names that were never, or are gone already, are no failure here.
      for (const name of [...everything].reverse())
        await client.remove(`${chain}/${name}`).catch((err: unknown) => {
          if (!String(err).includes('SNAPSHOT_NOT_FOUND')) left.push(`${chain}/${name}: ${String(err)}`)
        })
    }
    await client.remove(`damaged/${victim.id(`${MIDDLE}/4`)}`)
    t.strictSame(left, [])
    await client.cleanup()
    const names = (await client.list()).map(({ name }) => name)
    t.equal(names.length, (CHAINS - DAMAGES.length) * everything.length, 'only the healthy ones are left')
    t.equal(readdirSync(path.join(server.root, 'snapshots')).length, names.length, 'a directory each')
  })

  await server.end('SIGTERM')
  const last = await startSnapshotter(t, directory)
  t.match(await doctor(last), { code: 0, report: { findings: [] } }, 'and nothing of it is left')
})

t.test('a state that is lost is never an empty one', { skip: rootMissing, timeout: 120_000 }, async t => {
  const directory = scratch(t)
  const first = await startSnapshotter(t, directory)
  const [bind] = await first.client.prepare('a', '')
  writeFileSync(path.join(bind?.source ?? '', 'file'), 'somebody needs this')
  await first.client.commit('base', 'a')
  await first.client.prepare('b', 'base')
  await first.end('SIGTERM')
  const state = path.join(first.root, 'state')
  rmSync(state, { recursive: true })
  await t.rejects(startSnapshotter(t, directory), /no state that tells of them.*STORE_DAMAGED/)
  t.ok(existsSync(path.join(bind?.source ?? '', 'file')))

  rmSync(state, { recursive: true })
  const db = new ClassicLevel(state)
  await db.put('sequence', '0')
  await db.close()
  const older = await startSnapshotter(t, directory)
  t.match(
    (await older.client.prepare('c', ''))[0]?.source,
    /\/3\/fs$/,
    'ids of directories are not used again',
  )
  await older.client.cleanup()
  const { code, report } = await doctor(older)
  t.equal(code, 1)
  const lost = path.join(older.root, 'snapshots/lost-1')
  t.match(report.findings, [{ area: 'directory', subject: lost, problem: /was in use and has no record/ }])
  t.ok(existsSync(path.join(lost, 'fs/file')), 'what may be needed is set aside')
  t.notOk(existsSync(path.join(older.root, 'snapshots/2')), 'what nobody wrote to is not')
})
