import type {
  AccessPattern,
  BackendMetrics,
  BlobCacheEntry,
  BlobcacheMetrics,
  DaemonEvents,
  DaemonInfo,
  DescriptorInfo,
  FileMetrics,
  FsMetrics,
  InflightInfo,
  InodeRange,
  InstanceInfo,
  KernelMetrics,
  MountCommand,
  SuperblockInfo,
} from '../client/api.js'
import {
  flagParameter,
  parseBlobEntry,
  parseLogLevel,
  parseMountCommand,
  parseOldMountCommand,
  parseSettings,
  requiredParameter,
} from './request-bodies.js'

/**
 * What is counted. `id` chooses one: a mountpoint, or of the cache the `id` of a configuration or an instance as well;
 * without it there must be exactly one. All throw INSTANCE_UNKNOWN.
 */
export interface StatisticsActions {
  mount(id: string | undefined): FsMetrics | KernelMetrics
  files(id: string | undefined): Promise<Record<string, FileMetrics>>
  /** Inodes read since the last call. */
  latestReads(id: string | undefined): Promise<readonly InodeRange[]>
  accessPatterns(id: string | undefined): Promise<AccessPattern[]>
  backend(id: string | undefined): BackendMetrics
  blobcache(id: string | undefined): BlobcacheMetrics
  inflight(): InflightInfo[]
  superblock(mountpoint: string): SuperblockInfo
}

/** What the daemon can be asked to do; the routes only translate. */
export interface Actions {
  info(): DaemonInfo
  setLogLevel(level: string): void
  start(): Promise<void>
  exit(): Promise<void>
  events(): DaemonEvents
  /** Hands the FUSE descriptor and the state to the supervisor. */
  sendDescriptor(): Promise<void>
  /** Takes both from the supervisor. */
  takeOver(): Promise<void>

  /** @throws INSTANCE_EXISTS, CONFIG_INVALID, RAFS_*, UNIMPLEMENTED where there is no FUSE service */
  mountImage(mountpoint: string, command: MountCommand): Promise<void>
  remountImage(mountpoint: string, command: MountCommand): Promise<void>
  unmountImage(mountpoint: string): Promise<void>
  /** The text of the daemon's own configuration, for mounts that bring none. @throws CONFIG_MISSING */
  ownConfig(): string
  readonly statistics: StatisticsActions

  /** Runtime settings of one mount, or of all with `id:` before each key. */
  settings(id: string | undefined): Record<string, string>
  /** @throws CONFIG_INVALID for a key that there is not */
  putSettings(id: string | undefined, settings: Record<string, string>): void

  descriptors(): DescriptorInfo[]
  bind(entry: BlobCacheEntry): Promise<void>
  unbind(domainId: string, id: string | undefined): Promise<void>
  /** Takes the cached bytes of a blob away that nobody uses. */
  cullBlob(blobId: string): Promise<void>
  instances(domainId: string | undefined, id: string | undefined): InstanceInfo[]
  mounted(domainId: string, id: string): void
}

export interface Route {
  readonly takesBody: boolean
  /** What upstream calls a failure here: the endpoint, and what failed. Where it is missing the route is ours. */
  readonly failure?: readonly [
    endpoint: string,
    cause: 'DaemonAbnormal' | 'MountFilesystem' | 'Metrics' | 'Blobs',
  ]
  handle(actions: Actions, query: URLSearchParams, body: unknown): unknown
}

const asksDaemon: Pick<Route, 'takesBody' | 'failure'> = {
  takesBody: false,
  failure: ['DaemonInfo', 'DaemonAbnormal'],
}
const setsDaemon: Route = {
  takesBody: true,
  failure: ['Configure', 'DaemonAbnormal'],
  handle: (actions, _query, body) => actions.setLogLevel(parseLogLevel(body)),
}

/** An order without a body. */
function order(endpoint: string, handle: (actions: Actions) => Promise<void>): Record<string, Route> {
  return { PUT: { takesBody: false, failure: [endpoint, 'DaemonAbnormal'], handle } }
}

/** What is counted for one `id`. */
function counted(
  endpoint: string,
  handle: (actions: Actions, id: string | undefined, query: URLSearchParams) => unknown,
): Record<string, Route> {
  return {
    GET: {
      takesBody: false,
      failure: [endpoint, 'Metrics'],
      handle: (actions, query) => handle(actions, query.get('id') ?? undefined, query),
    },
  }
}

/** Paths of upstream's API (nydusd 2.x) and ours, marked. Methods that a path does not list are refused with 400. */
const ROUTES: Record<string, Record<string, Route>> = {
  '/api/v1/daemon': { GET: { ...asksDaemon, handle: actions => actions.info() }, PUT: setsDaemon },
  '/api/v2/daemon': {
    GET: { ...asksDaemon, handle: actions => ({ ...actions.info(), backend_collection: null }) },
    PUT: setsDaemon,
  },
  '/api/v1/daemon/events': {
    GET: { takesBody: false, failure: ['Events', 'DaemonAbnormal'], handle: actions => actions.events() },
  },
  '/api/v1/daemon/backend': {
    GET: {
      takesBody: false,
      failure: ['FsBackendInfo', 'MountFilesystem'],
      handle: (actions, query) => actions.statistics.superblock(requiredParameter(query, 'mountpoint')),
    },
  },
  '/api/v1/daemon/start': order('Upgrade', actions => actions.start()),
  '/api/v1/daemon/exit': order('Upgrade', actions => actions.exit()),
  '/api/v1/daemon/fuse/sendfd': order('Upgrade', actions => actions.sendDescriptor()),
  '/api/v1/daemon/fuse/takeover': order('Upgrade', actions => actions.takeOver()),
  // Ours: what a keeper must duplicate.
  '/api/v1/daemon/fds': { GET: { takesBody: false, handle: actions => actions.descriptors() } },
  '/api/v1/mount': {
    POST: {
      takesBody: true,
      failure: ['Mount', 'MountFilesystem'],
      handle: (actions, query, body) =>
        actions.mountImage(requiredParameter(query, 'mountpoint'), parseMountCommand(body)),
    },
    PUT: { takesBody: true, failure: ['Mount', 'MountFilesystem'], handle: putMount },
    DELETE: {
      takesBody: false,
      failure: ['Mount', 'MountFilesystem'],
      handle: (actions, query) => actions.unmountImage(requiredParameter(query, 'mountpoint')),
    },
  },
  '/api/v1/metrics': counted('GlobalMetrics', (actions, id) => actions.statistics.mount(id)),
  '/api/v1/metrics/files': counted('FsFilesMetrics', (actions, id, query) =>
    flagParameter(query, 'latest') ? actions.statistics.latestReads(id) : actions.statistics.files(id),
  ),
  '/api/v1/metrics/pattern': counted('Pattern', (actions, id) => actions.statistics.accessPatterns(id)),
  '/api/v1/metrics/backend': counted('BackendMetrics', (actions, id) => actions.statistics.backend(id)),
  '/api/v1/metrics/blobcache': counted('BlobcacheMetrics', (actions, id) => actions.statistics.blobcache(id)),
  '/api/v1/metrics/inflight': counted('InflightMetrics', actions => {
    const requests = actions.statistics.inflight()
    return requests.length === 0 ? undefined : requests
  }),
  '/api/v1/config': {
    ...counted('Configure', (actions, id) => actions.settings(id)),
    PUT: {
      takesBody: true,
      failure: ['Configure', 'DaemonAbnormal'],
      handle: (actions, query, body) =>
        actions.putSettings(query.get('id') ?? undefined, parseSettings(body)),
    },
  },
  '/api/v2/blobs': {
    GET: {
      takesBody: false,
      failure: ['GetBlobObjects', 'Blobs'],
      handle: (actions, query) =>
        actions.instances(query.get('domain_id') ?? undefined, query.get('blob_id') ?? undefined),
    },
    PUT: {
      takesBody: true,
      failure: ['CreateBlobObject', 'Blobs'],
      handle: (actions, _query, body) => actions.bind(parseBlobEntry(body)),
    },
    DELETE: { takesBody: false, failure: ['DeleteBlobObject', 'Blobs'], handle: deleteBlobs },
  },
  // Ours: mount and canary are done, complete blobs need no events any more.
  '/api/v2/blobs/mounted': {
    PUT: {
      takesBody: false,
      handle: (actions, query) =>
        actions.mounted(requiredParameter(query, 'domain_id'), requiredParameter(query, 'blob_id')),
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

/** A remount; without a mountpoint in the query it is a mount as in 2020. */
function putMount(actions: Actions, query: URLSearchParams, body: unknown): Promise<void> {
  const mountpoint = query.get('mountpoint')
  if (mountpoint !== null) return actions.remountImage(mountpoint, parseMountCommand(body))
  const { mountpoint: path, ...command } = parseOldMountCommand(body)
  return actions.mountImage(path, { ...command, config: actions.ownConfig() })
}

/** With a domain its images are forgotten, or one of them; a blob alone loses its cached bytes. */
function deleteBlobs(actions: Actions, query: URLSearchParams): Promise<void> {
  const [domainId, blobId] = [query.get('domain_id'), query.get('blob_id') ?? undefined]
  if (domainId === null && blobId !== undefined) return actions.cullBlob(blobId)
  return actions.unbind(requiredParameter(query, 'domain_id'), blobId)
}
