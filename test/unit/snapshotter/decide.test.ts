import t from 'tap'
import { decideBase, decideLayer } from '../../../src/snapshotter/decide.js'
import { LABELS } from '../../../src/snapshotter/labels.js'
import type { Labels } from '../../../src/snapshotter/snapshots.js'
import type { SnapshotRecord } from '../../../src/snapshotter/record.js'

function committed(name: string, labels: Labels): SnapshotRecord {
  const usage = { sizeBytes: 0, inodes: 0 }
  return { id: name, name, parent: '', kind: 'committed', createdNs: 0n, updatedNs: 0n, labels, usage }
}
const plain = committed('plain', {})
const blob = committed('blob', { [LABELS.blob]: 'true' })
const bootstrap = committed('bootstrap', { [LABELS.bootstrap]: 'true' })

t.test('image layers', async t => {
  t.strictSame(decideLayer({ [LABELS.blob]: 'true' }, 'sha256:1'), { row: 'data-blob', target: 'sha256:1' })
  t.strictSame(decideLayer({ [LABELS.bootstrap]: 'false' }, 'x'), { row: 'bootstrap' }, 'presence counts')
  t.strictSame(decideLayer({ [LABELS.bootstrap]: '', [LABELS.blob]: '' }, 'x'), { row: 'bootstrap' })
  t.strictSame(decideLayer({}, 'x'), { row: 'plain-layer' })
})

t.test('what is stood on', async t => {
  t.strictSame(decideBase({}, []), { row: 'native' })
  t.strictSame(decideBase({}, [plain, plain]), { row: 'native' })
  t.strictSame(decideBase({}, [bootstrap, blob]), { row: 'image', bootstrap })
  t.strictSame(decideBase({}, [plain, bootstrap, blob]), { row: 'image', bootstrap }, 'anywhere in the chain')
  t.strictSame(decideBase({ [LABELS.ref]: 'x', [LABELS.bootstrap]: 'true' }, [blob]), { row: 'native' })
  t.strictSame(
    decideBase({ [LABELS.ref]: 'x' }, [bootstrap, blob]),
    { row: 'native' },
    'a layer is unpacked natively',
  )
  t.throws(() => decideBase({}, [blob, plain]), {
    code: 'SNAPSHOT_STATE',
    message: /only can view nydus topmost layer/,
  })
})
