import path from 'node:path'
import t, { type Test } from 'tap'
import { Store } from '../../../src/common/store.js'
import { Metadata } from '../../../src/snapshotter/metadata.js'
import { scratch } from '../../helpers/scratch.js'

const NO_USAGE = { sizeBytes: 0, inodes: 0 }

interface Opened {
  metadata: Metadata
  store: Store
  /** Closes and opens again what is on the disk. */
  reopen: (lowestLastId?: number) => Promise<Metadata>
}

async function open(t: Test): Promise<Opened> {
  const directory = path.join(scratch(t), 'state')
  let nowNs = 1_000_000_000n
  const now = (): bigint => nowNs++
  const opened: Opened = {
    store: await Store.open(directory),
    metadata: undefined as unknown as Metadata,
    async reopen(lowestLastId = 0) {
      await opened.store.close()
      opened.store = await Store.open(directory)
      opened.metadata = await Metadata.open(opened.store, lowestLastId, now)
      return opened.metadata
    },
  }
  opened.metadata = await Metadata.open(opened.store, 0, now)
  t.teardown(() => opened.store.close())
  return opened
}

async function commitLayer(metadata: Metadata, name: string, parent: string, labels = {}): Promise<void> {
  await metadata.create(metadata.nextId(), 'active', { key: `${name}-active`, parent, labels: {} })
  await metadata.commit({ name, key: `${name}-active`, labels, parent: '' }, { sizeBytes: 5, inodes: 2 })
}

t.test('from active to committed', async t => {
  const { metadata } = await open(t)
  const active = await metadata.create('1', 'active', { key: 'a', parent: '', labels: { x: '1', empty: '' } })
  t.strictSame(active.labels, { x: '1' }, 'a label without a value is not kept')
  t.equal(active.createdNs, active.updatedNs)
  const committed = await metadata.commit({ name: 'c', key: 'a', labels: { y: '2' }, parent: '' }, NO_USAGE)
  t.match(committed, { id: '1', kind: 'committed', labels: { y: '2' }, parent: '' })
  t.notOk('x' in committed.labels, 'labels are replaced')
  t.ok(committed.createdNs > active.createdNs, 'both times are new')
  t.equal(committed.createdNs, committed.updatedNs)
  t.equal(metadata.get('a'), undefined, 'the key is free')
  t.ok(metadata.hasId('1'))
  await metadata.create('2', 'active', { key: 'a', parent: 'c', labels: {} })
  t.equal(metadata.require('a').parent, 'c')
})

t.test('what must not be created', async t => {
  const { metadata } = await open(t)
  await commitLayer(metadata, 'base', '')
  await metadata.create(metadata.nextId(), 'view', { key: 'v', parent: 'base', labels: {} })
  const create = (key: string, parent: string) =>
    metadata.create(metadata.nextId(), 'active', { key, parent, labels: {} })
  await t.rejects(create('x', 'none'), {
    code: 'SNAPSHOT_NOT_FOUND',
    message: /missing parent "none" bucket/,
  })
  await t.rejects(create('x', 'v'), { code: 'SNAPSHOT_INVALID' })
  await t.rejects(create('v', ''), { code: 'SNAPSHOT_EXISTS' })
  await t.rejects(create('base', ''), { code: 'SNAPSHOT_EXISTS' }, 'keys and names share one space')
  await t.rejects(create('', ''), { code: 'SNAPSHOT_INVALID' })
  t.equal(metadata.list().length, 2)
})

t.test('what must not be committed', async t => {
  const { metadata } = await open(t)
  await commitLayer(metadata, 'base', '')
  await commitLayer(metadata, 'other', '')
  await metadata.create(metadata.nextId(), 'view', { key: 'v', parent: '', labels: {} })
  await metadata.create(metadata.nextId(), 'active', { key: 'a', parent: 'base', labels: {} })
  const commit = (name: string, key: string, parent = '') =>
    metadata.commit({ name, key, labels: {}, parent }, NO_USAGE)
  await t.rejects(commit('base', 'a'), { code: 'SNAPSHOT_EXISTS' })
  await t.rejects(commit('n', 'none'), { code: 'SNAPSHOT_NOT_FOUND' })
  await t.rejects(commit('n', 'v'), { code: 'SNAPSHOT_STATE' })
  await t.rejects(commit('n', 'base'), { code: 'SNAPSHOT_STATE' })
  await t.rejects(commit('', 'a'), { code: 'SNAPSHOT_INVALID' })
  await t.rejects(commit('n', 'a', 'other'), { code: 'SNAPSHOT_INVALID' })
  t.match(await commit('n', 'a', 'base'), { parent: 'base' }, 'the same parent is no contradiction')
})

t.test('a parent that comes with the commit', async t => {
  const { metadata } = await open(t)
  await commitLayer(metadata, 'base', '')
  await metadata.create(metadata.nextId(), 'active', { key: 'a', parent: '', labels: {} })
  const commit = (parent: string) => metadata.commit({ name: 'n', key: 'a', labels: {}, parent }, NO_USAGE)
  await t.rejects(commit('none'), { code: 'SNAPSHOT_NOT_FOUND' })
  await t.rejects(commit('a'), { code: 'SNAPSHOT_STATE' })
  t.match(await commit('base'), { parent: 'base' })
  await t.rejects(
    metadata.remove('base'),
    { code: 'SNAPSHOT_STATE', message: /remove/ },
    'it has a child now',
  )
})

t.test('removal', async t => {
  const { metadata, reopen } = await open(t)
  await commitLayer(metadata, 'base', '')
  await commitLayer(metadata, 'top', 'base')
  await t.rejects(metadata.remove('base'), { code: 'SNAPSHOT_STATE', message: /remove/ })
  await t.rejects(metadata.remove('none'), { code: 'SNAPSHOT_NOT_FOUND' })
  t.strictSame(await metadata.remove('top'), ['2'])
  t.strictSame(await metadata.remove('base'), ['1'])
  t.notOk(metadata.hasId('1'))
  const again = await reopen()
  t.strictSame(again.list(), [])
  t.equal(again.nextId(), '3', 'ids are not used twice')
})

t.test('update', async t => {
  const { metadata } = await open(t)
  await metadata.create('1', 'active', { key: 'a', parent: '', labels: { l1: 'a', l2: 'b', 'x/y.z': 'c' } })
  const update = (paths: string[], labels = {}) => metadata.update({ name: 'a', labels, paths })
  const before = metadata.require('a')
  await t.rejects(update(['parent']), { code: 'SNAPSHOT_INVALID' })
  await t.rejects(update(['labels.l1', 'kind'], { l1: 'changed' }), { code: 'SNAPSHOT_INVALID' })
  t.equal(metadata.require('a'), before, 'and nothing changed')
  t.strictSame((await update(['labels.l1', 'labels.l2'], { l1: 'new' })).labels, { l1: 'new', 'x/y.z': 'c' })
  t.strictSame((await update(['labels.x/y.z'], { 'x/y.z': 'd' })).labels, { l1: 'new', 'x/y.z': 'd' })
  t.strictSame((await update(['labels'], { only: '1', empty: '' })).labels, { only: '1' })
  const after = await update([], { last: '1' })
  t.strictSame(after.labels, { last: '1' })
  t.equal(after.createdNs, before.createdNs)
  t.ok(after.updatedNs > before.updatedNs)
  await t.rejects(metadata.update({ name: 'none', labels: {}, paths: [] }), { code: 'SNAPSHOT_NOT_FOUND' })
})

t.test('what is kept is what was', async t => {
  const { metadata, reopen } = await open(t)
  await commitLayer(metadata, 'base', '', { a: '1' })
  await commitLayer(metadata, 'top \u{1F600} "x"', 'base')
  await metadata.create(metadata.nextId(), 'view', {
    key: '\u{1F600}/v',
    parent: 'top \u{1F600} "x"',
    labels: {},
  })
  const before = metadata.list().sort((a, b) => Number(a.id) - Number(b.id))
  const again = await reopen()
  t.strictSame(
    again.list().sort((a, b) => Number(a.id) - Number(b.id)),
    before,
  )
  t.strictSame(
    again.ancestors(again.require('\u{1F600}/v')).map(({ id }) => id),
    ['2', '1'],
  )
  await t.rejects(again.remove('base'), { code: 'SNAPSHOT_STATE' }, 'children are known again')
  t.equal((await reopen(40)).nextId(), '41', 'ids of directories count as used')
})

t.test('a layer committed at once', async t => {
  const { metadata } = await open(t)
  const request = { key: 'extract', parent: '', labels: { ref: 'sha256:1' } }
  t.match(await metadata.createCommitted('1', 'sha256:1', request), { kind: 'committed', name: 'sha256:1' })
  t.equal(metadata.get('extract'), undefined)
  await t.rejects(metadata.createCommitted('2', 'sha256:1', request), { code: 'SNAPSHOT_EXISTS' })
})

t.test('many writers at once', async t => {
  const { metadata, store, reopen } = await open(t)
  let flushes = 0
  const write = store.write.bind(store)
  store.write = async changes => {
    flushes++
    await write(changes)
  }
  await commitLayer(metadata, 'base', '')
  flushes = 0
  const keys = Array.from({ length: 200 }, (_, index) => `k${index % 100}`)
  const results = await Promise.allSettled(
    keys.map(key => metadata.create(metadata.nextId(), 'active', { key, parent: 'base', labels: {} })),
  )
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, 100, 'one of each key succeeds')
  t.ok(flushes < 20, `${flushes} flushes`)
  const outcome = await Promise.allSettled([
    metadata.commit({ name: 'n', key: 'k1', labels: {}, parent: '' }, NO_USAGE),
    metadata.create(metadata.nextId(), 'active', { key: 'k1', parent: 'n', labels: {} }),
    metadata.remove('n'),
    metadata.remove('k1'),
    metadata.remove('n'),
    metadata.create(metadata.nextId(), 'view', { key: 'n', parent: 'base', labels: {} }),
  ])
  t.strictSame(
    outcome.map(({ status }) => status),
    ['fulfilled', 'fulfilled', 'rejected', 'fulfilled', 'fulfilled', 'fulfilled'],
    'each sees what those before it did',
  )
  const again = await reopen()
  t.equal(again.list().length, 101)
  t.equal(again.require('n').kind, 'view')
})

t.test('readers see nothing that is not on the disk', async t => {
  const { metadata, store } = await open(t)
  const write = store.write.bind(store)
  let release = (): void => undefined
  const held = new Promise<void>(resolve => (release = resolve))
  let begun = (): void => undefined
  const writing = new Promise<void>(resolve => (begun = resolve))
  store.write = async changes => {
    begun()
    await held
    await write(changes)
  }
  const creating = metadata.create('1', 'active', { key: 'a', parent: '', labels: {} })
  await writing
  t.equal(metadata.get('a'), undefined)
  release()
  await creating
  t.equal(metadata.get('a')?.id, '1')
})

t.test('a flush that fails changes nothing', async t => {
  const { metadata, store } = await open(t)
  const write = store.write.bind(store)
  store.write = () => Promise.reject(new Error('disk full'))
  await t.rejects(metadata.create('1', 'active', { key: 'a', parent: '', labels: {} }), {
    message: /disk full/,
  })
  t.equal(metadata.get('a'), undefined)
  store.write = write
  await metadata.create('2', 'active', { key: 'a', parent: '', labels: {} })
  t.equal(metadata.require('a').id, '2')
})

t.test('damaged records leave the others alone', async t => {
  const { metadata, store, reopen } = await open(t)
  await commitLayer(metadata, 'sound', '')
  for (const name of ['a', 'b', 'c', 'd']) await commitLayer(metadata, name, 'sound')
  await commitLayer(metadata, 'on-a', 'a')
  const stored = new Map(await store.list<Record<string, unknown>>('snapshot/'))
  const idOf = (name: string): string => metadata.require(name).id
  const change = async (name: string, fields: object): Promise<void> => {
    const key = `snapshot/${idOf(name)}`
    await store.write([{ type: 'put', key, value: { ...stored.get(key), ...fields } }])
  }
  await change('a', { kind: 'frozen' })
  await change('b', { name: 'c' })
  await change('d', { parent: 'on-d' })
  await store.write([
    { type: 'put', key: 'snapshot/90', value: 'no object' },
    {
      type: 'put',
      key: 'snapshot/91',
      value: { ...stored.get('snapshot/1'), id: '91', name: 'on-d', parent: 'd' },
    },
    { type: 'put', key: 'snapshot/92', value: { ...stored.get('snapshot/1'), version: 9, id: '92' } },
  ])
  const again = await reopen()
  t.strictSame(
    again
      .list()
      .map(({ name }) => name)
      .sort(),
    ['d', 'on-a', 'on-d', 'sound'],
  )
  const damaged = again.listDamaged()
  t.match(
    new Map(damaged.map(({ name, reason }) => [name, reason])),
    new Map([
      ['a', /unknown kind "frozen"/],
      ['c', /the records of directories 3 and 4 have one name/],
      ['damaged/90', /no object/],
      ['damaged/92', /version 9, of a newer release/],
    ]),
  )
  t.throws(() => again.require('a'), {
    code: 'SNAPSHOT_DAMAGED',
    message: /"a" is damaged: .*kind.*; remove it/,
  })
  t.throws(() => again.ancestors(again.require('on-a')), {
    code: 'SNAPSHOT_DAMAGED',
    message: /"a" below it/,
  })
  t.throws(() => again.ancestors(again.require('d')), { code: 'SNAPSHOT_DAMAGED', message: /are a circle/ })
  const create = (key: string, parent: string) =>
    again.create(again.nextId(), 'active', { key, parent, labels: {} })
  for (const parent of ['a', 'on-a', 'c', 'd'])
    await t.rejects(create('new', parent), { code: 'SNAPSHOT_DAMAGED' }, `nothing stands on ${parent}`)
  await t.rejects(create('c', ''), { code: 'SNAPSHOT_DAMAGED' }, 'the name is taken')
  await create('new', 'sound')
  t.equal(again.nextId(), '99', 'damaged records count')
  for (const id of ['2', '3', '4', '90', '91', '92'])
    t.ok(again.hasId(id), `directory ${id} is nobody's orphan`)

  await t.rejects(again.remove('a'), { code: 'SNAPSHOT_STATE' }, 'something stands on it')
  await t.rejects(again.remove('sound'), { code: 'SNAPSHOT_STATE' }, 'damaged ones are children too')
  await again.remove('on-a')
  t.strictSame(await again.remove('a'), ['2'])
  t.strictSame(await again.remove('c'), ['3', '4'], 'both that have the name')
  t.strictSame(await again.remove('d'), ['5'], 'a circle can be cut anywhere')
  t.strictSame(await again.remove('on-d'), ['91'])
  t.strictSame(await again.remove('damaged/90'), ['90'])
  t.strictSame(await again.remove('damaged/92'), ['92'])
  await again.remove('new')
  await again.remove('sound')
  const last = await reopen()
  t.strictSame([last.list(), last.listDamaged()], [[], []])
})
