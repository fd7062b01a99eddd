import { linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { DirectorySource } from '../../../../src/image/build/directory-source.js'
import type { LayerEntry } from '../../../../src/image/build/layer-tree.js'
import { scratch } from '../../../helpers/scratch.js'

const none = (): Map<string, Uint8Array> => new Map()

async function entries(directory: string, xattrs = none): Promise<LayerEntry[]> {
  const found = []
  for await (const entry of new DirectorySource(directory, xattrs).entries()) found.push(entry)
  return found
}

t.test('all of a directory before what is in its directories, by the bytes of the names', async t => {
  const directory = scratch(t)
  for (const name of ['b', 'a', 'a/z', 'B']) mkdirSync(path.join(directory, name))
  for (const name of ['c', 'a/y', 'a/z/deep', 'b/x', 'é', '!'])
    writeFileSync(path.join(directory, name), name)
  const found = await entries(directory)
  const latin1 = Buffer.from('é').toString('latin1')
  t.same(
    found.map(({ path }) => path.join('/')),
    ['', '!', 'B', 'a', 'b', 'c', latin1, 'a/y', 'a/z', 'a/z/deep', 'b/x'],
  )
  t.match(found[0], { type: 'directory', mtimeSec: 0, mtimeNsec: 0 })
  t.same(await entries(directory), found, 'it can be asked again')
})

t.test('further names of a file are links to its first', async t => {
  const directory = scratch(t)
  mkdirSync(path.join(directory, 'd'))
  writeFileSync(path.join(directory, 'm'), 'x')
  linkSync(path.join(directory, 'm'), path.join(directory, 'd/b'))
  linkSync(path.join(directory, 'm'), path.join(directory, 'z'))
  symlinkSync('m', path.join(directory, 's'))
  linkSync(path.join(directory, 's'), path.join(directory, 't'))
  const found = await entries(directory)
  t.match(
    found.map(({ type }) => type),
    ['directory', 'directory', 'regular', 'symlink', 'symlink', 'hardlink', 'hardlink'],
  )
  t.match(found.at(-1), { path: ['d', 'b'], target: ['m'] })
})

t.test('extended attributes come from whoever can read them', async t => {
  const directory = scratch(t)
  const asked: string[] = []
  const [root] = await entries(directory, () => {
    asked.push('once')
    return new Map([['user.a', Buffer.from('v')]])
  })
  t.same(asked, ['once'])
  t.same([...(root?.xattrs ?? [])], [['user.a', Buffer.from('v')]])
})

t.test('what is no directory, and what changes while it is read', async t => {
  const directory = scratch(t)
  const file = path.join(directory, 'file')
  writeFileSync(file, Buffer.alloc(5000))
  await t.rejects(entries(file), { code: 'FILE_UNREADABLE', message: /is not a directory/ })
  await t.rejects(entries(path.join(directory, 'missing')), { code: 'FILE_UNREADABLE' })
  for await (const entry of new DirectorySource(directory, none).entries()) {
    if (entry.type !== 'regular') continue
    truncateSync(file, 4000)
    const read = async (): Promise<number> => {
      let bytes = 0
      for await (const piece of entry.body) bytes += piece.length
      return bytes
    }
    await t.rejects(read(), { code: 'FILE_UNREADABLE', message: /became shorter/ })
  }
})
