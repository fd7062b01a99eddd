import net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { HttpClient } from '../../../src/oci/http-client.js'

/** A server that answers the requests of each connection with these bytes, cut as given; undefined closes. */
async function serve(t: Test, answers: (readonly Buffer[])[]): Promise<URL> {
  let served = 0
  const server = net.createServer(socket => {
    socket.setNoDelay(true)
    socket.on('error', () => {})
    socket.on('data', () => {
      void (async () => {
        for (const part of answers[served++] ?? []) {
          await new Promise<void>(resolve => socket.write(part, () => resolve()))
          await turn()
        }
      })()
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  return new URL(`http://127.0.0.1:${(server.address() as net.AddressInfo).port}/`)
}

function clientOf(t: Test, url: URL): HttpClient {
  const client = new HttpClient({ host: url.host, connections: { demand: 1 } })
  t.teardown(() => client.close())
  return client
}

function answer(name: string, body: Buffer): Buffer {
  const head = `HTTP/1.1 200 OK\r\nx-name: ${name}\r\ncontent-length: ${body.length}\r\n\r\n`
  return Buffer.concat([Buffer.from(head), body])
}

function cut(bytes: Buffer, size: number): Buffer[] {
  const parts = []
  for (let at = 0; at < bytes.length; at += size) parts.push(bytes.subarray(at, at + size))
  return parts
}

t.test('headers and bodies are right however they are cut, though memory is used again', async t => {
  const name = 'n'.repeat(3000)
  const bodies = Array.from({ length: 6 }, (_, i) => Buffer.alloc(300_000 + i, `body ${i} `))
  const sizes = [500, 70_000, 1000, 1 << 20, 700, 100_000]
  const url = await serve(
    t,
    bodies.map((body, i) => cut(answer(`${i}${name}`, body), sizes[i] ?? 1)),
  )
  const client = clientOf(t, url)
  for (const [i, body] of bodies.entries()) {
    const response = await client.send({ method: 'GET', url })
    const got: Buffer[] = []
    if (i % 2 === 0) {
      await response.drain(piece => {
        got.push(Buffer.from(piece))
        return true
      })
    } else {
      // Each piece is looked at when all have come.
      for await (const piece of response.pieces())
        got.push(Buffer.from(piece.buffer, piece.byteOffset, piece.length))
    }
    t.ok(Buffer.concat(got).equals(body), `body ${i}`)
    t.equal(response.header('x-name'), `${i}${name}`)
  }
})

t.test('a short answer that nobody reads does not hold its connection; a long one is held back', async t => {
  const long = Buffer.alloc(8 << 20, 1)
  const url = await serve(t, [[answer('a', Buffer.from('short'))], [answer('b', long)]])
  const client = clientOf(t, url)
  const short = await client.send({ method: 'GET', url })
  const second = await client.send({ method: 'GET', url })
  t.equal(second.header('x-name'), 'b')
  t.equal(Buffer.from(await short.bytes(100)).toString(), 'short', 'it can still be read')
  t.equal((await second.bytes(long.length)).length, long.length)
})

t.test('whoever takes a body may end it', async t => {
  const long = Buffer.alloc(8 << 20, 1)
  const url = await serve(t, [[answer('a', long)], [answer('b', long)], [answer('c', Buffer.from('ok'))]])
  const client = clientOf(t, url)
  let pieces = 0
  await (await client.send({ method: 'GET', url })).drain(() => ++pieces < 2)
  t.equal(pieces, 2)
  const failing = await client.send({ method: 'GET', url })
  await t.rejects(failing.bytes(1000), { code: 'REGISTRY_PROTOCOL', message: /more than 1000 bytes/ })
  t.equal(Buffer.from(await (await client.send({ method: 'GET', url })).bytes(10)).toString(), 'ok')
})
