import { fault } from '../common/fault.js'
import type { BlobCacheEntry, DaemonInfo, DescriptorInfo, InstanceInfo } from '../client/api.js'

/** What the daemon can be asked to do; the routes only translate. */
export interface Actions {
  info(): DaemonInfo
  setLogLevel(level: string): void
  start(): Promise<void>
  exit(): Promise<void>
  descriptors(): DescriptorInfo[]
  bind(entry: BlobCacheEntry): Promise<void>
  unbind(domainId: string, id: string | undefined): Promise<void>
  instances(domainId: string | undefined, id: string | undefined): InstanceInfo[]
  mounted(domainId: string, id: string): void
  metrics(): unknown
  blobcacheMetrics(id: string | undefined): unknown
}

export interface Route {
  readonly takesBody: boolean
  handle(actions: Actions, query: URLSearchParams, body: unknown): unknown
}

/** Paths of upstream's API (nydusd 2.x) and ours, marked. Methods that a path does not list are refused with 400. */
const ROUTES: Record<string, Record<string, Route>> = {
  '/api/v1/daemon': {
    GET: { takesBody: false, handle: actions => actions.info() },
    PUT: { takesBody: true, handle: (actions, _query, body) => actions.setLogLevel(logLevelOf(body)) },
  },
  '/api/v2/daemon': {
    GET: { takesBody: false, handle: actions => ({ ...actions.info(), backend_collection: null }) },
    PUT: { takesBody: true, handle: (actions, _query, body) => actions.setLogLevel(logLevelOf(body)) },
  },
  '/api/v1/daemon/start': { PUT: { takesBody: false, handle: actions => actions.start() } },
  '/api/v1/daemon/exit': { PUT: { takesBody: false, handle: actions => actions.exit() } },
  // Ours: what a keeper must duplicate.
  '/api/v1/daemon/fds': { GET: { takesBody: false, handle: actions => actions.descriptors() } },
  '/api/v2/blobs': {
    GET: {
      takesBody: false,
      handle: (actions, query) =>
        actions.instances(query.get('domain_id') ?? undefined, query.get('blob_id') ?? undefined),
    },
    PUT: { takesBody: true, handle: (actions, _query, body) => actions.bind(parseBlobEntry(body)) },
    DELETE: {
      takesBody: false,
      handle: (actions, query) =>
        actions.unbind(required(query, 'domain_id'), query.get('blob_id') ?? undefined),
    },
  },
  // Ours: mount and canary are done, complete blobs need no events any more.
  '/api/v2/blobs/mounted': {
    PUT: {
      takesBody: false,
      handle: (actions, query) => actions.mounted(required(query, 'domain_id'), required(query, 'blob_id')),
    },
  },
  '/api/v1/mount': {
    POST: { takesBody: true, handle: noFileSystem },
    PUT: { takesBody: true, handle: noFileSystem },
    DELETE: { takesBody: false, handle: noFileSystem },
  },
  '/api/v1/metrics': { GET: { takesBody: false, handle: actions => actions.metrics() } },
  '/api/v1/metrics/blobcache': {
    GET: {
      takesBody: false,
      handle: (actions, query) => actions.blobcacheMetrics(query.get('id') ?? undefined),
    },
  },
}

/** The route, or why there is none: an unknown path is 404, a wrong method 400. */
export function findRoute(method: string, path: string): Route | 'no-path' | 'no-method' {
  const methods = Object.hasOwn(ROUTES, path) ? ROUTES[path] : undefined
  if (!methods) return 'no-path'
  return (Object.hasOwn(methods, method) ? methods[method] : undefined) ?? 'no-method'
}

/** Every route, for the reference and its test. */
export function listRoutes(): string[] {
  return Object.entries(ROUTES).flatMap(([path, methods]) =>
    Object.keys(methods).map(method => `${method} ${path}`),
  )
}

function noFileSystem(): never {
  throw fault(
    'UNIMPLEMENTED',
    'a shared daemon of the kernel path mounts nothing itself: bind the image with PUT /api/v2/blobs and mount EROFS',
  )
}

function required(query: URLSearchParams, name: string): string {
  const value = query.get(name)
  if (value === null) throw fault('REQUEST_INVALID', `QueryString("${name}"): the parameter is missing`)
  return value
}

function logLevelOf(body: unknown): string {
  const level = isObject(body) ? body['log_level'] : undefined
  if (typeof level !== 'string') throw fault('REQUEST_INVALID', 'ParseBody: log_level must be a string')
  return level
}

/** @throws REQUEST_INVALID */
export function parseBlobEntry(body: unknown): BlobCacheEntry {
  if (!isObject(body)) throw fault('REQUEST_INVALID', 'ParseBody: a blob cache entry is an object')
  const { type, id, domain_id: domainId, config } = body
  if (type !== 'bootstrap') throw fault('REQUEST_INVALID', 'only entries of type bootstrap may be bound')
  for (const [name, value] of [
    ['id', id],
    ['domain_id', domainId],
  ]) {
    if (typeof value !== 'string' || value === '' || value.includes('/')) {
      throw fault('REQUEST_INVALID', `${String(name)} must be a non-empty string without '/'`)
    }
  }
  if (!isObject(config)) throw fault('REQUEST_INVALID', 'config must be an object')
  for (const name of ['backend_type', 'metadata_path']) {
    if (typeof config[name] !== 'string') throw fault('REQUEST_INVALID', `config.${name} must be a string`)
  }
  if (!isObject(config['backend_config']))
    throw fault('REQUEST_INVALID', 'config.backend_config must be an object')
  return body as unknown as BlobCacheEntry
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
