import t from 'tap'
import { configChecker, nearest } from '../../../src/common/config-check.js'

t.test('all problems are told at once, and unknown keys with a suggestion', async t => {
  const check = configChecker<{ host: string; retry_limit?: number }>({
    host: { type: 'string', empty: false },
    retry_limit: { type: 'number', integer: true, min: 0, optional: true },
  })
  t.same(check({ host: 'a', retry_limit: 1 }, 'x'), { host: 'a', retry_limit: 1 })
  const failure = t.throws(
    () => check({ retry_limits: 1, retry_limit: -1, zzzz: 's3cret' }, 'backend.registry'),
    {
      code: 'CONFIG_INVALID',
    },
  ) as Error
  t.match(failure.message, /^backend.registry: /)
  t.match(failure.message, /unknown key "retry_limits", did you mean "retry_limit"\?/)
  t.match(failure.message, /unknown key "zzzz", known keys are host, retry_limit/)
  t.match(failure.message, /'retry_limit' field must be greater than or equal to 0/)
  t.match(failure.message, /'host' field is required/)
  t.notMatch(failure.message, /s3cret/)
  for (const value of [null, [], 'x', 1]) t.throws(() => check(value, 'x'), { code: 'CONFIG_INVALID' })
})

t.test('the nearest word', async t => {
  const known = ['registry', 'localfs', 'oss', 's3']
  t.equal(nearest('registri', known), 'registry')
  t.equal(nearest('LocalFS', known), 'localfs')
  t.equal(nearest('os', known), 'oss')
  t.equal(nearest('completely', known), undefined)
  t.equal(nearest('x'.repeat(1000), known), undefined)
})
