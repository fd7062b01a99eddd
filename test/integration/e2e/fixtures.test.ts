/**
 * Images of the reference tools, all the way: a real registry, containerd, our snapshotter and daemon as processes,
 * pulled with ctr-remote and read through the kernel.
 */
import { existsSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { withMounted } from '../../helpers/apply-mounts.js'
import { missingDockerRegistry, startDockerRegistry } from '../../helpers/docker-registry.js'
import { LazyNode, dropPageCache, makeBelow } from '../../helpers/lazy-node.js'
import { fixturesDirectory } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'
import { checkTree, kernelPathMissing } from '../../helpers/supervised.js'

const fixtures = fixturesDirectory() ?? ''
const PERFECT = '1684 entries, 0 differences'
const TAGS = ['nydus', 'lz4']

const missing = ['containerd', 'skopeo', 'python3', 'setpriv'].find(name => !existsSync(`/usr/bin/${name}`))
const skip =
  kernelPathMissing() ||
  missingDockerRegistry() ||
  (fixtures === '' ? 'needs the shared fixtures' : false) ||
  (missing === undefined ? false : `${missing} is not installed`)

t.setTimeout(300_000)

t.test('images of the reference tools, pulled and read through the kernel', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  for (const tag of TAGS) registry.pushLayout(path.join(fixtures, 'oci-layout'), tag, `torture:${tag}`)
  const directory = scratch(t)
  const node = await LazyNode.start(t, directory)

  /** Where the image of a container is mounted. */
  const image = async (tag: string): Promise<string> => {
    const [mount] = await node.mounts(`container-${tag}`)
    const mountpoint = /lowerdir=(.*)/.exec(mount?.options.at(-1) ?? '')?.[1] ?? ''
    const mounted = node.images().some(entry => entry.mountpoint === mountpoint)
    t.ok(mounted, `${mountpoint} is mounted`)
    return mountpoint
  }
  const checkAll = async (when: string): Promise<void> => {
    for (const tag of TAGS) {
      const mountpoint = await image(tag)
      dropPageCache()
      t.equal(await checkTree(fixtures, mountpoint), PERFECT, `${tag} ${when}`)
    }
  }

  for (const tag of TAGS) {
    const reference = `${registry.host}/torture:${tag}`
    const pulled = await node.rpull(reference)
    t.equal(pulled.code, 0, pulled.stderr)
    t.match(pulled.stdout, /3 layers, 2 of them not fetched/)
    const prepared = await node.prepare(`container-${tag}`, reference)
    t.equal(prepared.code, 0, prepared.stderr)
  }
  const fetched = (): number => registry.accessLog.filter(({ status }) => status === 206).length
  t.equal(fetched(), 0, 'no data was fetched before somebody read')
  await checkAll('cold')
  t.ok(fetched() > 0, `${fetched()} ranges were fetched`)
  const target = makeBelow(directory, 'target')
  for (const tag of TAGS) {
    const mounts = await node.mounts(`container-${tag}`)
    t.equal(
      await withMounted(mounts, target, root => checkTree(fixtures, root)),
      PERFECT,
      `${tag} as containers see it`,
    )
  }
  await registry.stop()

  let daemon = await node.daemonPid()
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    process.kill(daemon, signal)
    daemon = await node.successorOf(daemon)
    await checkAll(`after the daemon got ${signal}, without the registry`)
  }
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    await node.snapshotter.end(signal)
    await node.startSnapshotter()
    await checkAll(`after the snapshotter got ${signal}`)
    t.equal(await node.daemonPid(), daemon, 'its daemon was adopted')
  }
  await node.snapshotter.end('SIGKILL')
  process.kill(daemon, 'SIGKILL')
  await node.startSnapshotter()
  await checkAll('after both were killed')
})

t.test('an image of a kind that comes later is refused by its name, not by every read', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  for (const tag of ['oci', 'zran'])
    registry.pushLayout(path.join(fixtures, 'oci-layout'), tag, `torture:${tag}`)
  const node = await LazyNode.start(t, scratch(t))
  const reference = `${registry.host}/torture:zran`
  t.equal((await node.rpull(reference)).code, 0)
  const prepared = await node.prepare('container', reference)
  t.match(prepared.stderr, /is zran .*convert the image to native RAFS v6/)
  t.same(node.images(), [])
})
