import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { InstanceInfo } from '../../../src/client/api.js'
import { proveInterception } from '../../../src/supervisor/erofs-mount.js'
import { scratch } from '../../helpers/scratch.js'

/** A daemon that names these holes one after the other; none of them is one, for every read succeeds. */
function daemon(...holes: NonNullable<InstanceInfo['canary']>[]): () => Promise<InstanceInfo> {
  return () => {
    const canary = (holes.length > 1 ? holes.shift() : holes[0]) ?? null
    const mount = { kind: 'file' as const, source: '/image.boot', devices: [] }
    return Promise.resolve({
      id: '1',
      domain_id: 'd',
      metadata_path: '/image.boot',
      driver: 'fanotify',
      mount,
      blobs: [],
      canary,
    })
  }
}

t.test('a hole that can be read is no proof that somebody filled it', async t => {
  const directory = scratch(t)
  writeFileSync(join(directory, 'a'), Buffer.alloc(16384))
  const [first, second] = [0, 4096].map(offset => ({ path: 'a', offset }))
  await t.rejects(proveInterception(daemon(first!), directory), { code: 'CANARY_FAILED' })
  await t.rejects(proveInterception(daemon(first!, second!), directory), { code: 'CANARY_FAILED' })
  await t.rejects(proveInterception(daemon({ path: 'missing', offset: 0 }), directory), {
    code: 'CANARY_FAILED',
  })
})

t.test('an image that was completed meanwhile needs no proof', async t => {
  const directory = scratch(t)
  writeFileSync(join(directory, 'a'), Buffer.alloc(16384))
  let asked = 0
  const describe = daemon({ path: 'a', offset: 0 })
  await proveInterception(
    async () => (asked++ === 0 ? await describe() : { ...(await describe()), canary: null }),
    directory,
  )
  t.equal(asked, 2)
})
