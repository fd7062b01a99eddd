/** Containers of lazily read images: what they see, and that nothing they need goes before them or stays after them. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { writeImage } from '../../../demo/image.js'
import { busyboxLayer } from '../../../demo/layers.js'
import { listSuperblocks } from '../../../src/supervisor/superblock.js'
import { dataFiles, sumOf } from '../../helpers/data-files.js'
import { missingDockerRegistry, startDockerRegistry } from '../../helpers/docker-registry.js'
import { LazyNode, dropPageCache, execNode, until } from '../../helpers/lazy-node.js'
import { scratch } from '../../helpers/scratch.js'
import { kernelPathMissing } from '../../helpers/supervised.js'

const missing = ['containerd', 'runc', 'skopeo', 'busybox'].find(
  name => !existsSync(`/usr/bin/${name}`) && !existsSync(`/usr/sbin/${name}`) && !existsSync(`/bin/${name}`),
)
const skip =
  kernelPathMissing() ||
  missingDockerRegistry() ||
  (missing === undefined ? false : `${missing} is not installed`)

const BUSYBOX = '/bin/busybox'
/** As the kernel shows a mark with FAN_PRE_ACCESS, proc_pid_fdinfo(5). */
const PRE_ACCESS_MARK = /fanotify ino:.* mask:1000/

t.setTimeout(300_000)

t.test('containers of lazily read images', { skip }, async t => {
  const superblocksBefore = listSuperblocks()
  const registry = await startDockerRegistry(t)
  const directory = scratch(t)
  const layers = { app: dataFiles(['a', 'b', 'c', 'd', 'e']), other: dataFiles(['a', 'b']) }
  const reference = (name: string, tag: string): string => `${registry.host}/${name}:${tag}`
  for (const [name, data] of Object.entries(layers)) {
    await writeImage(path.join(directory, 'layout'), name, [busyboxLayer(), data], { Cmd: [BUSYBOX, 'true'] })
    registry.pushLayout(path.join(directory, 'layout'), name, `${name}:oci`)
    const from = ['--source', reference(name, 'oci'), '--target', reference(name, 'nydus')]
    const converted = await execNode('nydusify', ['convert', ...from, '--work-dir', directory])
    t.equal(converted.code, 0, converted.stderr)
  }
  const app = reference('app', 'nydus')
  const other = reference('other', 'nydus')
  const node = await LazyNode.start(t, directory)
  const succeeds = async (
    running: Promise<{ code: number; stdout: string; stderr: string }>,
  ): Promise<string> => {
    const { code, stdout, stderr } = await running
    t.equal(code, 0, stderr)
    return stdout
  }
  /** Reads a file in a container that runs. */
  const sum = (id: string, name: string): Promise<string> =>
    succeeds(node.exec(id, [BUSYBOX, 'sha256sum', `/data/${name}`]))
  const start = (image: string, id: string): Promise<string> =>
    succeeds(node.start(image, id, [BUSYBOX, 'sleep', '100000']))
  const remove = async (id: string): Promise<void> => {
    await succeeds(node.ctr('task', 'delete', '--force', id))
    await succeeds(node.ctr('container', 'delete', id))
  }
  const logged = (message: string): number =>
    node.snapshotter.log.filter(entry => entry['msg'] === message).length

  await t.test('eight at once from one image: one mount', async t => {
    await succeeds(node.rpull(app))
    const keys = Array.from({ length: 8 }, (_, index) => `crowd-${index}`)
    const prepared = await Promise.all(keys.map(key => node.prepare(key, app)))
    t.same(
      prepared.map(({ code }) => code),
      keys.map(() => 0),
    )
    t.equal(node.images().length, 1)
    t.equal(logged('image mounted'), 1)
    for (const key of keys) await succeeds(node.ctr('snapshots', '--snapshotter', 'nydus', 'rm', key))
    t.equal(node.images().length, 1, 'the image stays as long as it is pulled')
  })

  await t.test('a container sees what it would see on overlayfs', async t => {
    const plain = reference('app', 'oci')
    await succeeds(node.rpull(plain))
    await succeeds(node.rpull(plain, '--snapshotter', 'overlayfs'))
    // Not /, for the runtime makes directories in it; and a directory's size is its file system's business.
    const list =
      'find bin etc data tmp -exec busybox stat -c "%n %F %a %u:%g %Y %h" {} \\; ' +
      '-type f -exec busybox stat -c "%n %s" {} \\; -exec sha256sum {} \\;'
    const command = [BUSYBOX, 'sh', '-c', `cd / && ${list}`]
    const expected = await succeeds(node.run(plain, 'plain', command, 'overlayfs'))
    t.ok(expected.split('\n').length > 20, expected)
    const sorted = (text: string): string[] => text.split('\n').sort()
    t.same(sorted(await succeeds(node.run(plain, 'unpacked', command))), sorted(expected), 'a plain image')
    t.same(
      sorted(await succeeds(node.run(app, 'lazy', command))),
      sorted(expected),
      'the same image, read lazily',
    )
    await succeeds(node.ctr('images', 'rm', '--sync', plain))
  })

  await t.test('containers go on when others of their image, and other images, are removed', async t => {
    await succeeds(node.rpull(other))
    await start(app, 'first')
    await start(app, 'second')
    await start(other, 'third')
    t.equal(await sum('third', 'a'), sumOf(layers.other, 'a'))
    await remove('second')
    dropPageCache()
    t.equal(await sum('first', 'a'), sumOf(layers.app, 'a'))
    const marks = await node.fdinfo()
    t.ok(PRE_ACCESS_MARK.test(marks) || existsSync('/dev/cachefiles'), 'what is not complete is watched')
    t.equal(node.images().length, 2)

    await succeeds(node.ctr('images', 'rm', '--sync', other))
    t.equal(node.images().length, 2, 'an image without a name stays below its container')
    t.equal(await sum('third', 'b'), sumOf(layers.other, 'b'), 'which reads what nobody has read')
    await remove('third')
    await until('the other image is released', () => logged('image released') === 1)
    t.equal(node.images().length, 1)
    t.equal(await sum('first', 'b'), sumOf(layers.app, 'b'))
  })

  await t.test('the snapshotter is killed while a container reads, and comes back', async t => {
    const daemon = await node.daemonPid()
    const reading = sum('first', 'c')
    await node.snapshotter.end('SIGKILL')
    t.equal(await reading, sumOf(layers.app, 'c'))
    t.equal(await sum('first', 'd'), sumOf(layers.app, 'd'), 'nobody but the daemon is needed')
    await node.startSnapshotter()
    // containerd looks for the new one after a pause of its own.
    const answers = async (): Promise<boolean> =>
      (await node.ctr('snapshots', '--snapshotter', 'nydus', 'ls')).code === 0
    await until('containerd has found the new snapshotter', answers)
    await start(app, 'late')
    t.equal(await node.daemonPid(), daemon, 'the daemon was adopted')
    t.equal(node.images().length, 1, 'and its mount')
    t.equal(await sum('late', 'e'), sumOf(layers.app, 'e'))
    await remove('late')
    t.equal(await sum('first', 'e'), sumOf(layers.app, 'e'))
  })

  await t.test('the last one out leaves nothing', async t => {
    await succeeds(node.ctr('images', 'rm', '--sync', app))
    t.equal(node.images().length, 1)
    await remove('first')
    await until('the image is released', () => logged('image released') === 1)
    t.same(node.images(), [])
    t.same(
      [...listSuperblocks()].filter(name => !superblocksBefore.has(name)),
      [],
    )
    const names = await node.withDaemon(async client => (await client.descriptors()).map(({ name }) => name))
    t.same(
      names.filter(name => name.startsWith('fill.')),
      [],
      'no blob is open',
    )
    t.notMatch(await node.fdinfo(), PRE_ACCESS_MARK, 'without a mark on cached data')
    t.same(await node.leftovers(), [])
  })
})
