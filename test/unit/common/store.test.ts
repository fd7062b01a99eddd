import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import { ClassicLevel } from 'classic-level'
import t from 'tap'
import { Store } from '../../../src/common/store.js'
import { scratch } from '../../helpers/scratch.js'

/** 60 entries in tables, 60 in the log. */
async function fill(directory: string): Promise<void> {
  for (let run = 0; run < 3; run++) {
    const store = await Store.open(directory)
    for (let at = 0; at < 40; at += 10)
      await store.write(
        Array.from({ length: 10 }, (_, index) => ({
          type: 'put' as const,
          key: `k/${run}-${at + index}`,
          value: { text: 'v'.repeat(200), at },
        })),
      )
    await store.close()
  }
}

/** Changes an entry behind the back of the store. */
async function patch(directory: string, key: string, text: string): Promise<void> {
  const db = new ClassicLevel(directory, { valueEncoding: 'utf8' })
  await db.put(key, text)
  await db.close()
}

const file = (directory: string, pattern: RegExp): string =>
  path.join(
    directory,
    readdirSync(directory)
      .filter(name => pattern.test(name))
      .sort((a, b) => statSync(path.join(directory, b)).size - statSync(path.join(directory, a)).size)[0] ??
      '',
  )

function overwrite(target: string, at: number): void {
  const fd = openSync(target, 'r+')
  writeSync(fd, Buffer.alloc(200, 0xa5), 0, 200, at)
  closeSync(fd)
}

t.test('what was written is there again, and nothing is wrong', async t => {
  const directory = path.join(scratch(t), 'state')
  const first = await Store.open(directory)
  t.equal(first.isEmpty, true)
  await Promise.all([
    first.write([
      { type: 'put', key: 'a/1', value: 1 },
      { type: 'put', key: 'a/2', value: { x: [2] } },
    ]),
    first.write([
      { type: 'del', key: 'a/1' },
      { type: 'put', key: 'b/1', value: 'é' },
    ]),
    first.write([
      { type: 'put', key: 'b/1', value: 3 },
      { type: 'del', key: 'b/1' },
      { type: 'del', key: 'c' },
    ]),
  ])
  await first.close()
  const second = await Store.open(directory)
  t.strictSame(second.damage, [])
  t.equal(second.isEmpty, false)
  t.strictSame(await second.list('a/'), [['a/2', { x: [2] }]])
  t.equal(await second.get('b/1'), undefined)
  await t.rejects(Store.open(directory), { code: 'STORE_LOCKED' })
  await second.close()
})

t.test('files that are damaged are repaired, and a loss is never silent', async t => {
  const samples: [string, (directory: string) => void, { lossless: boolean }][] = [
    ['CURRENT gone', d => rmSync(path.join(d, 'CURRENT')), { lossless: true }],
    ['CURRENT empty', d => truncateSync(path.join(d, 'CURRENT')), { lossless: true }],
    [
      'CURRENT of another',
      d => writeFileSync(path.join(d, 'CURRENT'), 'MANIFEST-999999\n'),
      { lossless: true },
    ],
    ['MANIFEST gone', d => rmSync(file(d, /^MANIFEST/)), { lossless: true }],
    ['MANIFEST garbage', d => overwrite(file(d, /^MANIFEST/), 0), { lossless: true }],
    ['MANIFEST truncated', d => truncateSync(file(d, /^MANIFEST/), 10), { lossless: true }],
    ['table garbage', d => overwrite(file(d, /\.ldb$/), 400), { lossless: false }],
    ['table truncated', d => truncateSync(file(d, /\.ldb$/), 500), { lossless: false }],
    ['table gone', d => rmSync(file(d, /\.ldb$/)), { lossless: false }],
  ]
  for (const [name, damage, { lossless }] of samples) {
    const directory = path.join(scratch(t), 'state')
    await fill(directory)
    damage(directory)
    const store = await Store.open(directory)
    const entries = await store.list('k/')
    if (lossless) {
      t.equal(entries.length, 120, `${name}: nothing is lost`)
      t.match(store.damage, [/could not be read .* and was repaired/], name)
      t.ok(existsSync(`${directory}.damaged`), 'the files of before are kept')
    } else {
      t.ok(entries.length < 120, `${name}: ${entries.length} are left`)
      t.match(
        store.damage.at(-1),
        /is not what was written: it has \d+ entries of 120, and some are lost/,
        name,
      )
    }
    await store.write([{ type: 'put', key: 'k/new', value: 1 }])
    await store.close()
    const again = await Store.open(directory)
    t.strictSame(again.damage, [], `${name}: from then on it is sound`)
    t.equal(await again.get('k/new'), 1)
    await again.close()
  }
})

t.test('a log whose end cannot be read is an older state, batch by batch', async t => {
  const samples: [string, (log: string) => void, number][] = [
    ['torn off', log => truncateSync(log, statSync(log).size - 100), 110],
    ['garbage', log => overwrite(log, statSync(log).size - 4000), 100],
  ]
  for (const [name, damage, left] of samples) {
    const directory = path.join(scratch(t), 'state')
    await fill(directory)
    damage(file(directory, /\.log$/))
    const store = await Store.open(directory)
    t.equal((await store.list('k/')).length, left, name)
    t.strictSame(store.damage, [])
    await store.close()
  }
})

t.test('entries that LevelDB leaves out in the middle of its log', async t => {
  const directory = path.join(scratch(t), 'state')
  const first = await Store.open(directory)
  for (let at = 0; at < 300; at++)
    await first.write([{ type: 'put', key: `k/${at}`, value: 'v'.repeat(300) }])
  await first.close()
  // It reads on behind the block of 32 KiB that it cannot read.
  overwrite(file(directory, /\.log$/), 40_000)
  const store = await Store.open(directory)
  t.match(store.damage, [/it has \d+ entries of 300, and some are lost or changed/])
  await store.close()
})

t.test('entries that were changed behind its back', async t => {
  const directory = path.join(scratch(t), 'state')
  await fill(directory)
  await patch(directory, 'k/0-0', '{')
  const store = await Store.open(directory)
  t.match(store.damage, [/it has 120 entries of 120, and some are lost or changed/])
  await t.rejects(store.get('k/0-0'), { code: 'STORE_DAMAGED', message: /k\/0-0 of the state is not JSON/ })
  await t.rejects(store.list('k/'), { code: 'STORE_DAMAGED' })
  t.equal((await store.listText('k/'))[0]?.[1], '{')
  await store.close()
  await patch(directory, 'store/sum', '{')
  const other = await Store.open(directory)
  t.match(other.damage, [/the sum over the entries of .* is damaged itself/])
  await other.close()
})

t.test('a store of a newer release, and what cannot be repaired', async t => {
  const directory = path.join(scratch(t), 'state')
  await fill(directory)
  await patch(directory, 'store/sum', JSON.stringify({ version: 2, count: 1, sum: 1 }))
  await t.rejects(Store.open(directory), {
    code: 'STORE_VERSION',
    message: /has version 2, .* knows 1: start/,
  })
  await t.rejects(Store.open(directory), { code: 'STORE_VERSION' }, 'and it is not locked by the attempt')
  const file = path.join(scratch(t), 'file')
  writeFileSync(file, '')
  await t.rejects(Store.open(path.join(file, 'state')))
})
