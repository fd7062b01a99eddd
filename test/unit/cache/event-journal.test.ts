import { readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { EventJournal, type JournalEntry } from '../../../src/cache/event-journal.js'

const SLOT = 40

/** Records an entry in its slot. */
const record = (journal: EventJournal, { slot, ...range }: JournalEntry): void => journal.record(slot, range)

function open(t: Test, file = path.join(t.testdir(), 'journal')): { journal: EventJournal; file: string } {
  const journal = new EventJournal(file)
  t.teardown(() => journal.close())
  return { journal, file }
}

const entry = (slot: number, more: Partial<JournalEntry> = {}): JournalEntry => ({
  slot,
  dev: 66306,
  ino: 12,
  offset: 4096,
  count: 131072,
  ...more,
})

t.test('what is recorded and not cleared is there for a successor', async t => {
  const { journal, file } = open(t)
  t.same(journal.entries(), [], 'a new one is empty')
  record(journal, entry(7))
  record(journal, entry(30, { dev: 2 ** 40, ino: Number.MAX_SAFE_INTEGER, offset: 2 ** 45, count: 1 }))
  record(journal, entry(9))
  journal.clear(9)
  const left = [
    entry(7),
    entry(30, { dev: 2 ** 40, ino: Number.MAX_SAFE_INTEGER, offset: 2 ** 45, count: 1 }),
  ]
  t.same(journal.entries(), left)
  const successor = open(t, file).journal
  t.same(successor.entries(), left, 'another process sees the same')
  successor.clear(7)
  t.same(journal.entries(), left.slice(1), 'and clears for both')
})

t.test('a number is used again after it was cleared', async t => {
  const { journal } = open(t)
  record(journal, entry(5, { offset: 0 }))
  journal.clear(5)
  record(journal, entry(5, { offset: 8192 }))
  t.same(journal.entries(), [entry(5, { offset: 8192 })])
  t.equal(journal.slots, 6)
  record(journal, entry(99))
  journal.clear(99)
  t.equal(journal.slots, 100, 'the highest number that ever was is remembered')
})

t.test('the format, byte for byte', async t => {
  const { journal, file } = open(t)
  record(journal, entry(1, { dev: 0x1_0000_0002, ino: 3, offset: 4, count: 5 }))
  const slot =
    '01000000' +
    '01000000' +
    '0200000001000000' +
    '0300000000000000' +
    '0400000000000000' +
    '0500000000000000'
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim().replaceAll('-', '')
  const header = '6e796475732d6576' + '01000000' + '00000000' + boot + '00'.repeat(8)
  t.equal(readFileSync(file).toString('hex'), header + '00'.repeat(SLOT) + slot)
  t.equal(statSync(file).mode & 0o777, 0o600)
})

t.test('a fresh group starts with an empty one', async t => {
  const { journal } = open(t)
  record(journal, entry(4))
  journal.reset()
  t.same(journal.entries(), [])
})

t.test('damaged slots are passed over, whole ones are found', async t => {
  const { journal, file } = open(t)
  record(journal, entry(2))
  record(journal, entry(3))
  const bytes = readFileSync(file)
  bytes.writeUInt32LE(99, 3 * SLOT + 4) // names another number than its place
  writeFileSync(file, Buffer.concat([bytes, Buffer.from([1, 0, 0])])) // and a slot cut short
  t.same(journal.entries(), [entry(3)])
})

t.test('any bytes at all end in entries whose numbers are their places', async t => {
  const { journal, file } = open(t)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 8 * SLOT }), bytes => {
      writeFileSync(file, bytes)
      for (const { slot } of journal.entries())
        if (Buffer.from(bytes).readUInt32LE((slot + 1) * SLOT) !== 1)
          throw new Error(`slot ${slot} is not in use`)
    }),
  )
})

t.test('one of another boot, of another version or without its beginning is empty', async t => {
  const file = path.join(t.testdir(), 'journal')
  const damages: ((bytes: Buffer) => Buffer)[] = [
    bytes => Buffer.concat([bytes.subarray(0, 16), Buffer.alloc(16, 7), bytes.subarray(32)]),
    bytes => Buffer.concat([bytes.subarray(0, 8), Buffer.from([2]), bytes.subarray(9)]),
    bytes => bytes.subarray(0, 20),
    bytes => bytes.subarray(SLOT),
    () => Buffer.alloc(0),
  ]
  for (const damage of damages) {
    const before = new EventJournal(file)
    before.reset()
    record(before, entry(3))
    before.close()
    t.same(open(t, file).journal.entries(), [entry(3)])
    writeFileSync(file, damage(readFileSync(file)))
    const { journal } = open(t, file)
    t.same(journal.entries(), [])
    record(journal, entry(5))
    t.same(open(t, file).journal.entries(), [entry(5)], 'and is a good one from then on')
  }
})
