import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

export interface SlowProxy {
  /** `127.0.0.1:<port>` */
  readonly host: string
  /** Ranges of blobs that were asked for. */
  readonly ranges: number
  close(): void
}

/** Passes requests on to a registry, those for ranges of blobs late: somebody waits for them at most instants. */
export async function startSlowProxy(registryHost: string, delayMs: number): Promise<SlowProxy> {
  const [, registryPort] = registryHost.split(':')
  const agent = new http.Agent({ keepAlive: true })
  let ranges = 0
  const server = http.createServer((request, response) => {
    const { method, url = '', headers } = request
    const forward = (): void => {
      const target = { host: '127.0.0.1', port: registryPort, method, path: url, headers, agent }
      const upstream = http.request(target, answer => {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      })
      upstream.on('error', err => response.destroy(err))
      // Whoever asked may be killed meanwhile.
      response.on('close', () => upstream.destroy())
      request.pipe(upstream)
    }
    if (method !== 'GET' || headers.range === undefined || !url.includes('/blobs/')) return forward()
    ranges++
    void delay(delayMs).then(forward)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    host: `127.0.0.1:${port}`,
    get ranges() {
      return ranges
    },
    close: () => {
      server.close()
      server.closeAllConnections()
      agent.destroy()
    },
  }
}
