import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { FileSource } from '../../../src/common/byte-source.js'
import { hasErrno } from '../../../src/common/fault.js'
import { silentLogger } from '../../../src/common/log.js'
import { FanotifyDriver } from '../../../src/fanotify/driver.js'
import { EventJournal } from '../../../src/cache/event-journal.js'
import { dropFileCache, probeRead } from '../../../src/native/file.js'
import { mountErofs, unmount } from '../../../src/native/mount.js'
import { BufferBlob } from '../../helpers/buffer-blob.js'
import { makeErofsImage } from '../../helpers/erofs-image.js'
import { scratch } from '../../helpers/scratch.js'
import { fanotifyMissing } from '../../helpers/supervised.js'

const run = promisify(execFile)
const TIMEOUT = { timeoutMs: 20_000 }

/** A mounted image with one lazy blob. */
async function lazyMount(t: Test, size: number) {
  const directory = scratch(t)
  const content = randomBytes(size)
  const image = makeErofsImage(directory, { data: content })
  const blob = new BufferBlob('b', join(directory, 'b.blob.data'), image.content)
  const driver = new FanotifyDriver({
    cacheDirectory: directory,
    runDirectory: directory,
    logger: silentLogger,
  })
  await driver.start()
  const bootstrap = new FileSource(image.bootstrap)
  const instance = {
    key: 'd/i',
    domainId: 'd',
    id: 'i',
    bootstrapPath: image.bootstrap,
    bootstrap,
    blobs: [blob],
  }
  const target = join(directory, 'mnt')
  mkdirSync(target)
  const plan = await driver.attach(instance)
  if (plan.kind !== 'file') throw new Error('a file plan was expected')
  await mountErofs({ source: plan.source, devices: plan.devices, target, ...TIMEOUT })
  t.teardown(async () => {
    await unmount(target, { lazy: true, ...TIMEOUT })
    await driver.detach('d/i')
    await driver.stop()
    for (const { fd } of driver.descriptors()) closeSync(fd)
    blob.close()
    bootstrap.close()
  })
  return { directory, driver, blob, target, content, file: join(target, 'data') }
}

async function sha256sum(file: string): Promise<string> {
  const { stdout } = await run('sha256sum', [file])
  return stdout.slice(0, 64)
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
/** Marks of the group in the kernel's own words: one `fanotify ino:` line an inode mark. */
const marks = (fd: number): number =>
  readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').split('fanotify ino:').length - 1

const skip = fanotifyMissing

t.test('a lazy file reads right, and its blob is unmarked once complete', { skip }, async t => {
  const m = await lazyMount(t, 1_000_000)
  const group = m.driver.descriptors()[0]!.fd
  m.driver.mounted('d/i')
  t.equal(marks(group), 2, 'the blob and the doorbell are marked')
  t.equal(await sha256sum(m.file), sha256(m.content))
  t.ok(m.blob.ensured.length > 0, 'the kernel asked')
  await m.blob.ensure(0, m.blob.sizeBytes)
  t.equal(marks(group), 1, 'only the doorbell is left')
  const asked = m.driver.stats().eventsAnswered
  dropFileCache(m.file)
  t.equal(await sha256sum(m.file), sha256(m.content))
  t.equal(m.driver.stats().eventsAnswered, asked, 'a complete blob costs no event')
})

t.test('a failed fetch is EIO, and the next read asks again', { skip }, async t => {
  const m = await lazyMount(t, 300_000)
  m.driver.mounted('d/i')
  m.blob.gate = () => Promise.reject(new Error('registry down'))
  const failure = await probeRead(m.file, 0, 4096, TIMEOUT).catch((err: unknown) => err)
  t.ok(hasErrno(failure, 'EIO'), String(failure))
  m.blob.gate = () => Promise.resolve()
  t.equal(await sha256sum(m.file), sha256(m.content))
})

t.test('the prober is denied what is not local, and nobody else', { skip }, async t => {
  const m = await lazyMount(t, 300_000)
  m.driver.setProber(process.pid)
  const failure = await probeRead(m.file, 65536, 4096, TIMEOUT).catch((err: unknown) => err)
  t.ok(hasErrno(failure, 'EIO'), String(failure))
  t.equal(m.blob.ensured.length, 0, 'the canary fetches nothing')
  t.equal(await sha256sum(m.file), sha256(m.content))
})

t.test('the journal holds an event exactly while it is unanswered', { skip }, async t => {
  const m = await lazyMount(t, 300_000)
  m.driver.mounted('d/i')
  let open: () => void = () => undefined
  const held = new Promise<void>(resolve => (open = resolve))
  const asked = new Promise<void>(resolve => {
    m.blob.gate = () => {
      resolve()
      return held
    }
  })
  const reading = sha256sum(m.file)
  await asked
  const journal = new EventJournal(join(m.directory, 'fanotify.journal'))
  t.match(journal.entries(), [{ ino: m.blob.ino, dev: m.blob.dev }])
  open()
  t.equal(await reading, sha256(m.content))
  t.strictSame(journal.entries(), [])
  journal.close()
})

t.test('stopping ends the worker, also when the cache directory is gone', { skip }, async t => {
  const directory = scratch(t)
  const cacheDirectory = join(directory, 'cache')
  mkdirSync(cacheDirectory)
  const driver = new FanotifyDriver({ cacheDirectory, runDirectory: directory, logger: silentLogger })
  await driver.start()
  rmSync(cacheDirectory, { recursive: true })
  await driver.stop()
  for (const { fd } of driver.descriptors()) closeSync(fd)
})
