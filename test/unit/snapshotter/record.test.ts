import t from 'tap'
import { isDamaged, parseRecord, toStored } from '../../../src/snapshotter/record.js'

const sound = {
  id: '7',
  name: 'n',
  parent: '',
  kind: 'committed' as const,
  createdNs: 12n,
  updatedNs: 13n,
  labels: { a: 'b' },
  usage: { sizeBytes: 1, inodes: 2 },
}

t.test('what is kept is what was', async t => {
  t.strictSame(parseRecord('snapshot/7', JSON.stringify(toStored(sound))), sound)
})

t.test('records that cannot be used, with what can be read of them', async t => {
  const stored: Record<string, unknown> = { ...toStored(sound) }
  const without = (field: string): object =>
    Object.fromEntries(Object.entries(stored).filter(([key]) => key !== field))
  const samples: [unknown, RegExp][] = [
    [[], /no object/],
    [null, /no object/],
    [without('labels'), /lacks labels$/],
    [{ name: 'n' }, /lacks id, parent, kind, createdNs, updatedNs, labels, usage/],
    [{ ...stored, id: '8' }, /that of directory "8"/],
    [{ ...stored, name: '' }, /no name/],
    [{ ...stored, parent: 4 }, /parent/],
    [{ ...stored, kind: 'frozen' }, /unknown kind "frozen"/],
    [{ ...stored, createdNs: '1.5' }, /time/],
    [{ ...stored, updatedNs: 5 }, /time/],
    [{ ...stored, labels: { a: 1 } }, /labels/],
    [{ ...stored, labels: ['a'] }, /labels/],
    [{ ...stored, usage: { sizeBytes: -1, inodes: 0 } }, /usage/],
    [{ ...stored, version: 2 }, /version 2, of a newer release/],
  ]
  for (const [value, reason] of samples) {
    const parsed = parseRecord('snapshot/7', JSON.stringify(value))
    t.ok(isDamaged(parsed), JSON.stringify(value))
    t.match(parsed, { key: 'snapshot/7', id: '7', reason })
  }
  t.match(parseRecord('snapshot/7', '{"id":'), { name: 'damaged/7', parent: '', reason: /not JSON/ })
  t.match(parseRecord('snapshot/7', '{"name":"x","parent":"p"}'), { name: 'x', parent: 'p' })
  t.match(parseRecord('snapshot/../x', '{}'), { id: '', name: 'damaged/../x' }, 'no path comes of a key')
})
