import fc from 'fast-check'
import t from 'tap'
import { type Challenge, parseChallenges } from '../../../src/oci/challenge.js'

const plain = (challenges: Challenge[]): unknown =>
  challenges.map(c => [c.scheme, Object.fromEntries(c.parameters)])

t.test('challenges as registries send them', async t => {
  const cases: [string, unknown][] = [
    ['Basic realm="Registry Realm"', [['basic', { realm: 'Registry Realm' }]]],
    [
      'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
      [
        [
          'bearer',
          {
            realm: 'https://auth.docker.io/token',
            service: 'registry.docker.io',
            scope: 'repository:a/b:pull,push',
          },
        ],
      ],
    ],
    [
      'BEARER Realm=https://r.io/token , Service=r',
      [['bearer', { realm: 'https://r.io/token', service: 'r' }]],
    ],
    [
      'Negotiate abc==, Basic realm="x"',
      [
        ['negotiate', {}],
        ['basic', { realm: 'x' }],
      ],
    ],
    [
      'Negotiate, Bearer realm="a"',
      [
        ['negotiate', {}],
        ['bearer', { realm: 'a' }],
      ],
    ],
    [
      'Basic realm="x", Bearer realm="y",service="z"',
      [
        ['basic', { realm: 'x' }],
        ['bearer', { realm: 'y', service: 'z' }],
      ],
    ],
    ['Basic realm="a \\"quoted\\" word, and comma"', [['basic', { realm: 'a "quoted" word, and comma' }]]],
    ['Bearer realm="a",realm="b"', [['bearer', { realm: 'a' }]]],
    ['Basic', [['basic', {}]]],
    ['Basic realm=""', [['basic', { realm: '' }]]],
    ['  , ,', []],
    ['', []],
    ['"', []],
    ['Basic realm="unended', [['basic', {}]]],
    ['x'.repeat(9000), []],
  ]
  for (const [header, expected] of cases)
    t.same(plain(parseChallenges(header)), expected, header.slice(0, 60))
})

t.test('no text makes it throw or hang', async t => {
  const unit = fc.constantFrom(...'ab"\\=, \t:/'.split(''), 'Bearer ', 'realm=', '\u0000', 'é')
  const began = performance.now()
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.string({ unit, maxLength: 200 })), text => {
      for (const challenge of parseChallenges(text)) if (challenge.scheme === '') throw new Error(text)
    }),
    { numRuns: 3000 },
  )
  for (const evil of ['\\', '"', 'a=', 'a ', ',', 'a="\\'])
    parseChallenges(`Bearer realm="${evil.repeat(4000)}`.slice(0, 8192))
  t.ok(performance.now() - began < 20_000)
})

t.test('what is quoted comes back', async t => {
  const name = fc.stringMatching(/^[a-z]{1,8}$/)
  fc.assert(
    fc.property(
      fc.dictionary(name, fc.string({ maxLength: 30 }), { minKeys: 1, maxKeys: 5, noNullPrototype: true }),
      values => {
        const quoted = Object.entries(values).map(([k, v]) => `${k}="${v.replace(/["\\]/g, '\\$&')}"`)
        const [challenge] = parseChallenges(`Bearer ${quoted.join(', ')}`)
        for (const [k, v] of Object.entries(values))
          if (challenge?.parameters.get(k) !== v) throw new Error(`${k}: ${challenge?.parameters.get(k)}`)
      },
    ),
  )
  t.pass()
})
