/** What a client may do to the API's socket, by mistake or in anger: the daemon answers the next one, in bounded memory. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { type FuseDaemon, startFuseDaemon } from '../../helpers/fuse-daemon.js'
import { fuseMissing } from '../../helpers/fuse-serving.js'
import { scratch } from '../../helpers/scratch.js'

t.setTimeout(300_000)

const GET = 'GET /api/v1/daemon HTTP/1.1\r\nHost: x\r\n\r\n'

async function open(t: Test, daemon: FuseDaemon): Promise<Socket> {
  const socket = connect(daemon.socketPath)
  t.teardown(() => socket.destroy())
  // Closed by the daemon while we send: that is what it may do.
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  return socket
}

/** Sends text on a connection of its own and reads until the daemon closes it. */
async function send(t: Test, daemon: FuseDaemon, ...parts: (string | Buffer)[]): Promise<string> {
  const socket = await open(t, daemon)
  for (const part of parts) socket.write(part)
  return drain(socket)
}

async function drain(socket: Socket): Promise<string> {
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  if (!socket.destroyed) await once(socket, 'close')
  return Buffer.concat(parts).toString('latin1')
}

async function state(daemon: FuseDaemon, agent: Agent | false = false): Promise<unknown> {
  const sent = httpRequest({ socketPath: daemon.socketPath, path: '/api/v1/daemon', agent }).end()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  let text = ''
  for await (const part of response) text += String(part)
  return (JSON.parse(text) as Record<string, unknown>)['state']
}

function residentKb(daemon: FuseDaemon): number {
  return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${daemon.pid}/status`, 'utf8'))?.[1])
}

t.test('the socket of a daemon', { skip: fuseMissing }, async t => {
  const daemon = await startFuseDaemon(t, scratch(t))
  const serves = async (what: string): Promise<void> => {
    t.equal(await state(daemon), 'RUNNING', `after ${what}`)
  }
  await serves('its start')
  const quietKb = residentKb(daemon)

  // Half requests: the daemon gives them up by itself, which is waited for at the end.
  const halves = [
    'GET /api/v1/dae',
    'GET /api/v1/daemon HTTP/1.1\r\nHost: x\r\n',
    'PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"log',
  ].map(half => send(t, daemon, half))
  const silent = open(t, daemon).then(drain)

  await t.test('no request of HTTP', async t => {
    const body = /\r\n\r\n\{"code":"UNDEFINED","message":"BadRequest: [^"]+","fault":"REQUEST_INVALID"\}$/
    for (const [what, ...parts] of [
      ['1 MiB of garbage', randomBytes(1024 * 1024)],
      ['1 MiB without an end', 'A'.repeat(1024 * 1024)],
      ['text', 'hello\r\n\r\n'],
      ['a version of the future', 'GET / HTTP/9.9\r\n\r\n'],
      ['two lengths', 'GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
      [
        'a length and chunks',
        `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      ],
      ['a bad chunk', 'PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n'],
    ] as const) {
      const answer = await send(t, daemon, ...parts)
      t.match(answer, /^HTTP\/1\.1 400 Bad Request\r\n(.*\r\n)*server: Nydus API\r\n/i, what)
      t.match(answer, body, what)
    }
    const long = `GET / HTTP/1.1\r\nX: ${'a'.repeat(100_000)}\r\n\r\n`
    t.match(await send(t, daemon, long), /^HTTP\/1\.1 431 (.|\r\n)*the head of the request is too large/)
  })
  await serves('what is no request')

  await t.test('bodies that are not taken, and endless ones', async t => {
    const close = 'Host: x\r\nConnection: close\r\n'
    const withBody = `GET /api/v1/daemon HTTP/1.1\r\n${close}Content-Length: 2\r\n\r\n{}`
    t.match(await send(t, daemon, withBody), /^HTTP\/1\.1 400 (.|\r\n)*BadRequest/)
    const without = `PUT /api/v1/mount?mountpoint=/m HTTP/1.1\r\n${close}Content-Length: 0\r\n\r\n`
    t.match(await send(t, daemon, without), /^HTTP\/1\.1 400 (.|\r\n)*BadRequest/)
    const endless = await open(t, daemon)
    endless.write(`PUT /api/v1/daemon HTTP/1.1\r\n${close}Transfer-Encoding: chunked\r\n\r\n`)
    const chunk = Buffer.alloc(1024 * 1024, 'x')
    for (let i = 0; i < 64; i++) {
      endless.write(`${chunk.length.toString(16)}\r\n`)
      endless.write(chunk)
      if (!endless.write('\r\n')) await once(endless, 'drain')
    }
    endless.write('0\r\n\r\n')
    t.match(await drain(endless), /^HTTP\/1\.1 400 (.|\r\n)*larger than 1 MiB/)
  })
  await serves('bodies that are not taken')

  await t.test('many requests on one connection, before the first is answered', async t => {
    const socket = await open(t, daemon)
    const count = 5000
    const requests = GET.repeat(count - 1) + GET.replace('Host: x', 'Host: x\r\nConnection: close')
    socket.write(requests)
    const answers = await drain(socket)
    t.equal(answers.match(/HTTP\/1\.1 200 OK/g)?.length, count)
  })

  await t.test('1,000 connections at once', async t => {
    const idle = await Promise.all(Array.from({ length: 1000 }, () => open(t, daemon)))
    t.equal(await state(daemon), 'RUNNING', 'while 1,000 are open')
    for (const socket of idle) socket.write(GET)
    const answers = await Promise.all(idle.map(socket => once(socket, 'data')))
    t.ok(
      answers.every(([part]) => String(part).startsWith('HTTP/1.1 200 OK')),
      'each is answered',
    )
    for (const socket of idle) socket.destroy()
    const agent = new Agent({ maxSockets: 1000 })
    const states = await Promise.all(Array.from({ length: 1000 }, () => state(daemon, agent)))
    agent.destroy()
    t.same([...new Set(states)], ['RUNNING'])
  })
  await serves('1,000 connections')

  for (const half of halves)
    t.match(await half, /^HTTP\/1\.1 408 (.|\r\n)*the request did not arrive in time/, 'told after its time')
  t.match(await silent, /^(HTTP\/1\.1 408 |$)/, 'who says nothing is let go')
  const left = await open(t, daemon)
  left.end('GET /api/v1/dae')
  t.match(await drain(left), /^HTTP\/1\.1 400 /)
  await serves('half a request')

  const grownKb = residentKb(daemon) - quietKb
  t.comment(`${Math.round(grownKb / 1024)} MiB more at the most`)
  t.ok(grownKb < 128 * 1024, `${grownKb} KiB more`)
})
