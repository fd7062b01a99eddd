/** nydusctl against a real daemon with one image bound from its configuration file. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import path from 'node:path'
import t, { type Test } from 'tap'
import { programPath, runProgram } from '../../helpers/command-line.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { scratch } from '../../helpers/scratch.js'
import { fanotifyMissing } from '../../helpers/supervised.js'

t.setTimeout(120_000)

const image = buildImage([{ name: 'file', mode: 0o100644, data: Buffer.alloc(10_000, 7) }])

/** The daemon's socket and log, and how to end it; it is killed with the test. */
async function startDaemon(t: Test) {
  const directory = scratch(t)
  const at = (name: string): string => path.join(directory, name)
  for (const name of ['cache', 'blobs']) mkdirSync(at(name))
  writeFileSync(at('image.boot'), image.bootstrap)
  writeFileSync(path.join(at('blobs'), image.blobId), image.blob)
  const entry = {
    type: 'bootstrap',
    id: 'fsid-1',
    domain_id: 'domain-1',
    config: {
      id: 'fsid-1',
      backend_type: 'localfs',
      backend_config: { dir: at('blobs') },
      cache_type: 'fscache',
      cache_config: {},
      metadata_path: at('image.boot'),
    },
  }
  writeFileSync(at('config.json'), JSON.stringify({ blobs: [entry], other: 'not ours' }))
  const options = ['--driver', 'fanotify', '--log-file', at('log')]
  const child = spawn(
    process.execPath,
    [
      programPath('nydusd'),
      'singleton',
      '--fscache',
      at('cache'),
      '--apisock',
      at('sock'),
      '--config',
      at('config.json'),
      ...options,
    ],
    { stdio: ['ignore', 'inherit', 'pipe', 'pipe'], env: { ...process.env, NYDUS_READY_FD: '3' } },
  )
  t.teardown(() => child.kill('SIGKILL'))
  let stderr = ''
  child.stderr?.on('data', (part: Buffer) => (stderr += part.toString()))
  const ready = child.stdio[3] as NodeJS.ReadableStream
  const [first] = (await once(ready, 'data')) as [Buffer]
  t.equal(first.toString(), 'READY\n')
  return { child, socket: at('sock'), log: at('log'), cache: at('cache'), stderr: () => stderr }
}

t.test('a daemon asked by nydusctl', { skip: fanotifyMissing }, async t => {
  const daemon = await startDaemon(t)
  const ask = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await runProgram(t, 'nydusctl', ['--sock', daemon.socket, ...args])
    t.same({ code, stderr }, { code: 0, stderr: '' }, args.join(' '))
    return stdout
  }

  const info = await ask('info')
  t.match(info, /^Version: +\d+\.\d+\.\d+$/m)
  t.match(info, /^Status: +RUNNING$/m)
  t.match(info, new RegExp(`^Driver: +fanotify\nProcess: +${daemon.child.pid ?? 0}$`, 'm'))
  t.match(JSON.parse(await ask('--raw', 'info')), { state: 'RUNNING', pid: daemon.child.pid })

  t.match(await ask('instances', 'list'), /^domain-1 fsid-1 0\/1 12288 \/.*\/image\.boot\n$/)
  const [instance] = JSON.parse(await ask('-r', 'instances', 'list')) as Record<string, unknown>[]
  t.match(instance, { id: 'fsid-1', driver: 'fanotify', blobs: [{ blob_id: image.blobId, complete: false }] })
  t.notOk(instance && 'canary' in instance, 'no search where nobody asked for it')

  const cache = await ask('metrics', 'cache')
  t.match(cache, /^underlying_files: +1$/m)
  t.match(cache, /^data_all_ready: +false$/m)
  t.match(JSON.parse(await ask('--raw', 'metrics', 'cache')), {
    underlying_files: [`${image.blobId}.blob.data`],
  })

  t.match(await ask('metrics', 'fsstats'), /^Driver: +fanotify\n(.*\n)*Cache hits: +0$/m)
  t.match(JSON.parse(await ask('--json', 'metrics', 'cache')), { data_all_ready: false })

  t.notMatch(readFileSync(daemon.log, 'utf8'), /"request refused"/)
  t.equal(await ask('set', 'log-level', 'debug'), '')
  const wrong = await runProgram(t, 'nydusctl', ['--sock', daemon.socket, 'set', 'log-level', 'loud'])
  t.equal(wrong.code, 3)
  t.match(wrong.stderr, /^nydusctl: unknown log level "loud".* \(CONFIG_INVALID\)\n$/)
  t.match(readFileSync(daemon.log, 'utf8'), /"request refused"/, 'which is told at the new level')

  const remove = (query: string) => send(daemon.socket, 'DELETE', `/api/v2/blobs?${query}`)
  t.equal(await remove(`blob_id=${image.blobId}`), 409, 'an image uses it')
  t.equal(await remove('domain_id=domain-1&blob_id=fsid-1'), 204)
  t.equal(await remove(`blob_id=${image.blobId}`), 204, 'its cached bytes are taken away')
  t.same(
    readdirSync(daemon.cache).filter(name => name.startsWith(image.blobId)),
    [],
  )
  t.equal(await remove(`blob_id=${image.blobId}`), 404)

  // Two orders to stop are one: the second comes while the first is carried out.
  const ended = once(daemon.child, 'exit')
  const exit = await send(daemon.socket, 'PUT', '/api/v1/daemon/exit')
  t.equal(exit, 204)
  daemon.child.kill('SIGTERM')
  // The signal may come when the process has done everything but end.
  const [code, signal] = (await ended) as [number | null, string | null]
  t.ok(code === 0 || signal === 'SIGTERM', `ended with ${code ?? signal}`)
  t.notOk(existsSync(daemon.socket), 'the socket is gone with it')
  t.equal(daemon.stderr(), '')
})

async function send(socketPath: string, method: string, target: string): Promise<number | undefined> {
  const sent = request({ socketPath, method, path: target }).end()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  response.resume()
  return response.statusCode
}
