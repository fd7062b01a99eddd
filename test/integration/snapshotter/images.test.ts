import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import t, { type Test } from 'tap'
import { fault } from '../../../src/common/fault.js'
import { LABELS } from '../../../src/snapshotter/labels.js'
import { RuntimeMounts } from '../../../src/snapshotter/runtime-mounts.js'
import type { ImageMounts } from '../../../src/supervisor/image-mounts.js'
import { findMount } from '../../../src/native/mount-table.js'
import { withMounted } from '../../helpers/apply-mounts.js'
import { FakeImageMounts } from '../../helpers/fake-image-mounts.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'
import { type RunningServer, startSnapshotsServer } from '../../helpers/snapshots-server.js'
import { fanotifyMissing, supervise } from '../../helpers/supervised.js'
import { exampleBootstrap } from '../../helpers/worked-example.js'

const UNKNOWN = 2
const NOT_FOUND = 5
const ALREADY_EXISTS = 6
const FAILED_PRECONDITION = 9
const UNAVAILABLE = 14
const DATA_LOSS = 15

const IMAGE_REF = '127.0.0.1:5000/app:nydus'
const layerLabels = (chainId: string, flag: string, imageRef = IMAGE_REF) => ({
  [LABELS.ref]: chainId,
  [flag]: 'true',
  ...(imageRef === '' ? {} : { [LABELS.imageRef]: imageRef }),
  'containerd.io/snapshot/cri.layer-digest': 'sha256:' + 'b'.repeat(64),
})

async function start(t: Test, images: ImageMounts, directory = scratch(t)): Promise<RunningServer> {
  const server = await startSnapshotsServer(directory, { images, syncRemove: true })
  t.teardown(() => server.close())
  return server
}

/** What containerd does for a data layer. */
async function pullBlob(t: Test, { client }: RunningServer, chainId: string, parent: string): Promise<void> {
  const labels = layerLabels(chainId, LABELS.blob)
  await t.rejects(client.prepare(`extract-${chainId}`, parent, labels), { code: ALREADY_EXISTS })
  const found = await client.list([`labels."${LABELS.ref}"==${chainId},parent==${JSON.stringify(parent)}`])
  t.strictSame(
    found.map(({ name, kind }) => [name, kind]),
    [[chainId, 'committed']],
  )
}

/** What containerd does for the bootstrap layer: it unpacks it over the mounts that it is given. */
async function pullBootstrap(
  server: RunningServer,
  chainId: string,
  parent: string,
  options: { bootstrap?: Buffer; imageRef?: string } = {},
): Promise<void> {
  const { client } = server
  const labels = layerLabels(chainId, LABELS.bootstrap, options.imageRef)
  const [mount] = await client.prepare(`extract-${chainId}`, parent, labels)
  const upper = mount?.options.find(option => option.startsWith('upperdir='))?.slice(9) ?? mount?.source ?? ''
  mkdirSync(path.join(upper, 'image'))
  writeFileSync(path.join(upper, 'image/image.boot'), options.bootstrap ?? exampleBootstrap())
  await client.commit(chainId, `extract-${chainId}`, labels)
}

async function pullImage(t: Test, server: RunningServer, name = 'c', options = {}): Promise<string> {
  await pullBlob(t, server, `sha256:${name}1`, '')
  await pullBlob(t, server, `sha256:${name}2`, `sha256:${name}1`)
  await pullBootstrap(server, `sha256:${name}3`, `sha256:${name}2`, options)
  return `sha256:${name}3`
}

const directoriesOf = ({ root }: RunningServer): string[] => readdirSync(path.join(root, 'snapshots')).sort()

t.test('a data layer is committed at once, and only once', async t => {
  const images = new FakeImageMounts()
  const server = await start(t, images)
  await pullBlob(t, server, 'sha256:c1', '')
  t.strictSame(directoriesOf(server), ['1'])
  t.equal((await server.client.stat('sha256:c1')).labels[LABELS.imageRef], IMAGE_REF)
  await pullBlob(t, server, 'sha256:c1', '')
  t.strictSame(directoriesOf(server), ['1'], 'the same layer for another namespace leaves nothing behind')
  await Promise.all(Array.from({ length: 20 }, () => pullBlob(t, server, 'sha256:c2', 'sha256:c1')))
  t.equal((await server.client.list()).length, 2, 'nor do twenty at once')
  t.equal(directoriesOf(server).length, 2)
  await t.rejects(server.client.prepare('e', 'sha256:none', layerLabels('sha256:x', LABELS.blob)), {
    code: NOT_FOUND,
  })
  t.strictSame(images.calls, [], 'and no image was asked for')
})

t.test('one mount for all containers of an image', async t => {
  const images = new FakeImageMounts()
  const server = await start(t, images)
  const { client, root } = server
  const top = await pullImage(t, server)
  const keys = Array.from({ length: 10 }, (_, index) => `container-${index}`)
  const all = await Promise.all(keys.map(key => client.prepare(key, top)))
  t.strictSame(images.calls, ['start', 'mount 3'])
  t.match(images.mounted.get('3'), {
    imageRef: IMAGE_REF,
    bootstrapPath: path.join(root, 'snapshots/3/fs/image/image.boot'),
    mountpoint: path.join(root, 'snapshots/3/mnt'),
  })
  for (const [mount] of all) t.equal(mount?.options.at(-1), `lowerdir=${root}/snapshots/3/mnt`)
  t.strictSame(await client.mounts('container-3'), all[3])
  const [view] = await client.view('view', top)
  const { id } = { id: view?.options[0]?.split('/').at(-2) }
  t.strictSame(view?.options, [`lowerdir=${root}/snapshots/3/mnt:${root}/snapshots/${id}/fs`])
  t.strictSame(await client.mounts('view'), [view], 'the same mounts later')

  for (const key of [...keys.slice(1), 'view']) await client.remove(key)
  t.ok(images.mounted.has('3'), 'the others go on')
  await client.remove('container-0')
  await client.remove(top)
  t.equal(images.calls.at(-1), 'unmount 3', 'the last one out unmounts')
  t.strictSame(directoriesOf(server), ['1', '2'])
})

t.test('layers above the bootstrap stay above it', async t => {
  const images = new FakeImageMounts()
  const server = await start(t, images)
  const { client, root } = server
  const top = await pullImage(t, server)
  await client.prepare('change', top)
  await client.commit('changed', 'change')
  const [mount] = await client.prepare('container', 'changed')
  t.equal(mount?.options.at(-1), `lowerdir=${root}/snapshots/4/fs:${root}/snapshots/3/mnt`)
})

t.test('a mount that fails leaves nothing, and its sentence arrives', async t => {
  const images = new FakeImageMounts()
  const server = await start(t, images)
  const { client } = server
  const top = await pullImage(t, server)
  images.mountFailure = fault('MOUNT_FAILED', 'the daemon has no driver for this: run kernel-check')
  await t.rejects(client.prepare('container', top), { code: UNAVAILABLE, details: /run kernel-check/ })
  await t.rejects(client.view('view', top), { code: UNAVAILABLE, details: /run kernel-check/ })
  t.equal((await client.list(['kind!=committed'])).length, 0)
  t.equal(directoriesOf(server).length, 3)
  images.mountFailure = undefined
  await client.prepare('container', top)
  t.pass('the same call succeeds later')
  images.mounted.clear()
  await client.mounts('container')
  t.ok(images.mounted.has('3'), 'an image that is gone is mounted again')
  images.mounted.clear()
  images.mountFailure = new Error('no')
  await t.rejects(client.mounts('container'), { code: UNKNOWN })
  t.equal((await client.stat('container')).kind, 'active', 'Mounts takes nothing back')
})

t.test('recovery does not hold up plain layers, and is tried again', async t => {
  const images = new FakeImageMounts()
  images.startFailure = fault('DAEMON_START', 'nydusd does not start')
  const server = await start(t, images)
  const { client } = server
  const top = await pullImage(t, server)
  await client.prepare('plain', '')
  t.strictSame(images.calls, [], 'nobody waited for images')
  await t.rejects(client.prepare('container', top), { code: UNAVAILABLE, details: /nydusd does not start/ })
  images.startFailure = undefined
  let recovered = (): void => undefined
  images.recovery = new Promise(resolve => (recovered = resolve))
  const waiting = client.prepare('container', top)
  await client.prepare('plain-2', '')
  t.notOk(images.calls.includes('mount 3'))
  recovered()
  await waiting
  t.strictSame(images.calls, ['start', 'start', 'mount 3'])
})

t.test('an unmount that fails keeps the directory for the next Cleanup', async t => {
  const images = new FakeImageMounts()
  const server = await start(t, images)
  const { client } = server
  const top = await pullImage(t, server)
  await client.prepare('container', top)
  await client.remove('container')
  images.unmountFailure = fault('MOUNT_FAILED', 'busy')
  await client.remove(top)
  t.strictSame(directoriesOf(server), ['1', '2', '3'])
  images.unmountFailure = undefined
  await client.cleanup()
  t.strictSame(directoriesOf(server), ['1', '2'])
})

t.test('what is missing is told', async t => {
  const images = new FakeImageMounts()
  const server = await start(t, images)
  const { client } = server
  const noRef = await pullImage(t, server, 'a', { imageRef: '' })
  await t.rejects(client.prepare('container', noRef), {
    code: FAILED_PRECONDITION,
    details: /failed to find image ref of snapshot 3, labels map\[.*disable_snapshot_annotations/,
  })
  await pullBlob(t, server, 'sha256:b1', '')
  await t.rejects(client.view('view', 'sha256:b1'), {
    code: FAILED_PRECONDITION,
    details: /only can view nydus topmost layer/,
  })
  await t.rejects(client.prepare('container', 'sha256:b1'), {
    code: FAILED_PRECONDITION,
    details: /only can view nydus topmost layer/,
  })
  t.equal((await client.list(['kind!=committed'])).length, 0)
  t.strictSame(images.calls, ['start'])
})

t.test('a bootstrap that cannot be mounted is refused at Commit', async t => {
  const server = await start(t, new FakeImageMounts())
  const { client } = server
  const wrong: [Buffer, { code: number; details?: RegExp }][] = [
    [Buffer.from('<html>'), { code: DATA_LOSS }],
    [Buffer.alloc(8192), { code: DATA_LOSS }],
    [exampleBootstrap().subarray(0, 5000), { code: DATA_LOSS }],
    [Buffer.from('534641520005000000000000', 'hex'), { code: DATA_LOSS, details: /RAFS v5 superblock/ }],
  ]
  for (const [index, [bootstrap, failure]] of wrong.entries()) {
    const chainId = `sha256:w${index}`
    await t.rejects(pullBootstrap(server, chainId, '', { bootstrap }), failure)
    await t.rejects(client.stat(chainId), { code: NOT_FOUND })
    await client.remove(`extract-${chainId}`)
  }
  const labels = layerLabels('sha256:l', LABELS.bootstrap)
  const [mount] = await client.prepare('link', '', labels)
  await t.rejects(client.commit('sha256:l', 'link', labels), {
    code: DATA_LOSS,
    details: /image\/image\.boot/,
  })
  mkdirSync(path.join(mount?.source ?? '', 'image'))
  symlinkSync('/etc/passwd', path.join(mount?.source ?? '', 'image/image.boot'))
  await t.rejects(client.commit('sha256:l', 'link', labels), { code: DATA_LOSS }, 'links are not followed')
  await client.remove('link')
  t.strictSame(await client.list(), [])
  t.strictSame(directoriesOf(server), [])
})

t.test('the space of a data layer is that of its cache files', async t => {
  const server = await start(t, new FakeImageMounts())
  await pullBlob(t, server, 'sha256:c1', '')
  t.strictSame(await server.client.usage('sha256:c1'), { sizeBytes: 0, inodes: 0 })
  const cache = path.join(server.root, 'cache')
  mkdirSync(cache)
  writeFileSync(path.join(cache, `${'b'.repeat(64)}.blob.data`), Buffer.alloc(64 * 1024))
  writeFileSync(path.join(cache, `${'a'.repeat(64)}.blob.data`), Buffer.alloc(64 * 1024))
  t.match(await server.client.usage('sha256:c1'), { sizeBytes: 65536, inodes: 1 })
  mkdirSync(path.join(cache, '17'))
  writeFileSync(path.join(cache, '17', `${'b'.repeat(64)}.blob.data`), Buffer.alloc(4096))
  t.match(
    await server.client.usage('sha256:c1'),
    { sizeBytes: 65536 + 4096, inodes: 2 },
    'that of daemons of single images too',
  )
})

t.test('runtimes that mount in their guests are told of the image', async t => {
  const directory = scratch(t)
  const backendConfig = () => Promise.resolve({ type: 'localfs', config: { dir: '/blobs' } })
  const runtimeMounts = new RuntimeMounts({
    helper: 'nydus-overlayfs',
    template: {},
    backendConfig,
    cacheDirectory: '/cache',
  })
  const images = new FakeImageMounts()
  const server = await startSnapshotsServer(directory, { images, runtimeMounts })
  t.teardown(() => server.close())
  const { root, client } = server
  const top = await pullImage(t, server)
  const [mount] = await client.prepare('container', top)
  t.equal(mount?.type, 'fuse.nydus-overlayfs')
  t.match(mount?.options, [/^workdir=/, /^upperdir=/, `lowerdir=${root}/snapshots/3/mnt`, /^extraoption=/])
  t.strictSame(await client.mounts('container'), [mount])
  await server.close()

  const guests = { runtimeMounts, guestMounts: true }
  const again = await startSnapshotsServer(directory, guests)
  t.teardown(() => again.close())
  const [unmounted] = await again.client.mounts('container')
  t.equal(
    unmounted?.options[2],
    `lowerdir=${root}/snapshots/3/fs`,
    'without a daemon nothing is mounted here',
  )
  t.equal(unmounted?.options[3], mount?.options[3])
})

t.test('a real image, read in two containers', { skip: fanotifyMissing }, async t => {
  const directory = scratch(t)
  const content = Buffer.alloc(300_000, 'lazy ')
  const image = buildImage([{ name: 'file', mode: 0o100644, data: content }])
  const blobs = path.join(directory, 'blobs')
  mkdirSync(blobs)
  writeFileSync(path.join(blobs, image.blobId), image.blob)
  const { supervisor } = await supervise(t, path.join(directory, 'daemon'), {
    type: 'localfs',
    config: { dir: blobs },
  })
  const server = await startSnapshotsServer(path.join(directory, 'state'), {
    images: supervisor,
    syncRemove: true,
  })
  t.teardown(() => server.close())
  const { client } = server
  const top = await pullImage(t, server, 'c', { bootstrap: image.bootstrap })
  const target = (): string => mkdtempSync(path.join(directory, 'target-'))
  const [first, second] = await Promise.all([client.prepare('one', top), client.prepare('two', top)])
  const mountpoint = path.join(server.root, 'snapshots/3/mnt')
  t.equal(findMount(mountpoint)?.fsType, 'erofs')
  await withMounted(first, target(), async one => {
    t.ok(readFileSync(path.join(one, 'file')).equals(content))
    writeFileSync(path.join(one, 'file'), 'changed')
    await client.remove('two')
    t.equal(findMount(mountpoint)?.fsType, 'erofs', 'the other container goes on')
    t.equal(readFileSync(path.join(one, 'file'), 'utf8'), 'changed')
  })
  await withMounted(await client.view('view', top), target(), root => {
    t.ok(readFileSync(path.join(root, 'file')).equals(content), 'the image itself did not change')
  })
  t.ok(second)
  await client.remove('view')
  await client.remove('one')
  await client.remove(top)
  t.equal(findMount(mountpoint), undefined)
  t.notOk(existsSync(path.dirname(mountpoint)))
})

t.test(
  'what is damaged of an image fails its containers alone, with the reason',
  { skip: rootMissing },
  async t => {
    const images = new FakeImageMounts()
    const server = await start(t, images)
    const bootstrap = (id: string): string => path.join(server.root, 'snapshots', id, 'fs/image/image.boot')
    const mountpoint = (id: string): string => path.join(server.root, 'snapshots', id, 'mnt')
    const samples: [string, (id: string) => void, RegExp][] = [
      ['gone', id => rmSync(bootstrap(id)), /holds no file image\/image.boot.*SNAPSHOT_DAMAGED/],
      ['truncated', id => truncateSync(bootstrap(id), 700), /SNAPSHOT_DAMAGED/],
      ['of another format', id => writeFileSync(bootstrap(id), Buffer.alloc(8192, 7)), /SNAPSHOT_DAMAGED/],
      [
        'unreadable',
        id => {
          rmSync(bootstrap(id))
          mkdirSync(bootstrap(id))
        },
        /SNAPSHOT_DAMAGED/,
      ],
      [
        'the mountpoint a file',
        id => writeFileSync(mountpoint(id), ''),
        /is no directory: remove it.*MOUNT_FAILED/,
      ],
      [
        'another file system on it',
        id => {
          mkdirSync(mountpoint(id))
          execFileSync('mount', ['-t', 'tmpfs', 'none', mountpoint(id)])
        },
        /another file system \(tmpfs\) on it: unmount that.*MOUNT_FAILED/,
      ],
    ]
    const sound = await pullImage(t, server, 'sound')
    for (const [index, [what, damage, reason]] of samples.entries()) {
      const top = await pullImage(t, server, `d${index}`)
      const id = String(Math.max(...directoriesOf(server).map(Number)))
      damage(id)
      const details = await server.client.prepare(`on-${index}`, top).then(
        () => 'no error',
        (err: unknown) => (err as { details?: string }).details ?? '',
      )
      t.match(details, reason, what)
      t.match(details, /remove|unmount/, `${what}: the next step`)
      if (what.includes('file system')) execFileSync('umount', [mountpoint(id)])
      await server.client.remove(top)
      t.notOk(existsSync(path.join(server.root, 'snapshots', id)), `${what}: it can be removed`)
      await server.client.prepare(`sound-${index}`, sound)
    }
  },
)
