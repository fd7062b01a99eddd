import { mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { findMount } from '../../../src/native/mount-table.js'
import { type Outcome, runProgram, setprivMissing } from '../../helpers/command-line.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'

const SECRET = 'c2VjcmV0IHBhc3N3b3Jk'
const runtime = [`extraoption=${SECRET}`, `io.katacontainers.volume=${SECRET}`]
const run = (target: string, options: string[]): Promise<Outcome> =>
  runProgram(t, 'nydus-overlayfs', ['overlay', target, '-o', options.join(',')])

t.test('any other arguments than the four are refused', async t => {
  for (const args of [
    [],
    ['overlay', '/t', '-o'],
    ['overlay', '/t', '-o', 'lowerdir=/a', 'more'],
    ['overlayfs', '/t', '-o', 'lowerdir=/a'],
    ['overlay', '/t', '--options', 'lowerdir=/a'],
    ['overlay', '/t', '-o', [...runtime, 'ro'].join(',')],
  ]) {
    const { code, stderr } = await runProgram(t, 'nydus-overlayfs', args)
    t.equal(code, 2, args.join(' '))
    t.match(stderr, /^nydus-overlayfs: .*\(USAGE\)\n$/)
    t.notMatch(stderr, SECRET)
  }
})

t.test('nobody else may mount', { skip: setprivMissing }, async t => {
  const args = ['overlay', scratch(t), '-o', 'lowerdir=/a:/b']
  t.match(await runProgram(t, 'nydus-overlayfs', args, { nobody: true }), { code: 4, stderr: /NOT_ROOT/ })
})

t.test('what is for runtimes is taken off, the rest is mounted', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const at = (name: string): string => path.join(directory, name)
  for (const name of ['lower', 'upper', 'work', 'target']) mkdirSync(at(name))
  writeFileSync(at('lower/below'), 'b')
  const overlay = [`workdir=${at('work')}`, `upperdir=${at('upper')}`, `lowerdir=${at('lower')}`]
  t.match(await run(at('target'), [...overlay, 'nodev', 'dev', 'noexec', ...runtime]), {
    code: 0,
    stderr: '',
  })
  writeFileSync(at('target/above'), 'a')
  t.strictSame(readdirSync(at('target')).sort(), ['above', 'below'])
  t.strictSame(readdirSync(at('upper')), ['above'])
  t.match(findMount(at('target')), { fsType: 'overlay', source: 'overlay' })
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find(text => text.includes(` ${at('target')} `))
  t.match(line, /[ ,]noexec[ ,]/)
  t.notMatch(line, /[ ,]nodev[ ,]/)

  const failed = await run(at('target'), [`lowerdir=${at('nowhere')}:${at('lower')}`, ...runtime])
  t.equal(failed.code, 1)
  t.match(failed.stderr, /ENOENT/)
  t.notMatch(failed.stderr, SECRET, 'a failure shows no credential')
})

t.test('more layers than one page of options has room for', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const names = Array.from({ length: 120 }, (_, index) => `snapshots/${index + 1000}`)
  const lowers = names.map(name => path.join(directory, name, 'fs'))
  lowers.forEach((lower, index) => {
    mkdirSync(lower, { recursive: true })
    writeFileSync(path.join(lower, `file-${index}`), '')
  })
  const target = path.join(directory, 'target')
  mkdirSync(target)
  const option = `lowerdir=${lowers.join(':')}`
  t.ok(option.length > 4096)
  t.match(await run(target, [option, 'ro', ...runtime]), { code: 0, stderr: '' })
  t.equal(readdirSync(target).length, names.length)
  t.throws(() => writeFileSync(path.join(target, 'new'), ''), { code: 'EROFS' })
  t.ok(statSync(target).isDirectory())
})
