/**
 * Images by FUSE, all the way: a real registry, containerd, our snapshotter and its daemons as processes. With one daemon
 * for all images and with one for each; where a kernel path was asked for and cannot serve; and from FUSE to the kernel.
 */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { writeImage } from '../../../demo/image.js'
import { busyboxLayer } from '../../../demo/layers.js'
import { withMounted } from '../../helpers/apply-mounts.js'
import type { CtrResult } from '../../helpers/containerd.js'
import { dataFiles, sumOf } from '../../helpers/data-files.js'
import {
  type DockerRegistry,
  missingDockerRegistry,
  startDockerRegistry,
} from '../../helpers/docker-registry.js'
import { erofsMissing } from '../../helpers/erofs-image.js'
import { LazyNode, dropPageCache, execNode, makeBelow, until } from '../../helpers/lazy-node.js'
import { fixturesDirectory } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'
import { checkTree, fuseMissing, kernelPathMissing } from '../../helpers/supervised.js'

const fixtures = fixturesDirectory() ?? ''
const PERFECT = '1684 entries, 0 differences'
const BUSYBOX = '/bin/busybox'

const missing = ['containerd', 'runc', 'skopeo', 'python3', 'setpriv', 'busybox'].find(
  name => !['/usr/bin', '/usr/sbin', '/bin'].some(directory => existsSync(path.join(directory, name))),
)
const skip =
  fuseMissing || missingDockerRegistry() || (missing === undefined ? false : `${missing} is not installed`)
const skipFixtures = skip || (fixtures === '' ? 'needs the shared fixtures' : false)

const MODES = ['shared', 'dedicated'] as const
const fusedev = (mode: string): string[] => ['--daemon-mode', mode, '--daemon-backend', 'fusedev']

t.setTimeout(400_000)

async function succeeds(t: Test, running: Promise<CtrResult>): Promise<string> {
  const { code, stdout, stderr } = await running
  t.equal(code, 0, stderr)
  return stdout
}

/** Pulls an image of the fixtures and makes a container's snapshot of it. */
async function pullTag(t: Test, node: LazyNode, registry: DockerRegistry, tag: string): Promise<void> {
  const reference = `${registry.host}/torture:${tag}`
  const pulled = await succeeds(t, node.rpull(reference))
  t.match(pulled, /3 layers, 2 of them not fetched/)
  await succeeds(t, node.prepare(`container-${tag}`, reference))
}

const logged = (node: LazyNode, message: RegExp): Record<string, unknown>[] =>
  node.snapshotter.log.filter(({ msg }) => typeof msg === 'string' && message.test(msg))

for (const mode of MODES) {
  t.test(`images of the reference tools by FUSE, ${mode}`, { skip: skipFixtures }, async t => {
    const tags = ['nydus', 'lz4', 'v5']
    const registry = await startDockerRegistry(t)
    for (const tag of tags) registry.pushLayout(path.join(fixtures, 'oci-layout'), tag, `torture:${tag}`)
    const directory = scratch(t)
    const node = await LazyNode.start(t, directory, { flags: fusedev(mode) })
    for (const tag of tags) await pullTag(t, node, registry, tag)
    const fetched = (): number => registry.accessLog.filter(({ status }) => status === 206).length
    t.equal(fetched(), 0, 'no data was fetched before somebody read')
    t.equal(node.fuseMounts().length, mode === 'shared' ? 1 : tags.length)

    /** Where the containers of before have their images; `imageOf` is where new ones get them. */
    const places = new Map<string, string>()
    for (const tag of tags) {
      const place = await node.imageOf(`container-${tag}`)
      const pattern = mode === 'shared' ? /\/root\/mnt\/\d+$/ : /\/root\/snapshots\/\d+\/mnt$/
      t.match(place, pattern)
      places.set(tag, place)
    }
    const checkAll = async (when: string): Promise<void> => {
      for (const tag of tags) {
        dropPageCache()
        t.equal(await checkTree(fixtures, places.get(tag) ?? ''), PERFECT, `${tag} ${when}`)
      }
    }
    await checkAll('cold')
    t.ok(fetched() > 0, `${fetched()} ranges were fetched`)
    await checkAll('warm')
    const target = makeBelow(directory, 'target')
    const containersSee = async (when: string): Promise<void> => {
      for (const tag of tags) {
        const seen = withMounted(await node.mounts(`container-${tag}`), target, root =>
          checkTree(fixtures, root),
        )
        t.equal(await seen, PERFECT, `${tag} as containers see it ${when}`)
      }
    }
    await containersSee('now')
    await registry.stop()

    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      await node.snapshotter.end(signal)
      await node.startSnapshotter()
      await containersSee(`after the snapshotter got ${signal}`)
    }
    if (mode === 'shared') {
      const daemon = await node.daemonPid()
      process.kill(daemon, 'SIGKILL')
      await node.successorOf(daemon)
      await checkAll('after the daemon was killed, without the registry')
      await node.snapshotter.end('SIGKILL')
      process.kill(await node.daemonPid(), 'SIGKILL')
      await node.startSnapshotter()
      await containersSee('after both were killed')
    }
  })

  t.test(`containers of an image by FUSE, ${mode}`, { skip }, async t => {
    const registry = await startDockerRegistry(t)
    const directory = scratch(t)
    const data = dataFiles(['a', 'b', 'c', 'd'])
    const reference = (tag: string): string => `${registry.host}/app:${tag}`
    await writeImage(path.join(directory, 'layout'), 'app', [busyboxLayer(), data], {
      Cmd: [BUSYBOX, 'true'],
    })
    registry.pushLayout(path.join(directory, 'layout'), 'app', 'app:oci')
    const from = ['--source', reference('oci'), '--target', reference('nydus')]
    await succeeds(t, execNode('nydusify', ['convert', ...from, '--work-dir', directory]))
    const node = await LazyNode.start(t, directory, { flags: fusedev(mode) })
    const app = reference('nydus')
    const sum = (id: string, name: string): Promise<string> =>
      succeeds(t, node.exec(id, [BUSYBOX, 'sha256sum', `/data/${name}`]))
    const start = (id: string): Promise<string> =>
      succeeds(t, node.start(app, id, [BUSYBOX, 'sleep', '100000']))
    const remove = async (id: string): Promise<void> => {
      await succeeds(t, node.ctr('task', 'delete', '--force', id))
      await succeeds(t, node.ctr('container', 'delete', id))
    }
    await succeeds(t, node.rpull(app))
    t.match(await succeeds(t, node.run(app, 'once', [BUSYBOX, 'echo', 'lazy'])), /lazy/)
    await start('first')
    t.equal(await sum('first', 'a'), sumOf(data, 'a'))
    t.same(node.images(), [], 'the kernel has mounted nothing')
    const [mounted] = logged(node, /^image mounted$/)
    t.match(mounted, { driver: 'fuse' })
    const shown = mode === 'shared' ? `/${path.basename(String(mounted?.['mountpoint']))}` : '/'

    const daemon = await node.daemonPid()
    const reading = sum('first', 'b')
    process.kill(daemon, 'SIGKILL')
    t.equal(await reading, sumOf(data, 'b'), 'who read when the daemon was killed')
    await node.successorOf(daemon)
    t.equal(node.fuseMounts().length, 1, 'the mount is that of before')
    dropPageCache()
    t.equal(await sum('first', 'a'), sumOf(data, 'a'))

    const successor = await node.daemonPid()
    const readingOn = sum('first', 'c')
    await node.snapshotter.end('SIGKILL')
    t.equal(await readingOn, sumOf(data, 'c'), 'nobody but the daemon is needed')
    await node.startSnapshotter()
    const answers = async (): Promise<boolean> =>
      (await node.ctr('snapshots', '--snapshotter', 'nydus', 'ls')).code === 0
    await until('containerd has found the new snapshotter', answers)
    await start('second')
    t.equal(await node.daemonPid(), successor, 'the daemon was adopted')

    await t.test('a complete image goes over to the kernel', { skip: erofsMissing }, async t => {
      t.same(node.images(), [])
      const everything = `find /bin /etc /data /tmp -type f -exec ${BUSYBOX} cat {} + >/dev/null`
      await succeeds(t, node.exec('second', [BUSYBOX, 'sh', '-c', everything]))
      await until('all of it is local and on the disk', () =>
        node.withDaemon(async client => (await client.blobcache(shown)).data_all_ready),
      )
      await start('third')
      t.match(logged(node, /^image is complete/), [{ driver: 'erofs' }])
      t.equal(node.images().length, 1)
      process.kill(successor, 'SIGSTOP')
      t.teardown(() => process.kill(successor, 'SIGCONT'))
      dropPageCache()
      for (const name of ['a', 'b', 'c', 'd'])
        t.equal(await sum('third', name), sumOf(data, name), 'while the daemon stands still')
      process.kill(successor, 'SIGCONT')
      t.equal(await sum('first', 'a'), sumOf(data, 'a'), 'those of before go on by FUSE')
      await remove('third')
    })

    await remove('first')
    await remove('second')
    await succeeds(t, node.ctr('images', 'rm', '--sync', app))
    await until('the image is released', () => logged(node, /^image released$/).length === 1)
    t.same(node.images(), [])
    t.equal(node.fuseMounts().length, mode === 'shared' ? 1 : 0)
    t.same(await node.leftovers(), [])
  })
}

t.test(
  'RAFS v5 is served by FUSE whatever is asked for',
  { skip: kernelPathMissing() || skipFixtures },
  async t => {
    const registry = await startDockerRegistry(t)
    for (const tag of ['nydus', 'v5'])
      registry.pushLayout(path.join(fixtures, 'oci-layout'), tag, `torture:${tag}`)
    const directory = scratch(t)
    const node = await LazyNode.start(t, directory, {
      flags: ['--daemon-backend', 'fscache', '--metrics-address', '127.0.0.1:0'],
    })
    await pullTag(t, node, registry, 'nydus')
    t.same(node.fuseMounts(), [], 'nobody needs it yet')
    await pullTag(t, node, registry, 'v5')
    t.equal(node.images().length, 1)
    t.equal(node.fuseMounts().length, 1)
    t.match(logged(node, /^image mounted$/), [
      { driver: /fanotify|fscache/ },
      { driver: 'fuse', fallback: 'rafs-v5' },
    ])
    const target = makeBelow(directory, 'target')
    const check = async (when: string): Promise<void> => {
      for (const tag of ['nydus', 'v5']) {
        dropPageCache()
        const seen = withMounted(await node.mounts(`container-${tag}`), target, root =>
          checkTree(fixtures, root),
        )
        t.equal(await seen, PERFECT, `${tag} ${when}`)
      }
    }
    await check('cold')
    await registry.stop()
    const daemon = await node.daemonPid()
    const place = await node.imageOf('container-v5')
    process.kill(daemon, 'SIGKILL')
    t.equal(await checkTree(fixtures, place), PERFECT, 'v5 while the daemon is replaced')
    await node.successorOf(daemon)
    await check('after the daemon was killed, without the registry')
  },
)

t.test('where no kernel path works, FUSE takes its place', { skip: skipFixtures }, async t => {
  const registry = await startDockerRegistry(t)
  registry.pushLayout(path.join(fixtures, 'oci-layout'), 'nydus', 'torture:nydus')
  const directory = scratch(t)
  // No pre-content event comes from there, nor can cachefiles live there.
  const cache = makeBelow(scratch(t), 'memory')
  execFileSync('mount', ['-t', 'tmpfs', 'none', cache])
  const flags = ['--daemon-backend', 'fscache', '--cache-dir', cache]
  const node = await LazyNode.start(t, directory, { flags })
  const told = async (): Promise<Record<string, unknown> | undefined> => {
    await until('the driver is told', () => logged(node, /^no kernel path works here/).length > 0)
    return logged(node, /^no kernel path works here/)[0]
  }
  const why = {
    requested: 'kernel',
    driver: 'fuse',
    msg: /fscache: .*fanotify: .*images are mounted by FUSE$/,
  }
  t.match(await told(), why)
  await pullTag(t, node, registry, 'nydus')
  t.match(logged(node, /^image mounted$/), [{ driver: 'fuse', fallback: 'kernel' }])
  const target = makeBelow(directory, 'target')
  const check = async (): Promise<string> =>
    withMounted(await node.mounts('container-nydus'), target, root => checkTree(fixtures, root))
  t.equal(await check(), PERFECT, 'cold')
  const daemon = await node.daemonPid()
  process.kill(daemon, 'SIGKILL')
  await node.successorOf(daemon)
  dropPageCache()
  t.equal(await check(), PERFECT, 'after the daemon was killed')
  await node.snapshotter.end('SIGTERM')
  await node.startSnapshotter()
  t.match(await told(), why, 'by the next snapshotter too')
  t.equal(await check(), PERFECT, 'after that')
})
