import { UnixHttpClient } from './unix-http-client.js'

/** Where the snapshotter's system controller is, if nobody says otherwise. */
export const DEFAULT_SYSTEM_SOCKET = '/run/containerd-nydus/system.sock'

/** One element of GET /api/v1/daemons; upstream's, and from `driver` on ours. */
export interface SystemDaemon {
  id: string
  pid: number
  api_socket: string
  supervisor_path: string
  reference: number
  mountpoint: string
  startup_cpu_utilization: number
  memory_rss_kb: number
  read_data_kb: number
  instances: Record<
    string,
    { snapshot_id: string; snapshot_dir: string; mountpoint: string; image_id: string }
  >
  driver: string
  /** `Git Commit` of its nydusd. */
  commit: string
  /** Since this snapshotter watches it. */
  deaths: number
  /** More than 0 while a daemon that keeps dying is not started again yet. */
  restart_in_ms: number
}

/** One element of GET /api/v1/fds (ours): a kernel descriptor of a daemon, and who has it open. */
export interface SystemDescriptor {
  /** `shared`, or the id of the image that has the daemon to itself. */
  daemon: string
  name: string
  /** `daemon`, `snapshotter`, `holder`, `manager`. */
  holders: readonly string[]
}

/** What an operator has to look at; half sentences, the last of which says what to do. */
export interface Finding {
  /** `state`, `snapshot`, `directory`, `image`, `daemon` or `cache`. */
  area: string
  /** Name, path or id of what it is about. */
  subject: string
  problem: string
  next: string
}

/** GET /api/v1/doctor; ours. */
export interface DoctorReport {
  /** Empty on a healthy node. */
  findings: Finding[]
  snapshots: number
  /** That are mounted. */
  images: number
  /** How images are mounted; empty where none can be, or none was yet. */
  driver: string
  daemons: { id: string; pid: number; driver: string; deaths: number }[]
  cache_directory: string
  cache_free_bytes: number
}

/** Client of the snapshotter's system controller; SYSTEM_UNAVAILABLE when nobody answers. */
export class SystemClient {
  readonly #http: UnixHttpClient

  /** @param options.timeoutMs of one call, 30 s where it is left out */
  constructor(socketPath: string, options: { timeoutMs?: number; userAgent?: string } = {}) {
    this.#http = new UnixHttpClient({
      ...options,
      socketPath,
      silence: 'SYSTEM_UNAVAILABLE',
      server: 'containerd-nydus-grpc',
      option: 'the system.address of a running containerd-nydus-grpc',
    })
  }

  /** The answer to any GET as it was written, for tools that show it. */
  getText(path: string): Promise<string> {
    return this.#http.send('GET', path)
  }

  /** @returns the answer's text */
  put(path: string, body?: unknown): Promise<string> {
    return this.#http.send('PUT', path, body)
  }

  async delete(path: string): Promise<void> {
    await this.#http.send('DELETE', path)
  }

  async close(): Promise<void> {
    await this.#http.close()
  }
}
