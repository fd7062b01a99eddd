import t from 'tap'
import { LABELS } from '../../../src/snapshotter/labels.js'
import { type MountInput, mountsOf } from '../../../src/snapshotter/mounts.js'

function input(fields: Partial<MountInput>): MountInput {
  return {
    kind: 'active',
    labels: {},
    upperPath: '/r/9/fs',
    workPath: '/r/9/work',
    lowerPaths: [],
    alwaysVolatile: false,
    ...fields,
  }
}
const overlay = (...options: string[]) => [{ type: 'overlay', source: 'overlay', options }]
const writable = ['workdir=/r/9/work', 'upperdir=/r/9/fs']

t.test('plain layers', async t => {
  t.strictSame(mountsOf(input({})), [{ type: 'bind', source: '/r/9/fs', options: ['rw', 'rbind'] }])
  t.strictSame(mountsOf(input({ kind: 'view' })), [
    { type: 'bind', source: '/r/9/fs', options: ['ro', 'rbind'] },
  ])
  t.strictSame(mountsOf(input({ kind: 'view', lowerPaths: ['/r/1/fs'] })), [
    { type: 'bind', source: '/r/1/fs', options: ['ro', 'rbind'] },
  ])
  t.strictSame(mountsOf(input({ lowerPaths: ['/r/1/fs'] })), overlay(...writable, 'lowerdir=/r/1/fs'))
  t.strictSame(
    mountsOf(input({ kind: 'view', lowerPaths: ['/r/2/fs', '/r/1/fs'] })),
    overlay('lowerdir=/r/2/fs:/r/1/fs'),
  )
})

t.test('on a lazily read image', async t => {
  const imagePath = '/r/5/mnt'
  t.strictSame(mountsOf(input({ imagePath })), overlay(...writable, 'lowerdir=/r/5/mnt'))
  t.strictSame(
    mountsOf(input({ imagePath, lowerPaths: ['/r/7/fs'] })),
    overlay(...writable, 'lowerdir=/r/7/fs:/r/5/mnt'),
    'layers above the bootstrap stay',
  )
  t.strictSame(
    mountsOf(input({ kind: 'view', imagePath })),
    overlay('lowerdir=/r/5/mnt:/r/9/fs'),
    'an overlay without an upper layer needs two',
  )
  t.strictSame(
    mountsOf(input({ kind: 'view', imagePath, lowerPaths: ['/r/7/fs'] })),
    overlay('lowerdir=/r/7/fs:/r/5/mnt'),
  )
})

t.test('volatile and id mappings', async t => {
  const lowerPaths = ['/r/1/fs']
  const volatile = overlay(...writable, 'volatile', 'lowerdir=/r/1/fs')
  t.strictSame(mountsOf(input({ lowerPaths, alwaysVolatile: true })), volatile)
  t.strictSame(mountsOf(input({ lowerPaths, labels: { [LABELS.volatile]: '1' } })), volatile)
  t.strictSame(
    mountsOf(input({ kind: 'view', lowerPaths: ['/r/2/fs', ...lowerPaths], alwaysVolatile: true })),
    overlay('lowerdir=/r/2/fs:/r/1/fs'),
    'never on what is only read',
  )
  const labels = { [LABELS.uidMapping]: '0:1000:65536', [LABELS.gidMapping]: '0:2000:65536' }
  t.strictSame(
    mountsOf(input({ lowerPaths, labels })),
    overlay(...writable, 'uidmap=0:1000:65536', 'gidmap=0:2000:65536', 'lowerdir=/r/1/fs'),
  )
  t.strictSame(mountsOf(input({ labels }))[0]?.options, [
    'rw',
    'rbind',
    'uidmap=0:1000:65536',
    'gidmap=0:2000:65536',
  ])
})

t.test('a runtime is told of the image', async t => {
  const runtime = { helper: 'nydus-overlayfs', option: 'extraoption=e30=' }
  t.strictSame(mountsOf(input({ imagePath: '/r/5/mnt', runtime })), [
    {
      type: 'fuse.nydus-overlayfs',
      source: 'overlay',
      options: [...writable, 'lowerdir=/r/5/mnt', 'extraoption=e30='],
    },
  ])
})
