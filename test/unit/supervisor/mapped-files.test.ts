import t from 'tap'
import { containerOf, parseMaps } from '../../../src/supervisor/mapped-files.js'

t.test('lines of maps that name a file', async t => {
  const text = [
    '00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon',
    '7f00deadb000-7f00deadc000 r--p 00001000 00:2d 12    /lib/a b.so (deleted)',
    '7ffc1000-7ffc2000 rw-p 00000000 00:00 0             [stack]',
    '7f0000000000-7f0000001000 rw-p 00000000 00:00 0',
    '7f0000002000-7f0000003000 r--s 00000000 00:0f 9     anon_inode:[perf_event]',
    'garbage',
    '',
  ].join('\n')
  t.strictSame(parseMaps(text), [
    { range: '400000-452000', device: '8:2', path: '/usr/bin/dbus-daemon' },
    { range: '7f00deadb000-7f00deadc000', device: '0:45', path: '/lib/a b.so' },
  ])
})

t.test('the container of a process, by its control groups', async t => {
  const id = 'c0ffee'.repeat(11).slice(0, 64)
  t.equal(containerOf(`0::/kubepods.slice/cri-containerd-${id}.scope\n`), id)
  t.equal(containerOf(`12:memory:/docker/${id}\n0::/\n`), id)
  t.equal(containerOf('0::/system.slice/ssh.service\n'), 'ssh.service')
  t.equal(containerOf('0::/\n'), '')
  t.equal(containerOf(''), '')
})
