/** An image of a registry that asks who you are, and whose tokens and URLs run out while it is read. */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { LazyNode, makeBelow } from '../../helpers/lazy-node.js'
import { addImage, blobLayer, holding } from '../../helpers/nydus-image.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'
import { kernelPathMissing } from '../../helpers/supervised.js'

const skip =
  kernelPathMissing() || (existsSync('/usr/bin/containerd') ? false : 'containerd is not installed')
const PASSWORD = 'a-password-nobody-may-see'

t.setTimeout(300_000)

t.test('a lazily read image of a private registry', { skip }, async t => {
  const contents = ['first', 'second', 'third'].map(name => ({ name, bytes: randomBytes(4_000_000) }))
  const image = buildImage(
    contents.map(({ name, bytes }) => ({ name, mode: 0o100644, data: bytes })),
    { chunkSize: 65_536 },
  )
  const auth = { username: 'somebody', password: PASSWORD, method: 'bearer' as const }
  const registry = await startFaultRegistry(t, { auth, redirect: true })
  addImage(registry, 'private', [blobLayer(image.blob), holding(image.bootstrap)])
  const reference = `${registry.host}/app:private`
  const directory = scratch(t)
  const home = makeBelow(directory, 'docker')
  process.env['DOCKER_CONFIG'] = home
  t.teardown(() => delete process.env['DOCKER_CONFIG'])
  const node = await LazyNode.start(t, directory)
  t.match((await node.rpull(reference)).stderr, /\(REGISTRY_UNAUTHORIZED\)$/m)

  // As `docker login` leaves it, which needs no restart.
  const secret = Buffer.from(`somebody:${PASSWORD}`).toString('base64')
  writeFileSync(
    path.join(home, 'config.json'),
    JSON.stringify({ auths: { [registry.host]: { auth: secret } } }),
  )
  const pulled = await node.rpull(reference)
  t.equal(pulled.code, 0, pulled.stderr)
  const prepared = await node.prepare('container', reference)
  t.equal(prepared.code, 0, prepared.stderr)
  const [mounted] = node.images()
  // Not by a call that waits: the registry answers from this very process.
  const read = async (index: number): Promise<boolean> => {
    const { name = '', bytes } = contents[index] ?? {}
    const found = await readFile(path.join(mounted?.mountpoint ?? '', name))
    return bytes !== undefined && found.equals(bytes)
  }
  t.ok(await read(0))
  registry.expireTokens()
  registry.expireUrls()
  const asked = registry.log.length
  t.ok(await read(1), 'tokens and signed URLs that have run out are fetched anew')
  const statuses = new Set(registry.log.slice(asked).map(({ status }) => status))
  t.ok(statuses.has(401) || statuses.has(403), 'they had run out')
  const daemon = await node.daemonPid()
  process.kill(daemon, 'SIGKILL')
  await node.successorOf(daemon)
  t.ok(await read(2), 'a daemon that was replaced is told who we are')

  for (const word of [PASSWORD, secret]) {
    const grep = ['-rlF', '-D', 'skip', '--exclude-dir=docker', '--exclude-dir=mnt', word, directory]
    t.equal(spawnSync('grep', grep, { encoding: 'utf8' }).stdout, '', 'in no file: log, record or content')
    t.notMatch(JSON.stringify(node.snapshotter.log), word)
  }
})
