import t from 'tap'
import {
  configChecker,
  filledText,
  flag,
  list,
  nearest,
  optional,
  pattern,
  table,
  text,
  wholeNumber,
  word,
} from '../../../src/common/config-check.js'

t.test('all problems are told at once, and unknown keys with a suggestion', async t => {
  const check = configChecker<{ host: string; retry_limit?: number }>({
    host: filledText,
    retry_limit: optional(wholeNumber(0, 255)),
    proxy: { type: 'object', optional: true, props: { url: optional(text) } },
    mirrors: optional(list({ type: 'object', props: { host: text } })),
  })
  const given = { host: 'a', retry_limit: 1, proxy: null }
  t.same(check(given, 'x'), { host: 'a', retry_limit: 1 }, 'null is as missing')
  t.same(given, { host: 'a', retry_limit: 1, proxy: null }, 'the caller keeps what is his')
  const wrong = {
    retry_limits: 1,
    retry_limit: -1,
    zzzz: 's3cret',
    proxy: { url: true, ulr: 's3cret' },
    mirrors: [{ host: 'a' }, { hots: 'b' }],
    ['__proto__\n']: 's3cret',
  }
  const failure = t.throws(() => check(wrong, 'backend.registry'), { code: 'CONFIG_INVALID' }) as Error
  t.same(failure.message.split('; ').sort(), [
    'backend.registry."__proto__\\n": unknown key, known keys are host, retry_limit, proxy, mirrors',
    'backend.registry.host: the key is missing',
    'backend.registry.mirrors[1].host: the key is missing',
    'backend.registry.mirrors[1].hots: unknown key, did you mean "host"?',
    'backend.registry.proxy.ulr: unknown key, did you mean "url"?',
    'backend.registry.proxy.url: text is wanted',
    'backend.registry.retry_limit: 0 to 255 is wanted, not -1',
    'backend.registry.retry_limits: unknown key, did you mean "retry_limit"?',
    'backend.registry.zzzz: unknown key, known keys are host, retry_limit, proxy, mirrors',
  ])
  for (const value of [null, [], 'x', 1]) t.throws(() => check(value, 'x'), { code: 'CONFIG_INVALID' })
  t.throws(() => check(JSON.parse('{"host":"a","__proto__":{"x":1}}'), ''), {
    message: /^__proto__: unknown key/,
  })
})

t.test('every rule says what is wanted', async t => {
  const check = configChecker({
    a: optional(text),
    b: optional(filledText),
    c: optional(flag),
    d: optional(table),
    e: optional(wholeNumber(1, 2)),
    f: optional(word('x', 'y', '')),
    g: optional(list(text)),
    h: optional(pattern(/^x$/, 'an x')),
  })
  for (const [value, message] of [
    [{ a: 1 }, 'a: text is wanted'],
    [{ b: '' }, 'b: it must not be empty'],
    [{ c: 's3cret' }, 'c: true or false is wanted'],
    [{ d: 's3cret' }, 'd: a table is wanted'],
    [{ e: 's3cret' }, 'e: 1 to 2 is wanted'],
    [{ e: 3 }, 'e: 1 to 2 is wanted, not 3'],
    [{ e: 1.5 }, 'e: 1 to 2 is wanted, not 1.5'],
    [{ f: 's3cret' }, 'f: x or y is wanted'],
    [{ g: 's3cret' }, 'g: a list is wanted'],
    [{ g: [1] }, 'g[0]: text is wanted'],
    [{ h: 's3cret' }, 'h: an x is wanted'],
  ] as const)
    t.throws(() => check(value, ''), { message }, message)
})

t.test('the nearest word', async t => {
  const known = ['registry', 'localfs', 'oss', 's3']
  t.equal(nearest('registri', known), 'registry')
  t.equal(nearest('LocalFS', known), 'localfs')
  t.equal(nearest('os', known), 'oss')
  t.equal(nearest('completely', known), undefined)
  t.equal(nearest('x'.repeat(1000), known), undefined)
})
