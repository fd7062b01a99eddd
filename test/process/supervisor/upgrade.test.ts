/** Daemons of another program take the place of those that serve, while their images are read. */
import { randomBytes } from 'node:crypto'
import { existsSync, lstatSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { SupervisorOptions } from '../../../src/supervisor/supervisor.js'
import { programPath } from '../../helpers/command-line.js'
import { until } from '../../helpers/lazy-node.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { scratch } from '../../helpers/scratch.js'
import { pythonMissing } from '../../helpers/state-holder.js'
import { startSteadyReader } from '../../helpers/steady-reader.js'
import { fanotifyMissing, fuseMissing, fuseOptions, supervise } from '../../helpers/supervised.js'

t.setTimeout(300_000)

const DATA = randomBytes(48 * 1024 * 1024)
const OTHER_COMMIT = 'feedbeef'

/** A node with one mounted image, whose `/file` is on a copy too. */
async function mountedNode(
  t: Test,
  overrides: (directory: string) => Partial<SupervisorOptions>,
  ids: readonly string[] = ['1'],
) {
  const directory = scratch(t)
  const at = (name: string): string => join(directory, name)
  const image = buildImage([{ name: 'file', mode: 0o100644, data: DATA }])
  mkdirSync(at('blobs'))
  writeFileSync(at('image.boot'), image.bootstrap)
  writeFileSync(join(at('blobs'), image.blobId), image.blob)
  writeFileSync(at('copy'), DATA)
  const backend = { type: 'localfs', config: { dir: at('blobs') } }
  const node = await supervise(t, directory, backend, overrides(directory))
  const mounts: string[] = []
  for (const id of ids) {
    const spec = { id, imageRef: 'test/app', bootstrapPath: at('image.boot'), labels: {} }
    mounts.push((await node.supervisor.mount({ ...spec, mountpoint: at(`m${id}`) })).mountpoint)
  }
  const readers = mounts.map(mount => startSteadyReader(t, join(mount, 'file'), at('copy')))
  return { directory, node, readers }
}

/** `nydusd` by another name, which says that it is of another commit; with `words` something that fails. */
function program(directory: string, name: string, words?: string): string {
  const path = join(directory, name)
  const ours = `exec ${process.execPath} ${programPath('nydusd')} "$@"`
  const version = `if [ "$1" = --version ]; then printf 'Version: \\t9\\nGit Commit: \\t${OTHER_COMMIT}\\n'; exit; fi`
  writeFileSync(path, `#!/bin/sh\n${version}\n${words ?? ours}\n`, { mode: 0o755 })
  return path
}

const KINDS: Record<
  string,
  { skip: string | false; images: string[]; options: (directory: string) => Partial<SupervisorOptions> }
> = {
  fanotify: { skip: fanotifyMissing, images: ['1'], options: () => ({ driver: 'fanotify' }) },
  'fuse, shared': {
    skip: fuseMissing,
    images: ['1', '2'],
    options: directory => ({ driver: 'fuse', fuse: fuseOptions(directory) }),
  },
  'fuse, one daemon for each image': {
    skip: fuseMissing,
    images: ['1', '2'],
    options: directory => ({ driver: 'fuse', fuse: fuseOptions(directory, { dedicated: true }) }),
  },
}

for (const [kind, { skip, images, options }] of Object.entries(KINDS)) {
  t.test(`${kind}: readers see nothing but a pause`, { skip: skip || pythonMissing }, async t => {
    const { directory, node, readers } = await mountedNode(t, options, images)
    const other = program(directory, 'other')
    const pids = async (): Promise<number[]> => (await node.supervisor.daemons()).map(({ pid }) => pid)
    let before = await pids()
    const sockets = (await node.supervisor.daemons()).map(daemon => daemon.apiSocket)
    for (let round = 1; round <= 3; round++) {
      const stalls = await node.supervisor.upgrade(round === 2 ? '' : other)
      t.comment(`${kind}: nobody served for ${stalls.join(', ')} ms`)
      const after = await node.supervisor.daemons()
      t.notOk(
        after.some(({ pid }) => pid === 0 || before.includes(pid)),
        `round ${round}: every daemon is another process`,
      )
      t.strictSame(
        after.map(daemon => daemon.apiSocket),
        sockets.map(socket => socket.replace('api.sock', `api${round}.sock`)),
      )
      t.notOk(existsSync(sockets[0] ?? ''), 'the old socket is gone')
      before = after.map(({ pid }) => pid)
    }

    await t.test('a program that does not come up leaves everything as it is', async t => {
      const broken = program(directory, 'broken', 'echo "nydusd: it is broken (INTERNAL)" >&2; exit 1')
      await t.rejects(node.supervisor.upgrade(broken), {
        code: 'UPGRADE_FAILED',
        message: /it is broken .*the daemon before it serves on/,
      })
      await t.rejects(node.supervisor.upgrade(join(directory, 'missing')), { code: 'FILE_MISSING' })
      t.strictSame(await pids(), before)
    })

    await t.test('one that fails too late is followed by the program before it', async t => {
      const late = program(directory, 'late', 'echo STANDBY >&3; read line <&3; exit 1')
      await t.rejects(node.supervisor.upgrade(late), {
        code: 'UPGRADE_FAILED',
        message: /the program before it was started again/,
      })
      const after = await pids()
      t.not(after[0], before[0])
      t.strictSame(after.slice(1), before.slice(1), 'the other daemons were not touched')
      before = after
    })

    await t.test('a later run adopts what was upgraded', async t => {
      await node.restartSupervisor()
      t.strictSame(await pids(), before)
    })

    for (const reader of readers) {
      const { reads, longestMs, ...failed } = await reader.counts()
      t.comment(`${kind}: ${reads} reads over 4 swaps, longest ${longestMs} ms`)
      t.ok(reads > 50, `${reads} reads`)
      t.strictSame(failed, { wrong: 0, errors: 0, last: '' })
    }
  })
}

t.test(
  'state of another version is refused, and the old daemon serves on',
  { skip: fuseMissing || pythonMissing },
  async t => {
    const { directory, node, readers } = await mountedNode(t, KINDS['fuse, shared']!.options)
    const file = join(directory, 'run/api.fuse/server.json')
    const state = readFileSync(file, 'utf8')
    const [before] = await node.supervisor.daemons()
    for (const version of [0, 2]) {
      writeFileSync(file, state.replace(/"nydus_fuse":\d+/, `"nydus_fuse":${version}`))
      await t.rejects(node.supervisor.upgrade(''), {
        code: 'UPGRADE_FAILED',
        message: new RegExp(`has version ${version}, not 1.*serves on`),
      })
      t.equal((await node.supervisor.daemons())[0]?.pid, before?.pid)
    }
    writeFileSync(file, state)
    await node.supervisor.upgrade('')
    t.match(await readers[0]?.counts(), { wrong: 0, errors: 0 })
  },
)

t.test(
  'the configured program becomes a link to the new one, and a later run of another version upgrades by itself',
  { skip: fuseMissing || pythonMissing },
  async t => {
    let configured = ''
    const { directory, node, readers } = await mountedNode(t, directory => {
      configured = program(directory, 'nydusd')
      return { ...KINDS['fuse, shared']!.options(directory), nydusdPath: configured }
    })
    const other = program(directory, 'other')
    await node.supervisor.upgrade(other)
    t.ok(lstatSync(configured).isSymbolicLink())
    t.equal(readlinkSync(configured), other)
    const [before] = await node.supervisor.daemons()
    t.not(before?.commit, OTHER_COMMIT, 'the daemon tells its own commit, the program another')
    await node.restartSupervisor()
    await until('the daemon is replaced', async () => {
      const [now] = await node.supervisor.daemons()
      return now !== undefined && now.pid !== 0 && now.pid !== before?.pid
    })
    t.match(await readers[0]?.counts(), { wrong: 0, errors: 0 })
  },
)
