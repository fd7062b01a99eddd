import t from 'tap'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { createLease, deleteLease } from '../../../src/containerd/containerd.js'
import { ContentStore } from '../../../src/containerd/content-store.js'
import { Rpc } from '../../../src/containerd/rpc.js'
import { isFault } from '../../../src/common/fault.js'
import { startContainerd } from '../../helpers/containerd.js'

if (process.geteuid?.() !== 0) {
  t.plan(0, 'needs root')
} else {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'content-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const containerd = await startContainerd({ directory })
  t.teardown(() => containerd.stop())
  const { address } = containerd
  const rpc = await Rpc.connect(address, 'here')
  t.teardown(() => rpc.close())
  // As a pull does: what nothing holds goes with containerd's next garbage collection, the first soon after its start.
  await createLease(rpc)
  const store = new ContentStore(rpc)
  const never = new AbortController().signal

  const bytes = randomBytes(5_000_001)
  const object = objectOf(bytes)
  const list = async (namespace = 'here'): Promise<string> =>
    (await containerd.ctr('-n', namespace, 'content', 'ls')).stdout
  const ingests = async (): Promise<string> =>
    (await containerd.ctr('-n', 'here', 'content', 'active')).stdout.trim()

  await t.test('an object is written once, with labels', async t => {
    let counted = 0
    const source = () => slices(bytes, 70_000)
    t.equal(await store.ensure(object, { 'example/a': '1' }, source, never, n => (counted += n)), true)
    t.equal(counted, bytes.length, 'progress adds up to the size')
    const failing = (): never => {
      throw new Error('the source is asked for what is there')
    }
    t.equal(await store.ensure(object, { 'example/b': '2' }, failing, never), false)
    const line = (await list()).split('\n').find(one => one.includes(object.digest)) ?? ''
    t.match(line, 'example/a=1')
    t.match(line, 'example/b=2', 'labels of both are there')
  })

  await t.test('writers of one object at once: one of them writes', async t => {
    const one = randomBytes(300_000)
    let started = 0
    const source = () => {
      started++
      return slices(one, 100_000)
    }
    const wrote = await Promise.all([1, 2, 3].map(() => store.ensure(objectOf(one), {}, source, never)))
    t.same(wrote.sort(), [false, false, true])
    t.equal(started, 1)
  })

  await t.test('wrong, short and broken bytes are refused and leave nothing', async t => {
    const good = randomBytes(200_000)
    const bad = Buffer.from(good)
    bad[7] = (bad[7] ?? 0) ^ 1
    const wrong = objectOf(good)
    await t.rejects(
      store.ensure(wrong, {}, () => slices(bad, 9_000), never),
      {
        code: 'CONTAINERD_ERROR',
        message: /unexpected commit digest/,
      },
    )
    await t.rejects(
      store.ensure(wrong, {}, () => slices(good.subarray(5), 9_000), never),
      {
        code: 'CONTAINERD_ERROR',
        message: /failed size validation/,
      },
    )
    const endless = () => slices(Buffer.concat([good, good]), 9_000)
    await t.rejects(store.ensure(wrong, {}, endless, never), {
      code: 'DIGEST_MISMATCH',
      message: /longer than/,
    })
    const broken = new Error('line cut')
    const source = () => breaking(good.subarray(0, 50_000), broken)
    await t.rejects(store.ensure(wrong, {}, source, never), broken)
    t.notMatch(await list(), wrong.digest)
    t.notMatch(await ingests(), 'rpull', 'no unfinished write is left')
    await t.resolves(
      store.ensure(wrong, {}, () => slices(good, 9_000), never),
      'the right bytes still go in',
    )
  })

  await t.test('a cancelled write stops and leaves nothing', async t => {
    const abort = new AbortController()
    const hanging = () =>
      (async function* () {
        yield randomBytes(2_000_000)
        abort.abort()
        await new Promise<void>(resolve => setImmediate(resolve))
        yield randomBytes(2_000_000)
      })()
    const it = store.ensure(objectOf(randomBytes(9_000_000)), {}, hanging, abort.signal)
    await t.rejects(it, { code: 'CANCELLED' })
    t.notMatch(await ingests(), 'rpull')
  })

  await t.test('what only a lease holds goes with the lease', async t => {
    const other = randomBytes(1000)
    const held = await Rpc.connect(address, 'leased')
    const lease = await createLease(held)
    await new ContentStore(held).ensure(objectOf(other), {}, () => slices(other, 1000), never)
    t.match(await list('leased'), objectOf(other).digest)
    await deleteLease(held, lease, true)
    t.notMatch(await list('leased'), objectOf(other).digest)
    held.close()
  })

  await t.test('a containerd that is not there is named, with the remedy', async t => {
    const missing = path.join(directory, 'nobody.sock')
    await t.rejects(Rpc.connect(missing, 'here'), {
      code: 'CONTAINERD_UNAVAILABLE',
      message: new RegExp(`${missing}.*--address`),
    })
  })

  await t.test('a containerd that dies during a write gives a typed error, at once', async t => {
    const cut = objectOf(randomBytes(4_000_000))
    const source = () =>
      (async function* () {
        yield randomBytes(2_000_000)
        await containerd.stop()
        yield randomBytes(2_000_000)
      })()
    const err: unknown = await store.ensure(cut, {}, source, never).then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    t.ok(isFault(err), String(err))
    t.match((err as { code: string }).code, /^CONTAINERD_(UNAVAILABLE|ERROR)$/)
  })
}

function objectOf(bytes: Buffer) {
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
  return { mediaType: 'application/octet-stream', digest, size: bytes.length, annotations: {} }
}

async function* slices(bytes: Buffer, length: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length)
}

async function* breaking(bytes: Buffer, err: Error): AsyncGenerator<Uint8Array> {
  yield bytes
  throw err
}
