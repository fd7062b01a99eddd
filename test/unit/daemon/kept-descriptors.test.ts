import { closeSync, openSync } from 'node:fs'
import t from 'tap'
import { readKeptDescriptors } from '../../../src/daemon/kept-descriptors.js'
import { getCloseOnExec, setCloseOnExec } from '../../../src/native/descriptor.js'

t.test('names and numbers, closed on exec from here on', async t => {
  const fds = [openSync('/dev/null', 'r'), openSync('/dev/null', 'r')]
  t.teardown(() => fds.forEach(fd => closeSync(fd)))
  for (const fd of fds) setCloseOnExec(fd, false)
  const kept = readKeptDescriptors(JSON.stringify({ 'fanotify.group': fds[0], 'fill.ab': fds[1] }))
  t.same(
    [...kept],
    [
      ['fanotify.group', fds[0]],
      ['fill.ab', fds[1]],
    ],
  )
  for (const fd of fds) t.equal(getCloseOnExec(fd), true)
})

t.test('none', async t => {
  for (const text of [undefined, '', '{}']) t.equal(readKeptDescriptors(text).size, 0, String(text))
})

t.test('what is no such object, or not open, is refused', async t => {
  const closed = openSync('/dev/null', 'r')
  closeSync(closed)
  for (const text of [
    'no json',
    '{"a":"7"}',
    '{"a":-1}',
    `{"a":${closed}}`,
    '{"a":1.5}',
    '[null]',
    'null',
    '"text"',
    '7',
  ]) {
    t.throws(() => readKeptDescriptors(text), { code: 'CONFIG_INVALID' }, text)
  }
})
