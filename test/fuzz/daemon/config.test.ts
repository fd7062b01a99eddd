import fc from 'fast-check'
import t from 'tap'
import { redactConfig } from '../../../src/daemon/config-echo.js'
import { parseDaemonConfig } from '../../../src/daemon/config.js'
import { fuzzRuns } from '../../helpers/fuzz.js'

const prefetch = { enable: true, threads: 4, batch_size: 65536, bandwidth_limit: 9, prefetch_all: true }
const proxy = { url: 'http://p', fallback: true, check_interval: 5 }
const registry = { host: 'r', repo: 'a', auth: 'dTpw', proxy, mirrors: [{ host: 'm', headers: { a: 'b' } }] }
const documents = [
  {
    version: 2,
    id: 'one',
    backend: { type: 'registry', registry },
    external_backends: [{ type: 'x', config: {} }],
    cache: { type: 'blobcache', filecache: { work_dir: '/c' }, prefetch },
    rafs: { mode: 'direct', prefetch },
    overlay: { upper_dir: '/u', work_dir: '/w' },
  },
  {
    device: {
      id: 'one',
      backend: { type: 'registry', config: registry },
      cache: { type: 'fscache', config: { work_dir: '/c' } },
    },
    mode: 'direct',
    fs_prefetch: { enable: true, threads_count: 4 },
  },
  { device_config: { backend: { type: 'localfs', config: { dir: '/b' } }, cache: {} } },
]

/** Every place of a document, as the keys on the way. */
function places(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [path]
  return [path, ...Object.entries(value).flatMap(([key, inner]) => places(inner, [...path, key]))]
}

function put(document: unknown, [key, ...rest]: readonly string[], value: unknown): unknown {
  if (key === undefined) return value
  if (typeof document !== 'object' || document === null) return document
  const copy = (Array.isArray(document) ? [...(document as unknown[])] : { ...document }) as Record<
    string,
    unknown
  >
  copy[key] = put(copy[key], rest, value)
  return copy
}

const limits = { runs: 2000, maxBytes: 2 ** 20 }
const read = (text: string): void => void redactConfig(parseDaemonConfig(text))

for (const document of documents) {
  t.test(`${Object.keys(document)[0] ?? ''}: any value in any place is taken or refused`, async t => {
    const change = fc.record({
      place: fc.constantFrom(...places(document)),
      value: fc.jsonValue({ maxDepth: 2 }),
    })
    const changes = fc.array(change, { minLength: 1, maxLength: 3 })
    const changed = changes.map(list =>
      list.reduce<unknown>((d, { place, value }) => put(d, place, value), document),
    )
    fuzzRuns(
      t,
      changed.map(value => JSON.stringify(value)),
      read,
      limits,
    )
  })
}

t.test('any text', async t => {
  const text = fc.oneof(
    fc.string(),
    fc.json(),
    fc.string().map(text => `{${text}`),
    fc.string().map(text => `a = ${text}`),
  )
  fuzzRuns(t, text, read, limits)
})
