/** A nydusd with a FUSE mount is killed: who takes it over, how, and what its readers see of it. */
import { closeSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { DescriptorInfo } from '../../../src/client/api.js'
import { openPidfd, takeDescriptor } from '../../../src/native/process.js'
import { findMount } from '../../../src/native/mount-table.js'
import { unmount } from '../../../src/native/mount.js'
import { buildForms } from '../../helpers/built-forms.js'
import {
  type FuseDaemon,
  mountCommand,
  publishForm,
  runReader,
  startFuseDaemon,
  sumTree,
  writeForm,
} from '../../helpers/fuse-daemon.js'
import { fuseMissing } from '../../helpers/fuse-serving.js'
import { scratch } from '../../helpers/scratch.js'
import { pythonMissing, startStateHolder } from '../../helpers/state-holder.js'

const skip = fuseMissing
const [form] = skip === false ? (await buildForms()).filter(({ name }) => name === 'v6 zstd') : []
/** sha256 of its files, by path, as the first reading found them. */
let expected: Map<string, string> | undefined

/** An image on a registry of ours at `/app`, and another one at `/dir/ectory`. */
async function serve(t: Test, args: readonly string[] = []) {
  const directory = scratch(t)
  const { bootstrap, blobs } = writeForm(directory, form!)
  const { registry, backend } = await publishForm(t, form!)
  const daemon = await startFuseDaemon(t, directory, { args })
  await daemon.client.mount(
    '/dir/ectory',
    mountCommand(bootstrap, { blobs, cache: join(directory, 'other') }),
  )
  expected ??= await sumTree(join(daemon.mountpoint, 'dir/ectory'))
  await daemon.client.mount('/app', mountCommand(bootstrap, { backend, cache: join(directory, 'cache') }))
  return { directory, daemon, registry, root: join(daemon.mountpoint, 'app') }
}

/** A second holder of the daemon's descriptors, as a supervisor is. */
async function keep(t: Test, daemon: FuseDaemon): Promise<DescriptorInfo[]> {
  const pidFd = openPidfd(daemon.pid)
  const named = await daemon.client.descriptors()
  const kept = named.map(({ name, fd }) => ({ name, fd: takeDescriptor(pidFd, fd) }))
  t.teardown(() => [pidFd, ...kept.map(({ fd }) => fd)].forEach(fd => closeSync(fd)))
  return kept
}

/** `inode path` of every name, which must not change under who uses them. */
const inodes = (directory: string): Promise<string> =>
  runReader('sh', '-c', `find ${directory} -printf '%i %p\\n' | sort`)

t.test('kill -9 while a reader waits: a successor with the descriptor answers it', { skip }, async t => {
  const { directory, daemon, registry, root } = await serve(t)
  const before = await inodes(daemon.mountpoint)
  const kept = await keep(t, daemon)
  const held = registry.hold({ target: 'blob' })
  const reading = sumTree(root)
  await held.arrived
  await daemon.kill()
  held.release()
  const successor = await startFuseDaemon(t, directory, { kept })
  t.strictSame(await reading, expected)
  t.equal((await successor.client.info()).state, 'RUNNING')
  t.same(Object.keys((await successor.client.info()).backend_collection ?? {}).sort(), [
    '/app',
    '/dir/ectory',
  ])
  t.equal(await inodes(daemon.mountpoint), before, 'the same inode numbers')
  await t.rejects(successor.client.mount('/app', mountCommand('/x', { blobs: '/y' })), {
    code: 'INSTANCE_EXISTS',
  })
  // It is a daemon like the first.
  await successor.client.umount('/app')
  t.strictSame(await sumTree(join(daemon.mountpoint, 'dir/ectory')), expected)
  successor.process.kill('SIGTERM')
  t.equal(await successor.ended, 0)
  t.equal(findMount(daemon.mountpoint), undefined)
})

t.test('kill -9 again and again under readers', { skip }, async t => {
  const { directory, daemon, root } = await serve(t)
  const kept = await keep(t, daemon)
  let current = daemon
  let reading = true
  let rounds = 0
  const readers = [1, 2].map(async () => {
    while (reading) {
      t.strictSame(await sumTree(root), expected)
      rounds++
    }
  })
  for (let i = 0; i < 5; i++) {
    await current.kill()
    current = await startFuseDaemon(t, directory, { kept })
    // Once all of it was read by this one.
    await sumTree(root)
  }
  reading = false
  await Promise.all(readers)
  t.ok(rounds > 0, `${rounds} rounds`)
})

t.test('a successor that is to wait serves when it is started', { skip }, async t => {
  const { directory, daemon, root } = await serve(t)
  const kept = await keep(t, daemon)
  await daemon.kill()
  const successor = await startFuseDaemon(t, directory, { kept, args: ['--upgrade'] })
  t.equal((await successor.client.info()).state, 'INIT')
  await successor.client.start()
  t.strictSame(await sumTree(root), expected)
})

t.test('an image of the predecessor that is gone leaves the others alone', { skip }, async t => {
  const { directory, daemon, root } = await serve(t)
  const kept = await keep(t, daemon)
  await daemon.client.mount('/gone', mountCommand(join(directory, 'image.boot'), { blobs: directory }))
  const run = join(directory, 'run/api.fuse')
  const records = readdirSync(run).filter(name => name.endsWith('.mount'))
  const texts = records.map(name => [join(run, name), readFileSync(join(run, name), 'utf8')] as const)
  for (const [path, text] of texts)
    if (text.includes('"/gone"')) writeFileSync(path, text.replace('image.boot', 'no.boot'))
  await daemon.kill()
  const successor = await startFuseDaemon(t, directory, { kept })
  t.strictSame(await sumTree(root), expected)
  t.ok(successor.log().some(({ msg }) => String(msg).includes('cannot be restored')))
  await successor.client.umount('/app')
})

t.test('a successor that cannot start leaves the mount and its state to the next one', { skip }, async t => {
  const { directory, daemon, root } = await serve(t)
  const kept = await keep(t, daemon)
  const state = join(directory, 'run/api.fuse/server.json')
  const sound = readFileSync(state)
  await daemon.kill()
  const reading = sumTree(root)
  writeFileSync(state, sound.subarray(0, sound.length / 2))
  await t.rejects(startFuseDaemon(t, directory, { kept }), /ended with 4: .*STATE_INVALID/s)
  t.equal(findMount(daemon.mountpoint)?.fsType, 'fuse', 'the mount stays')
  t.ok(readdirSync(join(directory, 'run/api.fuse')).some(name => name.endsWith('.mount')))
  writeFileSync(state, sound)
  const next = await startFuseDaemon(t, directory, { kept })
  t.equal((await next.client.info()).state, 'RUNNING')
  t.strictSame(await reading, expected)
})

t.test(
  'through a supervisor: state and descriptor are sent, the daemon is killed, the next one takes them',
  { skip: skip || pythonMissing },
  async t => {
    const socket = join(scratch(t), 'supervisor.sock')
    const holder = startStateHolder(t, socket)
    const args = ['--id', 'one', '--supervisor', socket]
    const { directory, daemon, root } = await serve(t, args)
    const came = await holder.receive(() => daemon.client.sendDescriptor())
    t.equal(came.descriptors, 1)
    t.match(came.head.toString(), /^\{"nydus_fuse":1,/)
    await daemon.kill()
    const reading = sumTree(root)
    // The socket is stale and the mount is there: it waits, whether told to or not.
    const successor = await startFuseDaemon(t, directory, { args })
    t.equal((await successor.client.info()).state, 'INIT')
    await holder.give(() => successor.client.takeOver())
    t.equal((await successor.client.info()).state, 'READY')
    await successor.client.start()
    t.strictSame(await reading, expected)
    // And once more, from the successor.
    t.equal((await holder.receive(() => successor.client.sendDescriptor())).descriptors, 1)
    await successor.client.exit()
    await successor.ended
    const third = await startFuseDaemon(t, directory, { args: [...args, '--upgrade'] })
    await holder.give(() => third.client.takeOver())
    await third.client.start()
    t.strictSame(await sumTree(root), expected)
  },
)

t.test('what a takeover refuses', { skip: skip || pythonMissing }, async t => {
  const directory = scratch(t)
  const socket = join(directory, 'supervisor.sock')
  const holder = startStateHolder(t, socket)
  const args = ['--id', 'one', '--supervisor', socket, '--upgrade']
  const { client } = await startFuseDaemon(t, directory, { args })
  await t.rejects(client.sendDescriptor(), { code: 'DAEMON_UNAVAILABLE' })
  await t.rejects(client.takeOver(), { code: 'SYSCALL_FAILED' }, 'nobody listens')
  await holder.open('/dev/null')
  for (const state of ['{"nydus_fuse":2}', '{}', 'snapshot', '[1]']) {
    await holder.put(Buffer.from(state))
    await holder.give(() => t.rejects(client.takeOver(), { code: 'STATE_INVALID' }, state))
  }
  t.equal((await client.info()).state, 'INIT', 'it can still begin afresh')
  await client.start()
  t.equal((await client.info()).state, 'RUNNING')
  await holder.put(Buffer.from('{}'))
  await t.rejects(client.takeOver(), { code: 'DAEMON_STATE' })
  const other = await startFuseDaemon(t, join(directory, 'other'))
  await t.rejects(other.client.sendDescriptor(), { message: /--supervisor/ })
})

t.test('nobody keeps the descriptor: the mount is dead, and can be taken away', { skip }, async t => {
  const { directory, daemon } = await serve(t)
  await daemon.kill()
  await t.rejects(runReader('ls', daemon.mountpoint), /not connected|Connection aborted/)
  await unmount(daemon.mountpoint, { lazy: true, timeoutMs: 10_000 })
  const next = await startFuseDaemon(t, directory)
  t.equal((await next.client.info()).state, 'RUNNING')
})
