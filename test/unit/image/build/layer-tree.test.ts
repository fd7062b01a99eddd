import t from 'tap'
import type { DirectoryInode, ImageInode } from '../../../../src/erofs/image-tree.js'
import { LayerTree } from '../../../../src/image/build/layer-tree.js'
import { DEFAULT_LIMITS, type LayerLimits } from '../../../../src/image/tar/limits.js'
import { mergeLayers } from '../../../../src/image/build/merge.js'
import { readTar } from '../../../../src/image/tar/tar-reader.js'
import { type TarItem, pieces, tarBytes } from '../../../helpers/tar-bytes.js'

async function layer(items: TarItem[], limits: Partial<LayerLimits> = {}): Promise<LayerTree> {
  const tree = new LayerTree({ ...DEFAULT_LIMITS, ...limits })
  for await (const entry of readTar(pieces(tarBytes(items)))) tree.add(entry, [])
  return tree
}

const root = async (...items: TarItem[]): Promise<DirectoryInode> => (await layer(items)).root

/** Paths with a letter for the type, and the user id, which marks the layer. */
function list(directory: DirectoryInode, prefix = ''): string[] {
  const own = (name: string, inode: ImageInode): string => `${prefix}${name} ${inode.type[0]}${inode.uid}`
  return [...directory.children]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([name, inode]) => [
      own(name, inode),
      ...(inode.type === 'directory' ? list(inode, `${prefix}${name}/`) : []),
    ])
}

const dir = (name: string, uid = 0): TarItem => ({ name, type: '5', uid })
const symlink = (name: string, linkname: string): TarItem => ({ name, type: '2', linkname })
const file = (name: string, uid = 0): TarItem => ({ name, uid })

t.test('parents are made, later entries replace earlier ones', async t => {
  const tree = await root(
    file('a/b/c', 1),
    dir('a', 2),
    file('x', 1),
    dir('x', 3),
    file('x/y', 3),
    dir('z', 1),
    file('z/gone', 1),
    file('z', 4),
    { name: './', type: '5', mode: 0o700, uid: 9 },
    file('./.', 5),
    file('', 5),
  )
  t.same(list(tree), ['a d2', 'a/b d0', 'a/b/c r1', 'x d3', 'x/y r3', 'z r4'])
  t.match(tree, { mode: 0o700, uid: 9, implicit: false })
  t.match(tree.children.get('a'), {
    implicit: false,
    children: new Map([['b', { implicit: true, mode: 0o755 }]]),
  })
})

t.test('hard links share the inode of a regular file and copy others', async t => {
  const { children } = await root(
    file('f'),
    { name: 'l1', type: '1', linkname: 'f' },
    { name: 'd/l2', type: '1', linkname: './l1' },
    { name: 's', type: '2', linkname: 'f' },
    { name: 'sl', type: '1', linkname: 's' },
    file('f', 5),
  )
  const l1 = children.get('l1')
  t.equal((children.get('d') as DirectoryInode).children.get('l2'), l1)
  t.not(children.get('f'), l1, 'a replaced name leaves its other names alone')
  t.match(children.get('sl'), { type: 'symlink', target: Buffer.from('f') })
  t.not(children.get('sl'), children.get('s'))
})

t.test('a hard link brings its own attributes, as where containers are unpacked', async t => {
  const pax = (name: string, value: string): object => ({ pax: { [`SCHILY.xattr.user.${name}`]: value } })
  const { children } = await root(
    { name: 'f', uid: 1, mode: 0o600, ...pax('a', 'old') },
    { name: 'l', type: '1', linkname: 'f', uid: 2, mode: 0o644, mtime: 5, ...pax('b', 'new') },
  )
  t.match(children.get('f'), { uid: 2, mode: 0o644, mtimeSec: 5 })
  t.same([...(children.get('f')?.xattrs?.keys() ?? [])], ['user.a', 'user.b'])
})

t.test(
  'a directory that is described again keeps the attributes that only the first description has',
  async t => {
    const described = (name: string, uid: number, xattr: string): TarItem => ({
      ...dir(name, uid),
      pax: { [`SCHILY.xattr.user.${xattr}`]: xattr },
    })
    for (const name of ['./', 'd/']) {
      const tree = await root(described(name, 1, 'a'), described(name, 2, 'b'), dir(name, 3))
      const directory = name === './' ? tree : tree.children.get('d')
      t.match(directory, { uid: 3, implicit: false }, name)
      t.same([...(directory?.xattrs?.keys() ?? [])], ['user.a', 'user.b'], name)
    }
  },
)

t.test('symbolic links on the way to an entry are followed within the layer', async t => {
  const tree = await root(
    dir('usr/lib', 1),
    symlink('lib', 'usr/lib'),
    symlink('usr/abs', '/usr/./lib/'),
    symlink('usr/lib/up', '../../lib'),
    file('lib/a', 2),
    file('usr/abs/b', 3),
    file('lib/up/new/c', 4),
    { name: 'hard', type: '1', linkname: 'lib/a', uid: 2 },
    { name: 'lib', type: '2', linkname: 'elsewhere' },
  )
  t.same(list(tree), [
    'hard r2',
    'lib s0',
    'usr d0',
    'usr/abs s0',
    'usr/lib d1',
    'usr/lib/a r2',
    'usr/lib/b r3',
    'usr/lib/new d0',
    'usr/lib/new/c r4',
    'usr/lib/up s0',
  ])
  t.match(tree.children.get('lib'), { target: Buffer.from('elsewhere') }, 'the link itself is not followed')
})

t.test('links and names that cannot be are refused by name', async t => {
  const link = (linkname: string): TarItem => ({ name: 'evil', type: '1', linkname })
  const cases: [string, RegExp, TarItem[]][] = [
    ['TAR_INVALID', /"evil".*"missing"/, [link('missing')]],
    ['TAR_INVALID', /"evil".*"later"/, [link('later'), file('later')]],
    ['TAR_INVALID', /"evil".*"f\/x"/, [file('f'), link('f/x')]],
    ['TAR_UNSAFE', /"evil".*directory "d"/, [dir('d'), link('d')]],
    ['TAR_UNSAFE', /"evil".*directory/, [link('.')]],
    ['TAR_INVALID', /"evil".*itself/, [file('evil'), link('evil')]],
    [
      'TAR_UNSAFE',
      /"out\/passwd".*"out"/,
      [{ name: 'out', type: '2', linkname: '/etc' }, file('out/passwd')],
    ],
    ['TAR_UNSAFE', /"f\/x".*"f"/, [file('f'), file('f/x')]],
    ['TAR_UNSAFE', /"up\/x".*"up" to "\.\.\/\.\."/, [dir('d'), symlink('up', '../..'), file('up/x')]],
    ['TAR_UNSAFE', /"a\/x".*"a" to "b"/, [symlink('a', 'b'), symlink('b', 'a'), file('a/x')]],
    ['TAR_UNSAFE', /"a\/x".*"a" to "a\/a"/, [symlink('a', 'a/a'), file('a/x')]],
    ['TAR_UNSAFE', /"a\/x".*"a" to "f"/, [file('f'), symlink('a', 'f'), file('a/x')]],
    ['TAR_UNSAFE', /"a\/x".*"a" to "later"/, [symlink('a', 'later'), file('a/x'), dir('later')]],
    ['TAR_UNSUPPORTED', /"x".*65,535/, [{ name: 'x', pax: { 'SCHILY.xattr.user.a': Buffer.alloc(65_536) } }]],
    [
      'TAR_UNSUPPORTED',
      /"x".*256 bytes/,
      [{ name: 'x', pax: { [`SCHILY.xattr.user.${'n'.repeat(251)}`]: 'v' } }],
    ],
  ]
  for (const [code, message, items] of cases)
    await t.rejects(layer(items), { code, message }, String(message))
})

t.test('more than the limits', async t => {
  const many = Array.from({ length: 20 }, (_, i) => file(`d/f${i}`))
  await layer(many, { maxEntries: 21 })
  await t.rejects(layer(many, { maxEntries: 20 }), { code: 'IMAGE_TOO_LARGE' }, 'the parent counts')
  const deep = [{ name: 'x', pax: { path: `${'a/'.repeat(100)}f` } }]
  await t.rejects(layer(deep, { maxEntries: 50 }), { code: 'IMAGE_TOO_LARGE' })
  const heavy = [{ name: 'x', pax: { 'SCHILY.xattr.user.a': Buffer.alloc(5000) } }]
  await t.rejects(layer(heavy, { maxMetadataBytes: 4000 }), { code: 'IMAGE_TOO_LARGE' })
})

t.test('attributes that no image can hold are left out and counted', async t => {
  const tree = await layer([
    { name: 'x', pax: { 'SCHILY.xattr.com.apple.quarantine': 'q', 'SCHILY.xattr.user.a': 'v' } },
  ])
  t.equal(tree.droppedXattrs, 1)
  t.same([...(tree.root.children.get('x')?.xattrs?.keys() ?? [])], ['user.a'])
  const pax = { 'SCHILY.xattr.user.a': 'v', 'SCHILY.xattr.security.b': '' }
  const link = await layer([{ ...symlink('s', 'x'), pax }])
  t.equal(link.droppedXattrs, 1, 'Linux has user attributes on files and directories only')
  t.same([...(link.root.children.get('s')?.xattrs?.keys() ?? [])], ['security.b'])
})

t.test('whiteouts, opaque directories and swaps', async t => {
  const lower = await root(
    dir('d', 1),
    file('d/keep', 1),
    file('d/gone', 1),
    dir('o', 1),
    file('o/hidden', 1),
    dir('o/sub', 1),
    file('becomes-dir', 1),
    dir('becomes-file', 1),
    file('becomes-file/x', 1),
    file('.wh.stray', 1),
    dir('tree', 1),
    file('tree/a', 1),
  )
  const upper = await root(
    file('d/.wh.gone', 2),
    dir('o', 2),
    file('o/.wh..wh..opq', 2),
    file('o/new', 2),
    dir('becomes-dir', 2),
    file('becomes-dir/in', 2),
    file('becomes-file', 2),
    file('.wh.tree', 2),
    dir('tree', 2),
    file('tree/b', 2),
    file('.wh..wh.plnk', 2),
    file('.wh.never-there', 2),
  )
  const before = [list(lower), list(upper)]
  t.same(list(mergeLayers([lower, upper])), [
    'becomes-dir d2',
    'becomes-dir/in r2',
    'becomes-file r2',
    'd d1',
    'd/keep r1',
    'o d2',
    'o/new r2',
    'tree d2',
    'tree/b r2',
  ])
  t.same([list(lower), list(upper)], before, 'the layers stay as they were')
})

t.test('a third layer sees what the second left; attributes come from who gives them', async t => {
  const one = await root({ name: './', type: '5', mode: 0o711, uid: 1 }, dir('d', 1), file('d/a', 1))
  const two = await root(file('.wh.d', 2))
  const three = await root(file('d/b', 3))
  const merged = mergeLayers([one, two, three])
  t.same(list(merged), ['d d0', 'd/b r3'])
  t.match(merged, { mode: 0o711, uid: 1 }, 'a layer that does not describe the root leaves it alone')
  const xattr = { 'SCHILY.xattr.user.a': 'v' }
  const withXattr = await root({ ...dir('d', 1), pax: xattr })
  t.equal(mergeLayers([withXattr, await root(file('d/x'))]).children.get('d')?.xattrs?.size, 1)
  t.equal(mergeLayers([withXattr, await root(dir('d', 2))]).children.get('d')?.xattrs, undefined)
})

t.test('names of an inode in a lower layer stay linked when one of them goes', async t => {
  const lower = await root(
    file('a', 1),
    { name: 'b', type: '1', linkname: 'a' },
    { name: 'c', type: '1', linkname: 'a' },
  )
  const merged = mergeLayers([lower, await root(file('.wh.a'))])
  t.equal(merged.children.get('b'), merged.children.get('c'))
  t.notOk(merged.children.has('a'))
})
