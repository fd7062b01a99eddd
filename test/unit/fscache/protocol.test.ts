import fc from 'fast-check'
import t from 'tap'
import { MESSAGE_MAX_BYTES, openReply, parseMessage } from '../../../src/fscache/protocol.js'
import { mutate, mutations, onlyFaults } from '../../helpers/fuzz.js'

function message(opcode: number, payload: Buffer, { id = 5, objectId = 6 } = {}): Buffer {
  const header = Buffer.alloc(16)
  for (const [index, value] of [id, opcode, 16 + payload.length, objectId].entries()) {
    header.writeUInt32LE(value, index * 4)
  }
  return Buffer.concat([header, payload])
}

function open(volume: string, cookie: string, fd = 17): Buffer {
  const keys = Buffer.concat([Buffer.from(volume), Buffer.from(cookie)])
  const fixed = Buffer.alloc(16)
  fixed.writeUInt32LE(Buffer.byteLength(volume), 0)
  fixed.writeUInt32LE(Buffer.byteLength(cookie), 4)
  fixed.writeUInt32LE(fd, 8)
  return message(0, Buffer.concat([fixed, keys]))
}

function read(offset: bigint, length: bigint): Buffer {
  const payload = Buffer.alloc(16)
  payload.writeBigUInt64LE(offset, 0)
  payload.writeBigUInt64LE(length, 8)
  return message(2, payload)
}

t.test('OPEN', async t => {
  // The volume key ends with a NUL, the cookie key does not.
  t.same(parseMessage(open('erofs,domain\0', 'cookie')), {
    op: 'open',
    id: 5,
    objectId: 6,
    fd: 17,
    domainId: 'domain',
    cookie: 'cookie',
  })
  t.match(
    parseMessage(open('other', 'c')),
    { domainId: 'other' },
    'a volume of another prefix keeps its name',
  )
})

t.test('READ and CLOSE', async t => {
  const far = 2n ** 45n
  t.same(parseMessage(read(far, 131072n)), {
    op: 'read',
    id: 5,
    objectId: 6,
    offset: 2 ** 45,
    length: 131072,
  })
  t.same(parseMessage(message(1, Buffer.alloc(0))), { op: 'close', id: 5, objectId: 6 })
})

t.test('what does not fit is refused by name', async t => {
  const refused = (bytes: Buffer, why: RegExp): void => {
    t.throws(() => parseMessage(bytes), { code: 'DRIVER_PROTOCOL', message: why })
  }
  refused(Buffer.alloc(0), /0 bytes are less than a header/)
  refused(Buffer.alloc(15), /15 bytes/)
  refused(Buffer.concat([open('v', 'c'), Buffer.alloc(1)]), /length field/)
  refused(message(3, Buffer.alloc(0)), /unknown opcode 3/)
  refused(message(0, Buffer.alloc(15)), /fixed part/)
  refused(message(2, Buffer.alloc(8)), /READ without/)
  const beyond = open('v', 'c')
  beyond.writeUInt32LE(0xffffffff, 16)
  refused(beyond, /beyond its end/)
})

t.test('any bytes end in a message or DRIVER_PROTOCOL', async () => {
  for (const whole of [open('erofs,domain\0', 'c'.repeat(64)), read(4096n, 4096n)]) {
    const arbitrary = mutations(whole.length, [4, 8, 16, 20])
    fc.assert(fc.property(arbitrary, change => onlyFaults(() => parseMessage(mutate(whole, change)), 100)))
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: MESSAGE_MAX_BYTES }), bytes => {
      onlyFaults(() => parseMessage(Buffer.from(bytes)), 100)
    }),
  )
})

t.test('the answer to an OPEN', async t => {
  t.equal(openReply(5, 1 << 20), 'copen 5,1048576')
  t.equal(openReply(5, -2), 'copen 5,-2')
})
