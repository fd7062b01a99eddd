import t from 'tap'
import { type TarItem, encodeTarHeader, tarEnd } from '../../../../src/image/read/encode-tar.js'
import { type TarEntry, readTar } from '../../../../src/image/tar/tar-reader.js'

const plain: TarItem = {
  name: 'file',
  type: 'regular',
  mode: 0o4755,
  uid: 1000,
  gid: 100,
  mtimeSec: 1_700_000_000,
  mtimeNsec: 0,
  sizeBytes: 0,
  linkName: '',
  major: 0,
  minor: 0,
}

async function readBack(item: TarItem): Promise<TarEntry> {
  for await (const entry of readTar(one(Buffer.concat([encodeTarHeader(item), tarEnd()])))) return entry
  throw new Error('no entry')
}

async function* one(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes
}

const long = 'd'.repeat(90)
const utf8 = Buffer.from('grün/日本語').toString('latin1')
const items: Record<string, Partial<TarItem>> = {
  'a plain file': {},
  'a name of 100 bytes': { name: 'n'.repeat(100) },
  'a name of 101 bytes': { name: 'n'.repeat(101) },
  'a long path': { name: `${long}/${long}/${long}` },
  'a UTF-8 name': { name: utf8 },
  'a name of bytes': { name: 'caf\xe9-\xff' },
  'a long name of bytes': { name: `${long}/caf\xe9-\xff-${long}` },
  nanoseconds: { mtimeNsec: 123_456_789 },
  'few nanoseconds': { mtimeNsec: 1 },
  'before 1970': { mtimeSec: -5 },
  'before 1970, with nanoseconds': { mtimeSec: -2, mtimeNsec: 500_000_000 },
  'just before 1970': { mtimeSec: -1, mtimeNsec: 999_999_999 },
  'past 2242': { mtimeSec: 2 ** 34 },
  'large owners': { uid: 2 ** 32 - 2, gid: 2_097_152 },
  'a directory': { name: 'dir/', type: 'directory' },
  'a symlink': { type: 'symlink', linkName: '../somewhere' },
  'a symlink of 4095 bytes': { type: 'symlink', linkName: 't'.repeat(4095) },
  'a symlink of bytes': { type: 'symlink', linkName: `${long}\xff${long}` },
  'a hard link': { type: 'hardlink', linkName: 'a/b' },
  'a device': { type: 'charDevice', major: 4095, minor: 1_048_575 },
  'a pipe': { type: 'fifo' },
  attributes: {
    xattrs: new Map([
      ['user.empty', new Uint8Array(0)],
      ['user.bytes', Uint8Array.of(0, 10, 61, 255)],
      ['security.capability', Buffer.alloc(20, 1)],
    ]),
  },
}

for (const [name, change] of Object.entries(items)) {
  t.test(`${name} is read back`, async t => {
    const item = { ...plain, ...change }
    const entry = await readBack(item)
    const { type, mode, uid, gid, mtimeSec, mtimeNsec } = item
    t.match(entry, { type, mode, uid, gid, mtimeSec, mtimeNsec })
    t.equal(entry.path.join('/'), item.name.replace(/\/$/, ''))
    if (entry.type === 'symlink') t.equal(Buffer.from(entry.target).toString('latin1'), item.linkName)
    if (entry.type === 'hardlink') t.equal(entry.target.join('/'), item.linkName)
    if (entry.type === 'charDevice') t.match(entry, { major: item.major, minor: item.minor })
    const bytes = (xattrs?: ReadonlyMap<string, Uint8Array>) =>
      [...(xattrs ?? [])].map(([key, value]) => [key, Buffer.from(value).toString('hex')]).sort()
    t.same(bytes(entry.xattrs), bytes(item.xattrs))
  })
}

t.test('a file of 9 GiB', async t => {
  const header = encodeTarHeader({ ...plain, sizeBytes: 9 * 2 ** 30 })
  t.equal(header.length, 1536)
  t.match(header.toString('latin1'), /19 size=9663676416\n/)
})

t.test('equals signs in the names of attributes are escaped as GNU tar does', async t => {
  const header = encodeTarHeader({ ...plain, xattrs: new Map([['user.a=b', Uint8Array.of(49)]]) })
  t.match(header.toString('latin1'), /SCHILY\.xattr\.user\.a%3Db=1\n/)
})
