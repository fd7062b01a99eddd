import t from 'tap'
import { redactConfig } from '../../../src/daemon/config-echo.js'
import { cacheDirectory, parseDaemonConfig, requireMountConfig } from '../../../src/daemon/config.js'

const PREFETCH = { enable: true, threads: 4, batch_size: 65536, bandwidth_limit: 9, prefetch_all: true }
const REGISTRY = { host: 'r.example:5000', repo: 'a/b', auth: 'dTpw', retry_limit: 2, scheme: 'http' }

const version2 = {
  version: 2,
  id: 'one',
  backend: { type: 'registry', registry: REGISTRY },
  cache: { type: 'blobcache', validate: true, filecache: { work_dir: '/cache' }, prefetch: PREFETCH },
  rafs: { mode: 'direct', enable_xattr: true, iostats_files: true, prefetch: PREFETCH },
}
const normalised = {
  version: 2,
  id: 'one',
  external_backends: [],
  backend: { type: 'registry', registry: REGISTRY },
  cache: {
    type: 'blobcache',
    compressed: false,
    validate: true,
    prefetch: { ...PREFETCH, stream_prefetch: false },
    filecache: {
      work_dir: '/cache',
      disable_indexed_map: false,
      enable_encryption: false,
      enable_convergent_encryption: false,
      encryption_key: '',
    },
  },
  rafs: {
    mode: 'direct',
    batch_size: 1048576,
    validate: false,
    enable_xattr: true,
    iostats_files: true,
    access_pattern: false,
    latest_read_files: false,
    prefetch: { ...PREFETCH, stream_prefetch: false },
  },
}

const version1 = {
  device: {
    id: 'one',
    backend: { type: 'registry', config: REGISTRY },
    cache: { type: 'blobcache', validate: true, config: { work_dir: '/cache' } },
  },
  mode: 'direct',
  enable_xattr: true,
  iostats_files: true,
  fs_prefetch: { enable: true, threads_count: 4, merging_size: 65536, bandwidth_rate: 9 },
}

const parse = (document: unknown) => parseDaemonConfig(JSON.stringify(document))

t.test('version 2, as JSON and as TOML', async t => {
  t.strictSame(parse(version2), normalised)
  const toml = `version = 2
id = "one"
[backend]
type = "registry"
[backend.registry]
host = "r.example:5000"
repo = "a/b"
auth = "dTpw"
retry_limit = 2
scheme = "http"
[cache]
type = "blobcache"
validate = true
[cache.filecache]
work_dir = "/cache"
[cache.prefetch]
enable = true
threads = 4
batch_size = 65_536
bandwidth_limit = 9
prefetch_all = true
[rafs]
mode = "direct"
enable_xattr = true
iostats_files = true
[rafs.prefetch]
enable = true
threads = 4
batch_size = 65_536
bandwidth_limit = 9
prefetch_all = true
`
  t.strictSame(parseDaemonConfig(toml), normalised)
})

t.test('version 1 and its predecessor', async t => {
  t.strictSame(parse(version1), normalised)
  const { device, mode, fs_prefetch: fsPrefetch, ...rest } = version1
  const config = { ...REGISTRY, auth: null, host: 'u:p@r.example:5000' }
  const oldest = { ...device, backend: { type: 'registry', config } }
  t.match(parse({ device_config: oldest, ...rest, fs_prefetch: fsPrefetch }), normalised)
  t.match(parse({ device_config: { backend: device.backend, cache: {} } }), {
    cache: { type: 'dummycache', filecache: undefined },
    rafs: { mode: 'direct', prefetch: { enable: false } },
  })
  t.match(
    parse({ device, mode: 'cached', amplify_io: 0, digest_validate: true, id: 'x', external_backend: {} }),
    {
      rafs: {
        mode: 'cached',
        batch_size: 0,
        validate: true,
        prefetch: { enable: false, prefetch_all: false },
      },
      cache: { prefetch: { enable: false } },
    },
  )
  t.equal(parse({ ...version1, fs_prefetch: { enable: true } }).rafs?.prefetch.prefetch_all, true)
  const fscache = parse({
    ...version1,
    device: { ...device, cache: { type: 'fscache', config: { work_dir: '/k' } } },
  })
  t.equal(cacheDirectory(fscache), '/k')
  t.match(parse({ mode, device: { backend: { type: 'http-proxy', config: { addr: 'http://p' } } } }), {
    backend: { type: 'http-proxy', 'http-proxy': { addr: 'http://p' } },
  })
})

t.test('every backend by its keys', async t => {
  const s3 = { endpoint: '', region: 'r', bucket_name: 'b', object_prefix: 'p/', access_key_id: 'i' }
  const http = {
    skip_verify: true,
    ca_cert_files: ['/ca.pem'],
    timeout: 0,
    connect_timeout: 7,
    retry_limit: 255,
    proxy: {
      url: 'http://p',
      ping_url: 'http://p/ping',
      fallback: false,
      check_interval: 1,
      use_http: true,
      check_pause_elapsed: 300,
      dragonfly_scheduler_endpoint: 'http://d',
    },
    mirrors: [
      {
        host: 'http://m',
        ping_url: '',
        headers: { 'X-A': 'b' },
        auth_through: true,
        health_check_interval: 5,
        failure_limit: 5,
      },
    ],
  }
  for (const [type, table] of [
    [
      'registry',
      { ...REGISTRY, registry_token: 't', blob_url_scheme: '', blob_redirected_host: '', ...http },
    ],
    ['localfs', { dir: '/b', alt_dirs: ['/c'], readahead: true, readahead_sec: 3 }],
    ['localfs', { blob_file: '/b' }],
    ['localdisk', { device_path: '/dev/sda', disable_gpt: true }],
    ['oss', { scheme: 'http', endpoint: 'e', bucket_name: 'b', access_key_secret: 's', ...http }],
    ['s3', { ...s3, ...http }],
    ['http-proxy', { addr: '/run/p.sock', path: '/x', ...http }],
  ] as const) {
    const backend = { type, [type]: table }
    t.strictSame(parse({ version: 2, backend }).backend, backend, type)
    t.strictSame(
      parse({ mode: 'direct', device: { backend: { type, config: table } } }).backend,
      backend,
      type,
    )
  }
})

t.test('what is wrong is told by its path', async t => {
  const rafs = { mode: 'direct' }
  const localfs = { type: 'localfs', localfs: { dir: '/b' } }
  const prefetch = { enable: true }
  for (const [document, ...messages] of [
    [{ version: 3 }, 'version: 2 is wanted'],
    [{ version: '2' }, 'version: 2 is wanted'],
    [{ version: 2, id: 5 }, 'id: text is wanted'],
    [{ version: 2, backend: 's3cret' }, 'backend: a table is wanted'],
    [{ version: 2, backend: {} }, 'backend.type: the key is missing'],
    [{ version: 2, backend: { type: 'localfs' } }, 'backend.localfs: neither "dir" nor "blob_file"'],
    [
      { version: 2, backend: { type: 'regstry' } },
      'backend.regstry: unknown backend type',
      'did you mean "registry"',
    ],
    [
      { version: 2, backend: { type: 'oss', oss: { endpoint: '' } } },
      'backend.oss.endpoint: it must',
      'bucket_name',
    ],
    [
      { version: 2, backend: { type: 'localdisk', localdisk: {} } },
      'backend.localdisk.device_path: the key is',
    ],
    [
      { version: 2, backend: { type: 'http-proxy', 'http-proxy': { addr: 'x' } } },
      'backend.http-proxy.addr: http://',
    ],
    [
      { version: 2, backend: { type: 'registry', registry: { ...REGISTRY, retry_limit: 256 } } },
      'retry_limit: 0 to 255',
    ],
    [
      { version: 2, cache: { type: 'ramcache' } },
      'cache.type: blobcache or filecache or fscache or dummycache is',
    ],
    [
      { version: 2, cache: { type: 'fscache', fscache: { work_dir: '' } } },
      'cache.fscache.work_dir: it must not be',
    ],
    [
      { version: 2, cache: { type: 'blobcache', filecache: { encryption_key: 's3cret' } } },
      'cache.filecache.encryption_key: a key of 32 bytes',
    ],
    [
      { version: 2, cache: { prefetch: { ...prefetch, threads: 0 } }, rafs: { prefetch: { enable: 1 } } },
      'cache.prefetch.threads: 1 to 1024 is wanted, not 0',
      'rafs.prefetch.enable: true or false',
    ],
    [
      { version: 2, rafs: { prefetch: { ...prefetch, threads: 1025 } } },
      'rafs.prefetch.threads: 1 to 1024 is wanted',
    ],
    [{ version: 2, rafs: { prefetch: { threads: 1 } } }, 'rafs.prefetch.enable: the key is missing'],
    [
      { version: 2, rafs: { prefetch: { ...prefetch, batch_size: 0x10000001 } } },
      'rafs.prefetch.batch_size: 0 to',
    ],
    [{ version: 2, rafs: { mode: 'cache' } }, 'rafs.mode: direct or cached is wanted'],
    [{ version: 2, rafs: { batch_size: -1 } }, 'rafs.batch_size: 0 to 268435456 is wanted, not -1'],
    [{ version: 2, external_backends: [7] }, 'external_backends[0]: a table'],
    [{ version: 2, overlay: { upper_dir: '/u' } }, 'overlay.work_dir: the key is missing'],
    [{ device: { backend: { type: 'localfs', config: { dir: '/b' } } } }, 'mode: the key is missing'],
    [{ ...rafs, device: {} }, 'device.backend: the key is missing'],
    [{ ...rafs, device: 's3cret' }, 'device: a table is wanted'],
    [{ ...rafs, device: { backend: { config: {} } } }, 'device.backend.type: the key is missing'],
    [
      { ...rafs, device: { backend: { type: 'registry', config: { repo: 'a' } } } },
      'device.backend.config.host: the key',
    ],
    [
      { ...version1, fs_prefetch: { enable: true, threads_count: 0 } },
      'fs_prefetch.threads_count: 1 to 1024',
    ],
    [{ ...version1, fs_prefetch: { enable: 's3cret' } }, 'fs_prefetch.enable: true or false is wanted'],
    [
      { ...version1, device: { ...version1.device, cache: { type: 'fscache', config: { work_dir: 1 } } } },
      'device.cache.config.work_dir: text is wanted',
    ],
    [
      { ...rafs, device: { backend: localfs, cache: 7 } },
      'device.cache: a table',
      'device.backend.config: neither',
    ],
    [
      { device_config: { backend: { type: 'registry', config: { host: 'u:s3cret@' } } } },
      'device_config.backend.config.host:',
    ],
    [{}, 'neither "version" (2) nor "device" (1)'],
    [[], 'no table of keys'],
    ['s3cret', 'no table of keys'],
  ] as const) {
    const { message } = t.throws(
      () => parse(document),
      { code: 'CONFIG_INVALID' },
      JSON.stringify(document),
    ) as Error
    for (const part of messages) t.ok(message.includes(part), `${part} in ${message}`)
    t.notMatch(message, /s3cret/)
  }
})

t.test('what is no document', async t => {
  for (const [text, message] of [
    ['{"version": 2,\n "auth": "s3cret" oops}', /not valid JSON, line 2, column 19/],
    ['{"version": 2, "auth": "s3cret', /not valid JSON, /],
    ['version = 2\nauth = s3cret', /neither JSON nor TOML, line 2, column/],
    ['', /neither "version"/],
    ['s3cret', /neither JSON nor TOML/],
    [`{"version": 2, "id": "${'x'.repeat(1024 * 1024)}"}`, /larger than 1 MiB/],
  ] as const) {
    const failure = t.throws(() => parseDaemonConfig(text), { code: 'CONFIG_INVALID', message }) as Error
    t.notMatch(failure.message, /s3cret/)
    t.notOk(failure.cause, 'the parser quotes the text')
  }
})

t.test('what is left out, and said so', async t => {
  const said: string[] = []
  const config = parseDaemonConfig(
    JSON.stringify({
      version: 2,
      verison: 2,
      backend: { type: 'localfs', localfs: { dir: '/b', dri: '/c' }, registry: {} },
      cache: { prefetch: { enable: false, threads: 0 } },
      rafs: { prefetch: null, prefetch_all: true },
    }),
    message => said.push(message),
  )
  t.same(said, [
    'verison: unknown key, did you mean "version"?',
    'backend.localfs.dri: unknown key, did you mean "dir"?',
    'rafs.prefetch_all: unknown key, did you mean "prefetch"?',
  ])
  t.strictSame(config.backend, { type: 'localfs', localfs: { dir: '/b' } })
  t.equal(config.cache?.prefetch.threads, 8, 'a section that is off is not looked at')
  t.equal(requireMountConfig(config), config)
  t.throws(() => requireMountConfig(parse({ version: 2, rafs: {} })), {
    code: 'CONFIG_INVALID',
    message: /no backend, cache/,
  })
})

t.test('a configuration is shown without its secrets', async t => {
  const registry = {
    ...REGISTRY,
    auth: 's3cret',
    registry_token: 's3cret',
    proxy: { url: 'http://u:s3cr@et-s3cret@proxy:80/x', ping_url: 'http://proxy/ping' },
    mirrors: [{ host: 'https://u:s3cret@m', headers: { Authorization: 's3cret' } }],
  }
  const key = 'ab'.repeat(32)
  const shown = redactConfig(
    parse({
      ...version2,
      backend: { type: 'registry', registry },
      cache: { type: 'filecache', filecache: { encryption_key: key } },
      external_backends: [{ type: 'x', config: { password: 's3cret' }, patch: { a: 's3cret' } }],
    }),
  )
  t.notMatch(JSON.stringify(shown), /s3cret/)
  t.notMatch(JSON.stringify(shown), new RegExp(key))
  t.match(shown, {
    version: 2,
    backend: {
      type: 'registry',
      registry: {
        host: REGISTRY.host,
        auth: null,
        registry_token: null,
        proxy: { url: 'http://proxy:80/x', ping_url: 'http://proxy/ping' },
        mirrors: [{ host: 'https://m', headers: { Authorization: '' } }],
      },
    },
    overlay: null,
  })
  const s3 = {
    endpoint: 'e',
    region: 'r',
    bucket_name: 'b',
    access_key_id: 's3cret',
    access_key_secret: 's3cret',
  }
  t.match(redactConfig(parse({ version: 2, backend: { type: 's3', s3 } })), {
    backend: { s3: { region: 'r', access_key_id: '', access_key_secret: '' } },
    cache: null,
    rafs: null,
  })
  t.strictSame(redactConfig(parse({ version: 2 })), {
    version: 2,
    id: '',
    backend: null,
    external_backends: [],
    cache: null,
    rafs: null,
    overlay: null,
  })
})
