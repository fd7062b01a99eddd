import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { CODES, type FaultCode, KINDS } from '../../../src/common/fault.js'
import { type Outcome, runProgram, setprivMissing } from '../../helpers/command-line.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'

const manifest = JSON.parse(
  readFileSync(path.resolve(import.meta.dirname, '../../../../package.json'), 'utf8'),
) as { version: string; bin: Record<string, string> }
const PROGRAMS = Object.keys(manifest.bin)

// Each line is a whole Node, two at a time.
t.setTimeout(300_000)
t.jobs = 2

const directory = scratch(t)
const missing = path.join(directory, 'missing')
const secret = write('unreadable', 'x', 0o600)
const badToml = write('bad.toml', 'version = 1\nrooot = "/x"\n')
const noJson = write('not.json', 'blobs: none')
const badEntry = write('entry.json', '{"blobs":[{"type":"bootstrap","id":"a/b"}]}')
const junk = write('junk', 'no image at all')
const cut = write('cut', Buffer.alloc(1024 + 64))
const cache = path.join(directory, 'cache')
mkdirSync(cache)
// What runs as nobody must reach its files.
chmodSync(directory, 0o755)
/** A ctr that shows what it is given, so that containerd need not be installed. */
mkdirSync(path.join(directory, 'bin'))
chmodSync(write('bin/ctr', '#!/bin/sh\necho "ctr $*"\n'), 0o755)
const withCtr = { PATH: `${path.join(directory, 'bin')}:${process.env['PATH'] ?? ''}` }

function write(name: string, content: string | Buffer, mode = 0o644): string {
  const file = path.join(directory, name)
  writeFileSync(file, content, { mode })
  return file
}

/** One sentence with its code as the last line, the documented exit code, and no stack. */
function isRefused(t: Test, { code, stdout, stderr }: Outcome, expected: FaultCode, sentence: RegExp): void {
  const lines = stderr.trimEnd().split('\n')
  const plain = lines.filter(line => !line.startsWith('{'))
  t.equal(plain.length, 1, `one sentence: ${stderr}`)
  t.equal(lines.at(-1), plain[0], 'which comes last')
  t.match(plain[0], sentence)
  t.ok(plain[0]?.endsWith(` (${expected})`), `${plain[0]} is ${expected}`)
  t.equal(code, KINDS[CODES[expected]].exit, 'the documented exit code')
  t.notMatch(stderr, /^\s+at /m, 'no stack')
  t.equal(stdout, '', 'nothing on standard output')
}

t.test('version, help and process title of every program', async t => {
  t.jobs = 2
  for (const name of PROGRAMS) {
    t.test(name, async t => {
      const script =
        'process.on("exit",()=>fs.writeSync(2,fs.readFileSync("/proc/self/comm")+process.title+"\\n"))'
      const title = `data:text/javascript,import fs from "node:fs";${script}`
      const env = { ...withCtr, NODE_OPTIONS: `--import=${encodeURI(title)}` }
      const version = await runProgram(t, name, ['--version'], { env })
      t.equal(version.code, 0)
      // The kernel keeps 15 bytes of a name.
      t.equal(
        version.stderr,
        `${name.slice(0, 15)}\n${name}\n`,
        'the process carries the name of the program',
      )
      if (name === 'ctr-remote') t.equal(version.stdout, 'ctr --version\n')
      else t.ok(version.stdout.includes(manifest.version), version.stdout)
      const help = await runProgram(t, name, ['--help'], { env: withCtr })
      t.equal(help.code, 0)
      t.equal(help.stderr, '')
      t.match(help.stdout, name === 'ctr-remote' ? /image rpull/ : new RegExp(`Usage: ${name}[^]*--version`))
    })
  }
})

type Line = [name: string, args: string[], expected: FaultCode, sentence: RegExp]

const SINGLETON = ['singleton', '--apisock', path.join(directory, 'api.sock')]

const LINES: Line[] = [
  ['nydus-image', ['check', missing], 'FILE_MISSING', /there is no file .*missing/],
  ['nydus-image', ['check', directory], 'FILE_UNREADABLE', /not a regular file/],
  ['nydus-image', ['check', junk], 'RAFS_NOT_RAFS', /: \S/],
  ['nydus-image', ['check', cut], 'RAFS_NOT_RAFS', /: \S/],
  ['nydus-image', ['check'], 'USAGE', /nydus-image check BOOTSTRAP/],
  ['nydus-image', ['check', junk, '--nosuch'], 'USAGE', /--nosuch/],
  ['nydus-image', ['create', '--bootstrap', missing, junk], 'USAGE', /the data blob has no place/],
  ['nydus-image', ['create', '-D', directory, missing], 'FILE_MISSING', /there is no source .*missing/],
  ['nydus-image', ['create', '-D', directory, junk], 'FILE_UNREADABLE', /junk is not a directory/],
  ['nydus-image', ['create', '-D', directory, '-t', 'tar-rafs', junk], 'TAR_INVALID', /ends in the middle/],
  ['nydus-image', ['create', '-D', directory, '-t', 'targz-ref', junk], 'UNIMPLEMENTED', /--type targz-ref/],
  ['nydus-image', ['inspect'], 'USAGE', /inspect takes one bootstrap/],
  ['nydus-image', ['chek', junk], 'USAGE', /did you mean check\?/],
  ['nydus-image', [], 'USAGE', /no command is given/],
  ['nydusctl', ['info'], 'USAGE', /--sock PATH/],
  ['nydusctl', ['--sock', missing, 'info'], 'DAEMON_UNAVAILABLE', /there is no socket .*missing/],
  ['nydusctl', ['--sock', junk, 'info'], 'DAEMON_UNAVAILABLE', /does not answer on/],
  ['nydusctl', ['mount', '-s', junk], 'USAGE', /required option '-c, --config <file>'/],
  [
    'nydusctl',
    ['-S', missing, 'mount', '-s', junk, '-m', '/', '-c', missing],
    'CONFIG_MISSING',
    /--config .*missing/,
  ],
  ['nydusctl', ['umount'], 'USAGE', /needs one path/],
  ['nydusctl', ['-S', missing, 'umount', '/a', '-m', '/b'], 'USAGE', /needs one path/],
  ['nydusctl', ['-S', missing, 'umount', '/a'], 'DAEMON_UNAVAILABLE', /there is no socket/],
  ['nydusctl', ['metrics', 'backend', '-I', '0'], 'USAGE', /seconds, more than 0/],
  ['nydusctl', ['metrics', 'fsstats'], 'USAGE', /--sock PATH/],
  ['nydusctl', ['--sok', 'x', 'info'], 'USAGE', /'--sok' \(did you mean --sock\?\)/],
  ['nydusctl', ['metrics'], 'USAGE', /no command is given/],
  ['nydusctl', ['set', 'log-level'], 'USAGE', /missing required argument 'level'/],
  ['nydusify', ['--nosuch'], 'USAGE', /--nosuch/],
  ['nydusify', ['convert', '--source', 'a', '--targt', 'b'], 'USAGE', /did you mean --target/],
  ['nydusify', ['convert'], 'USAGE', /--source/],
  ['nydusify', ['convert', '--source', 'UPPER', '--target', 'x'], 'REFERENCE_INVALID', /UPPER/],
  ['nydusify', ['check'], 'USAGE', /--target/],
  ['nydusify', ['mount', '--target', 'x', '--driver', 'fuse'], 'USAGE', /fuse/],
  ['nydusify', ['commit', '--target', 'x'], 'UNIMPLEMENTED', /commit comes with a later release/],
  ['nydusify', ['convrt'], 'USAGE', /did you mean convert\?/],
  ['nydusify', [], 'USAGE', /no command is given/],
  ['ctr-remote', ['image', 'rpull'], 'USAGE', /please provide an image reference|missing required argument/],
  ['ctr-remote', ['image', 'rpull', '--plain-htp', 'x'], 'USAGE', /did you mean --plain-http/],
  ['ctr-remote', ['image', 'rpull', 'example.com/UPPER'], 'REFERENCE_INVALID', /UPPER/],
  [
    'ctr-remote',
    ['--address', missing, 'image', 'rpull', '127.0.0.1:1/x:1'],
    'CONTAINERD_UNAVAILABLE',
    /missing/,
  ],
  ['nydusd', ['--nosuch'], 'USAGE', /unknown option '--nosuch'/],
  ['nydusd', ['singletn'], 'USAGE', /unknown command "singletn"/],
  ['nydusd', ['virtiofs', '--sock', '/s'], 'UNIMPLEMENTED', /nydusd virtiofs comes with a later release/],
  ['nydusd', ['fuse', '--fuse-threads', '0'], 'USAGE', /1 to 1024 are possible/],
  ['nydusd', ['fuse', '--failover-policy', 'hope'], 'USAGE', /'hope' is invalid/],
  ['nydusd', ['singleton', '--fscach', cache], 'USAGE', /did you mean --fscache/],
  ['nydusd', ['singleton', '--log-level', 'loud'], 'USAGE', /'loud' is invalid/],
  ['nydusd', ['singleton', '--fscache-threads', 'x'], 'USAGE', /a whole number is wanted/],
  ['containerd-nydus-grpc', ['--nosuch'], 'USAGE', /unknown option '--nosuch'/],
  ['containerd-nydus-grpc', ['--addres', 'x'], 'USAGE', /did you mean --address/],
  ['containerd-nydus-grpc', ['word'], 'USAGE', /too many arguments/],
  ['containerd-nydus-grpc', ['--log-to-stdout=perhaps'], 'USAGE', /takes true or false/],
]

/** Both services say that they are not for others before they look at their files. */
const AS_ROOT: Line[] = [
  ['nydusd', [], 'USAGE', /needs --mountpoint DIR/],
  [
    'nydusd',
    ['fuse', '--writable', '-M', directory],
    'UNIMPLEMENTED',
    /--writable comes with a later release/,
  ],
  [
    'nydusd',
    ['--shared-dir', directory, '-M', directory],
    'UNIMPLEMENTED',
    /--shared-dir comes with a later/,
  ],
  ['nydusd', ['fuse', '-M', missing], 'FILE_MISSING', /missing does not exist: create it/],
  ['nydusd', ['fuse', '-M', junk], 'MOUNTPOINT_INVALID', /junk/],
  ['nydusd', ['fuse', '-M', directory, '-B', junk], 'USAGE', /--config and --localfs-dir are missing/],
  ['nydusd', ['fuse', '-M', directory, '-B', junk, '-C', missing], 'CONFIG_MISSING', /no such file/],
  ['nydusd', ['fuse', '-M', directory, '-B', junk, '-C', noJson], 'CONFIG_INVALID', /not JSON|neither JSON/],
  [
    'nydusd',
    ['fuse', '-M', directory, '-B', missing, '-D', cache],
    'FILE_MISSING',
    /missing: check the path/,
  ],
  ['nydusd', ['fuse', '-M', directory, '-B', junk, '-D', cache], 'RAFS_NOT_RAFS', /junk|no RAFS|not a/],
  ['nydusd', ['fuse', '-M', directory, '--prefetch-files', junk], 'USAGE', /belongs to --bootstrap/],
  ['nydusd', [...SINGLETON, '--fscache', cache, '--driver', 'fuse'], 'USAGE', /needs --mountpoint DIR/],
  ['nydusd', [...SINGLETON], 'USAGE', /needs --fscache DIR/],
  ['nydusd', ['singleton', '--fscache', cache], 'USAGE', /needs --apisock PATH/],
  ['nydusd', [...SINGLETON, '--fscache', missing], 'FILE_MISSING', /missing does not exist: create it/],
  ['nydusd', [...SINGLETON, '--fscache', junk], 'USAGE', /no directory/],
  ['nydusd', [...SINGLETON, '--fscache', cache, '--config', missing], 'CONFIG_MISSING', /no such file/],
  ['nydusd', [...SINGLETON, '--fscache', cache, '--config', directory], 'CONFIG_MISSING', /cannot be read/],
  ['nydusd', [...SINGLETON, '--fscache', cache, '--config', noJson], 'CONFIG_INVALID', /not JSON/],
  ['nydusd', [...SINGLETON, '--fscache', cache, '--config', badEntry], 'REQUEST_INVALID', /without '\/'/],
  ['nydusd', ['singleton', '--apisock', junk, '--fscache', cache], 'ADDRESS_IN_USE', /junk cannot be used/],
  ['containerd-nydus-grpc', ['--config', missing], 'CONFIG_MISSING', /no such file/],
  ['containerd-nydus-grpc', ['--config', directory], 'CONFIG_MISSING', /cannot be read/],
  ['containerd-nydus-grpc', ['--config', badToml], 'CONFIG_INVALID', /rooot \(did you mean root\?\)/],
  ['containerd-nydus-grpc', ['--daemon-mode', 'some'], 'CONFIG_INVALID', /daemon_mode/],
]

function refuse(t: Test, lines: readonly Line[], options: { nobody?: boolean } = {}): void {
  t.jobs = 2
  for (const [name, args, expected, sentence] of lines) {
    t.test(`${name} ${args.join(' ')}`.replaceAll(directory, 'DIR'), async t => {
      isRefused(t, await runProgram(t, name, args, { env: withCtr, ...options }), expected, sentence)
    })
  }
}

t.test('wrong lines are refused in one sentence', async t => refuse(t, LINES))

t.test('wrong lines of the services', { skip: rootMissing }, async t => refuse(t, AS_ROOT))

t.test('a file that stood in the way of a socket is still there', { skip: rootMissing }, async t => {
  t.equal(readFileSync(junk, 'utf8'), 'no image at all')
})

t.test('not root', { skip: setprivMissing }, async t => {
  refuse(
    t,
    [
      ['nydusd', [...SINGLETON, '--fscache', cache], 'NOT_ROOT', /needs root: run it as root or with sudo/],
      ['containerd-nydus-grpc', [], 'NOT_ROOT', /needs root: run it as root or with sudo/],
      ['nydus-image', ['check', secret], 'FILE_UNREADABLE', /unreadable cannot be read/],
    ],
    { nobody: true },
  )
})

t.test('the stack is shown at debug level only', async t => {
  const { stderr, code } = await runProgram(t, 'nydus-image', ['check', missing, '--log-level', 'debug'])
  t.equal(code, 5)
  t.match(stderr, /^nydus-image: there is no file .* \(FILE_MISSING\)\n[^]*^\s+at [^]*caused by: [^]*ENOENT/m)
})

const tmpfsMissing =
  rootMissing || (statfsSync('/dev/shm').type === 0x01021994 ? false : 'needs a tmpfs at /dev/shm')

t.test('a kernel path that cannot be', { skip: tmpfsMissing }, async t => {
  // No pre-content events on tmpfs, and no cachefiles of ours there either.
  const shm = mkdtempSync('/dev/shm/nydus-test-')
  t.teardown(() => rmSync(shm, { recursive: true }))
  const outcome = await runProgram(t, 'nydusd', [...SINGLETON, '--fscache', shm])
  isRefused(t, outcome, 'DRIVER_UNSUPPORTED', /fscache: .*fanotify: .*kernel-check\.sh says/)
})
