import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { openJournal } from '../../../src/fuse/open-journal.js'
import { OPCODE, REQUEST_BYTES } from '../../../src/fuse/protocol.js'
import {
  freeSlot,
  parseJournal,
  REGION_BYTES,
  RequestJournal,
  uniqueOf,
} from '../../../src/fuse/request-journal.js'

function request(opcode: number, unique: number, body = ''): Uint8Array {
  const bytes = new Uint8Array(40 + body.length)
  const words = new Uint32Array(bytes.buffer, 0, 4)
  words[0] = bytes.length
  words[1] = opcode
  words[2] = unique % 2 ** 32
  words[3] = unique / 2 ** 32
  bytes.set(Buffer.from(body), 40)
  return bytes
}
/** Numbers of the requests in a file. */
const found = (file: string): number[] => parseJournal(fs.readFileSync(file)).map(uniqueOf)
/** Each thread's part. */
const open = (file: string, threads: number, inherit = false): RequestJournal[] =>
  openJournal(file, threads, inherit).regions.map(region => new RequestJournal(region))

t.test('what a thread reads is in the file at once', async t => {
  const file = path.join(
    t.testdir({ message: Buffer.from(request(OPCODE.READ, 4, 'x'.repeat(40))) }),
    'requests',
  )
  const [one, two] = open(file, 2)
  if (!one || !two) throw new Error('two threads')
  t.equal(one.buffer.length, REQUEST_BYTES)
  one.buffer.set(request(OPCODE.LOOKUP, 6, 'name\0'))
  const fd = fs.openSync(path.join(path.dirname(file), 'message'), 'r')
  t.equal(fs.readSync(fd, two.buffer, 0, two.buffer.length, null), 80)
  fs.closeSync(fd)
  t.strictSame(found(file), [4, 6], 'oldest first')
  t.strictSame(parseJournal(fs.readFileSync(file))[0]?.length, 80)
  one.buffer.set(request(OPCODE.LOOKUP, 2 ** 40 + 2, 'n'.repeat(1024)))
  t.strictSame(found(file), [4, 2 ** 40 + 2], 'the longest')
  for (const opcode of [OPCODE.FORGET, OPCODE.BATCH_FORGET, OPCODE.INTERRUPT]) {
    one.buffer.set(request(opcode, 8))
    t.strictSame(found(file), [4], 'what needs no answer is not found')
  }
})

t.test('a request that is handed on stays until it is answered', async t => {
  const file = path.join(t.testdir(), 'requests')
  const { fd, regions } = openJournal(file, 2, false)
  const threads = regions.map(region => new RequestJournal(region))
  const places = threads.map((thread, i) => thread.keep(request(OPCODE.READ, 2 + 2 * i)))
  t.strictSame(places, [0, REGION_BYTES])
  t.strictSame(found(file), [2, 4])
  freeSlot(fd, REGION_BYTES)
  t.strictSame(found(file), [2])
  const [, thread] = threads
  t.equal(thread?.keep(request(OPCODE.READ, 6)), REGION_BYTES, 'its slot is used again')
  thread?.free(REGION_BYTES)
  let slots = 0
  while (thread?.keep(request(OPCODE.READ, 100)) !== undefined) slots++
  t.equal(slots, 768, 'no more than there are slots')
})

t.test('a successor loses nothing, nor does its own', async t => {
  const file = path.join(t.testdir(), 'requests')
  const [first, , third] = open(file, 3)
  for (const unique of [4, 8]) first?.keep(request(OPCODE.READ, unique))
  third?.buffer.set(request(OPCODE.GETATTR, 6))
  const [heir] = open(file, 1, true)
  if (!heir) throw new Error('one thread')
  const left = heir.kept()
  t.strictSame(
    left.map(({ request }) => uniqueOf(request)),
    [4, 6, 8],
  )
  heir.buffer.set(request(OPCODE.LOOKUP, 10, 'a\0'))
  heir.free(left[1]?.place ?? -1)
  const threads = open(file, 2, true)
  t.strictSame(
    threads.map(thread => thread.kept().map(({ request }) => uniqueOf(request))),
    [[4, 10], [8]],
  )
  t.equal(openJournal(file, 2, false).left, 0, 'a new mount knows none')
  t.strictSame(fs.readdirSync(path.dirname(file)), ['requests'])
  t.equal(fs.statSync(file).size, 2 * REGION_BYTES)
  t.equal(fs.statSync(file).mode & 0o777, 0o600)
})

t.test('garbage is passed over', async t => {
  const bytes = Buffer.alloc(REGION_BYTES + 100)
  bytes.set(request(OPCODE.LOOKUP, 2, 'a\0'), 1280)
  bytes.fill(0xff, 2560, 3840)
  bytes.writeUInt32LE(39, 3840)
  t.strictSame(parseJournal(bytes).map(uniqueOf), [2])
  t.strictSame(parseJournal(Buffer.alloc(10)), [])
  const file = path.join(t.testdir({ requests: 'x' }), 'requests')
  t.equal(openJournal(file, 1, true).left, 0)
  t.equal(openJournal(path.join(path.dirname(file), 'none'), 1, true).left, 0)
})
