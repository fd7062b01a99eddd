import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import {
  duplicateDescriptor,
  duplicateOnto,
  getCloseOnExec,
  getOpenFileLimits,
  setCloseOnExec,
  setOpenFileLimits,
} from '../../../src/native/descriptor.js'
import { rootMissing, syscallFailure } from '../../helpers/scratch.js'

function open(t: Test): number {
  const fd = openSync('/proc/self/status', 'r')
  t.teardown(() => closeSync(fd))
  return fd
}

t.test('descriptors that are not open', async t => {
  for (const fd of [-1, 99_999]) {
    t.throws(() => duplicateDescriptor(fd), syscallFailure('EBADF'))
    t.throws(() => duplicateOnto(fd, 500), syscallFailure('EBADF'))
    t.throws(() => setCloseOnExec(fd, true), syscallFailure('EBADF'))
    t.equal(getCloseOnExec(fd), undefined)
  }
})

t.test('numbers that cannot be', async t => {
  const fd = open(t)
  t.throws(() => duplicateDescriptor(fd, -5), syscallFailure('EINVAL'))
  t.throws(() => duplicateDescriptor(fd, getOpenFileLimits().soft), syscallFailure('EINVAL'))
  t.throws(() => duplicateOnto(fd, fd), syscallFailure('EINVAL'))
})

t.test('a duplicate above a number, and one onto a number', async t => {
  const fd = open(t)
  const above = duplicateDescriptor(fd, 700)
  t.ok(above >= 700)
  t.equal(getCloseOnExec(above), true)
  const other = openSync('/proc/self/stat', 'r')
  duplicateOnto(above, other)
  t.equal(fstatSync(other).ino, fstatSync(fd).ino)
  closeSync(above)
  closeSync(other)
  t.equal(getCloseOnExec(above), undefined)
})

t.test('close-on-exec can be cleared and set', async t => {
  const fd = open(t)
  t.equal(getCloseOnExec(fd), true, 'as Node opens')
  setCloseOnExec(fd, false)
  t.equal(getCloseOnExec(fd), false)
  setCloseOnExec(fd, true)
  t.equal(getCloseOnExec(fd), true)
})

t.test('limits of open files', async t => {
  const { soft, hard } = getOpenFileLimits()
  const line = readFileSync('/proc/self/limits', 'utf8').match(/Max open files +(\d+) +(\d+)/)!
  t.strictSame([soft, hard], [Number(line[1]), Number(line[2])])
  t.throws(() => setOpenFileLimits({ soft: hard + 1, hard }), syscallFailure('EINVAL'))
  setOpenFileLimits({ soft: soft - 1, hard })
  t.equal(getOpenFileLimits().soft, soft - 1)
  setOpenFileLimits({ soft, hard })
})

t.test('more open files than the kernel allows', { skip: rootMissing }, async t => {
  const most = Number(readFileSync('/proc/sys/fs/nr_open', 'utf8'))
  t.throws(() => setOpenFileLimits({ soft: most + 1, hard: most + 1 }), syscallFailure('EPERM'))
})
