import t from 'tap'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { listRoutes } from '../../../src/daemon/routes.js'
import { listSystemRoutes } from '../../../src/snapshotter/system-routes.js'

function documentedRoutes(name: string): (string | undefined)[] {
  const file = path.resolve(import.meta.dirname, '../../../../docs/reference', name)
  return [...readFileSync(file, 'utf8').matchAll(/^\| `([A-Z]+ \/api[^`?]*)/gm)].map(([, route]) => route)
}

t.test('every route of the daemon is documented, and none besides', t => {
  t.strictSame(documentedRoutes('api.md').sort(), listRoutes().sort())
  t.end()
})

t.test('every route of the system controller is documented, and none besides', t => {
  t.strictSame(documentedRoutes('system-api.md').sort(), listSystemRoutes().sort())
  t.end()
})
