/** The system controller: what an operator asks a running snapshotter, over HTTP on a unix socket, as upstream has it. */
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import type { Server } from 'node:http'
import path from 'node:path'
import { asFault, type Fault, fault } from '../common/fault.js'
import { type HttpAnswer, type HttpRequest, parseJsonBody, serveHttp } from '../common/http-server.js'
import type { Logger } from '../common/log.js'
import { findSystemRoute, type SystemActions } from './system-routes.js'

export interface SystemServerOptions {
  readonly address: string
  readonly owner: { readonly uid: number; readonly gid: number }
  readonly actions: SystemActions
  readonly logger: Logger
}

const SUCCESS_HEADERS = { 'content-type': 'application/json' }
const ERROR_HEADERS = { 'content-type': 'text/plain; charset=utf-8' }

export class SystemServer {
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
  }

  /** Makes the directory of the socket where it is missing. @throws ADDRESS_IN_USE, USAGE */
  static async listen({ address, owner, actions, logger }: SystemServerOptions): Promise<SystemServer> {
    mkdirSync(path.dirname(address), { recursive: true, mode: 0o700 })
    const server = await serveHttp({
      path: address,
      option: 'system.address',
      owner,
      answer: request => answer(request, actions),
      refuse,
      logger,
    })
    return new SystemServer(server)
  }

  async close(): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }
}

async function answer({ method, url, text }: HttpRequest, actions: SystemActions): Promise<HttpAnswer> {
  const found = findSystemRoute(url.pathname)
  if (!found) throw fault('ROUTE_UNKNOWN', `${url.pathname} is no path of this API`)
  const { methods, parameters } = found
  const route = Object.hasOwn(methods, method) ? methods[method] : undefined
  if (!route) {
    const refused = refuse(fault('REQUEST_INVALID', `${url.pathname} does not take ${method}`))
    return {
      ...refused,
      status: 405,
      headers: { ...refused.headers, allow: Object.keys(methods).join(', ') },
    }
  }
  const result = await route(actions, {
    parameters,
    query: url.searchParams,
    body: () => parseJsonBody(text),
  })
  return {
    status: 200,
    headers: SUCCESS_HEADERS,
    ...(result === undefined ? {} : { text: JSON.stringify(result) }),
  }
}

/** Upstream's body; `fault`, our stable code, is ours. */
function refuse(err: unknown): HttpAnswer {
  const failure = asFault(err)
  const body = { code: 'Unknown', message: failure.message, fault: failure.code }
  return { status: statusOf(failure), headers: ERROR_HEADERS, text: `${JSON.stringify(body)}\n` }
}

/** Upstream's few. */
function statusOf({ code, kind }: Fault): number {
  if (code === 'REQUEST_INVALID') return 400
  if (kind === 'not_found') return 404
  return kind === 'unimplemented' ? 501 : 500
}
