import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FileSource } from '../../../src/common/byte-source.js'

const SIZE = 5 * 2 ** 20 + 777
const bytes = randomBytes(SIZE)
const file = path.join(t.testdir(), 'file')
writeFileSync(file, bytes)

/** Ranges in any order, of any size, over more blocks than are kept. */
function compare(source: FileSource): number {
  let differing = 0
  for (let i = 0; i < 20_000; i++) {
    const length = i % 50 === 0 ? 200_000 : i % 200
    const offset = (i * 7_368_787) % (SIZE - length)
    if (Buffer.compare(source.read(offset, length), bytes.subarray(offset, offset + length)) !== 0)
      differing++
  }
  return differing
}

t.test('a file by its path', async t => {
  const source = new FileSource(file)
  t.equal(source.sizeBytes, SIZE)
  t.equal(compare(source), 0)
  t.throws(() => source.read(SIZE - 1, 2), { code: 'RAFS_TRUNCATED' })
  const own = Buffer.alloc(100_000)
  source.readInto(own, 65_000)
  t.ok(own.equals(bytes.subarray(65_000, 165_000)))
  t.throws(() => source.readInto(own, SIZE - 99_999), { code: 'RAFS_TRUNCATED' })
  source.close()
  t.throws(() => source.readInto(own, 0), { code: 'CANCELLED' })
  t.throws(() => new FileSource(`${file}-not`), { code: 'FILE_MISSING' })
  t.throws(() => new FileSource(path.dirname(file)), { code: 'FILE_UNREADABLE' })
})

t.test('a descriptor stays the caller’s', async t => {
  const fd = openSync(file, 'r')
  t.teardown(() => closeSync(fd))
  const source = new FileSource(fd)
  t.equal(compare(source), 0)
  t.throws(() => source.read(SIZE, 1), { code: 'RAFS_TRUNCATED' })
  source.close()
  t.equal(readSync(fd, Buffer.alloc(10), 0, 10, 0), 10, 'it is open still')
  const directory = openSync(path.dirname(file), 'r')
  t.throws(() => new FileSource(directory), { code: 'FILE_UNREADABLE' })
  closeSync(directory)
})
