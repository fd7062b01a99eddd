import { closeSync, openSync } from 'node:fs'
import t from 'tap'
import { reserveAndDeny } from '../../../src/fanotify/settle.js'
import { getCloseOnExec } from '../../../src/native/descriptor.js'

/** Numbers far above those in use here. */
const LIMIT = 512
const isOpen = (fd: number): boolean => getCloseOnExec(fd) !== undefined
const entry = (eventFd: number) => ({ eventFd, dev: 1, ino: 1, offset: 0, count: 4096 })

/** A kernel that has unanswered events under some numbers, and notes what it is answered. */
function kernel(unanswered: readonly number[]) {
  const left = new Set(unanswered)
  const answers: { fd: number; denied: boolean }[] = []
  const respond = (answer: Buffer): boolean => {
    const fd = answer.readInt32LE(0)
    if (!left.delete(fd)) return false
    // FAN_DENY is 2 in the low byte, an errno may stand above it.
    answers.push({ fd, denied: (answer.readUInt32LE(4) & 0xff) === 2 })
    return true
  }
  return { left, answers, respond }
}

t.test('journalled events keep their numbers and stay unanswered, all others are denied once', async t => {
  const { left, answers, respond } = kernel([300, 301, 400])
  const reservation = reserveAndDeny([entry(300), entry(400)], LIMIT, respond)
  t.equal(reservation.denied, 1)
  t.same(answers, [{ fd: 301, denied: true }])
  t.same([...left], [300, 400])
  t.ok(isOpen(300) && isOpen(400), 'no new event can get these numbers')
  t.notOk(isOpen(301))
  reservation.release(300)
  t.notOk(isOpen(300), 'a settled number is free again')
  t.ok(isOpen(400))
  reservation.release(400)
})

t.test('a number that is in use here is left alone', async t => {
  const own = openSync('/dev/null', 'r')
  t.teardown(() => closeSync(own))
  const { respond } = kernel([own])
  const reservation = reserveAndDeny([entry(own)], LIMIT, respond)
  reservation.release(own)
  t.ok(isOpen(own), 'release closes only what was reserved')
})

t.test('the lowest free number may be journalled itself', async t => {
  const lowest = openSync('/dev/null', 'r')
  closeSync(lowest)
  const { respond, left } = kernel([lowest])
  const reservation = reserveAndDeny([entry(lowest)], LIMIT, respond)
  t.ok(isOpen(lowest))
  t.same([...left], [lowest])
  reservation.release(lowest)
  t.notOk(isOpen(lowest))
  reservation.release(lowest)
})

t.test('nothing journalled, nothing left: no descriptor stays behind', async t => {
  const before = openSync('/dev/null', 'r')
  closeSync(before)
  t.equal(reserveAndDeny([], LIMIT, kernel([]).respond).denied, 0)
  const after = openSync('/dev/null', 'r')
  closeSync(after)
  t.equal(after, before)
})
