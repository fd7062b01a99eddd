import { closeSync, existsSync, mkdirSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { cloneFuseDevice, closeFuseBacking, openFuseBacking } from '../../../src/native/fuse.js'
import { mount, MS, unmount } from '../../../src/native/mount.js'
import { rootMissing, scratch, syscallFailure } from '../../helpers/scratch.js'

const timeoutMs = 20_000
const skip = rootMissing || (existsSync('/dev/fuse') ? false : 'needs /dev/fuse')

function openDevice(t: Test): number {
  const fd = openSync('/dev/fuse', 'r+')
  t.teardown(() => closeSync(fd))
  return fd
}

const INIT_EXT = 1 << 30
const PASSTHROUGH = 1 << 5

/** Answers INIT, the first request of a session; true when the kernel offers passthrough. */
function answerInit(device: number): boolean {
  const request = Buffer.alloc(1 << 17)
  readSync(device, request)
  t.equal(request.readUInt32LE(4), 26, 'the request is INIT')
  const offered =
    (request.readUInt32LE(52) & INIT_EXT) !== 0 && (request.readUInt32LE(56) & PASSTHROUGH) !== 0
  const reply = Buffer.alloc(16 + 64)
  reply.writeUInt32LE(reply.length, 0)
  request.copy(reply, 8, 8, 16)
  reply.writeUInt32LE(7, 16)
  reply.writeUInt32LE(40, 20)
  reply.writeUInt32LE(offered ? INIT_EXT : 0, 28)
  reply.writeUInt32LE(65536, 36)
  reply.writeUInt32LE(offered ? PASSTHROUGH : 0, 48)
  reply.writeUInt32LE(offered ? 1 : 0, 52)
  writeSync(device, reply)
  return offered
}

t.test('devices that are none, or not mounted', { skip }, async t => {
  const device = openDevice(t)
  t.throws(() => cloneFuseDevice(openDevice(t), device), /FUSE_DEV_IOC_CLONE\): E(INVAL|PERM)/)
  t.throws(() => cloneFuseDevice(99_999, device), syscallFailure('EBADF'))
  t.throws(() => cloneFuseDevice(device, 99_999), /EBADF|EINVAL/)
  t.throws(() => openFuseBacking(99_999, 0), syscallFailure('EBADF'))
  t.throws(() => closeFuseBacking(99_999, 1), syscallFailure('EBADF'))
})

t.test('a session: clone and passthrough', { skip }, async t => {
  const directory = scratch(t)
  const target = path.join(directory, 'mnt')
  mkdirSync(target)
  const device = openDevice(t)
  const data = `fd=${device},rootmode=40000,user_id=0,group_id=0`
  await mount({
    source: 'test',
    target,
    type: 'fuse',
    flags: MS.RDONLY | MS.NOSUID | MS.NODEV,
    data,
    timeoutMs,
  })
  t.teardown(() => unmount(target, { lazy: true, timeoutMs }))
  const passthrough = answerInit(device)

  cloneFuseDevice(openDevice(t), device)
  t.throws(() => cloneFuseDevice(device, device), syscallFailure('EINVAL'), 'a device of a session already')

  await t.test('backing files', { skip: passthrough ? false : 'this kernel has no passthrough' }, async t => {
    const file = path.join(directory, 'file')
    writeFileSync(file, 'x')
    const fd = openSync(file, 'r')
    t.teardown(() => closeSync(fd))
    t.throws(() => openFuseBacking(device, 99_999), syscallFailure('EBADF'))
    t.throws(() => closeFuseBacking(device, 12_345), syscallFailure('ENOENT'))
    const id = openFuseBacking(device, fd)
    t.ok(id > 0)
    closeFuseBacking(device, id)
    t.throws(() => closeFuseBacking(device, id), syscallFailure('ENOENT'), 'closed twice')
  })
})
