/** The server through the kernel: it runs in a child, and nothing here touches its mount but other processes. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { openPidfd, takeDescriptor } from '../../../src/native/process.js'
import { describeTree, makeAwkwardTree } from '../../helpers/awkward-tree.js'
import { buildFuseImage } from '../../helpers/fuse-image.js'
import { FuseServing, fuseMissing, serveFuse } from '../../helpers/fuse-serving.js'
import { scratch } from '../../helpers/scratch.js'

const run = promisify(execFile)
const skip = fuseMissing

/** What a python script prints; arguments are its `sys.argv[1:]`. */
async function python(script: string, ...args: string[]): Promise<string> {
  const { stdout } = await run('python3', ['-c', script, ...args], { maxBuffer: 1 << 26 })
  return stdout.trim()
}

/** A server of one image at /image, of the files (name to content). */
async function serveFiles(t: Test, files: Record<string, Buffer | string>, workers = 2) {
  const serving = await serveFuse(t, { workers })
  const tree = path.join(serving.directory, 'tree')
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(tree, name)), { recursive: true })
    writeFileSync(path.join(tree, name), content)
  }
  const image = buildFuseImage(serving.directory, tree, '/image')
  await serving.call('show', image)
  await serving.call('start')
  return { serving, tree, image, at: (name: string) => path.join(serving.mountpoint, image.path, name) }
}

/** A process that reads the file; resolves with its exit status, or the signal that ended it. */
function startReader(t: Test, file: string): { child: ChildProcess; ended: Promise<unknown> } {
  const child = spawn('dd', [`if=${file}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct'], {
    stdio: 'ignore',
  })
  t.teardown(() => child.kill('SIGKILL'))
  return { child, ended: once(child, 'exit').then(([code, signal]: unknown[]) => code ?? signal) }
}

const errnoOf = `
import os, sys
try: os.stat(sys.argv[1]); print(0)
except OSError as e: print(e.errno)
`

t.test('an awkward tree, cold and warm, with holes, hard links and attributes', { skip }, async t => {
  const serving = await serveFuse(t)
  const tree = path.join(serving.directory, 'tree')
  mkdirSync(tree)
  makeAwkwardTree(tree)
  const image = buildFuseImage(serving.directory, tree, '/')
  await serving.call('show', image)
  await serving.call('start')
  const wanted = describeTree(tree)
  t.same(describeTree(serving.mountpoint), wanted, 'cold')
  t.same(describeTree(serving.mountpoint), wanted, 'warm')
  const links = await python(
    'import os,sys; print(len({os.stat(os.path.join(sys.argv[1], n)).st_ino for n in ("text", "zz-text", "deep/other-text")}))',
    serving.mountpoint,
  )
  t.equal(links, '1', 'names of a file have one inode number')
})

t.test('a directory of 100,000 names, and places in it', { skip, timeout: 300_000 }, async t => {
  const serving = await serveFuse(t)
  const tree = path.join(serving.directory, 'tree')
  mkdirSync(path.join(tree, 'wide'), { recursive: true })
  await python(
    'import sys\nfor i in range(100000): open("%s/%x-entry" % (sys.argv[1], i * 2654435761 % 2**32), "w")',
    path.join(tree, 'wide'),
  )
  await serving.call('show', buildFuseImage(serving.directory, tree, '/image'))
  await serving.call('start')
  const wide = path.join(serving.mountpoint, 'image/wide')
  const names = 'import os,sys; print(sorted(os.listdir(sys.argv[1])) == sorted(os.listdir(sys.argv[2])))'
  t.equal(await python(names, wide, path.join(tree, 'wide')), 'True')
  const places = await python(
    `
import ctypes, sys
c = ctypes.CDLL(None); c.opendir.restype = ctypes.c_void_p; c.readdir.restype = ctypes.c_void_p
c.telldir.restype = ctypes.c_long
for f in ('readdir', 'telldir', 'rewinddir'): getattr(c, f).argtypes = [ctypes.c_void_p]
c.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = c.opendir(sys.argv[1].encode())
def name():
    e = c.readdir(d)
    return ctypes.string_at(e + 19) if e else None
first, seen = name(), {}
for i in range(70000):
    at = c.telldir(d); n = name()
    if i % 7001 == 0: seen[at] = n
ok = True
for at in sorted(seen, reverse=True):
    c.seekdir(d, at); ok = ok and name() == seen[at]
c.rewinddir(d); ok = ok and name() == first
print(ok, len(seen))`,
    wide,
  )
  t.equal(places, 'True 10')
})

t.test('mapped files, seeks to data and holes, and attributes that do not fit', { skip }, async t => {
  const content = randomBytes(3_000_000)
  const { at, tree } = await serveFiles(t, { data: content, other: 'x' })
  await python('import os,sys; os.setxattr(sys.argv[1], "user.long", b"v" * 300)', path.join(tree, 'other'))
  const mapped = `
import mmap, os, sys
f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); w = open(sys.argv[2], 'rb').read()
print(all(m[i:i+9] == w[i:i+9] for i in range(len(w) - 9, 0, -70001)), m[:] == w)
print(os.lseek(f.fileno(), 5000, os.SEEK_DATA), os.lseek(f.fileno(), 5000, os.SEEK_HOLE))
try: os.lseek(f.fileno(), len(w), os.SEEK_DATA)
except OSError as e: print(e.errno)`
  t.equal(await python(mapped, at('data'), path.join(tree, 'data')), 'True True\n5000 3000000\n6')
  const attributes = `
import ctypes, os, sys
c = ctypes.CDLL(None, use_errno=True); b = ctypes.create_string_buffer(400); p = sys.argv[1].encode()
def get(name, size): r = c.getxattr(p, name, b, size); return r if r >= 0 else -ctypes.get_errno()
print(get(b'user.none', 400), get(b'user.none', 0), c.listxattr(p, b, 400))
try: open(sys.argv[1], 'w')
except OSError as e: print(e.errno)
print(os.statvfs(sys.argv[1]).f_namemax)`
  t.equal(await python(attributes, at('other')), '-61 -61 0\n30\n255')
})

t.test('images come and go, beside and inside each other', { skip }, async t => {
  const { serving, image, at } = await serveFiles(t, { 'a/b/own': 'own', top: 'top' })
  const tree = path.join(serving.directory, 'other')
  mkdirSync(tree)
  writeFileSync(path.join(tree, 'file'), 'other')
  const other = buildFuseImage(serving.directory, tree, '/other', { name: 'other' })
  const shown = (name: string) => path.join(serving.mountpoint, name)
  const look = (...names: string[]) =>
    python('import os,sys; print(*[sorted(os.listdir(p)) for p in sys.argv[1:]])', ...names)
  const cat = async (name: string): Promise<string> => (await run('cat', [name])).stdout

  t.equal(await python(errnoOf, shown('other')), '2', 'an absent name is remembered as such')
  for (let round = 0; round < 20; round++) {
    await serving.call('show', other)
    t.equal(await cat(shown('other/file')), 'other')
    t.equal(await look(serving.mountpoint), "['image', 'other']")
    await serving.call('hide', '/other')
    t.equal(await python(errnoOf, shown('other')), '2')
    t.equal(await look(serving.mountpoint), "['image']")
  }
  await serving.call('show', { ...other, path: '/deep/er/x' })
  t.equal(await cat(shown('deep/er/x/file')), 'other')
  await t.rejects(serving.call('show', { ...other, path: '/deep//er/x/' }), { code: 'INSTANCE_EXISTS' })
  await t.rejects(serving.call('show', { ...other, path: '/deep/../x' }), { code: 'CONFIG_INVALID' })
  await serving.call('hide', '/deep/er/x')
  t.equal(await python(errnoOf, shown('deep')), '2', 'made-up directories go with the image')

  t.equal(await look(at('a'), at('a/b')), "['b'] ['own']")
  await serving.call('show', { ...other, path: '/image/a/b' })
  t.equal(await cat(at('a/b/file')), 'other', 'inside an image, over what it has there')
  await serving.call('show', { ...other, path: '/image/a/new/n' })
  t.equal(await look(at('a'), at('a/b'), at('a/new/n')), "['b', 'new'] ['file'] ['file']")
  const up = 'import os,sys; os.chdir(sys.argv[1]); print(sorted(os.listdir("..")))'
  t.equal(await python(up, at('a/new/n')), "['n']")
  await t.rejects(serving.call('hide', '/image'), { code: 'INSTANCE_BUSY' })
  await serving.call('hide', '/image/a/b')
  await serving.call('hide', '/image/a/new/n')
  t.equal(await look(at('a'), at('a/b')), "['b'] ['own']")

  t.equal(await python(errnoOf, shown('file')), '2')
  await serving.call('show', { ...other, path: '/' })
  t.equal(await look(serving.mountpoint), "['file']", 'an image at / covers what was there')
  t.equal(await cat(shown('file')), 'other')
  await serving.call('hide', '/')
  t.equal(await look(serving.mountpoint), "['image']")
  t.equal(await python(errnoOf, shown('file')), '2')
  t.equal(await cat(at('top')), 'top')
  await serving.call('hide', image.path)
  await t.rejects(serving.call('hide', image.path), { code: 'INSTANCE_UNKNOWN' })
  t.equal(await look(serving.mountpoint), '[]')
  await serving.call('unmount')
  await once(serving.events, 'ended')
})

t.test(
  'hundreds of images: no number twice; a file handle outlives what the kernel remembers',
  { skip },
  async t => {
    const { serving, image, at } = await serveFiles(t, { a: 'aaa', 'd/b': 'bb' })
    for (let i = 0; i < 300; i++) await serving.call('show', { ...image, path: `/m/${i}` })
    const all = `
import os, sys
files = [os.path.join(at, n) for at, _, names in os.walk(sys.argv[1]) for n in names]
print(len(files), len({os.stat(f).st_ino for f in files}), sorted({open(f).read() for f in files}))`
    t.equal(await python(all, path.join(serving.mountpoint, 'm')), "600 600 ['aaa', 'bb']")
    const handle = `
import ctypes, os, sys
c = ctypes.CDLL(None, use_errno=True)
h = ctypes.create_string_buffer(136); h[0:4] = (128).to_bytes(4, 'little'); m = ctypes.c_int()
assert c.name_to_handle_at(-100, sys.argv[1].encode(), h, ctypes.byref(m), 0) == 0, ctypes.get_errno()
open('/proc/sys/vm/drop_caches', 'w').write('2')
root = os.open(sys.argv[2], os.O_RDONLY)
f = c.open_by_handle_at(root, h, os.O_RDONLY)
print(os.read(f, 10) if f >= 0 else ctypes.get_errno())`
    t.equal(await python(handle, at('d/b'), serving.mountpoint), "b'bb'")
  },
)

t.test('a read that waits: failed, given up by its reader, and by the image going', { skip }, async t => {
  const { serving, at } = await serveFiles(t, { one: randomBytes(100_000) })
  await serving.call('fail', true)
  t.equal(await startReader(t, at('one')).ended, 1, 'a failed fetch is an error')
  await serving.call('fail', false)
  const { errors, opens } = await serving.call('stats', '/image')
  t.ok((errors[4] ?? 0) >= 1, 'and counted')
  t.equal(opens, 0, 'the kernel opens without asking')
  // A failure is remembered for a second.
  await serving.call('hold')
  let asked = once(serving.events, 'read')
  let reader = startReader(t, at('one'))
  while (!(await Promise.race([asked.then(() => true), reader.ended.then(() => false)]))) {
    reader = startReader(t, at('one'))
  }
  t.match(await serving.call('inflight'), [{ opcode: 15 }])
  reader.child.kill('SIGKILL')
  t.equal(await reader.ended, 'SIGKILL', 'a killed reader does not wait for the bytes')
  asked = once(serving.events, 'read')
  const open = await holdOpen(t, at('one'))
  reader = startReader(t, at('one'))
  while ((await serving.call('inflight')).length === 0) await new Promise(setImmediate)
  await serving.call('hide', '/image')
  t.equal(await reader.ended, 1, 'nor for an image that goes')
  t.same(await serving.call('inflight'), [])
  t.equal(await open.read(), '116', 'what was open is stale')
  await serving.call('release')
})

/** A process that has the file open and reads it when told to; tells the errno of that. */
async function holdOpen(t: Test, file: string) {
  const script = `
import os, sys
f = os.open(sys.argv[1], os.O_RDONLY); print('open', flush=True); sys.stdin.readline()
try: os.pread(f, 10, 0); print(0)
except OSError as e: print(e.errno)`
  const child = spawn('python3', ['-c', script, file], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  return {
    read: async () => {
      child.stdin.write('\n')
      const [bytes] = (await once(child.stdout, 'data')) as [Buffer]
      return bytes.toString().trim()
    },
  }
}

t.test('a successor answers what a killed server had read', { skip }, async t => {
  const content = randomBytes(3_000_000)
  const { serving, image, at } = await serveFiles(t, { one: content, two: content.subarray(5) })
  const state = await serving.call('state')
  const kept = await keepSession(t, serving)
  await serving.call('hold')
  const sums = Promise.all(['one', 'two'].map(name => run('sha256sum', [at(name)])))
  const waiting = async () => new Set((await serving.call('inflight')).map(({ inode }) => inode))
  while ((await waiting()).size < 2) await new Promise(setImmediate)
  await serving.kill()

  const successor = new FuseServing(serving.directory, kept)
  t.teardown(() => successor.kill())
  closeSync(kept)
  await successor.call('open', { mountpoint: serving.mountpoint, predecessor: { state, sessionFd: 4 } })
  await successor.call('show', image)
  await successor.call('start')
  const wanted = await Promise.all(
    ['one', 'two'].map(name => run('sha256sum', [path.join(serving.directory, 'tree', name)])),
  )
  const digests = (all: { stdout: string }[]) => all.map(({ stdout }) => stdout.slice(0, 64))
  t.same(digests(await sums), digests(wanted))
  t.same(await successor.call('state'), state, 'and has the same state to hand on')
  await successor.call('hide', '/image')
  t.equal(await python(errnoOf, at('one')), '2')
})

/** The session descriptor of a server, as its supervisor keeps it. */
async function keepSession(t: Test, serving: FuseServing): Promise<number> {
  const [session] = await serving.call('descriptors')
  t.equal(session?.name, 'fuse.session')
  const pidfd = openPidfd(serving.child.pid!)
  try {
    return takeDescriptor(pidfd, session!.fd)
  } finally {
    closeSync(pidfd)
  }
}

t.test('a server that stops answers what it has, and ends with workers blocked', { skip }, async t => {
  const { serving, at } = await serveFiles(t, { one: randomBytes(100_000) })
  await serving.call('hold')
  const asked = once(serving.events, 'read')
  const reader = startReader(t, at('one'))
  await asked
  const stopping = serving.call('stop')
  await serving.call('release')
  await stopping
  t.equal(await reader.ended, 0)
  const ended = once(serving.child, 'exit')
  serving.call('end').catch(() => undefined)
  t.same(await ended, [0, null])
})

t.test('files are counted where that is wanted', { skip }, async t => {
  const { serving, image } = await serveFiles(t, { a: 'aaaa', b: 'b'.repeat(5000), c: 'c' })
  const counted = { ...image, path: '/counted', accounting: true }
  await serving.call('show', counted)
  t.same(await serving.call('fileStats', '/image'), [])
  for (const name of ['a', 'b', 'c']) await run('cat', [path.join(serving.mountpoint, 'counted', name)])
  const files = await serving.call('fileStats', '/counted')
  const read = files.filter(({ firstReadMs }) => firstReadMs !== undefined)
  t.same(read.map(({ dataReadBytes }) => dataReadBytes).sort(), [1, 4, 5000])
  const inos = read.map(({ ino }) => ino)
  const latest = await serving.call('takeLatestReads', '/counted')
  t.same(
    latest.flatMap(([from, to = from]) => inos.filter(ino => ino >= from && ino <= to)),
    inos,
  )
  t.same(await serving.call('takeLatestReads', '/counted'), [])
  const { dataReadBytes } = await serving.call('stats', '/counted')
  t.equal(dataReadBytes, 5005)
})

t.test('mount points that will not do', { skip }, async t => {
  const directory = scratch(t)
  const serving = new FuseServing(directory)
  t.teardown(() => serving.kill())
  const open = (mountpoint: string) => serving.call('open', { mountpoint })
  await t.rejects(open(path.join(directory, 'none')), { code: 'MOUNTPOINT_INVALID' })
  writeFileSync(path.join(directory, 'file'), '')
  await t.rejects(open(path.join(directory, 'file')), { code: 'MOUNTPOINT_INVALID' })
  mkdirSync(serving.mountpoint)
  await open(serving.mountpoint)
  await t.rejects(open(serving.mountpoint), { code: 'MOUNTPOINT_IN_USE' })
  await serving.kill()
  const second = new FuseServing(directory)
  t.teardown(() => second.kill())
  await t.rejects(second.call('open', { mountpoint: serving.mountpoint }), { code: 'MOUNTPOINT_IN_USE' })
})
