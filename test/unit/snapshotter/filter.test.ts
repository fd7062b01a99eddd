import fc from 'fast-check'
import t from 'tap'
import { isFault } from '../../../src/common/fault.js'
import { parseFilters } from '../../../src/snapshotter/filter.js'
import type { Info } from '../../../src/snapshotter/snapshots.js'

function info(fields: Partial<Info>): Info {
  return { name: '', parent: '', kind: 'active', createdNs: 0n, updatedNs: 0n, labels: {}, ...fields }
}

const layer = info({
  name: 'k8s.io/24/sha256:aa',
  parent: 'sha256:00',
  kind: 'committed',
  labels: { 'containerd.io/snapshot.ref': 'sha256:aa', 'a"b': 'x y', plain: '1', 'a.b': 'dotted' },
})
const container = info({ name: 'k8s.io/31/web', kind: 'active', labels: { plain: '2' } })

t.test('what matches', async t => {
  const yes: string[][] = [
    [],
    [''],
    ['name'],
    ['parent'],
    ['kind==committed'],
    ['kind!=active'],
    ['name==k8s.io/24/sha256:aa'],
    ['name=="k8s.io/24/sha256:aa"'],
    ['labels."containerd.io/snapshot.ref"==sha256:aa,parent=="sha256:00"'],
    ['labels.a.b==dotted'],
    ['labels."a.b"==dotted'],
    ['labels."a\\"b"=="x y"'],
    ['"labels".plain=="\\x31"'],
    ['labels.plain=="\\u0031"'],
    ['labels.plain=="\\061"'],
    ['labels.missing!=x'],
    ['nonsense!=x'],
    ['kind==view', 'labels.plain==1'],
    ['name~=sha256'],
    ['name~=/^k8s.io\\/24\\//'],
    ['name~=|^k8s.io/\\d+/|'],
    ['name~="^k8s"'],
    ['name~=/(?i)SHA256/'],
    ['name~=/(?P<ns>k8s)/'],
  ]
  for (const filters of yes) t.ok(parseFilters(filters)(layer), filters.join(' | '))
  const no: string[][] = [
    ['kind==view'],
    ['kind==committed,labels.plain==2'],
    ['labels.missing'],
    ['labels.missing==x'],
    ['labels'],
    ['labels.constructor'],
    ['name.more'],
    ['nonsense'],
    ['nonsense==x'],
    ['name~=/(/'],
    ['labels.missing~=.'],
    ['name==""'],
  ]
  for (const filters of no) t.notOk(parseFilters(filters)(layer), filters.join(' | '))
  t.ok(parseFilters(['parent==""'])(container), 'an empty parent is there')
  t.notOk(parseFilters(['parent!=""'])(container))
})

t.test('what cannot be parsed', async t => {
  const wrong = [
    ',',
    'name,',
    'name=',
    'name==',
    'name==a b',
    'name==a,,kind==view',
    '.name',
    'labels.',
    'labels..a',
    'name=="a',
    'name~=/a',
    'labels."a',
    'name=="\\q"',
    'name=="\\ud800"',
    'name=="a\nb"',
    'name==a"b',
    'na-me',
    ' name',
  ]
  for (const filter of wrong)
    t.throws(() => parseFilters([filter]), { code: 'SNAPSHOT_INVALID', kind: 'invalid_argument' }, filter)
})

t.test('whatever is written: an answer or SNAPSHOT_INVALID', async () => {
  const word = fc.constantFrom(
    'name',
    'labels',
    '.',
    ',',
    '==',
    '!=',
    '~=',
    '"',
    '/',
    '|',
    '\\',
    'x',
    ' ',
    '\n',
  )
  const text = fc.oneof(
    fc.string(),
    fc.array(word).map(words => words.join('')),
  )
  fc.assert(
    fc.property(fc.array(text, { maxLength: 3 }), filters => {
      try {
        return typeof parseFilters(filters)(layer) === 'boolean'
      } catch (err) {
        return isFault(err, 'SNAPSHOT_INVALID')
      }
    }),
    { numRuns: 2000 },
  )
})

t.test('a quoted value finds exactly its text', async () => {
  const unit = fc
    .integer({ min: 1, max: 0x10ffff })
    .filter(code => code < 0xd800 || code > 0xdfff)
    .map(code => String.fromCodePoint(code))
  fc.assert(
    fc.property(fc.string({ unit }), value => {
      const quoted = `"${[...value].map(char => `\\U${(char.codePointAt(0) ?? 0).toString(16).padStart(8, '0')}`).join('')}"`
      return parseFilters([`labels.k==${quoted}`])(info({ labels: { k: value } }))
    }),
    { numRuns: 100 },
  )
})
