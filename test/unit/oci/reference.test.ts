import fc from 'fast-check'
import t from 'tap'
import {
  credentialKey,
  formatReference,
  manifestSelector,
  parseReference,
  registryHost,
} from '../../../src/oci/reference.js'
import { Fault } from '../../../src/common/fault.js'

const DIGEST = `sha256:${'a'.repeat(64)}`

t.test('references and what they stand for', async t => {
  const cases: [string, string][] = [
    ['alpine', 'docker.io/library/alpine:latest'],
    ['alpine:3', 'docker.io/library/alpine:3'],
    ['user/app', 'docker.io/user/app:latest'],
    ['docker.io/alpine', 'docker.io/library/alpine:latest'],
    ['index.docker.io/alpine', 'docker.io/library/alpine:latest'],
    ['docker.io/library/alpine', 'docker.io/library/alpine:latest'],
    ['127.0.0.1:5000/app:nydus', '127.0.0.1:5000/app:nydus'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/a/b/c', 'localhost:5000/a/b/c:latest'],
    ['[::1]:5000/app', '[::1]:5000/app:latest'],
    ['ghcr.io/o/a__b-c--d.e:V1.0_x', 'ghcr.io/o/a__b-c--d.e:V1.0_x'],
    ['Host/app', 'Host/app:latest'],
    [`app@${DIGEST}`, `docker.io/library/app@${DIGEST}`],
    [`r.io/app:v1@${DIGEST}`, `r.io/app:v1@${DIGEST}`],
  ]
  for (const [text, full] of cases) t.equal(formatReference(parseReference(text)), full, text)
  t.equal(manifestSelector(parseReference(`r.io/app:v1@${DIGEST}`)), DIGEST)
  t.equal(manifestSelector(parseReference('r.io/app:v1')), 'v1')
})

t.test('what is no reference', async t => {
  const cases = [
    '',
    '/',
    ':',
    '@',
    'App',
    'r.io/App',
    'r.io/',
    'r.io',
    'a//b',
    'a/',
    '/a',
    'a:',
    'a:-x',
    'a b',
  ]
  cases.push(
    'a@sha256:1',
    `a@sha512:${'a'.repeat(128)}`,
    `a@${DIGEST}x`,
    'a:b:c',
    'http://r.io/a',
    'r.io:99999/a',
  )
  cases.push(
    'r.io:/a',
    '-r.io/a',
    'a/../b',
    'a..b',
    '../a',
    `a:${'x'.repeat(129)}`,
    'x'.repeat(300),
    '..:5/a',
  )
  // `r.io` alone is the official image of that name, as for docker.
  for (const text of cases.filter(c => c !== 'r.io'))
    t.throws(() => parseReference(text), { code: 'REFERENCE_INVALID' }, JSON.stringify(text))
  t.throws(() => parseReference('x'.repeat(1 << 20)), { code: 'REFERENCE_INVALID' })
})

t.test('hosts and keys', async t => {
  t.equal(registryHost('docker.io'), 'registry-1.docker.io')
  t.equal(registryHost('r.io:5000'), 'r.io:5000')
  for (const host of ['docker.io', 'index.docker.io', 'registry-1.docker.io'])
    t.equal(credentialKey(host), 'https://index.docker.io/v1/')
  t.equal(credentialKey('r.io:5000'), 'r.io:5000')
})

t.test('any text is a reference that survives printing, or a fault', async () => {
  const word = fc.string({ unit: fc.constantFrom(...'ab0./:@-_[]A\u0000é '.split('')), maxLength: 40 })
  const parts = fc.array(
    fc.constantFrom('a', 'b.c', 'r.io:5000', '[::1]', '/', ':', '@', DIGEST, 'latest', '__'),
  )
  fc.assert(
    fc.property(
      fc.oneof(
        word,
        fc.string(),
        parts.map(list => list.join('')),
      ),
      text => {
        let reference
        try {
          reference = parseReference(text)
        } catch (err) {
          if (err instanceof Fault && err.code === 'REFERENCE_INVALID') return
          throw err
        }
        const full = formatReference(reference)
        if (formatReference(parseReference(full)) !== full) throw new Error(`${text} → ${full}`)
        // Nothing of it may leave its place in a URL.
        if (/[\s?#%\\]|\.\.\//.test(full)) throw new Error(full)
      },
    ),
    { numRuns: 3000 },
  )
})
