import t from 'tap'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { listRoutes } from '../../../src/daemon/routes.js'

t.test('every route of the daemon is documented, and none besides', t => {
  const file = path.resolve(import.meta.dirname, '../../../../docs/reference/api.md')
  const documented = [...readFileSync(file, 'utf8').matchAll(/^\| `([A-Z]+ \/api[^`?]*)/gm)].map(
    ([, route]) => route,
  )
  t.strictSame(documented.sort(), listRoutes().sort())
  t.end()
})
