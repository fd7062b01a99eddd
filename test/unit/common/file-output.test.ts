import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FileOutput } from '../../../src/common/file-output.js'
import { scratch } from '../../helpers/scratch.js'

t.test('a file is replaced at the end, or not at all', async t => {
  const directory = scratch(t)
  const target = path.join(directory, 'file')
  writeFileSync(target, 'old')
  const failed = await FileOutput.open(target)
  await failed.write(Buffer.from('half'))
  await failed.abort()
  await failed.abort()
  t.same(readdirSync(directory), ['file'])
  t.equal(readFileSync(target, 'utf8'), 'old')
  const output = await FileOutput.open(target)
  await output.write(Buffer.from('ne'))
  await output.write(Buffer.from('w'))
  await output.flush()
  t.equal(readFileSync(target, 'utf8'), 'old')
  await output.finish()
  await output.abort()
  t.equal(readFileSync(target, 'utf8'), 'new')
  t.same(readdirSync(directory), ['file'])
})

t.test('the name of a file may come last', async t => {
  const directory = scratch(t)
  const output = await FileOutput.open(path.join(directory, '.unnamed'))
  await output.write(Buffer.from('data'))
  await output.finish(path.join(directory, 'name'))
  t.same(readdirSync(directory), ['name'])
})

t.test('a device is written to as it comes', async t => {
  const output = await FileOutput.open('/dev/full')
  const expected = { code: 'FILE_UNREADABLE', message: /^\/dev\/full cannot be written: ENOSPC/ }
  await t.rejects(output.write(Buffer.from('data')), expected)
  await output.flush()
  await output.finish()
})

t.test('no place to write to', async t => {
  const directory = scratch(t)
  const expected = { code: 'FILE_UNREADABLE', message: /^no luck: / }
  await t.rejects(FileOutput.open(path.join(directory, 'missing/file'), 'no luck'), expected)
  mkdirSync(path.join(directory, 'a-directory'))
  const output = await FileOutput.open(path.join(directory, 'a-directory'), 'no luck')
  await t.rejects(output.finish(), expected)
  await output.abort()
  t.same(readdirSync(directory), ['a-directory'])
})
