import t from 'tap'
import { addressOf, openForeignLibrary } from '../../../src/native/foreign.js'

t.throws(() => openForeignLibrary('/nowhere/lib.so'), 'a library that does not exist')

const bind = openForeignLibrary('libc.so.6')
t.throws(() => bind('no_such_function', 'int32', []), 'a symbol that does not exist')

t.test('arguments that do not fit their type', async t => {
  const abs = bind('abs', 'int32', ['int32'])
  for (const wrong of [2 ** 31, Number.NaN, 1.5, Infinity])
    t.throws(() => abs(wrong), RangeError, String(wrong))
  t.throws(() => bind('labs', 'int64', ['int64'])(0.5), RangeError)
  t.throws(() => bind('htonl', 'int32', ['uint32'])(-1), RangeError)
  t.equal(abs(-5), 5, 'and works after them')
})

t.test('every type goes in and comes out', async t => {
  t.equal(bind('abs', 'int32', ['int32'])(-(2 ** 31) + 1), 2 ** 31 - 1)
  t.equal(bind('labs', 'int64', ['int64'])(-(2 ** 52)), 2 ** 52)
  t.equal(bind('htonl', 'int32', ['uint32'])(0xff00_0000), 0xff)
  t.equal(bind('strlen', 'int64', ['pointer'])(Buffer.from('seven..\0')), 7)
  t.equal(bind('time', 'int64', ['pointer'])(null) > 1.7e9, true, 'null')
  const memory = Buffer.alloc(8)
  bind('memset', 'int64', ['pointer', 'int32', 'uint64'])(memory, 0x41, 3)
  t.equal(memory.toString(), 'AAA\0\0\0\0\0', 'what C writes is seen')
})

t.test('functions do not share their memory', async t => {
  const [a, b] = [bind('abs', 'int32', ['int32']), bind('abs', 'int32', ['int32'])]
  t.strictSame([a(-1), b(-2), a(-3), b(-4)], [1, 2, 3, 4])
})

t.test('buffers in calls survive a busy collector', async t => {
  const strlen = bind('strlen', 'int64', ['pointer'])
  let sum = 0
  for (let i = 0; i < 20_000; i++) {
    const text = Buffer.alloc(101, 'x')
    text[100] = 0
    sum += strlen(text)
  }
  t.equal(sum, 2_000_000)
})

t.test('addresses', async t => {
  const buffer = Buffer.alloc(100)
  t.equal(addressOf(buffer.subarray(10)) - addressOf(buffer), 10n)
})
