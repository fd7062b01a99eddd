/**
 * The system controller's paths: upstream's, and ours, marked. A path may have `{name}` for one segment.
 * Shapes follow containerd-nydus-grpc's controller.
 */
import type { DoctorReport, SystemDaemon, SystemDescriptor } from '../client/system-client.js'
import { isTable } from '../common/config-check.js'
import { fault } from '../common/fault.js'
import type { BackendConfig, DescriptorPlace } from '../supervisor/image-mounts.js'
import type { DaemonStatus } from '../supervisor/daemon-status.js'
import { parsePrefetchLists, type PrefetchList } from './prefetch-lists.js'

/** What the snapshotter can be asked to do; the routes only translate. */
export interface SystemActions {
  daemons(): Promise<DaemonStatus[]>
  /** Where the blobs of a daemon's images come from, with secrets. @throws INSTANCE_UNKNOWN */
  backend(daemonId: string): Promise<BackendConfig>
  /** Puts daemons of another program, or of the configured one anew where it is empty, in the place of all. */
  upgrade(nydusdPath: string): Promise<void>
  examine(): Promise<DoctorReport>
  /** Forgets a damaged snapshot whose name cannot be read. @throws SNAPSHOT_NOT_FOUND, SNAPSHOT_STATE */
  removeDamaged(id: string): Promise<void>
  putPrefetchLists(lists: readonly PrefetchList[]): void
  descriptors(): Promise<DescriptorPlace[]>
}

export interface SystemRequest {
  /** What stands for `{name}` in the path. */
  readonly parameters: Readonly<Record<string, string>>
  readonly query: URLSearchParams
  /** Parsed JSON. @throws REQUEST_INVALID */
  body(): unknown
}

/** @returns what is sent as JSON, nothing where it is undefined */
export type SystemRoute = (actions: SystemActions, request: SystemRequest) => unknown

const ROUTES: Readonly<Record<string, Readonly<Record<string, SystemRoute>>>> = {
  '/api/v1/daemons': { GET: async actions => (await actions.daemons()).map(daemonText) },
  '/api/v1/daemons/records': {
    GET: () => {
      throw fault('UNIMPLEMENTED', 'not implemented')
    },
  },
  '/api/v1/daemons/{id}/backend': {
    GET: (actions, { parameters }) => actions.backend(parameters['id'] ?? ''),
  },
  '/api/v1/fds': { GET: async (actions): Promise<SystemDescriptor[]> => actions.descriptors() },
  '/api/v1/daemons/upgrade': { PUT: upgrade },
  // As upstream's description of its API spells it.
  '/api/v1/nydusd/upgrade': { PUT: upgrade },
  '/api/v1/doctor': { GET: actions => actions.examine() },
  '/api/v1/doctor/damaged/{id}': {
    DELETE: (actions, { parameters }) => actions.removeDamaged(parameters['id'] ?? ''),
  },
  '/api/v1/prefetch': {
    PUT: (actions, request) => actions.putPrefetchLists(parsePrefetchLists(request.body())),
  },
}

/** Of upstream's body only `nydusd_path` has a meaning. */
function upgrade(actions: SystemActions, request: SystemRequest): Promise<void> {
  const body = request.body()
  const nydusdPath = isTable(body) ? (body['nydusd_path'] ?? '') : undefined
  if (typeof nydusdPath !== 'string')
    throw fault('REQUEST_INVALID', 'an upgrade is an object with nydusd_path, a string')
  return actions.upgrade(nydusdPath)
}

/** The methods of a path with what its names stand for; undefined for an unknown path. */
export function findSystemRoute(
  path: string,
): { methods: Readonly<Record<string, SystemRoute>>; parameters: Record<string, string> } | undefined {
  for (const [pattern, methods] of Object.entries(ROUTES)) {
    const parameters = matchPath(pattern, path)
    if (parameters) return { methods, parameters }
  }
  return undefined
}

/** Every route, for the reference and its test. */
export function listSystemRoutes(): string[] {
  return Object.entries(ROUTES).flatMap(([path, methods]) =>
    Object.keys(methods).map(method => `${method} ${path}`),
  )
}

function matchPath(pattern: string, path: string): Record<string, string> | undefined {
  const [wanted, given] = [pattern.split('/'), path.split('/')]
  if (wanted.length !== given.length) return undefined
  const parameters: Record<string, string> = {}
  for (const [index, segment] of wanted.entries()) {
    const text = given[index] ?? ''
    const name = /^\{(\w+)\}$/.exec(segment)?.[1]
    if (name === undefined ? segment !== text : text === '') return undefined
    if (name !== undefined) parameters[name] = text
  }
  return parameters
}

/** Upstream's names; the last are ours. */
function daemonText(daemon: DaemonStatus): SystemDaemon {
  return {
    id: daemon.id,
    pid: daemon.pid,
    api_socket: daemon.apiSocket,
    supervisor_path: '',
    reference: daemon.references,
    mountpoint: daemon.mountpoint,
    startup_cpu_utilization: 0,
    memory_rss_kb: daemon.memoryRssKb,
    read_data_kb: daemon.readDataKb,
    instances: Object.fromEntries(
      daemon.images.map(({ id, imageRef, mountpoint, directory }) => [
        id,
        { snapshot_id: id, snapshot_dir: directory, mountpoint, image_id: imageRef },
      ]),
    ),
    driver: daemon.driver,
    commit: daemon.commit,
    deaths: daemon.deaths,
    restart_in_ms: daemon.restartInMs,
  }
}
