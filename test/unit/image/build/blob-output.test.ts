import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { openBlobDirectory, openBlobFile } from '../../../../src/image/build/blob-output.js'
import { scratch } from '../../../helpers/scratch.js'

t.test('a file is replaced', async t => {
  const directory = scratch(t)
  const target = path.join(directory, 'blob')
  writeFileSync(target, 'old')
  const output = await openBlobFile(target)
  await output.write(Buffer.from('new'))
  t.equal(await output.finish('id'), target)
  t.equal(readFileSync(target, 'utf8'), 'new')
  t.same(readdirSync(directory), ['blob'])
})

t.test('in a directory a blob has its id as name', async t => {
  const directory = scratch(t)
  const output = await openBlobDirectory(directory)
  await output.write(Buffer.from('data'))
  t.equal(await output.finish('abc'), path.join(directory, 'abc'))
  await output.abort()
  t.same(readdirSync(directory), ['abc'])
  const failed = await openBlobDirectory(directory)
  await failed.write(Buffer.from('half'))
  await failed.abort()
  t.same(readdirSync(directory), ['abc'])
})

t.test('a device is written to as it comes', async t => {
  const output = await openBlobFile('/dev/null')
  await output.write(Buffer.from('data'))
  t.equal(await output.finish('id'), '/dev/null')
})

t.test('no place to write to', async t => {
  const directory = scratch(t)
  const expected = { code: 'FILE_UNREADABLE', message: /the blob cannot be written to/ }
  await t.rejects(openBlobDirectory(path.join(directory, 'missing')), expected)
  await t.rejects(openBlobFile(path.join(directory, 'missing/blob')), expected)
})
