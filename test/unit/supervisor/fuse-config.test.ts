import t from 'tap'
import { DEFAULT_FUSE_TEMPLATE, fuseConfig } from '../../../src/supervisor/fuse-config.js'

const backend = { type: 'registry', config: { host: 'example.com', repo: 'app', auth: 'dTpw' } }
const input = { id: '7', backend, workDirectory: '/cache' }

t.test('without a template', async t => {
  t.strictSame(fuseConfig(DEFAULT_FUSE_TEMPLATE, input), {
    mode: 'direct',
    enable_xattr: true,
    device: { id: '/7', backend, cache: { type: 'blobcache', config: { work_dir: '/cache' } } },
  })
})

t.test('a template of version 1 keeps what it says, but for what is the image’s', async t => {
  const template = {
    mode: 'cached',
    digest_validate: true,
    fs_prefetch: { enable: true, prefetch_all: true },
    theirs: { deep: 1 },
    device: {
      id: 'x',
      theirs: 2,
      cache: {
        type: 'dummycache',
        compressed: false,
        config: { work_dir: '/else', disable_indexed_map: true },
      },
    },
  }
  t.strictSame(fuseConfig(template, input), {
    ...template,
    device: {
      id: '/7',
      theirs: 2,
      backend,
      cache: {
        type: 'blobcache',
        compressed: false,
        config: { work_dir: '/cache', disable_indexed_map: true },
      },
    },
  })
})

t.test('a template of version 2 stays one', async t => {
  const rafs = { mode: 'direct', prefetch: { enable: true } }
  const template = {
    version: 2,
    rafs,
    cache: { type: 'filecache', validate: true, filecache: { work_dir: '/x' } },
  }
  t.strictSame(fuseConfig(template, input), {
    version: 2,
    id: '/7',
    rafs,
    backend: { type: 'registry', registry: backend.config },
    cache: { type: 'blobcache', validate: true, filecache: { work_dir: '/cache' } },
  })
})
