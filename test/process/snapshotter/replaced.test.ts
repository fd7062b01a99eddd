/** A new snapshotter takes the place of the old one, and a new nydusd of its daemon, under calls and readers. */
import { randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { SystemDaemon } from '../../../src/client/system-client.js'
import { LABELS } from '../../../src/snapshotter/labels.js'
import { detachFuse } from '../../../src/supervisor/fuse-mount.js'
import { programPath, runProgram } from '../../helpers/command-line.js'
import { processesOf } from '../../helpers/lazy-node.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { scratch } from '../../helpers/scratch.js'
import {
  runSnapshotter,
  type SnapshotterProcess,
  startSnapshotter,
} from '../../helpers/snapshotter-process.js'
import { pythonMissing } from '../../helpers/state-holder.js'
import { startSteadyReader } from '../../helpers/steady-reader.js'
import { fuseMissing } from '../../helpers/supervised.js'

t.setTimeout(300_000)

const ROUNDS = 3
const DATA = randomBytes(32 * 1024 * 1024)

/** What a client of the socket does on and on; a server that is away is asked again, as containerd does. */
async function work(current: () => SnapshotterProcess, ended: () => boolean): Promise<number> {
  let calls = 0
  for (let index = 0; !ended(); index++) {
    const key = `work-${index}`
    for (const call of [
      () => current().client.prepare(key, 'image'),
      () => current().client.mounts(key),
      () => current().client.remove(key),
    ]) {
      for (let done = false; !done;) {
        try {
          await call()
          done = true
          calls++
        } catch (err) {
          // 14: the server is away, 6 and 5: it had done it and could not say so.
          const { code } = err as { code?: number }
          if (code === 5 || code === 6) done = true
          else if (code !== 14 && code !== 1) throw err
          else await new Promise(resolve => setTimeout(resolve, 20))
        }
      }
    }
  }
  return calls
}

t.test('under calls and readers', { skip: fuseMissing || pythonMissing }, async t => {
  const directory = scratch(t)
  endAll(t, directory)
  const at = (name: string): string => path.join(directory, name)
  const image = buildImage([{ name: 'file', mode: 0o100644, data: DATA }])
  mkdirSync(at('blobs'))
  writeFileSync(path.join(at('blobs'), image.blobId), image.blob)
  writeFileSync(at('copy'), DATA)
  const backend = { type: 'localfs', config: { dir: at('blobs') } }
  writeFileSync(at('nydusd.json'), JSON.stringify({ device: { backend } }))
  const flags = [
    '--daemon-mode',
    'shared',
    '--daemon-backend',
    'fusedev',
    '--nydusd-config',
    at('nydusd.json'),
  ]
  let snapshotter = await startSnapshotter(t, directory, flags)

  const labels = { [LABELS.ref]: 'image', [LABELS.bootstrap]: 'true', [LABELS.imageRef]: 'r.example/a:b' }
  const [mount] = await snapshotter.client.prepare('bootstrap', '', labels)
  const upper = mount?.source ?? ''
  mkdirSync(path.join(upper, 'image'))
  writeFileSync(path.join(upper, 'image/image.boot'), image.bootstrap)
  await snapshotter.client.commit('image', 'bootstrap', labels)
  const [overlay] = await snapshotter.client.prepare('container', 'image')
  const lower =
    overlay?.options.find(option => option.startsWith('lowerdir='))?.slice('lowerdir='.length) ?? ''
  const reader = startSteadyReader(t, path.join(lower, 'file'), at('copy'))
  let ended = false
  const working = work(
    () => snapshotter,
    () => ended,
  )

  const system = path.join(path.dirname(snapshotter.socket), 'system.sock')
  const daemons = async (): Promise<SystemDaemon[]> => {
    const { stdout } = await runProgram(t, 'nydusctl', ['--system-sock', system, '--raw', 'daemons', 'list'])
    return JSON.parse(stdout) as SystemDaemon[]
  }
  const [before] = await daemons()
  for (let round = 1; round <= ROUNDS; round++) {
    const second = await runSnapshotter([
      '--root',
      snapshotter.root,
      '--address',
      at('b/s'),
      ...flags,
      '--log-to-stdout',
    ])
    t.equal(second.code, 6, 'a second one is refused while the first lives')
    t.match(second.stderr, /held by another process.*\(STORE_LOCKED\)/)
    t.strictSame(await snapshotter.end('SIGTERM'), { code: 0, signal: null })
    snapshotter = await startSnapshotter(t, directory, flags)
    await snapshotter.client.prepare(`round-${round}`, 'image')
    t.equal((await daemons())[0]?.pid, before?.pid, 'the daemon was adopted')
  }

  const other = at('nydusd')
  writeFileSync(other, `#!/bin/sh\nexec ${process.execPath} ${programPath('nydusd')} "$@"\n`, { mode: 0o755 })
  const upgraded = await runProgram(t, 'nydusctl', ['--system-sock', system, 'upgrade', '--nydusd', other])
  t.match(upgraded, { code: 0, stdout: '', stderr: '' })
  const [after] = await daemons()
  t.not(after?.pid, before?.pid, 'nydusctl upgrade put another in its place')
  t.match(after?.api_socket, /api1\.sock$/)
  const missing = await runProgram(t, 'nydusctl', [
    '--system-sock',
    system,
    'upgrade',
    '--nydusd',
    at('missing'),
  ])
  t.equal(missing.code, 5)
  t.match(missing.stderr, /is no program that can be run.*\(FILE_MISSING\)/)
  t.equal((await daemons())[0]?.pid, after?.pid)

  ended = true
  const calls = await working
  const { reads, longestMs, ...failed } = await reader.counts()
  t.comment(`${calls} calls and ${reads} reads, the longest ${longestMs} ms`)
  t.ok(calls > 10 && reads > 50)
  t.strictSame(failed, { wrong: 0, errors: 0, last: '' })
})

/** Daemon and holder outlive the snapshotter: with the test they end, and the mount goes. */
function endAll(t: Test, directory: string): void {
  t.teardown(async () => {
    for (const pid of processesOf(directory)) process.kill(pid, 'SIGKILL')
    await detachFuse(path.join(directory, 'root/mnt'))
  })
}
