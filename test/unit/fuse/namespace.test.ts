import t from 'tap'
import { Namespace } from '../../../src/fuse/namespace.js'
import { MAX_PLACES, VirtualTree } from '../../../src/fuse/virtual-tree.js'
import { applyChange } from '../../../src/fuse/apply-change.js'
import { createCounters } from '../../../src/fuse/counters.js'
import type { WorkerImage } from '../../../src/fuse/messages.js'
import type { FuseState } from '../../../src/fuse/server.js'

const image = { rootIno: 36, bootstrapFd: -1, blobs: [], counters: createCounters(1), accounted: false }
const never = () => {
  throw new Error('no image is asked')
}
const names = (stale: readonly { parent: number; name: Uint8Array }[]) =>
  stale.map(({ parent, name }) => [parent, Buffer.from(name).toString()])

function restore(namespace: Namespace): { state: FuseState; next: Namespace } {
  const own = { version: 1, init: {}, connection: 1, createdSec: 0 } as const
  const state = JSON.parse(JSON.stringify({ ...own, ...namespace.state() })) as FuseState
  return { state, next: new Namespace(never, state) }
}

t.test('what the kernel must forget', async t => {
  const space = new Namespace(never)
  t.same(names(space.show('/a/b/c', image).stale), [[1, 'a']], 'the first name that is new')
  t.same(names(space.show('/a/b/d', image).stale), [[3, 'd']])
  t.same(names(space.show('/a/b', image).stale), [[2, 'b']], 'what it covers')
  t.same(names(space.hide('/a/b').stale), [[2, 'b']])
  t.same(names(space.hide('/a/b/d').stale), [[3, 'd']])
  t.same(names(space.hide('/a/b/c').stale), [[1, 'a']], 'the topmost that goes')
  t.same(space.snapshot(), [])
})

t.test('paths', async t => {
  const space = new Namespace(never)
  for (const bad of ['', 'a', '/a/../b', '/./a', `/${'n'.repeat(256)}`, '/a\0b'])
    t.throws(() => space.show(bad, image), { code: 'CONFIG_INVALID' }, JSON.stringify(bad))
  space.show('//a///b/', image)
  t.throws(() => space.show('/a/b', image), { code: 'INSTANCE_EXISTS' })
  t.throws(() => space.hide('/a'), { code: 'INSTANCE_UNKNOWN' })
  t.throws(() => space.get('/'), { code: 'INSTANCE_UNKNOWN' })
})

t.test('numbers of images come round, and are not given twice', async t => {
  const space = new Namespace(never)
  space.show('/stays', image)
  const generations = new Set<number>()
  for (let i = 0; i < MAX_PLACES + 5; i++) {
    const { sequence } = space.show('/x', image).image
    if (sequence % MAX_PLACES === 0) t.fail('the place of the one that stays')
    generations.add(Math.floor(sequence / MAX_PLACES))
    space.hide('/x')
  }
  t.same([...generations], [0, 1])
})

t.test('a successor gives the numbers of its predecessor, in whatever order', async t => {
  const space = new Namespace(never)
  for (const path of ['/one', '/two/in', '/three', '/gone']) space.show(path, image)
  space.hide('/one')
  const { state, next } = restore(space)
  for (const path of ['/three', '/two/in']) {
    const step = next.show(path, image)
    t.same(step.stale, [], 'the kernel knows it already')
    t.equal(step.image.sequence, space.get(path).sequence)
  }
  t.ok(next.show('/new', image).image.sequence >= state.nextSequence)
  t.same(names(next.prune()), [[1, 'gone']], 'what is not shown again goes')
  const directories = next.state().directories.map(({ name }) => name)
  t.same(directories, ['two', 'in', 'three', 'new'])
  const inos = next.state().directories.map(({ ino }) => ino)
  t.equal(new Set(inos).size, inos.length)
})

t.test('a copy that follows the steps is the same tree', async t => {
  const space = new Namespace(never)
  const copy = new VirtualTree<WorkerImage>()
  const follow = (step: { changes: readonly Parameters<typeof applyChange>[1][] }) =>
    step.changes.forEach(change => applyChange(copy, change))
  for (const path of ['/a/b', '/a/c', '/d']) follow(space.show(path, image))
  follow(space.hide('/a/b'))
  follow(space.show('/e/f', image))
  follow(space.hide('/d'))
  const late = new VirtualTree<WorkerImage>()
  for (const change of space.snapshot()) applyChange(late, change)
  const told = (tree: VirtualTree<WorkerImage>) =>
    [...tree.directories()].map(directory => [directory, tree.nodeAt(directory), tree.parentNode(directory)])
  t.same(told(copy), told(late))
  t.equal(told(copy).length, 5)
})
