import t from 'tap'
import { readFileSync, readdirSync } from 'node:fs'
import path from 'node:path'

const root = path.resolve(import.meta.dirname, '../../../..')

t.test('the layer table is that of the linter', t => {
  const document = readFileSync(path.join(root, 'docs/design/architecture.md'), 'utf8')
  const rows = [...document.matchAll(/^\| `(\w+)` *\|[^|]*\| ([a-z, ]*)\|$/gm)]
  const documented = Object.fromEntries(rows.map(([, folder = '', allowed = '']) => [folder, words(allowed)]))
  t.same(Object.keys(documented).sort(), readdirSync(path.join(root, 'src')).sort(), 'one row a folder')

  const linter = readFileSync(path.join(root, 'eslint.config.js'), 'utf8')
  const rules = [...linter.matchAll(/^ {2}(\w+): \[\s*\[([^\]]*)\]/gm)]
  t.ok(rules.length > 10)
  for (const [, folder = '', allowed = ''] of rules) {
    t.same(documented[folder], words(allowed.replaceAll("'", '')), folder)
  }
  t.end()
})

function words(list: string): string[] {
  return list
    .split(',')
    .map(word => word.trim())
    .filter(word => word !== '')
}
