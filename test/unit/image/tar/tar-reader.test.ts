import t from 'tap'
import type { Fault } from '../../../../src/common/fault.js'
import { parsePaxRecords } from '../../../../src/image/tar/pax-records.js'
import { type TarEntry, readTar } from '../../../../src/image/tar/tar-reader.js'
import {
  type TarItem,
  gnuLongName,
  paxRecords,
  pieces,
  tarBytes,
  tarItem,
} from '../../../helpers/tar-bytes.js'
import { readAll } from '../../../helpers/read-archive.js'

const read = async (...items: TarItem[]): Promise<TarEntry[]> =>
  (await readAll(tarBytes(items))).map(({ entry }) => entry)

const bytesOf = (parts: readonly string[]): string => Buffer.from(parts.join('/'), 'latin1').toString('hex')

t.test('every type of entry, with its attributes', async t => {
  const body = Buffer.from('hello')
  const [dir, file, hard, sym, chr, blk, fifo] = await read(
    { name: './d/', type: '5', mode: 0o1777, uid: 4294967294, gid: 7 },
    { name: 'd//f', body, mode: 0o104755, mtime: 5_000_000_000 },
    { name: 'h', type: '1', linkname: './d/f' },
    { name: 's', type: '2', linkname: '../anything/at/all' },
    { name: 'c', type: '3', device: ['0000001', '0777777'] },
    { name: 'b', type: '4', device: ['0000010', '0000002'] },
    { name: 'p', type: '6', device: ['', ''] },
  )
  t.match(dir, { type: 'directory', path: ['d'], mode: 0o1777, uid: 4294967294, gid: 7 })
  t.match(file, { type: 'regular', path: ['d', 'f'], mode: 0o4755, sizeBytes: 5, mtimeSec: 5_000_000_000 })
  t.match(hard, { type: 'hardlink', target: ['d', 'f'] })
  t.match(sym, { type: 'symlink', target: Buffer.from('../anything/at/all') })
  t.match(chr, { type: 'charDevice', major: 1, minor: 0o777777 })
  t.match(blk, { type: 'blockDevice', major: 8, minor: 2 })
  t.match(fifo, { type: 'fifo' }, 'empty device numbers are no error')
})

t.test('bodies arrive whole, in pieces of any size, and unread ones are skipped', async t => {
  const body = Buffer.alloc(70_001, 'abc')
  const archive = tarBytes([{ name: 'a', body }, { name: 'b' }, { name: 'c', body: Buffer.alloc(512, 1) }])
  for (const size of [1, 511, 512, 513, 1 << 20]) {
    const entries = await readAll(archive, size)
    t.same(
      entries.map(({ entry, body }) => [entry.name, body.length]),
      [
        ['a', 70_001],
        ['b', 0],
        ['c', 512],
      ],
    )
    t.equal(Buffer.compare(entries[0]!.body, body), 0)
  }
  const names: string[] = []
  for await (const { name } of readTar(pieces(archive))) names.push(name)
  t.same(names, ['a', 'b', 'c'])
})

t.test('names that are not UTF-8 keep their bytes, in every form', async t => {
  const odd = Buffer.from([0x62, 0xff, 0xfe, 0x80, 0xc3])
  const long = Buffer.concat([Buffer.alloc(150, 0xe9), Buffer.from('/'), odd])
  const archive = Buffer.concat([
    tarItem({ name: odd }),
    tarItem({ name: 'x', pax: { path: odd } }),
    gnuLongName(long),
    tarItem({ name: 'short' }),
    tarItem({ name: 'l', type: '2', linkname: 'x', pax: { linkpath: odd } }),
    tarItem({ name: 'ünïcödé-名' }),
    tarItem({ name: 'y', pax: { path: 'ünïcödé-名' } }),
    Buffer.alloc(1024),
  ])
  const entries = (await readAll(archive)).map(({ entry }) => entry)
  t.equal(bytesOf(entries[0]!.path), odd.toString('hex'))
  t.equal(bytesOf(entries[1]!.path), odd.toString('hex'))
  t.equal(bytesOf(entries[2]!.path), long.toString('hex'))
  t.match(entries[3], { type: 'symlink', target: odd })
  t.equal(bytesOf(entries[4]!.path), Buffer.from('ünïcödé-名').toString('hex'))
  t.equal(bytesOf(entries[5]!.path), Buffer.from('ünïcödé-名').toString('hex'))
})

t.test(
  'extended attributes keep their bytes; global records do not apply, as in container runtimes',
  async t => {
    const value = Buffer.from([1, 0, 0, 2, 0xff, 0x0a, 0xc3, 0x28, 0x3d])
    const global = paxRecords({ uid: '5', mtime: '77' })
    const archive = Buffer.concat([
      tarItem({
        name: 'a',
        pax: { 'SCHILY.xattr.security.capability': value, 'SCHILY.xattr.user.empty': '' },
      }),
      tarItem({ name: 'g', type: 'g', body: global }),
      tarItem({ name: 'b' }),
      tarItem({ name: 'c', pax: { uid: '6' } }),
      Buffer.alloc(1024),
    ])
    const [a, b, c] = (await readAll(archive)).map(({ entry }) => entry)
    t.same(Buffer.from(a!.xattrs?.get('security.capability') ?? []).toString('hex'), value.toString('hex'))
    t.equal(a!.xattrs?.get('user.empty')?.length, 0)
    t.match(b, { uid: 0, mtimeSec: 1_600_000_000 })
    t.match(c, { uid: 6, mtimeSec: 1_600_000_000 })
  },
)

t.test('times: fractions, negative ones, and those past 2038', async t => {
  const times = ['0', '1.5', '-1', '-1.25', '-0.000000001', '99999999999.123456789123']
  const entries = await read(
    ...times.map((mtime, i) => ({ name: `f${i}`, pax: { mtime } })),
    { name: 'old', mtime: -86_400 },
    { name: 'far', mtime: 8_000_000_000 },
  )
  t.same(
    entries.map(({ mtimeSec, mtimeNsec }) => [mtimeSec, mtimeNsec]),
    [
      [0, 0],
      [1, 500_000_000],
      [-1, 0],
      [-2, 750_000_000],
      [-1, 999_999_999],
      [99_999_999_999, 123_456_789],
      [-86_400, 0],
      [8_000_000_000, 0],
    ],
  )
})

t.test('headers of every age', async t => {
  const magic = (text: string) => (header: Buffer) => void header.fill(0, 257).write(text, 257, 'latin1')
  const long = 'd'.repeat(120)
  const entries = await read(
    { name: 'v7/', type: '\0', patch: magic('') },
    { name: 'v7', type: '\0', body: Buffer.from('old'), patch: magic('') },
    { name: 'slash/', body: Buffer.from('x') },
    { name: 'cont', type: '7', body: Buffer.from('y') },
    { name: 'u', patch: header => void header.write(long, 345) },
    { name: 's', patch: header => (header.write(long, 345), void header.write('tar\0', 508, 'latin1')) },
    { name: 'g', patch: header => (magic('ustar  \0')(header), void header.write('00000000001', 345)) },
    { name: 'b', patch: header => (magic('ustar  \0')(header), void header.write('broken/prefix', 345)) },
    { name: 'm1', mtime: -1 },
    { name: 'id', uid: -2, gid: 2 ** 31 },
    { name: 'empty', patch: header => void header.fill(0, 100, 124) },
    { name: 'x', pax: { path: '', uid: '', mtime: '' }, uid: 3 },
  )
  t.same(
    entries.map(({ type, path }) => `${type} ${path.join('/')}`),
    [
      'directory v7',
      'regular v7',
      'regular slash',
      'regular cont',
      `regular ${long}/u`,
      `regular ${long}/s`,
      'regular g',
      'regular broken/prefix/b',
      'regular m1',
      'regular id',
      'regular empty',
      'regular x',
    ],
  )
  t.match(entries[8], { mtimeSec: -1 })
  t.match(entries[9], { uid: 4294967294, gid: 2147483648 })
  t.match(entries[10], { mode: 0, uid: 0, gid: 0 })
  t.match(entries[11], { uid: 3, mtimeSec: 1_600_000_000 }, 'empty records leave the header alone')
  const signed = tarItem({ name: Buffer.from([0xff, 0xfe]) })
  const sum = signed
    .subarray(0, 512)
    .reduce((total, byte, i) => total + (i >= 148 && i < 156 ? 32 : (byte << 24) >> 24), 0)
  signed.write(sum.toString(8).padStart(6, '0'), 148)
  t.equal((await readAll(signed)).length, 1, 'a sum of signed bytes')
})

t.test('entries without data have none, whatever size they state', async t => {
  const types = ['1', '2', '3', '4', '5', '6']
  const sized = types.map(type => ({
    name: `t${type}`,
    type,
    linkname: 'a',
    size: 700,
    pax: { size: '900' },
  }))
  const entries = await read({ name: 'a' }, ...sized, { name: 'end', body: Buffer.from('end') })
  t.equal(entries.at(-1)?.name, 'end')
  t.equal(entries.length, 8)
})

t.test('the size of a PAX record counts', async t => {
  const [entry] = await readAll(
    tarBytes([{ name: 'a', size: 0, pax: { size: '5' }, body: Buffer.from('hello') }, { name: 'b' }]),
  )
  t.equal(String(entry?.body), 'hello')
})

t.test("GNU's long names come before those of PAX, and records go to the next entry only", async t => {
  const archive = Buffer.concat([
    gnuLongName('long'),
    gnuLongName('target', 'K'),
    tarItem({ name: 'short', type: '2', linkname: 'x', pax: { path: 'pax', linkpath: 'pax' } }),
    tarItem({ name: 'next' }),
    tarItem({ name: 'pax', type: 'x', body: paxRecords({ path: 'first', uid: '9' }) }),
    tarItem({ name: 'pax', type: 'x', body: paxRecords({ path: 'second' }) }),
    tarItem({ name: 'c', uid: 1 }),
    tarItem({ name: 'pax', type: 'x', body: paxRecords({ path: 'lost' }) }),
    tarItem({ name: 'g', type: 'g', body: paxRecords({ path: 'global' }) }),
    tarItem({ name: 'd' }),
  ])
  const entries = (await readAll(archive)).map(({ entry }) => entry)
  t.match(entries[0], { name: 'long', target: Buffer.from('target') })
  t.equal(entries[1]?.name, 'next')
  t.match(entries[2], { name: 'second', uid: 1 }, 'the later of two records stands alone')
  t.equal(entries[3]?.name, 'd')
})

t.test('archives without their last blocks, as writers of images leave them', async t => {
  const body = Buffer.alloc(700, 'x')
  const whole = tarBytes([
    { name: 'a', body: Buffer.alloc(600) },
    { name: 'b', body },
  ])
  const dataEnd = whole.length - 1024 - (1024 - 700)
  for (const end of [
    whole.length,
    whole.length - 512,
    whole.length - 1024,
    whole.length - 1025,
    dataEnd + 1,
    dataEnd,
  ])
    for (const pieceSize of [100, 4096]) {
      const entries = await readAll(whole.subarray(0, end), pieceSize)
      t.equal(Buffer.compare(entries[1]?.body ?? Buffer.alloc(0), body), 0, `cut at ${end - whole.length}`)
    }
  await t.rejects(readAll(whole.subarray(0, dataEnd - 1)), { code: 'TAR_INVALID', message: /"b" is cut/ })
  await t.rejects(readAll(whole.subarray(0, whole.length - 600)), { code: 'TAR_INVALID', message: /middle/ })
  t.same(await readAll(Buffer.alloc(0)), [], 'an empty layer')
  t.same(await readAll(Buffer.alloc(512)), [])
})

t.test('what stands behind the end of the archive is not read', async t => {
  const hidden = Buffer.concat([tarBytes([{ name: 'seen' }]), tarBytes([{ name: 'hidden' }])])
  t.same(
    (await readAll(hidden)).map(({ entry }) => entry.name),
    ['seen'],
  )
  t.same(await readAll(Buffer.alloc(1024)), [], 'an empty archive is one')
  const junk = Buffer.concat([tarBytes([{ name: 'seen' }]), Buffer.alloc(5000, 'junk')])
  for (const size of [100, 1 << 20]) t.equal((await readAll(junk, size)).length, 1, 'junk behind the end')
  async function* wrongDigest(): AsyncGenerator<Uint8Array> {
    yield* pieces(hidden, 100)
    throw new Error('wrong digest')
  }
  await t.rejects(async () => {
    for await (const { name } of readTar(wrongDigest())) t.equal(name, 'seen')
  }, /wrong digest/)
})

t.test('hostile and damaged archives are refused by name', async t => {
  const refused = async (code: string, name: RegExp, ...items: TarItem[]): Promise<void> => {
    const err = await readAll(tarBytes(items)).then(
      () => undefined,
      (e: unknown) => e as Fault,
    )
    t.match(err, { code, message: name }, JSON.stringify(items[0]))
  }
  await refused('TAR_UNSAFE', /"\.\.\/etc\/passwd"/, { name: '../etc/passwd' })
  await refused('TAR_UNSAFE', /"a\/\.\.\/\.\.\/b"/, { name: 'a/../../b' })
  await refused('TAR_UNSAFE', /"\/etc\/passwd".*absolute/, { name: '/etc/passwd' })
  await refused('TAR_UNSAFE', /"\/abs"/, { name: 'x', pax: { path: '/abs' } })
  await refused('TAR_UNSAFE', /"l".*"\.\.\/out"/, { name: 'l', type: '1', linkname: '../out' })
  await refused('TAR_UNSAFE', /"l".*"\/etc\/shadow"/, { name: 'l', type: '1', linkname: '/etc/shadow' })
  await refused('TAR_UNSAFE', /\.wh\.\.\./, { name: 'd/.wh...' })
  await refused('TAR_UNSAFE', /\.wh\./, { name: '.wh.' })
  await refused('TAR_INVALID', /256 bytes/, { name: 'n', pax: { path: 'n'.repeat(256) } })
  await refused('TAR_INVALID', /5,?000|5000/, { name: 'n', pax: { path: 'n/'.repeat(2500) } })
  await refused('TAR_INVALID', /NUL/, { name: 'n', pax: { path: 'a\0b' } })
  await refused('TAR_INVALID', /"l"/, { name: 'l', type: '1' })
  await refused('TAR_INVALID', /"s"/, { name: 's', type: '2', pax: { linkpath: 'x'.repeat(4096) } })
  await refused('TAR_INVALID', /device number/, { name: 'c', type: '3', device: ['7777777', '0'] })
  await refused('TAR_INVALID', /user id/, { name: 'u', pax: { uid: '4294967295' } })
  await refused('TAR_INVALID', /user id/, { name: 'u', pax: { uid: 'root' } })
  await refused('TAR_INVALID', /modification time/, { name: 'm', pax: { mtime: 'now' } })
  await refused('TAR_UNSUPPORTED', /"multi".*"M"/, { name: 'multi', type: 'M' })
  await refused('TAR_INVALID', /"big".*cut/, { name: 'big', size: 2 ** 32, body: Buffer.alloc(600) })
  await refused('TAR_INVALID', /"neg".*size/, { name: 'neg', pax: { size: '-5' } })
  await refused('TAR_INVALID', /"nan".*size/, { name: 'nan', pax: { size: '1e3' } })
  await refused('TAR_INVALID', /"rec".*1 MiB/, { name: 'rec', type: 'x', size: 2 ** 20 + 1 })
  await refused('TAR_INVALID', /user id/, { name: 'u', uid: -1 })
})

t.test('bytes that are no archive', async t => {
  const good = tarBytes([{ name: 'a', body: Buffer.alloc(4000) }])
  const cutBody = good.subarray(0, 2000)
  const cutHeader = good.subarray(0, 300)
  const badSum = Buffer.from(good)
  badSum[0] = 0x62
  const loneZero = Buffer.concat([tarItem({ name: 'a' }), Buffer.alloc(512), tarBytes([{ name: 'b' }])])
  const badPax = Buffer.concat([tarItem({ name: 'p', type: 'x', body: Buffer.from('99 a=b\n') }), good])
  const text = Buffer.from('<html>not found</html>'.repeat(100))
  for (const bytes of [cutBody, cutHeader, badSum, loneZero, badPax, text])
    await t.rejects(readAll(bytes), { code: 'TAR_INVALID' })
})

t.test('a fault of the source comes through, and a reader that stops ends the source', async t => {
  async function* broken(): AsyncGenerator<Uint8Array> {
    yield tarItem({ name: 'a', body: Buffer.alloc(5000) }).subarray(0, 2000)
    throw new Error('connection reset')
  }
  await t.rejects(async () => {
    for await (const entry of readTar(broken()))
      if (entry.type === 'regular') for await (const piece of entry.body) t.ok(piece.length)
  }, /connection reset/)
  let ended = false
  async function* endless(): AsyncGenerator<Uint8Array> {
    try {
      for (let i = 0; ; i++) yield tarItem({ name: `f${i}`, body: Buffer.alloc(1000) })
    } finally {
      ended = true
    }
  }
  for await (const { name } of readTar(endless())) if (name === 'f5') break
  t.ok(ended)
})

t.test('PAX records are cut by their lengths, not by their newlines', async t => {
  const records = paxRecords({ a: 'x\ny=z', 'SCHILY.xattr.user.k': Buffer.from([0x0a, 0x3d, 0x20]) })
  t.same(
    [...parsePaxRecords(records)],
    [
      ['a', 'x\ny=z'],
      ['SCHILY.xattr.user.k', '\n= '],
    ],
  )
  for (const bad of [
    '',
    ' a=b\n',
    '0 a=b\n',
    '6 a=b',
    '-6 a=b\n',
    '600 a=b\n',
    '5 ab\n',
    '99999999999 a=b\n',
  ])
    if (bad !== '') t.throws(() => parsePaxRecords(Buffer.from(bad)), { code: 'TAR_INVALID' }, bad)
})
