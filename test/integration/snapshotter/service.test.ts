import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync, linkSync, chownSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { LABELS } from '../../../src/snapshotter/labels.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'
import { type RunningServer, startSnapshotsServer } from '../../helpers/snapshots-server.js'

const INVALID_ARGUMENT = 3
const NOT_FOUND = 5
const ALREADY_EXISTS = 6
const FAILED_PRECONDITION = 9

async function start(t: Test, directory = scratch(t)): Promise<RunningServer> {
  const server = await startSnapshotsServer(directory)
  t.teardown(() => server.close())
  return server
}

const directoriesOf = (server: RunningServer): string[] =>
  readdirSync(path.join(server.root, 'snapshots')).sort()

t.test('mounts have absolute paths in their documented order', async t => {
  const { client, root } = await start(t)
  const snapshots = path.join(root, 'snapshots')
  t.strictSame(await client.prepare('a', ''), [
    { type: 'bind', source: `${snapshots}/1/fs`, target: '', options: ['rw', 'rbind'] },
  ])
  await client.commit('base', 'a')
  t.strictSame(await client.prepare('b', 'base'), [
    {
      type: 'overlay',
      source: 'overlay',
      target: '',
      options: [`workdir=${snapshots}/2/work`, `upperdir=${snapshots}/2/fs`, `lowerdir=${snapshots}/1/fs`],
    },
  ])
  t.strictSame(await client.mounts('b'), await client.mounts('b'))
  await t.rejects(client.mounts('base'), { code: FAILED_PRECONDITION })
  await t.rejects(client.mounts('none'), { code: NOT_FOUND })
})

t.test('modes and owners do not depend on the umask', { skip: rootMissing }, async t => {
  const before = process.umask(0o077)
  t.teardown(() => process.umask(before))
  const server = await start(t)
  await server.client.prepare('a', '')
  const fs = path.join(server.root, 'snapshots/1/fs')
  t.equal(statSync(fs).mode & 0o7777, 0o755)
  t.equal(statSync(path.join(server.root, 'snapshots/1/work')).mode & 0o7777, 0o711)
  t.equal(statSync(path.join(server.root, 'snapshots/1')).mode & 0o7777, 0o700)
  chownSync(fs, 12, 34)
  await server.client.commit('base', 'a')
  await server.client.prepare('b', 'base')
  t.match(statSync(path.join(server.root, 'snapshots/2/fs')), { uid: 12, gid: 34 }, 'the owner of the parent')
  const labels = { [LABELS.uidMapping]: '0:1000:65536', [LABELS.gidMapping]: '0:2000:65536' }
  await server.client.prepare('c', 'base', labels)
  t.match(statSync(path.join(server.root, 'snapshots/3/fs')), { uid: 1000, gid: 2000 }, 'the mapped owner')
})

t.test('times are of nanoseconds and within the call', async t => {
  const { client } = await start(t)
  let fine = false
  for (let index = 0; index < 20; index++) {
    const startedMs = Date.now()
    await client.prepare(`a${index}`, '')
    const endedMs = Date.now()
    const { createdNs, updatedNs } = await client.stat(`a${index}`)
    t.equal(createdNs, updatedNs)
    t.ok(createdNs >= BigInt(startedMs) * 1_000_000n && createdNs < BigInt(endedMs + 1) * 1_000_000n)
    fine ||= createdNs % 1_000_000n !== 0n
  }
  t.ok(fine)
})

t.test('an unused store lists nothing, a long one comes in parts', async t => {
  const { client } = await start(t)
  t.strictSame(await client.list(), [])
  await Promise.all(
    Array.from({ length: 350 }, (_, index) => client.prepare(`k${index}`, '', { n: String(index) })),
  )
  t.equal((await client.list()).length, 350)
  t.equal((await client.list(['labels.n~=/^1.$/'])).length, 10)
  await t.rejects(client.list(['labels.']), { code: INVALID_ARGUMENT, details: /cannot parse the filter/ })
})

t.test('usage', async t => {
  const { client, root } = await start(t)
  await client.prepare('a', '')
  const fs = path.join(root, 'snapshots/1/fs')
  const empty = await client.usage('a')
  t.equal(empty.inodes, 1)
  mkdirSync(path.join(fs, 'dir'))
  writeFileSync(path.join(fs, 'dir/file'), Buffer.alloc(100_000))
  linkSync(path.join(fs, 'dir/file'), path.join(fs, 'dir/again'))
  const full = await client.usage('a')
  t.equal(full.inodes, 3, 'a file with two names counts once')
  t.ok(full.sizeBytes >= 100_000 && full.sizeBytes < 150_000, `${full.sizeBytes} bytes`)
  await client.commit('base', 'a')
  writeFileSync(path.join(fs, 'later'), 'x')
  t.strictSame(await client.usage('base'), full, 'as measured at commit')
  await client.view('v', 'base')
  t.strictSame(await client.usage('v'), { sizeBytes: 0, inodes: 0 })
  await t.rejects(client.usage('none'), { code: NOT_FOUND })
})

t.test('directories go with their snapshots', async t => {
  const server = await start(t)
  const { client } = server
  for (const key of ['a', 'b', 'c']) await client.prepare(key, '')
  writeFileSync(path.join(server.root, 'snapshots/1/fs/file'), 'x')
  await client.remove('a')
  await client.cleanup()
  t.strictSame(directoriesOf(server), ['2', '3'])
  mkdirSync(path.join(server.root, 'snapshots/77/fs'), { recursive: true })
  mkdirSync(path.join(server.root, 'snapshots/new-9-abc'))
  await client.cleanup()
  t.strictSame(directoriesOf(server), ['2', '3'], 'and those of no snapshot with a Cleanup')
  await t.rejects(client.prepare('b', ''), { code: ALREADY_EXISTS })
  await t.rejects(client.prepare('x', 'none'), { code: NOT_FOUND })
  t.strictSame(directoriesOf(server), ['2', '3'], 'a refused call leaves none')
})

t.test('what was done is there after a restart', async t => {
  const directory = scratch(t)
  const first = await startSnapshotsServer(directory)
  await first.client.prepare('a', '', { l: '1' })
  await first.client.commit('base', 'a', { l: '2' })
  const mounts = await first.client.prepare('b', 'base')
  const infos = await first.client.list()
  await first.close()
  const second = await start(t, directory)
  t.strictSame(await second.client.list(), infos)
  t.strictSame(await second.client.mounts('b'), mounts)
  mkdirSync(path.join(second.root, 'snapshots/40'))
  t.ok((await second.client.prepare('c', ''))[0]?.source.endsWith('/3/fs'))
})

t.test('an id is not given to a directory that is there', async t => {
  const directory = scratch(t)
  mkdirSync(path.join(directory, 'root/snapshots/40/fs'), { recursive: true })
  const { client, root } = await start(t, directory)
  t.equal((await client.prepare('a', ''))[0]?.source, path.join(root, 'snapshots/41/fs'))
})

t.test('many calls at once', async t => {
  const server = await start(t)
  const { client } = server
  await client.prepare('base-active', '')
  await client.commit('base', 'base-active')
  const chain = async (index: number): Promise<void> => {
    let parent = 'base'
    for (let depth = 0; depth < 5; depth++) {
      const key = `active-${index}-${depth}`
      await client.prepare(key, parent, { 'containerd.io/gc.root': '1' })
      parent = `layer-${index}-${depth}`
      await client.commit(parent, key)
    }
    for (let depth = 4; depth >= 2; depth--) await client.remove(`layer-${index}-${depth}`)
  }
  const contended = Array.from({ length: 30 }, () => client.prepare('contended', 'base'))
  const [outcomes] = await Promise.all([
    Promise.allSettled(contended),
    ...Array.from({ length: 20 }, (_, index) => chain(index)),
    ...Array.from({ length: 10 }, () => client.cleanup()),
  ])
  t.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1, 'one of 30 gets the key')
  t.equal((await client.list()).length, 1 + 20 * 2 + 1)
  await client.cleanup()
  t.equal(directoriesOf(server).length, 1 + 20 * 2 + 1, 'a directory each')
  const results = await Promise.allSettled(
    Array.from({ length: 10 }, () => client.commit('once', 'contended')),
  )
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, 1, 'one of ten commits')
  const racing = await Promise.allSettled([
    client.remove('once'),
    ...Array.from({ length: 10 }, (_, index) => client.prepare(`late-${index}`, 'once')),
  ])
  const removed = racing[0]?.status === 'fulfilled'
  const children = (await client.list(['parent==once'])).length
  t.ok(removed === (children === 0), `removed: ${removed}, children: ${children}`)
  t.equal(existsSync(path.join(server.root, 'snapshots')), true)
})
