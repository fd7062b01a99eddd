import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { findFuseMount, findMount, parseMountInfo, readMountTable } from '../../../src/native/mount-table.js'

t.test('the fields of a line, with any number of optional ones', async t => {
  const text = [
    '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue',
    '40 35 0:52 / /images/1/mnt ro - erofs none ro,fsid=abc,domain_id=d',
    '41 35 0:53 / /a\\040b\\011c\\134d\\012e rw - tmpfs with\\040space rw',
    '',
  ].join('\n')
  t.same(parseMountInfo(text), [
    {
      device: '98:0',
      mountpoint: '/mnt2',
      fsType: 'ext3',
      source: '/dev/root',
      superOptions: 'rw,errors=continue',
    },
    {
      device: '0:52',
      mountpoint: '/images/1/mnt',
      fsType: 'erofs',
      source: 'none',
      superOptions: 'ro,fsid=abc,domain_id=d',
    },
    {
      device: '0:53',
      mountpoint: '/a b\tc\\d\ne',
      fsType: 'tmpfs',
      source: 'with space',
      superOptions: 'rw',
    },
  ])
})

t.test('a mountpoint or root that is a dash is not the separator', async t => {
  t.same(parseMountInfo('36 35 98:0 - - rw - ext4 /dev/sda rw'), [
    { device: '98:0', mountpoint: '-', fsType: 'ext4', source: '/dev/sda', superOptions: 'rw' },
  ])
})

t.test('other lines are passed over', async t => {
  t.same(parseMountInfo('nonsense\n1 2 3\n36 35 98:0 / /x rw shared:1 ext4 /dev/sda rw\n'), [])
})

t.test('whatever the text, parsing ends without an error', async () => {
  const words = fc.constantFrom('-', '/', '/a\\040b', '36', 'rw', '\n', ' ', '\\', '\\777', 'é')
  fc.assert(
    fc.property(fc.array(words), parts => {
      for (const entry of parseMountInfo(parts.join(' ')))
        if (typeof entry.mountpoint !== 'string') throw new Error('no mountpoint')
    }),
  )
})

t.test('the table of this process', async t => {
  t.equal(readMountTable().length, readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\n').length)
  t.equal(findMount('/proc')?.fsType, 'proc')
  t.equal(findMount('/proc/nowhere'), undefined)
  t.equal(findFuseMount('/proc'), undefined, 'of another type')
})
