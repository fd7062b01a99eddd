import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { allocateAligned } from '../../../src/native/cachefiles.js'
import {
  allocateSpace,
  dropCache,
  dropFileCache,
  exchangePaths,
  probeRead,
  punchHole,
  readMountId,
  readResidentPages,
  seekData,
  seekHole,
  tryLock,
} from '../../../src/native/file.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'

const timeoutMs = 10_000

function openFile(t: Test, content: Buffer | string = ''): { fd: number; name: string } {
  const name = path.join(scratch(t), 'file')
  writeFileSync(name, content)
  const fd = openSync(name, 'r+')
  t.teardown(() => closeSync(fd))
  return { fd, name }
}

t.test('reads that fail name the call and errno', async t => {
  const directory = scratch(t)
  const fails = (name: string, errno: string, call: string, offset = 0) =>
    t.rejects(probeRead(name, offset, 10, { timeoutMs }), {
      code: 'SYSCALL_FAILED',
      context: { errno, call },
    })
  await fails(path.join(directory, 'missing'), 'ENOENT', 'open')
  await fails(directory, 'EISDIR', 'pread')
  await fails('/etc/passwd', 'EINVAL', 'pread', -1)
  await fails(`/${'x'.repeat(5000)}`, 'ENAMETOOLONG', 'open')
  await t.rejects(probeRead('/etc/passwd', 0, 2 ** 20 + 1, { timeoutMs }), syscallFailure('EINVAL'))
  await t.rejects(probeRead('/etc/\0passwd', 0, 1, { timeoutMs }), syscallFailure('EINVAL'))
})

t.test('reads say how much they got', async t => {
  const { name } = openFile(t, Buffer.alloc(5000))
  t.strictSame(await probeRead(name, 0, 4096, { timeoutMs }), { bytesRead: 4096 })
  t.strictSame(await probeRead(name, 4096, 4096, { timeoutMs }), { bytesRead: 904 })
  t.strictSame(await probeRead(name, 9000, 4096, { timeoutMs }), { bytesRead: 0 })
  t.strictSame(await probeRead(name, 0, 0, { timeoutMs }), { bytesRead: 0 })
})

t.test('descriptors that are not open, and ranges that cannot be', async t => {
  const { fd } = openFile(t)
  const bad = syscallFailure('EBADF')
  t.throws(() => dropCache(-1), bad)
  t.throws(() => allocateSpace(99_999, 0, 1), bad)
  t.throws(() => punchHole(99_999, 0, 1), bad)
  t.throws(() => seekData(99_999, 0), bad)
  t.throws(() => tryLock(99_999), bad)
  t.throws(() => readResidentPages(99_999, 4096), bad)
  t.throws(() => readResidentPages(fd, 0), syscallFailure('EINVAL'))
  t.throws(() => allocateSpace(fd, 0, 0), syscallFailure('EINVAL'))
  t.throws(() => allocateSpace(fd, -1, 10), syscallFailure('EINVAL'))
  t.throws(() => allocateSpace(fd, 0, 2 ** 52), syscallFailure('EFBIG'), 'above 32 bits is kept')
})

t.test('space, holes and data', async t => {
  const { fd } = openFile(t)
  ftruncateSync(fd, 1 << 20)
  t.equal(seekData(fd, 0), undefined, 'all hole')
  t.equal(seekHole(fd, 0), 0)
  writeSync(fd, Buffer.alloc(65536, 1), 0, 65536, 131072)
  t.equal(seekData(fd, 0), 131072)
  t.equal(seekHole(fd, 131072), 196608)
  t.equal(seekHole(fd, 2 << 20), undefined, 'past the end')
  punchHole(fd, 131072, 32768)
  t.equal(seekData(fd, 0), 163840)
  t.equal(fstatSync(fd).size, 1 << 20, 'the size stays')
  const read = Buffer.alloc(65536)
  readSync(fd, read, 0, 65536, 131072)
  t.ok(read.subarray(0, 32768).equals(Buffer.alloc(32768)), 'zeros in the hole')
  t.ok(read.subarray(32768).equals(Buffer.alloc(32768, 1)), 'data beside it')
  allocateSpace(fd, 0, 2 << 20)
  t.equal(fstatSync(fd).size, 2 << 20)
  t.ok(fstatSync(fd).blocks * 512 >= 2 << 20, 'blocks are there')
})

t.test('offsets above 4 GiB', async t => {
  const { fd } = openFile(t)
  const far = 5 * 2 ** 30
  writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, far)
  t.equal(seekData(fd, 0), far)
  punchHole(fd, far, 4096)
  t.equal(seekData(fd, 0), undefined)
})

t.test('page cache', async t => {
  const { fd, name } = openFile(t, Buffer.alloc(16 * 4096, 1))
  fsyncSync(fd)
  readFileSync(name)
  t.strictSame(readResidentPages(fd, 16 * 4096), Buffer.alloc(16, 1))
  dropCache(fd)
  t.strictSame(readResidentPages(fd, 16 * 4096), Buffer.alloc(16))
  readFileSync(name)
  dropFileCache(name)
  t.strictSame(readResidentPages(fd, 16 * 4096 - 1), Buffer.alloc(16))
  t.throws(() => dropFileCache('/nowhere'), { code: 'ENOENT' })
})

t.test('a lock has one holder', async t => {
  const { fd, name } = openFile(t)
  const other = openSync(name, 'r')
  t.equal(tryLock(fd), true)
  t.equal(tryLock(fd), true, 'the holder again')
  t.equal(tryLock(other), false)
  closeSync(other)
})

t.test('names are swapped', async t => {
  const directory = scratch(t)
  const [a, b] = [path.join(directory, 'a'), path.join(directory, 'b')]
  writeFileSync(a, 'was a')
  t.throws(() => exchangePaths(a, b), syscallFailure('ENOENT'))
  t.notOk(existsSync(b))
  writeFileSync(b, 'was b')
  exchangePaths(a, b)
  t.equal(readFileSync(a, 'utf8'), 'was b')
  t.equal(readFileSync(b, 'utf8'), 'was a')
})

t.test('mount ids are those of mountinfo', async t => {
  t.throws(() => readMountId('/nowhere'), syscallFailure('ENOENT'))
  const ids = new Map(
    readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map(line => line.split(' '))
      .map(fields => [fields[4], Number(fields[0])]),
  )
  t.equal(readMountId('/proc/self'), ids.get('/proc'))
})

t.test('aligned buffers go to a file without the page cache', async t => {
  const { name } = openFile(t)
  for (const size of [1, 4096, 1 << 20]) t.equal(allocateAligned(size).length, size)
  t.equal(statSync(name).size, 0)
  const fd = openSync(name, constants.O_RDWR | constants.O_DIRECT)
  t.teardown(() => closeSync(fd))
  const buffer = allocateAligned(8192).fill('direct')
  t.equal(writeSync(fd, buffer, 0, 8192, 4096), 8192)
  t.equal(writeSync(fd, buffer, 4096, 4096, 0), 4096, 'from an aligned place inside')
  t.throws(
    () => writeSync(fd, buffer, 1, 4096, 0),
    { code: 'EINVAL' },
    'the control: an odd address is refused',
  )
  const read = allocateAligned(4096)
  t.equal(readSync(fd, read, 0, 4096, 8192), 4096)
  t.ok(read.equals(buffer.subarray(4096)))
})
