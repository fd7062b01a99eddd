import { fault } from '../common/fault.js'
import { type Method, UnixHttpClient } from './unix-http-client.js'
import type {
  BackendMetrics,
  BlobCacheEntry,
  BlobcacheMetrics,
  DaemonEvents,
  DaemonInfo,
  DescriptorInfo,
  FsMetrics,
  InflightInfo,
  InstanceInfo,
  MountCommand,
} from './api.js'

/** Which instance a call is about. */
export interface InstanceName {
  domainId: string
  id: string
}

/**
 * Typed client of the daemon's API. Every call has a deadline; a daemon that does not answer is DAEMON_UNAVAILABLE,
 * and what the daemon refuses comes back as the fault that it named.
 */
export class DaemonClient {
  readonly #http: UnixHttpClient

  /**
   * @param options.timeoutMs for the whole of a call; binding an image reads only local files, so seconds are plenty
   * @param options.userAgent who asks, for the log of the daemon
   */
  constructor(socketPath: string, options: { timeoutMs?: number; userAgent?: string } = {}) {
    this.#http = new UnixHttpClient({
      ...options,
      socketPath,
      silence: 'DAEMON_UNAVAILABLE',
      server: 'nydusd',
      option: 'the --apisock of a running nydusd',
    })
  }

  async info(): Promise<DaemonInfo> {
    return (await this.#call('GET', '/api/v1/daemon')) as DaemonInfo
  }

  async start(): Promise<void> {
    await this.#call('PUT', '/api/v1/daemon/start')
  }

  /** Asks the daemon to end without unmounting anything. */
  async exit(): Promise<void> {
    await this.#call('PUT', '/api/v1/daemon/exit')
  }

  async setLogLevel(level: string): Promise<void> {
    await this.#call('PUT', '/api/v1/daemon', { log_level: level })
  }

  async descriptors(): Promise<DescriptorInfo[]> {
    return (await this.#call('GET', '/api/v1/daemon/fds')) as DescriptorInfo[]
  }

  /** Shows an image below the FUSE mount of the daemon. @throws INSTANCE_EXISTS, CONFIG_INVALID, RAFS_*, UNIMPLEMENTED */
  async mount(mountpoint: string, command: MountCommand): Promise<void> {
    await this.#call('POST', `/api/v1/mount?${mountQuery(mountpoint)}`, command)
  }

  /** Puts another bootstrap and backend in the place of a mount's. @throws INSTANCE_UNKNOWN, IMAGE_MISMATCH, and as `mount` */
  async remount(mountpoint: string, command: MountCommand): Promise<void> {
    await this.#call('PUT', `/api/v1/mount?${mountQuery(mountpoint)}`, command)
  }

  /** @throws INSTANCE_UNKNOWN */
  async umount(mountpoint: string): Promise<void> {
    await this.#call('DELETE', `/api/v1/mount?${mountQuery(mountpoint)}`)
  }

  /** Hands the FUSE descriptor and the state to the daemon's supervisor. */
  async sendDescriptor(): Promise<void> {
    await this.#call('PUT', '/api/v1/daemon/fuse/sendfd')
  }

  /** Takes both from the supervisor, in INIT. */
  async takeOver(): Promise<void> {
    await this.#call('PUT', '/api/v1/daemon/fuse/takeover')
  }

  async events(): Promise<DaemonEvents> {
    return (await this.#call('GET', '/api/v1/daemon/events')) as DaemonEvents
  }

  /** @param mountpoint may be left out where there is one mount @throws INSTANCE_UNKNOWN */
  async fsMetrics(mountpoint?: string): Promise<FsMetrics> {
    return (await this.#call('GET', `/api/v1/metrics${idQuery(mountpoint)}`)) as FsMetrics
  }

  /** @throws INSTANCE_UNKNOWN */
  async backendMetrics(mountpoint?: string): Promise<BackendMetrics> {
    return (await this.#call('GET', `/api/v1/metrics/backend${idQuery(mountpoint)}`)) as BackendMetrics
  }

  /** The cache of one image: of its configuration's id, a path of the FUSE mount, or an instance. @throws INSTANCE_UNKNOWN */
  async blobcache(id?: string): Promise<BlobcacheMetrics> {
    return (await this.#call('GET', `/api/v1/metrics/blobcache${idQuery(id)}`)) as BlobcacheMetrics
  }

  async inflight(): Promise<InflightInfo[]> {
    return ((await this.#call('GET', '/api/v1/metrics/inflight')) ?? []) as InflightInfo[]
  }

  /** Changes settings of a mounted backend, such as `registry_auth`. @throws CONFIG_INVALID */
  async putSettings(mountpoint: string, settings: Readonly<Record<string, string>>): Promise<void> {
    await this.#call('PUT', `/api/v1/config${idQuery(mountpoint)}`, settings)
  }

  async bind(entry: BlobCacheEntry): Promise<void> {
    await this.#call('PUT', '/api/v2/blobs', entry)
  }

  /** @throws INSTANCE_UNKNOWN */
  async instance(name: InstanceName): Promise<InstanceInfo> {
    const [found] = (await this.#call('GET', `/api/v2/blobs?${query(name)}`)) as InstanceInfo[]
    if (!found) throw fault('INSTANCE_UNKNOWN', `the daemon knows no instance ${name.domainId}/${name.id}`)
    return found
  }

  async instances(domainId: string): Promise<InstanceInfo[]> {
    return (await this.#call(
      'GET',
      `/api/v2/blobs?domain_id=${encodeURIComponent(domainId)}`,
    )) as InstanceInfo[]
  }

  /** The mount and its canary are done. */
  async mounted(name: InstanceName): Promise<void> {
    await this.#call('PUT', `/api/v2/blobs/mounted?${query(name)}`)
  }

  async unbind(name: InstanceName): Promise<void> {
    await this.#call('DELETE', `/api/v2/blobs?${query(name)}`)
  }

  /** The answer to any GET of the API as the daemon wrote it, for tools that show it. */
  async getText(path: string): Promise<string> {
    return this.#http.send('GET', path)
  }

  async close(): Promise<void> {
    await this.#http.close()
  }

  async #call(method: Method, path: string, body?: unknown): Promise<unknown> {
    const text = await this.#http.send(method, path, body)
    return text === '' ? undefined : JSON.parse(text)
  }
}

function query(name: InstanceName): string {
  return `domain_id=${encodeURIComponent(name.domainId)}&blob_id=${encodeURIComponent(name.id)}`
}

function mountQuery(mountpoint: string): string {
  return `mountpoint=${encodeURIComponent(mountpoint)}`
}

function idQuery(id: string | undefined): string {
  return id === undefined ? '' : `?id=${encodeURIComponent(id)}`
}
