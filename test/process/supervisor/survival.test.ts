/** Daemon, supervisor and holder are processes, and die in every combination under a reader that waits for a hole. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { storeBarrier } from '../../../src/native/notify.js'
import { openPidfd, takeDescriptor } from '../../../src/native/process.js'
import { processEnded } from '../../../src/supervisor/daemon-process.js'
import type { ImageSpec } from '../../../src/supervisor/image-mounts.js'
import { readHolderTable, startHolder } from '../../../src/supervisor/holder-process.js'
import { buildForms } from '../../helpers/built-forms.js'
import { mountCommand, runReader, startFuseDaemon, sumTree, writeForm } from '../../helpers/fuse-daemon.js'
import { until } from '../../helpers/lazy-node.js'
import { type FaultRegistry, startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'
import { fanotifyMissing, fuseMissing } from '../../helpers/supervised.js'
import { SupervisorProcess } from '../../helpers/supervisor-process.js'

const form = (await buildForms()).find(({ name }) => name === 'v6 zstd')
let expected: Map<string, string> | undefined

interface Way {
  readonly name: string
  readonly driver: string
  readonly dedicated: boolean
  readonly skip: string | false
  /** The descriptor that everything hangs on. */
  readonly descriptor: string
}
const WAYS: readonly Way[] = [
  {
    name: 'fanotify',
    driver: 'fanotify',
    dedicated: false,
    skip: fanotifyMissing,
    descriptor: 'fanotify.group',
  },
  { name: 'FUSE, shared', driver: 'fuse', dedicated: false, skip: fuseMissing, descriptor: 'fuse.session' },
  {
    name: 'FUSE, a daemon an image',
    driver: 'fuse',
    dedicated: true,
    skip: fuseMissing,
    descriptor: 'fuse.session',
  },
]

interface Scene {
  readonly spec: ImageSpec
  readonly supervisor: SupervisorProcess
  readonly registry: FaultRegistry
  /** Where the image is mounted. */
  readonly root: string
  daemonPid(): Promise<number>
  holderPid(): number
}

/** An image that is mounted and cold. */
async function scene(
  t: Test,
  way: Way,
  start: Parameters<SupervisorProcess['start']>[0] = {},
): Promise<Scene> {
  const directory = scratch(t)
  const { bootstrap, blobs } = writeForm(directory, form!)
  if (!expected) {
    const daemon = await startFuseDaemon(t, join(directory, 'plain'))
    await daemon.client.mount('/', mountCommand(bootstrap, { blobs, cache: join(directory, 'plain/cache') }))
    expected = await sumTree(daemon.mountpoint)
  }
  const registry = await startFaultRegistry(t)
  for (const [id, bytes] of form!.blobs) registry.addBlob(bytes, { as: `sha256:${id}` })
  const config = { scheme: 'http', host: registry.host, repo: 'app', timeout: 60 }
  const { driver, dedicated } = way
  const supervisor = new SupervisorProcess(t, {
    directory,
    driver,
    dedicated,
    backend: { type: 'registry', config },
  })
  await supervisor.start(start)
  const spec = {
    id: '7',
    imageRef: 'app',
    bootstrapPath: bootstrap,
    mountpoint: join(directory, 'image'),
    labels: {},
  }
  const { mountpoint: root } = await supervisor.mount(spec)
  return {
    spec,
    supervisor,
    registry,
    root,
    daemonPid: () => supervisor.daemonPid(dedicated ? spec.id : undefined),
    holderPid: () => supervisor.holderPid(),
  }
}

const holdersOf = async ({ supervisor }: Scene, name: string): Promise<readonly string[]> =>
  (await supervisor.descriptors()).find(place => place.name === name)?.holders ?? []

for (const way of WAYS) {
  t.test(
    `${way.name}: daemon and snapshotter die together`,
    { skip: way.skip, timeout: 120_000 },
    async t => {
      const made = await scene(t, way)
      const { supervisor, registry, root } = made
      t.same(await holdersOf(made, way.descriptor), ['daemon', 'snapshotter', 'holder'])
      const holder = made.holderPid()
      for (let round = 1; round <= 2; round++) {
        const held = registry.hold({ target: 'blob' })
        const reading = sumTree(root)
        if (round === 1) await held.arrived
        await supervisor.kill(supervisor.pid, await made.daemonPid())
        held.release()
        await supervisor.start()
        t.strictSame(await reading, expected, 'the reader that waited has the right bytes')
      }
      t.strictSame(await sumTree(root), expected)
      t.equal(made.holderPid(), holder, 'the holder was found again')
      t.same(await holdersOf(made, way.descriptor), ['daemon', 'snapshotter', 'holder'])
      t.notMatch(supervisor.said(), /nobody held/, 'nothing is fenced')
      await supervisor.close(true)
      await until('the holder ends with the last mount', () => made.holderPid() === 0)
    },
  )

  t.test(
    `${way.name}: the snapshotter dies again while it recovers`,
    { skip: way.skip, timeout: 120_000 },
    async t => {
      const made = await scene(t, way)
      const { supervisor, registry, root, spec } = made
      const held = registry.hold({ target: 'blob' })
      const reading = sumTree(root)
      await held.arrived
      await supervisor.kill(supervisor.pid, await made.daemonPid())
      const begun = supervisor.log().length
      const moments: Record<string, () => boolean | Promise<boolean>> = {
        'it found what was kept': () => /descriptors were kept/.test(supervisor.said(begun)),
        'a daemon is started': () => supervisor.daemons() > 0,
        'the daemon answers': () => supervisor.daemonAnswers(way.dedicated ? spec.id : undefined),
      }
      for (const [what, holds] of Object.entries(moments)) {
        const starting = supervisor.start().catch(() => undefined)
        await until(what, holds)
        await supervisor.kill(supervisor.pid)
        await starting
      }
      await supervisor.start()
      held.release()
      t.strictSame(await reading, expected)
      t.notMatch(supervisor.said(), /nobody held/)
      t.equal(supervisor.daemons(), 1, 'none is left over')
    },
  )

  t.test(
    `${way.name}: a successor that nobody waits for any more is the last to hold`,
    { skip: way.skip, timeout: 120_000 },
    async t => {
      const made = await scene(t, way)
      const { supervisor, registry, root, spec } = made
      const held = registry.hold({ target: 'blob' })
      const reading = sumTree(root)
      await held.arrived
      const killed = await made.daemonPid()
      await supervisor.kill(killed)
      await processEnded(killed)
      await until('a successor is started', () => supervisor.daemons() > 0)
      await supervisor.kill(supervisor.pid)
      await until('it answers', () => supervisor.daemonAnswers(way.dedicated ? spec.id : undefined))
      await supervisor.kill(made.holderPid())
      await supervisor.start()
      held.release()
      t.strictSame(await reading, expected)
      t.notMatch(supervisor.said(), /nobody held/)
      t.equal(supervisor.daemons(), 1, 'none is left over')
    },
  )

  t.test(
    `${way.name}: a mount that was cut short leaves nothing`,
    { skip: way.skip || (way.dedicated ? 'its daemon goes with it' : false), timeout: 120_000 },
    async t => {
      const { supervisor, spec } = await scene(t, way)
      const whole = await supervisor.list()
      let cut = 0
      for (let round = 0; round < 12; round++) {
        const id = `cut-${round}`
        const begun = supervisor.mount({ ...spec, id, mountpoint: join(supervisor.directory, id) })
        const mounted = begun.then(
          () => true,
          () => false,
        )
        await Promise.race([mounted, delay(round * 5)])
        await supervisor.kill(supervisor.pid)
        await supervisor.start()
        const known = await supervisor.list()
        t.ok(known.length >= whole.length)
        t.equal(await supervisor.imagesOfDaemon(), known.length, `killed after ${round * 5} ms`)
        if (!known.some(image => image.id === id)) cut++
      }
      t.ok(cut > 0, `${cut} mounts of 12 were cut short`)
    },
  )

  t.test(`${way.name}: the holder dies`, { skip: way.skip, timeout: 120_000 }, async t => {
    const made = await scene(t, way)
    const { supervisor, registry, root } = made
    const before = made.holderPid()
    await supervisor.kill(before)
    await until('another holder has everything', async () => {
      const places = made.holderPid() === before ? [] : await supervisor.descriptors()
      return places.length > 0 && places.every(({ holders }) => holders.includes('holder'))
    })
    const held = registry.hold({ target: 'blob' })
    const reading = sumTree(root)
    await held.arrived
    await supervisor.kill(supervisor.pid, await made.daemonPid())
    held.release()
    await supervisor.start()
    t.strictSame(await reading, expected)
    t.notMatch(supervisor.said(), /nobody held/)
  })

  t.test(
    `${way.name}: all three die under a service manager`,
    { skip: way.skip, timeout: 120_000 },
    async t => {
      const manager = await startManager(t)
      const made = await scene(t, way, { env: manager.env })
      const { supervisor, registry, root } = made
      t.same(await holdersOf(made, way.descriptor), ['daemon', 'snapshotter', 'holder', 'manager'])
      const first = made.holderPid()
      for (const round of [1, 2]) {
        const held = registry.hold({ target: 'blob' })
        const reading = sumTree(root)
        if (round === 1) await held.arrived
        await supervisor.kill(supervisor.pid, await made.daemonPid(), made.holderPid())
        held.release()
        await manager.restart(supervisor)
        t.strictSame(await reading, expected, 'the reader that waited has the right bytes')
        t.same(await holdersOf(made, way.descriptor), ['daemon', 'snapshotter', 'holder', 'manager'])
      }
      t.not(made.holderPid(), first)
      t.notMatch(supervisor.said(), /nobody held/, 'nothing is fenced')
      await supervisor.close(true)
      await until('the store is empty', async () => (await manager.held()).size === 0)
    },
  )
}

const fanotify = WAYS[0]!
const KEPT_BY_SUPERVISOR = { env: { NYDUS_TEST_KEEPING: 'supervisor' } }

t.test('nobody held: zeros that were read meanwhile are gone', { skip: fanotifyMissing }, async t => {
  const made = await scene(t, fanotify, KEPT_BY_SUPERVISOR)
  const { supervisor, root } = made
  t.same(await holdersOf(made, 'fanotify.group'), ['daemon', 'snapshotter'])
  await supervisor.kill(supervisor.pid, await made.daemonPid())
  t.not(await sumOf(root, 'dir/raw'), expected?.get('./dir/raw'), 'without a holder a hole is zeros')
  await supervisor.start(KEPT_BY_SUPERVISOR)
  t.strictSame(await sumTree(root), expected)
  t.match(supervisor.said(), /nobody held/)
  t.same(await supervisor.wrongMappings(), [])
})

t.test('nobody held: zeros that a process has mapped are told', { skip: fanotifyMissing }, async t => {
  const made = await scene(t, fanotify, KEPT_BY_SUPERVISOR)
  const { supervisor, root, spec } = made
  await supervisor.kill(supervisor.pid, await made.daemonPid())
  const mapper = await startMapper(t, join(root, 'dir/several-chunks'))
  await startMapper(t, join(root, 'same'), 0)
  await supervisor.start(KEPT_BY_SUPERVISOR)
  t.match(await supervisor.wrongMappings(), [
    { imageRef: 'app', path: '/dir/several-chunks', pid: mapper.pid, command: 'python3' },
  ])
  t.match(supervisor.said(), /wrong bytes of a file/)
  t.equal((await supervisor.mount(spec)).mountpoint, root)
  t.strictSame(await sumTree(root), expected, 'a new container gets a mount without them')
  mapper.kill('SIGKILL')
  await once(mapper, 'exit')
  t.same(await supervisor.wrongMappings(), [])
})

t.test('nobody held while the snapshotter runs on', { skip: fanotifyMissing }, async t => {
  const made = await scene(t, fanotify, { env: { NYDUS_TEST_KEEPING: 'nobody' } })
  const { supervisor, root } = made
  const before = await made.daemonPid()
  await supervisor.kill(before)
  await until('the mounts are mended', () => /what was cached of a mount/.test(supervisor.said()))
  t.not(await made.daemonPid(), before)
  t.strictSame(await sumTree(root), expected)
})

/** A process that has a file mapped, with so many of its pages in memory. */
async function startMapper(t: Test, file: string, pages = 1000): Promise<ChildProcess> {
  const script =
    'import mmap, sys, time\n' +
    'f = open(sys.argv[1], "rb")\n' +
    'm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n' +
    'print(sum(m[at] for at in range(0, len(m), 4096)[:int(sys.argv[2])]), flush=True)\n' +
    'time.sleep(600)'
  const child = spawn('python3', ['-c', script, file, String(pages)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  t.same(await once(createInterface(child.stdout), 'line'), ['0'], 'it sees zeros')
  return child
}

async function sumOf(root: string, name: string): Promise<string> {
  return (await runReader('sha256sum', join(root, name))).slice(0, 64)
}

/** nydus-holder as the manager: it keeps what it is sent, and a restart passes it on as systemd does. */
async function startManager(t: Test) {
  const directory = scratch(t)
  const socketPath = join(directory, 'notify')
  const { pid } = await startHolder(socketPath, join(directory, 'log'))
  t.teardown(async () => {
    process.kill(pid, 'SIGKILL')
    await processEnded(pid)
  })
  const env = { NOTIFY_SOCKET: socketPath, FDSTORE: '512' }
  const held = async (): Promise<ReadonlyMap<string, number>> => {
    await storeBarrier(socketPath, { timeoutMs: 10_000 })
    return readHolderTable(socketPath)?.held ?? new Map<string, number>()
  }
  return {
    env,
    held,
    restart: async (supervisor: SupervisorProcess): Promise<void> => {
      const names = await held()
      const pidFd = openPidfd(pid)
      const inherited = [...names.values()].map(number => takeDescriptor(pidFd, number))
      const more = { LISTEN_FDNAMES: [...names.keys()].join(':') }
      await supervisor.start({ env: { ...env, ...more }, inherited })
      for (const fd of [pidFd, ...inherited]) closeSync(fd)
    },
  }
}
