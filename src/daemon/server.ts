import type { Server } from 'node:http'
import { type HttpAnswer, type HttpRequest, parseJsonBody, serveHttp } from '../common/http-server.js'
import { fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { describeFailure } from './api-failure.js'
import { findRoute, type Actions, type Route } from './routes.js'

const HEADERS = { server: 'Nydus API', 'content-type': 'application/json' }

/**
 * The daemon's API on a unix socket that only root may open.
 * @throws ADDRESS_IN_USE when a living process answers on the path, or a file is there; a stale socket is replaced
 */
export function serveApi(path: string, actions: Actions, logger: Logger): Promise<Server> {
  return serveHttp({
    path,
    option: '--apisock',
    answer: request => answer(request, actions, logger),
    refuse: failure => refuse(failure, undefined),
    logger,
  })
}

async function answer(request: HttpRequest, actions: Actions, logger: Logger): Promise<HttpAnswer> {
  const route = routeOf(request)
  try {
    const body = route.takesBody ? parseJsonBody(request.text) : undefined
    const result = await route.handle(actions, request.url.searchParams, body)
    if (result === undefined) return { status: 204, headers: HEADERS }
    return { status: 200, headers: HEADERS, text: JSON.stringify(result) }
  } catch (err) {
    logger.debug({ err, method: request.method, path: request.url.pathname }, 'request refused')
    return refuse(err, route)
  }
}

/** @throws ROUTE_UNKNOWN, REQUEST_INVALID */
function routeOf({ method, url, text }: HttpRequest): Route {
  const route = findRoute(method, url.pathname)
  if (route === 'no-path') throw fault('ROUTE_UNKNOWN', `NoRoute: ${url.pathname} is no path of this API`)
  if (route === 'no-method' || (text !== '') !== route.takesBody)
    throw fault('REQUEST_INVALID', `BadRequest: ${method} ${url.pathname} does not take this form`)
  return route
}

function refuse(err: unknown, route: Route | undefined): HttpAnswer {
  const { status, body } = describeFailure(err, route)
  return { status, headers: HEADERS, text: JSON.stringify(body) }
}
