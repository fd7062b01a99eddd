import t from 'tap'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { CODES, KINDS } from '../../../src/common/fault.js'

const text = readFileSync(path.resolve(import.meta.dirname, '../../../../docs/reference/errors.md'), 'utf8')
/** Rows of all tables whose first cell is code in backquotes. */
const rows = text
  .split('\n')
  .filter(line => line.startsWith('| `'))
  .map(line => line.split('|').map(cell => cell.trim().replaceAll('`', '')))

t.test('the table of kinds is that of the code', t => {
  const documented = rows
    .filter(([, name = '']) => name in KINDS)
    .map(([, name = '', exit, grpc = '', http, errno]) => [
      name,
      { grpc: parseInt(grpc), http: Number(http), errno, exit: Number(exit) },
    ])
  t.strictSame(Object.fromEntries(documented), KINDS)
  t.end()
})

t.test('every code is documented once, with its kind and a sentence', t => {
  const documented = rows.filter(([, name = '']) => !(name in KINDS))
  t.strictSame(Object.fromEntries(documented.map(([, code = '', kind]) => [code, kind])), CODES)
  t.equal(documented.length, Object.keys(CODES).length, 'none twice')
  t.same(
    documented.filter(([, , , sentence = '']) => sentence.length < 20).map(([, code]) => code),
    [],
  )
  t.end()
})
