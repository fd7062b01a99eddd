/** The metrics of this process for Prometheus, at upstream's path and at the usual one. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { asFault, fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { metrics } from '../common/metrics.js'
import type { ListenAddress } from './config.js'

const PATHS: ReadonlySet<string> = new Set(['/v1/metrics', '/metrics'])

export class MetricsServer {
  readonly port: number
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
    this.port = (server.address() as AddressInfo).port
  }

  /** @throws ADDRESS_IN_USE */
  static async listen({ host, port }: ListenAddress, log: Logger): Promise<MetricsServer> {
    const server = createServer((request, response) => {
      answer(request, response).catch((err: unknown) => {
        log.warn({ err: asFault(err) }, 'metrics cannot be told')
        response.writeHead(500).end()
      })
    })
    server.listen({ port, ...(host === '' ? {} : { host }) })
    try {
      await once(server, 'listening')
    } catch (err) {
      throw fault('ADDRESS_IN_USE', `cannot listen on ${host}:${port} for metrics: ${asFault(err).message}`, {
        cause: err,
      })
    }
    return new MetricsServer(server)
  }

  async close(): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }
}

async function answer({ method, url = '' }: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = url.split('?')[0] ?? ''
  if (!PATHS.has(path)) response.writeHead(404).end()
  else if (method !== 'GET' && method !== 'HEAD') response.writeHead(405, { allow: 'GET, HEAD' }).end()
  else {
    const text = await metrics.metrics()
    response.writeHead(200, { 'content-type': metrics.contentType }).end(method === 'HEAD' ? '' : text)
  }
}
