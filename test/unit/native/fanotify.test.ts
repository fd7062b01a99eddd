import { randomBytes } from 'node:crypto'
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import t, { type Test } from 'tap'
import { hasErrno } from '../../../src/common/fault.js'
import {
  addMark,
  FAN_INIT,
  flushMarks,
  openFanotifyGroup,
  probeDenyErrno,
  removeMark,
} from '../../../src/native/fanotify.js'
import {
  encodeAllow,
  encodeDeny,
  EVENT_BUFFER_SIZE,
  FAN,
  type FanotifyEvent,
  parseFanotifyEvents,
} from '../../../src/native/fanotify-events.js'
import { dropFileCache, probeRead } from '../../../src/native/file.js'
import { mountErofs, unmount } from '../../../src/native/mount.js'
import { POLL, startPoller } from '../../../src/native/poller.js'
import { erofsMissing, makeErofsImage } from '../../helpers/erofs-image.js'
import { rootMissing, scratch, syscallFailure } from '../../helpers/scratch.js'

const timeoutMs = 20_000
const PRE_CONTENT = FAN_INIT.CLASS_PRE_CONTENT | FAN_INIT.UNLIMITED_QUEUE | FAN_INIT.NONBLOCK

function openGroup(t: Test, flags: number = PRE_CONTENT): number {
  const group = openFanotifyGroup(flags, constants.O_RDWR)
  t.teardown(() => closeSync(group))
  return group
}

/** Reason to skip pre-content events; false where kernel and temporary directory have them. */
function preContentMissing(t: Test): string | false {
  const file = path.join(scratch(t), 'probe')
  writeFileSync(file, '')
  const group = openFanotifyGroup(PRE_CONTENT)
  try {
    addMark(group, file, FAN.PRE_ACCESS)
    return false
  } catch (err) {
    if (hasErrno(err, 'EINVAL') || hasErrno(err, 'EOPNOTSUPP')) return 'no pre-content events here'
    throw err
  } finally {
    closeSync(group)
  }
}

/** Hands every event of the group to `serve` and closes its descriptor, until stopped. */
function serveEvents(group: number, serve: (event: FanotifyEvent) => void): { stop(): Promise<void> } {
  const buffer = Buffer.alloc(EVENT_BUFFER_SIZE)
  const poller = startPoller(group, () => {
    for (const event of parseFanotifyEvents(buffer, readSync(group, buffer))) {
      serve(event)
      closeSync(event.fd)
    }
    poller.arm(POLL.IN)
  })
  poller.arm(POLL.IN)
  return poller
}

t.test('groups and marks', { skip: rootMissing }, async t => {
  await t.test('what is refused', async t => {
    t.throws(() => openFanotifyGroup(0x4000_0000), syscallFailure('EINVAL', 'fanotify_init'))
    t.throws(() => openFanotifyGroup(PRE_CONTENT, constants.O_DIRECT), syscallFailure('EINVAL'))
    const group = openGroup(t)
    const directory = scratch(t)
    t.throws(
      () => addMark(group, path.join(directory, 'no'), FAN.OPEN),
      syscallFailure('ENOENT', 'fanotify_mark'),
    )
    t.throws(() => addMark(group, 99_999, FAN.OPEN), syscallFailure('EBADF'))
    t.throws(() => addMark(99_999, directory, FAN.OPEN), syscallFailure('EBADF'))
    t.throws(() => addMark(0, '/dev/null', FAN.OPEN), syscallFailure('EINVAL'), 'not a group')
    t.throws(() => addMark(group, directory, 0), syscallFailure('EINVAL'))
    t.throws(() => addMark(group, `/${'x'.repeat(5000)}`, FAN.OPEN), syscallFailure('ENAMETOOLONG'))
    t.throws(() => removeMark(group, directory, FAN.OPEN), syscallFailure('ENOENT'))
    t.throws(() => addMark(group, '/proc/self/stat', FAN.PRE_ACCESS), /E(OPNOTSUPP|INVAL)/)
    const plain = openGroup(t, FAN_INIT.CLASS_NOTIFY)
    t.throws(() => addMark(plain, directory, FAN.OPEN_PERM), syscallFailure('EINVAL'))
  })

  await t.test('events of a marked file until the mark goes', async t => {
    const group = openGroup(t, FAN_INIT.CLASS_NOTIFY | FAN_INIT.NONBLOCK)
    const file = path.join(scratch(t), 'file')
    writeFileSync(file, 'x')
    const buffer = Buffer.alloc(EVENT_BUFFER_SIZE)
    const events = () => {
      try {
        const all = parseFanotifyEvents(buffer, readSync(group, buffer))
        for (const { fd } of all) closeSync(fd)
        return all
      } catch (err) {
        if (hasErrno(err, 'EAGAIN')) return []
        throw err
      }
    }
    const touch = () => closeSync(openSync(file, 'r'))
    addMark(group, file, FAN.OPEN)
    touch()
    t.match(events(), [{ mask: FAN.OPEN, pid: process.pid }])
    removeMark(group, file, FAN.OPEN)
    touch()
    t.strictSame(events(), [])
    const fd = openSync(file, 'r')
    addMark(group, fd, FAN.OPEN)
    closeSync(fd)
    touch()
    t.equal(events().length, 1, 'marked by descriptor')
    flushMarks(group)
    touch()
    t.strictSame(events(), [])
  })

  await t.test('denials with an errno are probed on pre-content groups', async t => {
    t.equal(typeof probeDenyErrno(openGroup(t)), 'boolean')
    t.equal(probeDenyErrno(openGroup(t, FAN_INIT.CLASS_NOTIFY)), false, 'no group for answers')
    t.throws(() => probeDenyErrno(99_999), { code: 'EBADF' })
  })
})

t.test(
  'an EROFS mount is filled when it is read',
  { skip: erofsMissing || preContentMissing(t) },
  async t => {
    const directory = scratch(t)
    const target = path.join(directory, 'mnt')
    mkdirSync(target)
    const files = { one: randomBytes(300_000), two: randomBytes(5000) }
    const image = makeErofsImage(directory, files)
    const fillFd = openSync(image.device, 'r+')
    t.teardown(() => closeSync(fillFd))
    const { ino } = fstatSync(fillFd)
    const group = openGroup(t)
    addMark(group, image.device, FAN.PRE_ACCESS)
    await mountErofs({ source: image.bootstrap, devices: [image.device], target, timeoutMs })
    t.teardown(() => unmount(target, { lazy: true, timeoutMs }))
    const one = path.join(target, 'one')

    await t.test('denied: EIO at the reader, named as ours', async t => {
      const errno = probeDenyErrno(group) ? 'EIO' : undefined
      const events: FanotifyEvent[] = []
      const loop = serveEvents(group, event => {
        events.push(event)
        t.equal(fstatSync(event.fd).ino, ino)
        writeSync(group, encodeDeny(event.fd, errno))
      })
      await t.rejects(probeRead(one, 0, 4096, { timeoutMs }), syscallFailure('EIO', 'pread'))
      await loop.stop()
      t.ok(events.length > 0)
      for (const event of events) {
        t.match(event, { mask: FAN.PRE_ACCESS, pid: process.pid })
        t.ok(event.length > 0 && event.offset + event.length <= image.content.length + 131_072)
      }
    })

    await t.test('nobody answers: the deadline, and the reader goes on when somebody does', async t => {
      await t.rejects(probeRead(one, 0, 4096, { timeoutMs: 20 }), { code: 'NATIVE_TIMEOUT' })
      const loop = serveEvents(group, event => writeSync(group, encodeDeny(event.fd)))
      await t.rejects(probeRead(one, 0, 4096, { timeoutMs }), syscallFailure('EIO'))
      await loop.stop()
    })

    await t.test('allowed after the fill: the right bytes', async t => {
      let served = 0
      const loop = serveEvents(group, event => {
        served++
        const end = Math.min(event.offset + event.length, image.content.length)
        if (end > event.offset)
          writeSync(fillFd, image.content, event.offset, end - event.offset, event.offset)
        writeSync(group, encodeAllow(event.fd))
      })
      for (const [name, content] of Object.entries(files))
        t.ok((await readFile(path.join(target, name))).equals(content), name)
      t.ok(served > 1)
      const before = served
      t.ok((await readFile(one)).equals(files.one))
      t.equal(served, before, 'from the page cache: no event')
      dropFileCache(one)
      t.ok((await readFile(one)).equals(files.one))
      t.ok(served > before, 'cache dropped: events again')
      const unmarked = served
      removeMark(group, image.device, FAN.PRE_ACCESS)
      dropFileCache(one)
      t.ok((await readFile(one)).equals(files.one))
      t.equal(served, unmarked, 'mark removed: no event')
      await loop.stop()
    })
  },
)
