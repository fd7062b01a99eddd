import path from 'node:path'
import { ClassicLevel } from 'classic-level'
import t from 'tap'
import { Store } from '../../../src/common/store.js'
import { isOwnRecord } from '../../../src/snapshotter/directories.js'
import { mountedKey, readImageRecords, releasingKey } from '../../../src/supervisor/image-record.js'
import { scratch } from '../../helpers/scratch.js'

t.test('records that are not followed', async t => {
  const directory = path.join(scratch(t), 'state')
  const root = '/var/lib/nydus'
  const fsid = 'a'.repeat(64)
  const own = `${root}/snapshots/7`
  const spec = {
    id: '7',
    imageRef: 'r/a:b',
    bootstrapPath: `${own}/fs/image/image.boot`,
    mountpoint: `${own}/mnt`,
    labels: {},
  }
  const sound = { spec, fsid, superblocks: ['ovl'], state: 'mounted' }
  const fuse = { daemon: 'shared', mountpoint: `${root}/mnt`, path: '/7', version: 6 }
  const samples: [unknown, RegExp | undefined][] = [
    [sound, undefined],
    [{ ...sound, fuse, takenOver: `${own}/mnt` }, undefined],
    [{ ...sound, spec: { ...spec, bootstrapPath: '/etc/passwd' } }, /not those of this root/],
    [{ ...sound, spec: { ...spec, bootstrapPath: `${own}/fs/../../8/fs/x` } }, /not those of this root/],
    [{ ...sound, spec: { ...spec, mountpoint: '/' } }, /not those of this root/],
    [{ ...sound, fuse: { ...fuse, mountpoint: '/home' } }, /not those of this root/],
    [{ ...sound, takenOver: '/usr' }, /not those of this root/],
    [{ ...sound, spec: { ...spec, id: '8' } }, /another image/],
    [{ ...sound, spec: undefined }, /which image/],
    [{ ...sound, fsid: 'x' }, /fsid/],
    [{ ...sound, superblocks: ['../..'] }, /superblocks/],
    [{ ...sound, state: 'gone' }, /state "gone" is unknown/],
    [{ ...sound, fuse: { daemon: 1 } }, /where FUSE/],
    [{ ...sound, takenOver: 1 }, /no path/],
    [[], /no object/],
  ]
  for (const [value, reason] of samples) {
    const store = await Store.open(directory)
    await store.write([{ type: 'put', key: mountedKey('7'), value }])
    const { records, damaged } = await readImageRecords(store, record => isOwnRecord(root, record))
    const what = JSON.stringify(value)
    if (reason) t.match([records, damaged], [[], [{ key: mountedKey('7'), reason }]], what)
    else t.match([records, damaged], [[value], []], what)
    await store.close()
  }
  const db = new ClassicLevel(directory)
  await db.put(releasingKey(fsid), '{')
  await db.close()
  const store = await Store.open(directory)
  t.match((await readImageRecords(store, () => true)).damaged, [
    {},
    { key: releasingKey(fsid), reason: /not JSON/ },
  ])
  await store.close()
})
