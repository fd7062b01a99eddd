import t from 'tap'
import type { DirectoryInode, ImageInode } from '../../../../src/erofs/image-tree.js'
import { mergeLayers, type WhiteoutSpec } from '../../../../src/image/build/merge.js'
import { directory, regular } from '../../../helpers/made-tree.js'

/** Paths with a letter for the type and the user id, which marks the layer. */
function list({ children }: DirectoryInode, prefix = ''): string[] {
  return [...children]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([name, inode]) => [
      `${prefix}${name} ${inode.type[0]}${inode.uid}`,
      ...(inode.type === 'directory' ? list(inode, `${prefix}${name}/`) : []),
    ])
}

const file = (uid: number): ImageInode => regular([], { uid })
const dir = (uid: number, children: Record<string, ImageInode> = {}) => directory(children, { uid })
const device = (uid: number, major = 0, minor = 0): ImageInode => ({
  ...regular([], { uid }),
  type: 'charDevice',
  major,
  minor,
})
const merge = (layers: DirectoryInode[], spec?: WhiteoutSpec) => list(mergeLayers(layers, spec))

t.test('markers of a layer apply to those below it, and never appear', async t => {
  const lower = dir(1, { d: dir(1, { a: file(1), b: file(1) }), f: file(1), o: dir(1, { x: file(1) }) })
  const upper = dir(2, {
    '.wh.f': file(2),
    f: file(2),
    d: dir(2, { '.wh.a': file(2) }),
    o: dir(2, { y: file(2), '.wh..wh..opq': file(2) }),
    '.wh..wh.plnk': dir(2),
  })
  t.same(merge([lower, upper]), ['d d2', 'd/b r1', 'f r2', 'o d2', 'o/y r2'])
  t.same(
    merge([upper]),
    ['d d2', 'f r2', 'o d2', 'o/y r2'],
    'the lowest layer deletes nothing and shows no marker',
  )
})

t.test('files and directories take each other’s place', async t => {
  const lower = dir(1, { a: dir(1, { in: file(1) }), b: file(1), c: dir(1, { in: file(1) }) })
  const upper = dir(2, { a: file(2), b: dir(2, { in: file(2) }), c: dir(2) })
  t.same(merge([lower, upper]), ['a r2', 'b d2', 'b/in r2', 'c d2', 'c/in r1'])
})

t.test('an upper directory of overlayfs', async t => {
  const lower = dir(1, {
    d: dir(1, { a: file(1) }),
    f: file(1),
    tty: device(1, 5, 0),
    o: dir(1, { x: file(1) }),
  })
  const opaque = directory(
    { y: file(2) },
    { uid: 2, xattrs: new Map([['trusted.overlay.opaque', Buffer.from('y')]]) },
  )
  const upper = dir(2, { f: device(2), tty: device(2, 5, 1), o: opaque, '.wh.d': file(2) })
  t.same(merge([lower, upper], 'overlayfs'), ['.wh.d r2', 'd d1', 'd/a r1', 'o d2', 'o/y r2', 'tty c2'])
  const merged = mergeLayers([lower, upper], 'overlayfs')
  t.equal(merged.children.get('o')?.xattrs, undefined, 'the mark of an opaque directory is taken away')
  t.equal(opaque.xattrs?.size, 1, 'the layer stays as it was')
})

t.test('without whiteouts markers are files', async t => {
  const lower = dir(1, { f: file(1) })
  const upper = dir(2, { '.wh.f': file(2), '.wh..wh..opq': file(2), null: device(2) })
  t.same(merge([lower, upper], 'none'), ['.wh..wh..opq r2', '.wh.f r2', 'f r1', 'null c2'])
})

t.test('a tree as deep as any path is merged', async t => {
  const nested = (uid: number) => {
    let tree = dir(uid)
    for (let depth = 0; depth < 2048; depth++) tree = dir(uid, { d: tree })
    return tree
  }
  let depth = 0
  for (let at = mergeLayers([nested(1), nested(2)]).children.get('d'); at?.type === 'directory'; depth++)
    at = at.children.get('d')
  t.equal(depth, 2048)
})
