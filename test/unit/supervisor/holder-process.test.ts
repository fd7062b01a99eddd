import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { identify } from '../../../src/supervisor/daemon-process.js'
import { parseHolderTable, readHolderTable } from '../../../src/supervisor/holder-process.js'
import { scratch } from '../../helpers/scratch.js'

const HEAD = 'nydus-holder 1 12 345\n'

t.test('a table', async t => {
  const table = parseHolderTable(`${HEAD}7 shared/fanotify.group\n8 shared/fill.a b\n`)
  t.same(table?.process, { pid: 12, startTicks: '345' })
  t.strictSame(table?.held, new Map([['shared/fanotify.group', 7], ['shared/fill.a b', 8]])) // prettier-ignore
  t.equal(parseHolderTable(HEAD)?.held.size, 0)
})

t.test('what is no table', async t => {
  for (const [why, text] of Object.entries({
    empty: '',
    'another version': 'nydus-holder 2 12 345\n7 a\n',
    'another program': 'something 1 12 345\n',
    'cut short in a line': `${HEAD}7 shared/fano`,
    'no number': `${HEAD}x a\n`,
    'no name': `${HEAD}7 \n`,
    'a name of control characters': `${HEAD}7 a\u001bb\n`,
    'an empty line': `${HEAD}\n7 a\n`,
    'of endless length': `${HEAD}${'7 a\n'.repeat(3 << 20)}`,
  }))
    t.equal(parseHolderTable(text), undefined, why)
})

t.test('only that of a process which runs is one', async t => {
  const socket = path.join(scratch(t), 'holder.sock')
  t.equal(readHolderTable(socket), undefined, 'there is none')
  const own = identify(process.pid)
  writeFileSync(`${socket}.table`, `nydus-holder 1 ${process.pid} ${own?.startTicks}\n7 a\n`)
  t.equal(readHolderTable(socket)?.held.get('a'), 7)
  writeFileSync(`${socket}.table`, `nydus-holder 1 ${process.pid} 1\n7 a\n`)
  t.equal(readHolderTable(socket), undefined, 'another process has the pid by now')
})
