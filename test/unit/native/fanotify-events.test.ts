import fc from 'fast-check'
import t from 'tap'
import { isFault } from '../../../src/common/fault.js'
import {
  encodeAllow,
  encodeDeny,
  encodeDenyErrnoProbe,
  FAN,
  parseFanotifyEvents,
} from '../../../src/native/fanotify-events.js'

interface Raw {
  fd: number
  mask?: number
  pid?: number
  records?: Buffer[]
  metadataLength?: number
}

/** An event as the kernel writes it. */
function event({ fd, mask = FAN.PRE_ACCESS, pid = 42, records = [], metadataLength = 24 }: Raw): Buffer {
  const metadata = Buffer.alloc(metadataLength)
  const bytes = Buffer.concat([metadata, ...records])
  bytes.writeUInt32LE(bytes.length, 0)
  bytes.writeUInt8(3, 4)
  bytes.writeUInt16LE(metadataLength, 6)
  bytes.writeBigUInt64LE(BigInt(mask), 8)
  bytes.writeInt32LE(fd, 16)
  bytes.writeInt32LE(pid, 20)
  return bytes
}

function record(type: number, size: number, offset = 0n, count = 0n): Buffer {
  const bytes = Buffer.alloc(size)
  bytes.writeUInt8(type, 0)
  bytes.writeUInt16LE(size, 2)
  if (size >= 24) {
    bytes.writeBigUInt64LE(offset, 8)
    bytes.writeBigUInt64LE(count, 16)
  }
  return bytes
}

function changed(bytes: Buffer, change: (bytes: Buffer) => void): Buffer {
  change(bytes)
  return bytes
}

t.test('bytes that no kernel writes name field and offset', async t => {
  const good = () => event({ fd: 5, records: [record(6, 24, 0n, 4096n)] })
  const fails = (bytes: Buffer, field: string, offset: number, length = bytes.length) =>
    t.throws(() => parseFanotifyEvents(bytes, length), {
      code: 'DRIVER_PROTOCOL',
      context: { field, offset },
    })
  fails(good(), 'event', 0, 23)
  fails(good(), 'event_len', 0, 47)
  fails(
    changed(good(), b => b.writeUInt32LE(0, 0)),
    'event_len',
    0,
  )
  fails(
    changed(good(), b => b.writeUInt32LE(0xffff_ffff, 0)),
    'event_len',
    0,
  )
  fails(
    changed(good(), b => b.writeUInt8(2, 4)),
    'vers',
    4,
  )
  fails(
    changed(good(), b => b.writeUInt16LE(23, 6)),
    'metadata_len',
    6,
  )
  fails(
    changed(good(), b => b.writeUInt16LE(0, 26)),
    'information record',
    24,
  )
  fails(
    changed(good(), b => b.writeUInt16LE(25, 26)),
    'information record',
    24,
  )
  fails(event({ fd: 5, records: [Buffer.alloc(3)] }), 'information record', 24)
  fails(Buffer.concat([good(), Buffer.alloc(1)]), 'event', 48)
})

t.test('any bytes: events or the typed fault', async t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(220), (bytes, length) => {
      try {
        return parseFanotifyEvents(Buffer.from(bytes), length).length <= bytes.length / 24
      } catch (err) {
        return isFault(err, 'DRIVER_PROTOCOL')
      }
    }),
    { numRuns: 2000 },
  )
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(95), fc.nat(255)), { maxLength: 4 }), changes => {
      const bytes = Buffer.concat([
        event({ fd: 5, records: [record(6, 24, 0n, 1n)] }),
        event({ fd: 6, records: [record(6, 24, 0n, 1n)] }),
      ])
      for (const [at, value] of changes) bytes[at] = value
      try {
        return parseFanotifyEvents(bytes, bytes.length).length <= 4
      } catch (err) {
        return isFault(err, 'DRIVER_PROTOCOL')
      }
    }),
    { numRuns: 2000 },
  )
  t.pass()
})

t.test('several events, and only the bytes that were read', async t => {
  const two = Buffer.concat([
    event({ fd: 5, records: [record(6, 24, 4096n, 131072n)] }),
    event({ fd: 6, pid: 0, records: [record(6, 24, 5n * 2n ** 32n, 0n)] }),
  ])
  const events = [
    { fd: 5, mask: FAN.PRE_ACCESS, pid: 42, offset: 4096, length: 131072 },
    { fd: 6, mask: FAN.PRE_ACCESS, pid: 0, offset: 5 * 2 ** 32, length: 0 },
  ]
  t.strictSame(parseFanotifyEvents(two, two.length), events)
  t.strictSame(parseFanotifyEvents(two, 48), events.slice(0, 1))
  t.strictSame(parseFanotifyEvents(two, 0), [])
})

t.test('no range means the whole file, and one beyond 2^53 is cut', async t => {
  const whole = { offset: 0, length: Number.MAX_SAFE_INTEGER }
  const parse = (raw: Buffer) => parseFanotifyEvents(raw, raw.length)[0]
  t.match(parse(event({ fd: 5 })), whole)
  t.match(parse(event({ fd: 5, records: [record(6, 8)] })), whole, 'a range record too small for one')
  t.match(parse(event({ fd: 5, records: [record(6, 24, 0n, 2n ** 64n - 1n)] })), whole)
})

t.test('records and header fields of later kernels are stepped over', async t => {
  const raw = event({
    fd: 5,
    metadataLength: 32,
    records: [record(4, 8), record(200, 12), record(6, 32, 8192n, 4096n), record(4, 8)],
  })
  t.match(parseFanotifyEvents(raw, raw.length), [{ fd: 5, offset: 8192, length: 4096 }])
})

t.test('an overflow has no descriptor', async t => {
  const raw = event({ fd: -1, mask: FAN.Q_OVERFLOW, pid: 0 })
  t.match(parseFanotifyEvents(raw, raw.length), [{ fd: -1, mask: FAN.Q_OVERFLOW }])
})

t.test('answers', async t => {
  t.equal(encodeAllow(7).toString('hex'), '0700000001000000')
  t.equal(encodeDeny(7).toString('hex'), '0700000002000000')
  t.equal(encodeDeny(7, 'EIO').toString('hex'), '0700000002000005')
  t.equal(encodeDeny(-2, 'EDQUOT').toString('hex'), 'feffffff0200007a')
  const own = Buffer.alloc(8)
  t.equal(encodeAllow(3, own), own, 'into a buffer that is used again')
  t.equal(encodeDenyErrnoProbe().toString('hex'), 'ffffffff22000005010010000000000002000000' + '02000000')
})
