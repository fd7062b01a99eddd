/** Images made by the reference tools, through the kernel. */
import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { fuseMissing, serveFuse } from '../../helpers/fuse-serving.js'
import { fixturesDirectory, rafsImages } from '../../helpers/rafs-fixtures.js'

const run = promisify(execFile)
const fixtures = fixturesDirectory()
const skip = fuseMissing || (fixtures === undefined ? 'no fixtures' : false)

t.test('every form looks like its layers, cold and warm', { skip }, async t => {
  if (fixtures === undefined) return
  const serving = await serveFuse(t)
  await serving.call('start')
  const check = path.join(fixtures, 'check_tree.py')
  const expected = path.join(fixtures, 'torture/expected.jsonl')
  for (const { name, bootstrap, blobs } of [...rafsImages(fixtures, 'v6'), ...rafsImages(fixtures, 'v5')]) {
    const cache = path.join(serving.directory, 'cache', name)
    const image = { path: `/images/${name}`, bootstrap, blobs, cache }
    await serving.call('show', image)
    const tree = path.join(serving.mountpoint, image.path)
    for (const round of ['cold', 'warm']) {
      const { stdout } = await run('python3', [check, tree, expected])
      t.match(stdout, / 0 differences/, `${name} ${round}`)
    }
    const { hits, errors } = await serving.call('stats', image.path)
    t.ok((hits[4] ?? 0) > 0, 'reads are counted')
    t.equal(errors[4], 0, 'no read failed')
  }
})
