/**
 * What any snapshotter must do, as containerd's own suite has it (the cases bear its names): state by state through the
 * service's calls, and file by file on what its mounts show. Each case starts on an empty snapshotter of the factory.
 */
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import type { Info } from '../../src/snapshotter/snapshots.js'
import { withMounted } from '../helpers/apply-mounts.js'
import { scratch } from '../helpers/scratch.js'
import type { SnapshotsClient } from '../helpers/snapshots-client.js'

export interface Tested {
  readonly client: SnapshotsClient
  close(): Promise<void>
}

/** Makes an empty snapshotter that keeps what it has in `directory`. */
export type Factory = (directory: string) => Promise<Tested>

/** gRPC status codes that the cases expect. */
const INVALID_ARGUMENT = 3
const NOT_FOUND = 5
const ALREADY_EXISTS = 6
const FAILED_PRECONDITION = 9

/** Changes a mounted tree. */
type Change = (root: string) => void

interface Case {
  readonly t: Test
  readonly client: SnapshotsClient
  /** An empty directory to mount on. */
  readonly target: () => string
}

export function snapshotsSuite(t: Test, factory: Factory): void {
  for (const [name, run] of Object.entries(CASES)) {
    t.test(name, async t => {
      const directory = scratch(t)
      const mountpoints = path.join(directory, 'mountpoints')
      mkdirSync(mountpoints)
      const tested = await factory(path.join(directory, 'state'))
      const target = () => mkdtempSync(path.join(mountpoints, 'm-'))
      try {
        await run({ t, client: tested.client, target })
      } finally {
        await tested.close()
      }
    })
  }
}

const CASES: Record<string, (c: Case) => Promise<void>> = {
  async Basic({ t, client, target }) {
    const first: Change = root => {
      writeFileSync(path.join(root, 'foo'), 'foo\n', { mode: 0o777 })
      mkdirSync(path.join(root, 'a/b/c'), { recursive: true })
      writeFileSync(path.join(root, 'a/b/c/bar'), 'bar\n')
    }
    await withMounted(await client.prepare('active', ''), target(), first)
    await client.commit('base', 'active')
    t.match(await client.stat('base'), { kind: 'committed', parent: '', name: 'base' })
    await t.rejects(client.stat('active'), { code: NOT_FOUND })

    const second: Change = root => {
      writeFileSync(path.join(root, 'bar'), 'bar\n')
      writeFileSync(path.join(root, 'foo'), 'changed\n')
      rmSync(path.join(root, 'a/b'), { recursive: true })
    }
    const mounts = await client.prepare('next', 'base')
    t.strictSame(await client.mounts('next'), mounts)
    await withMounted(mounts, target(), root => {
      t.strictSame(describeTree(root), flatTree(t, [first]), 'the child shows what the parent holds')
      second(root)
    })
    await client.commit('top', 'next')
    t.equal((await client.stat('top')).parent, 'base')
    const stats = [await client.stat('base'), await client.stat('top')]
    t.strictSame(byName(await client.list()), stats)

    await withMounted(await client.view('view', 'top'), target(), root => {
      t.strictSame(describeTree(root), flatTree(t, [first, second]))
    })
    await client.remove('view')
    await t.rejects(client.remove('base'), { code: FAILED_PRECONDITION, details: /remove/ })
    await client.remove('top')
    await client.remove('base')
    t.strictSame(await client.list(), [])
  },

  async StatActive({ t, client }) {
    await client.prepare('active', '')
    t.match(await client.stat('active'), { name: 'active', kind: 'active', parent: '' })
  },

  async StatComitted({ t, client }) {
    await client.prepare('active', '')
    await client.commit('done', 'active')
    t.match(await client.stat('done'), { name: 'done', kind: 'committed', parent: '' })
  },

  async TransitivityTest({ t, client }) {
    await client.prepare('a-active', '')
    await client.commit('a', 'a-active')
    await client.prepare('b-active', 'a')
    await client.commit('b', 'b-active')
    const { parent } = await client.stat('b')
    t.equal(parent, 'a')
    t.equal((await client.stat(parent)).parent, '')
  },

  async PreareViewFailingtest({ t, client }) {
    await client.prepare('base-active', '')
    await client.commit('base', 'base-active')
    await client.prepare('p', 'base')
    await t.rejects(client.view('p', 'base'), { code: ALREADY_EXISTS })
    await t.rejects(client.prepare('p', 'base'), { code: ALREADY_EXISTS })
    await client.view('v', 'base')
    await t.rejects(client.view('v', 'base'), { code: ALREADY_EXISTS })
    await t.rejects(client.prepare('v', ''), { code: ALREADY_EXISTS })
    await t.rejects(client.prepare('base', ''), { code: ALREADY_EXISTS })
    await t.rejects(client.prepare('orphan', 'nobody'), { code: NOT_FOUND })
    await t.rejects(client.prepare('orphan', 'p'), { code: INVALID_ARGUMENT })
  },

  async Update({ t, client }) {
    const labels = { 'containerd.io/gc.root': '1', l1: 'a', l2: 'b' }
    await client.prepare('base-active', '', labels)
    await client.commit('base', 'base-active', labels)
    await client.prepare('active', 'base', labels)
    await client.prepare('empty', '', labels)
    await client.view('view', 'base', labels)
    await client.view('empty-view', '', labels)
    for (const name of ['base', 'active', 'empty', 'view', 'empty-view']) {
      const before = await client.stat(name)
      t.equal(before.createdNs, before.updatedNs)
      const started = BigInt(Date.now()) * 1_000_000n
      const replaced = await client.update(name, { l1: 'new', l3: 'c' })
      t.strictSame(
        { ...replaced, updatedNs: 0n },
        { ...before, labels: { l1: 'new', l3: 'c' }, updatedNs: 0n },
      )
      t.ok(replaced.updatedNs >= started, 'updated now')
      t.strictSame(await client.stat(name), replaced, 'all calls tell the same instants')
      const masked = await client.update(name, { l1: 'newer', l9: 'no' }, ['labels.l1', 'labels.l3'])
      t.strictSame(masked.labels, { l1: 'newer' }, 'set and deleted by the mask')
      t.strictSame((await client.update(name, { l5: 'e' }, ['labels'])).labels, { l5: 'e' })
      await t.rejects(client.update(name, {}, ['parent']), { code: INVALID_ARGUMENT })
      await t.rejects(client.update(name, {}, ['labels.l5', 'kind']), { code: INVALID_ARGUMENT })
      t.strictSame((await client.stat(name)).labels, { l5: 'e' })
    }
    await t.rejects(client.update('nobody', {}), { code: NOT_FOUND })
  },

  async Remove({ t, client }) {
    await client.prepare('reused', '')
    await client.remove('reused')
    await client.view('reused', '')
    await client.remove('reused')
    await client.prepare('reused', '')
    await client.commit('name', 'reused')
    await client.remove('name')
    await client.prepare('reused', '')
    await client.commit('name', 'reused')
    t.strictSame(
      (await client.list()).map(({ name }) => name),
      ['name'],
    )
    await t.rejects(client.remove('nobody'), { code: NOT_FOUND })
  },

  async Walk({ t, client }) {
    const ref = 'containerd.io/snapshot.ref'
    await client.prepare('base-active', '', { l: '1' })
    await client.commit('base', 'base-active', { l: '1', [ref]: 'sha256:1' })
    await client.prepare('child-active', 'base')
    await client.commit('child', 'child-active', { l: '2' })
    await client.prepare('a1', 'child', { l: '1' })
    await client.prepare('a2', '', { l: '2' })
    await client.view('v1', 'child', { l: '1' })
    await client.view('v2', '')
    const expected: [string[], string[]][] = [
      [[], ['a1', 'a2', 'base', 'child', 'v1', 'v2']],
      [['name==a1'], ['a1']],
      [['kind==active'], ['a1', 'a2']],
      [
        ['kind==view', 'kind==committed'],
        ['base', 'child', 'v1', 'v2'],
      ],
      [['labels.l==1'], ['a1', 'base', 'v1']],
      [['labels.l==1,kind==view'], ['v1']],
      [['labels.l'], ['a1', 'a2', 'base', 'child', 'v1']],
      [['labels.l!=1'], ['a2', 'child', 'v2']],
      [[`labels."${ref}"==sha256:1,parent==""`], ['base']],
      [['parent!=""'], ['a1', 'child', 'v1']],
      [
        ['parent==child', 'labels.l==2,kind==active'],
        ['a1', 'a2', 'v1'],
      ],
      [['name~=/^[av]1$/'], ['a1', 'v1']],
    ]
    for (const [filters, names] of expected)
      t.strictSame(
        byName(await client.list(filters)).map(({ name }) => name),
        names,
        filters.join(' | '),
      )
    await t.rejects(client.list(['name==']), { code: INVALID_ARGUMENT })
  },

  async LayerFileupdate(c) {
    for (const [from, to] of [
      [0o644, 0o600],
      [0o755, 0o711],
    ] as const) {
      await checkLayers(c, [
        root => {
          writeFileSync(path.join(root, 'file'), `mode ${from}\n`, { mode: from })
          mkdirSync(path.join(root, 'etc'))
          writeFileSync(path.join(root, 'etc/hosts'), '127.0.0.1 localhost\n', { mode: from })
        },
        root => {
          writeFileSync(path.join(root, 'file'), `mode ${to}, and longer than before\n`)
          chmodSync(path.join(root, 'file'), to)
          writeFileSync(path.join(root, 'etc/hosts'), '127.0.0.1 localhost.new\n')
        },
      ])
    }
  },

  async RemoveDirectoryInLowerLayer(c) {
    await checkLayers(c, [
      root => {
        mkdirSync(path.join(root, 'dir/sub'), { recursive: true })
        writeFileSync(path.join(root, 'dir/old'), 'old\n')
      },
      root => {
        rmSync(path.join(root, 'dir'), { recursive: true })
      },
      root => {
        mkdirSync(path.join(root, 'dir'))
        writeFileSync(path.join(root, 'dir/new'), 'new\n')
      },
    ])
  },

  async Chown(c) {
    await checkLayers(c, [
      root => {
        mkdirSync(path.join(root, 'opt/a/b'), { recursive: true })
        writeFileSync(path.join(root, 'opt/a/b/file'), 'x\n')
      },
      root => {
        chownSync(path.join(root, 'opt'), 1, 1)
        chownSync(path.join(root, 'opt/a/b/file'), 2, 3)
      },
    ])
  },

  async DirectoryPermissionOnCommit(c) {
    await checkLayers(c, [
      root => {
        for (const name of ['d1', 'd2', 'd3']) {
          mkdirSync(path.join(root, name), { mode: 0o700 })
          writeFileSync(path.join(root, name, 'file'), `${name}\n`)
          chownSync(path.join(root, name), 1, 1)
        }
      },
      root => {
        chownSync(path.join(root, 'd1'), 5, 6)
        rmSync(path.join(root, 'd2'), { recursive: true })
        mkdirSync(path.join(root, 'd2'), { mode: 0o750 })
        chownSync(path.join(root, 'd2'), 7, 8)
        chmodSync(path.join(root, 'd3'), 0o1777)
      },
      root => {
        rmSync(path.join(root, 'd1'), { recursive: true })
        mkdirSync(path.join(root, 'd1'), { mode: 0o711 })
        chownSync(path.join(root, 'd3'), 9, 9)
      },
    ])
  },

  async RemoveIntermediateSnapshot({ t, client }) {
    await client.prepare('base-active', '')
    await client.commit('base', 'base-active')
    await client.prepare('middle-active', 'base')
    await client.commit('middle', 'middle-active')
    await client.prepare('top', 'middle')
    await t.rejects(client.remove('middle'), { code: FAILED_PRECONDITION, details: /remove/ })
    for (const name of ['top', 'middle', 'base']) await client.remove(name)
    t.strictSame(await client.list(), [])
  },

  async DeletedFilesInChildSnapshot(c) {
    await checkLayers(c, [
      root => {
        writeFileSync(path.join(root, 'foo'), 'foo\n')
        writeFileSync(path.join(root, 'bar'), 'bar\n')
      },
      root => {
        unlinkSync(path.join(root, 'foo'))
      },
      () => undefined,
    ])
  },

  async MoveFileFromLowerLayer(c) {
    await checkLayers(c, [
      root => {
        mkdirSync(path.join(root, 'dir1'))
        writeFileSync(path.join(root, 'dir1/f1'), 'f1\n')
        writeFileSync(path.join(root, 'dir1/f2'), 'f2\n')
        symlinkSync('dir1/f1', path.join(root, 'link'))
      },
      root => {
        mkdirSync(path.join(root, 'dir2'))
        linkSync(path.join(root, 'dir1/f1'), path.join(root, 'dir2/f1'))
        unlinkSync(path.join(root, 'dir1/f1'))
      },
    ])
  },

  async ViewReadonly({ t, client, target }) {
    await client.prepare('base-active', '')
    await client.commit('base', 'base-active')
    for (const parent of ['', 'base']) {
      const mounts = await client.view(`view-of-${parent}`, parent)
      await withMounted(mounts, target(), root => {
        t.throws(() => writeFileSync(path.join(root, 'new'), 'x'), { code: 'EROFS' })
      })
    }
  },

  async StatInWalk({ t, client }) {
    for (let index = 0; index < 250; index++)
      await client.prepare(`active-${index}`, '', { l: String(index) })
    let seen = 0
    await client.list([], async info => {
      t.strictSame(await client.stat(info.name), info)
      seen++
    })
    t.equal(seen, 250)
  },

  async CloseTwice({ t, client }) {
    client.close()
    t.doesNotThrow(() => {
      client.close()
    })
  },

  async RootPermission({ t, client, target }) {
    await withMounted(await client.prepare('active', ''), target(), root => {
      t.equal(statSync(root).mode & 0o7777, 0o755)
    })
  },

  async Rename(c) {
    await checkLayers(c, [
      root => {
        mkdirSync(path.join(root, 'dir'))
        for (const name of ['a', 'dir/b']) writeFileSync(path.join(root, name), `${name}\n`)
      },
      root => {
        renameSync(path.join(root, 'a'), path.join(root, 'dir/b'))
        mkdirSync(path.join(root, 'fresh'))
        renameSync(path.join(root, 'fresh'), path.join(root, 'renamed'))
      },
    ])
  },

  async '128LayersMount'(c) {
    await checkLayers(
      c,
      Array.from({ length: 128 }, (_, index): Change => {
        return root => {
          writeFileSync(path.join(root, `file-${index}`), `${index}\n`)
          if (index > 0) unlinkSync(path.join(root, `file-${index - 1}`))
        }
      }),
      16,
    )
  },
}

/**
 * Unpacks changes layer by layer; a view of every layer, or of each `step`th, and then a container on all of them must
 * show what a plain directory shows.
 */
async function checkLayers({ t, client, target }: Case, changes: readonly Change[], step = 1): Promise<void> {
  const run = path.basename(target())
  const flat = mkdtempSync(path.join(scratch(t), 'flat-'))
  chmodSync(flat, 0o755)
  let parent = ''
  for (const [index, change] of changes.entries()) {
    const key = `${run}-${index}-active`
    await withMounted(await client.prepare(key, parent), target(), change)
    change(flat)
    parent = `${run}-${index}`
    await client.commit(parent, key)
    if ((index + 1) % step !== 0) continue
    await withMounted(await client.view(`${parent}-view`, parent), target(), root => {
      const [seen, wanted] = [describeTree(root), describeTree(flat)]
      if (JSON.stringify(seen) !== JSON.stringify(wanted)) t.strictSame(seen, wanted, `layer ${index}`)
    })
    await client.remove(`${parent}-view`)
  }
  await withMounted(await client.prepare(`${run}-container`, parent), target(), root => {
    t.strictSame(describeTree(root), describeTree(flat), `a container on ${changes.length} layers`)
  })
}

/** What changes make of an empty directory. */
function flatTree(t: Test, changes: readonly Change[]): string[] {
  const flat = scratch(t)
  chmodSync(flat, 0o755)
  for (const change of changes) change(flat)
  return describeTree(flat)
}

/** One line an entry: kind, mode, owner, content, number of names. */
function describeTree(root: string): string[] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .concat('.')
    .sort()
    .map(name => {
      const file = path.join(root, name)
      const stats = lstatSync(file)
      const content = stats.isSymbolicLink()
        ? readlinkSync(file)
        : stats.isFile()
          ? readFileSync(file, 'utf8')
          : ''
      const names = stats.isFile() ? stats.nlink : '-'
      return [name, stats.mode.toString(8), stats.uid, stats.gid, names, JSON.stringify(content)].join(' ')
    })
}

function byName(infos: Info[]): Info[] {
  return infos.sort((a, b) => (a.name < b.name ? -1 : 1))
}
