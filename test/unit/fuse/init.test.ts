import t from 'tap'
import {
  encodeInitReply,
  negotiate,
  parseInit,
  readUnique,
  sessionFromNumbers,
  sessionToNumbers,
} from '../../../src/fuse/init.js'

/** What Linux 6.18 offers to root. */
const OFFER = { minor: 45, maxReadahead: 131072, flags: 0x73fffffb, flags2: 0x5fd }

function init({ major = 7, minor, maxReadahead, flags, flags2 }: typeof OFFER & { major?: number }): Buffer {
  const body = Buffer.alloc(64)
  ;[major, minor, maxReadahead, flags, flags2].forEach((value, i) => body.writeUInt32LE(value, i * 4))
  return body
}

t.test('all that a read-only server has a use for is taken, and nothing that was not offered', async t => {
  const request = parseInit(init(OFFER))
  const session = negotiate(request)
  t.equal(session.minor, 41)
  t.same([...session.flags].sort(), [
    'ABORT_ERROR',
    'ALLOW_IDMAP',
    'ASYNC_READ',
    'CACHE_SYMLINKS',
    'DO_READDIRPLUS',
    'EXPLICIT_INVAL_DATA',
    'EXPORT_SUPPORT',
    'HAS_RESEND',
    'INIT_EXT',
    'MAX_PAGES',
    'NO_OPENDIR_SUPPORT',
    'NO_OPEN_SUPPORT',
    'PARALLEL_DIROPS',
    'READDIRPLUS_AUTO',
  ])
  const reply = encodeInitReply(0x8000000000000002n, request, session)
  t.equal(reply.length, 80)
  t.equal(reply.readUInt32LE(0), 80)
  t.equal(reply.readInt32LE(4), 0)
  t.equal(reply.readBigUInt64LE(8), 0x8000000000000002n)
  t.equal(readUnique(reply), 0x8000000000000002n, 'at the same place in request and answer')
  const word = (at: number) => reply.readUInt32LE(16 + at)
  t.same([word(0), word(4), word(8)], [7, 41, 131072])
  t.equal(word(12) & ~OFFER.flags, 0)
  t.equal(word(32) & ~OFFER.flags2, 0)
  t.equal(word(12), 0x43e66011)
  t.equal(word(32), 0x180)
  t.equal(reply.readUInt16LE(16 + 16), 128, 'max_background')
  t.equal(reply.readUInt16LE(16 + 28), 256, 'max_pages')
})

t.test('an older kernel: nothing of flags2', async t => {
  const request = parseInit(init({ ...OFFER, minor: 31, flags: 0x1 }).subarray(0, 16))
  const session = negotiate(request)
  t.same([session.minor, ...session.flags], [31, 'ASYNC_READ'])
  t.equal(encodeInitReply(1n, request, session).readUInt32LE(16 + 32), 0)
  const unextended = parseInit(init({ ...OFFER, flags: 0x1, flags2: 0x180 }))
  t.same([...negotiate(unextended).flags], ['ASYNC_READ'], 'flags2 means nothing without INIT_EXT')
})

t.test('what is no INIT', async t => {
  t.throws(() => parseInit(Buffer.alloc(15)), { code: 'DRIVER_PROTOCOL' })
  t.throws(() => negotiate(parseInit(init({ ...OFFER, major: 6 }))), { code: 'DRIVER_PROTOCOL' })
  t.throws(() => negotiate(parseInit(init({ ...OFFER, minor: 30 }))), { code: 'DRIVER_PROTOCOL' })
})

t.test('a session as a state has it', async t => {
  const session = negotiate(parseInit(init(OFFER)))
  const text = JSON.stringify(sessionToNumbers(session))
  t.same(sessionFromNumbers(JSON.parse(text) as Record<string, number>), session)
})
