import { closeSync, openSync } from 'node:fs'
import t from 'tap'
import { ALIGNMENT, allocateAligned, completeRead } from '../../../src/native/cachefiles.js'
import { addressOf } from '../../../src/native/foreign.js'
import { syscallFailure } from '../../helpers/scratch.js'

t.test('descriptors that are no cachefiles objects', async t => {
  const bad = { code: 'SYSCALL_FAILED', message: /READ_COMPLETE.* of message 7: EBADF/ }
  t.throws(() => completeRead(-1, 7), bad)
  t.throws(() => completeRead(99_999, 7), bad)
  const fd = openSync('/proc/self/stat', 'r')
  t.throws(() => completeRead(fd, 0xffff_ffff), syscallFailure('ENOTTY'))
  closeSync(fd)
})

t.test('aligned buffers', async t => {
  for (const size of [0, 1, 512, 4096, 100_000]) {
    const buffer = allocateAligned(size)
    t.equal(buffer.length, size)
    if (size > 0) t.equal(addressOf(buffer) % BigInt(ALIGNMENT), 0n)
    t.ok(buffer.equals(Buffer.alloc(size)), 'zeroed')
  }
})

t.test('stay aligned when their memory moves to another thread', async t => {
  const buffer = allocateAligned(4096)
  const { byteOffset } = buffer
  const moved = structuredClone(buffer.buffer, { transfer: [buffer.buffer as ArrayBuffer] })
  t.equal(addressOf(Buffer.from(moved, byteOffset, 4096)) % BigInt(ALIGNMENT), 0n)
})
