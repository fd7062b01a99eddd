import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { FAN_INIT, addMark, openFanotifyGroup } from '../../../src/native/fanotify.js'
import { encodeAllow, FAN, parseFanotifyEvents } from '../../../src/native/fanotify-events.js'
import {
  MS,
  mount,
  mountErofs,
  probeErofsFileBacked,
  probeErofsParameter,
  setPropagation,
  unmount,
} from '../../../src/native/mount.js'
import { countLiveJobs } from '../../../src/native/wait.js'
import { type ErofsImage, erofsMissing, growDeviceTable, makeErofsImage } from '../../helpers/erofs-image.js'
import { rootMissing, scratch, syscallFailure } from '../../helpers/scratch.js'

const timeoutMs = 20_000
const content = randomBytes(100_000)

function makeDirectory(...parts: string[]): string {
  const directory = path.join(...parts)
  mkdirSync(directory, { recursive: true })
  return directory
}

function mountinfo(target: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter(line => line.split(' ')[4] === target)
}

/** An image of one file, its device filled. */
function makeImage(t: Test): { directory: string; image: ErofsImage; target: string } {
  const directory = scratch(t)
  const image = makeErofsImage(directory, { file: content })
  writeFileSync(image.device, image.content)
  return { directory, image, target: makeDirectory(directory, 'mnt') }
}

t.test('mount(2)', { skip: rootMissing }, async t => {
  await t.test('what cannot be mounted or unmounted', async t => {
    const directory = scratch(t)
    const request = { source: 'x', target: directory, type: 'tmpfs', timeoutMs }
    await t.rejects(mount({ ...request, type: 'nosuchfs' }), syscallFailure('ENODEV', 'mount'))
    await t.rejects(mount({ ...request, target: `${directory}/no` }), syscallFailure('ENOENT', 'mount'))
    await t.rejects(mount({ ...request, data: 'nosuchoption' }), syscallFailure('EINVAL', 'mount'))
    await t.rejects(mount({ ...request, target: `/${'x'.repeat(5000)}` }), syscallFailure('ENAMETOOLONG'))
    await t.rejects(mount({ ...request, target: 'a\0b' }), syscallFailure('EINVAL'))
    await t.rejects(unmount(directory, { timeoutMs }), syscallFailure('EINVAL', 'umount2'))
    await t.rejects(unmount(`${directory}/no`, { timeoutMs }), syscallFailure('ENOENT', 'umount2'))
  })

  await t.test('tmpfs, bind, flags, EBUSY, lazy', async t => {
    const directory = scratch(t)
    const [a, b] = [makeDirectory(directory, 'a'), makeDirectory(directory, 'b')]
    await mount({ source: 'mine', target: a, type: 'tmpfs', data: 'size=1m', timeoutMs })
    await setPropagation(a, MS.PRIVATE, { timeoutMs })
    t.match(mountinfo(a)[0], / - tmpfs mine .*size=1024k/)
    await mount({ source: a, target: b, type: 'none', flags: MS.BIND, timeoutMs })
    await mount({
      source: 'none',
      target: b,
      type: 'none',
      flags: MS.REMOUNT | MS.BIND | MS.RDONLY,
      timeoutMs,
    })
    writeFileSync(path.join(a, 'file'), 'seen')
    t.equal(readFileSync(path.join(b, 'file'), 'utf8'), 'seen')
    t.throws(() => writeFileSync(path.join(b, 'file'), ''), { code: 'EROFS' })
    await unmount(b, { timeoutMs })
    const fd = openSync(path.join(a, 'file'), 'r')
    t.teardown(() => closeSync(fd))
    await t.rejects(unmount(a, { timeoutMs }), {
      ...syscallFailure('EBUSY', 'umount2'),
      message: `unmount of ${a} failed: umount2: EBUSY, resource busy or locked`,
    })
    await unmount(a, { timeoutMs, lazy: true })
    t.strictSame(mountinfo(a), [])
    t.equal(readSync(fd, Buffer.alloc(10)), 4, 'who had it open reads on')
  })

  await t.test('overlay', async t => {
    const directory = scratch(t)
    const [lower, upper, work, merged] = ['lower', 'upper', 'work', 'merged'].map(n =>
      makeDirectory(directory, n),
    )
    writeFileSync(path.join(lower!, 'file'), 'below')
    const data = `lowerdir=${lower},upperdir=${upper},workdir=${work}`
    await mount({ source: 'overlay', target: merged!, type: 'overlay', data, timeoutMs })
    t.equal(readFileSync(path.join(merged!, 'file'), 'utf8'), 'below')
    await unmount(merged!, { timeoutMs })
  })
})

t.test('EROFS from plain files', { skip: erofsMissing }, async t => {
  await t.test('what is refused', async t => {
    const { directory, image, target } = makeImage(t)
    const request = { source: image.bootstrap, devices: [image.device], target, timeoutMs }
    const create = 'fsconfig(FSCONFIG_CMD_CREATE)'
    await t.rejects(
      mountErofs({ ...request, devices: [image.device, image.device] }),
      syscallFailure('EINVAL', create),
    )
    await t.rejects(
      mountErofs({ ...request, devices: [`${directory}/no`] }),
      syscallFailure('ENOENT', create),
    )
    await t.rejects(mountErofs({ ...request, source: `${directory}/no` }), syscallFailure('ENOENT', create))
    await t.rejects(mountErofs({ ...request, source: image.device }), syscallFailure('EINVAL', create))
    await t.rejects(mountErofs({ ...request, source: directory }), syscallFailure('ENOTBLK', create))
    await t.rejects(mountErofs({ ...request, devices: ['a\0b'] }), syscallFailure('EINVAL'))
    const long = path.join(directory, 'x'.repeat(250), 'y'.repeat(250))
    await t.rejects(mountErofs({ ...request, devices: [long] }), syscallFailure('ENOENT', 'fsconfig'))
    await t.rejects(
      mountErofs({ ...request, target: `${directory}/no` }),
      syscallFailure('ENOENT', 'move_mount'),
    )
    t.strictSame(mountinfo(target), [])
  })

  await t.test("the kernel's own words are in the fault", async t => {
    const { image, target } = makeImage(t)
    const request = { source: image.bootstrap, devices: [image.device], target, timeoutMs }
    // An empty value is refused by the parser of parameters, which says so.
    const failure = await mountErofs({ ...request, devices: [''] }).then(
      () => undefined,
      (err: unknown) => err,
    )
    t.match(failure, {
      code: 'SYSCALL_FAILED',
      message: /\(kernel: .*device/,
      context: { messages: [/device/] },
    })
  })

  await t.test('one device', async t => {
    const { image, target } = makeImage(t)
    await mountErofs({ source: image.bootstrap, devices: [image.device], target, timeoutMs })
    t.match(mountinfo(target)[0], / ro,.* - erofs .*bootstrap ro/)
    t.ok(readFileSync(path.join(target, 'file')).equals(content))
    await unmount(target, { timeoutMs })
  })

  await t.test('300 devices, more than a page of options', async t => {
    const { directory, image, target } = makeImage(t)
    growDeviceTable(image, 300)
    const empty = path.join(makeDirectory(directory, 'd'.repeat(200)), 'empty')
    writeFileSync(empty, Buffer.alloc(4096))
    const devices = [image.device, ...Array<string>(299).fill(empty)]
    await mountErofs({ source: image.bootstrap, devices, target, timeoutMs })
    t.ok(readFileSync(path.join(target, 'file')).equals(content))
    await unmount(target, { timeoutMs })
  })

  await t.test('paths longer than a parameter may be', async t => {
    const { directory, image, target } = makeImage(t)
    const deep = makeDirectory(directory, 'x'.repeat(200), 'y'.repeat(200))
    const [source, device] = [path.join(deep, 'bootstrap'), path.join(deep, 'device')]
    renameSync(image.bootstrap, source)
    renameSync(image.device, device)
    await mountErofs({ source, devices: [device], target, timeoutMs })
    t.ok(readFileSync(path.join(target, 'file')).equals(content))
    await unmount(target, { timeoutMs })
  })

  await t.test('a mount that misses its deadline does not appear later', async t => {
    const { image, target } = makeImage(t)
    // Opening the bootstrap waits for this group's answer, so that the deadline passes first.
    const group = openFanotifyGroup(FAN_INIT.CLASS_PRE_CONTENT, constants.O_RDONLY)
    t.teardown(() => closeSync(group))
    addMark(group, image.bootstrap, FAN.OPEN_PERM)
    await t.rejects(mountErofs({ source: image.bootstrap, devices: [image.device], target, timeoutMs: 20 }), {
      code: 'NATIVE_TIMEOUT',
    })
    t.equal(countLiveJobs(), 1)
    const buffer = Buffer.alloc(4096)
    const [event] = parseFanotifyEvents(buffer, readSync(group, buffer))
    writeSync(group, encodeAllow(event!.fd))
    closeSync(event!.fd)
    while (countLiveJobs() > 0) await delay(1)
    t.strictSame(mountinfo(target), [])
  })

  await t.test('probes leave nothing', async t => {
    const { image, target } = makeImage(t)
    t.equal(await probeErofsFileBacked(image.bootstrap, [image.device], { timeoutMs }), undefined)
    t.match(await probeErofsFileBacked(target, [], { timeoutMs }), { errno: 'ENOTBLK', message: /ENOTBLK/ })
    t.notMatch(readFileSync('/proc/self/mountinfo', 'utf8'), `${image.bootstrap} `)
    t.match(probeErofsParameter('nosuch', true), {
      accepted: false,
      errno: 'EINVAL',
      messages: ["erofs: Unknown parameter 'nosuch'"],
    })
    t.match(probeErofsParameter('acl', true), { accepted: true })
    t.match(probeErofsParameter('source', '/x'), { accepted: true, messages: [] })
  })
})
