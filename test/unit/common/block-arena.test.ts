import t from 'tap'
import { ARENA_BLOCK, ARENA_STAY, ArenaFile } from '../../../src/common/block-arena.js'

const BLOCKS = 8192

/** A file whose every block is full of its own number. */
function numberedFile(): ArenaFile {
  return new ArenaFile(BLOCKS * ARENA_BLOCK, (into, at, length, position) => {
    const words = new Uint32Array(into.buffer, into.byteOffset + at, length / 4)
    words.fill(position / ARENA_BLOCK)
  })
}

function numberAt(bytes: Uint8Array): number {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, 1)[0] ?? -1
}

t.test('a block stays while as many others are looked at as is promised, whatever was before', async t => {
  const file = numberedFile()
  const look = (block: number): Uint8Array => file.read(block * ARENA_BLOCK, 4)
  let wrong = 0
  // Every slot is looked at again and again before and between: a hand that spares each once would be led round.
  for (let round = 0; round < 40; round++) {
    for (let again = 0; again < 2; again++) for (let block = 0; block < 2048; block++) look(block)
    const held = look((round * 97) % 2048)
    for (let other = 0; other < ARENA_STAY - 1; other++)
      look(2048 + ((round * 1031 + other) % (BLOCKS - 2048)))
    if (numberAt(held) !== (round * 97) % 2048) wrong++
  }
  t.equal(wrong, 0)
})

t.test('files do not see blocks of each other, and a range over two blocks is put together', async t => {
  const [a, b] = [numberedFile(), numberedFile()]
  t.equal(numberAt(a.read(5 * ARENA_BLOCK, 4)), 5)
  t.equal(numberAt(b.read(6 * ARENA_BLOCK, 4)), 6)
  const across = Uint8Array.from(a.read(8 * ARENA_BLOCK - 4, 8))
  t.strictSame([...new Uint32Array(across.buffer)], [7, 8])
})

t.test('a block that could not be read is read again', async t => {
  let broken = true
  const file = new ArenaFile(ARENA_BLOCK, (into, at, length) => {
    if (broken) throw new Error('EIO')
    into.fill(9, at, at + length)
  })
  t.throws(() => file.read(0, 1), /EIO/)
  broken = false
  t.equal(file.read(0, 1)[0], 9)
})
