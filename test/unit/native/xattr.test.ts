import { execFileSync } from 'node:child_process'
import { symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { readXattrs } from '../../../src/native/xattr.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'

const SET = `
import os, sys
for path, name, value in zip(*[iter(sys.argv[1:])] * 3):
    os.setxattr(path, name, bytes.fromhex(value), follow_symlinks=False)
`
const set = (...attributes: string[]): void => void execFileSync('python3', ['-c', SET, ...attributes])

t.test('names and values as they are on disk', t => {
  const directory = scratch(t)
  const file = path.join(directory, 'file')
  const link = path.join(directory, 'link')
  writeFileSync(file, 'x')
  symlinkSync('nowhere', link)
  t.same([...readXattrs(Buffer.from(file))], [])
  set(file, 'user.plain', '00ff61', file, 'user.empty', '', link, 'trusted.of-link', '01')
  const found = readXattrs(Buffer.from(file))
  t.same(
    [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => [name, [...value]]),
    [
      ['user.empty', []],
      ['user.plain', [0, 255, 97]],
    ],
  )
  t.same([...readXattrs(Buffer.from(link)).keys()], ['trusted.of-link'], 'a symbolic link has its own')
  t.end()
})

t.test('a name that is not UTF-8, a file system without attributes, no file', t => {
  const directory = Buffer.from(scratch(t))
  const odd = Buffer.concat([directory, Buffer.from([0x2f, 0xff, 0xfe])])
  writeFileSync(odd, '')
  t.same([...readXattrs(odd)], [])
  t.same([...readXattrs(Buffer.from('/proc/self/status'))], [])
  t.throws(() => readXattrs(Buffer.from('/nonexistent')), syscallFailure('ENOENT'))
  t.end()
})
