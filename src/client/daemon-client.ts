import { Client } from 'undici'
import { CODES, fault, type FaultCode, hasErrno } from '../common/fault.js'
import type {
  BlobCacheEntry,
  BlobcacheInfo,
  DaemonInfo,
  DescriptorInfo,
  ErrorBody,
  InstanceInfo,
  MountCommand,
} from './api.js'

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

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
  readonly #client: Client
  readonly #socketPath: string

  /** @param options.timeoutMs for the whole of a call; binding an image reads only local files, so seconds are plenty */
  constructor(socketPath: string, options: { timeoutMs?: number } = {}) {
    const timeoutMs = options.timeoutMs ?? 30_000
    this.#socketPath = socketPath
    this.#client = new Client('http://nydusd', {
      socketPath,
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
      connect: { timeout: 2000 },
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

  /** Shows an image at a path of the daemon's FUSE mount. @throws INSTANCE_EXISTS */
  async mount(path: string, command: MountCommand): Promise<void> {
    await this.#call('POST', `/api/v1/mount?mountpoint=${encodeURIComponent(path)}`, command)
  }

  /** @throws INSTANCE_UNKNOWN */
  async umount(path: string): Promise<void> {
    await this.#call('DELETE', `/api/v1/mount?mountpoint=${encodeURIComponent(path)}`)
  }

  /** The cache of one image: a path of the FUSE mount, or an instance's id. @throws INSTANCE_UNKNOWN */
  async blobcache(id: string): Promise<BlobcacheInfo> {
    return (await this.#call(
      'GET',
      `/api/v1/metrics/blobcache?id=${encodeURIComponent(id)}`,
    )) as BlobcacheInfo
  }

  /** The answer to any GET of the API as the daemon wrote it, for tools that show it. */
  async getText(path: string): Promise<string> {
    return this.#send('GET', path)
  }

  async close(): Promise<void> {
    await this.#client.destroy()
  }

  async #call(method: Method, path: string, body?: unknown): Promise<unknown> {
    const text = await this.#send(method, path, body)
    return text === '' ? undefined : JSON.parse(text)
  }

  async #send(method: Method, path: string, body?: unknown): Promise<string> {
    const response = await this.#client
      .request({
        method,
        path,
        ...(body === undefined
          ? {}
          : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      })
      .catch((err: unknown) => {
        throw fault('DAEMON_UNAVAILABLE', silence(this.#socketPath, err), { cause: err })
      })
    const text = await response.body.text()
    if (response.statusCode < 300) return text
    throw remoteFault(response.statusCode, text)
  }
}

function query(name: InstanceName): string {
  return `domain_id=${encodeURIComponent(name.domainId)}&blob_id=${encodeURIComponent(name.id)}`
}

function silence(socketPath: string, err: unknown): string {
  if (hasErrno(err, 'ENOENT'))
    return `there is no socket ${socketPath}: is that the --apisock of a running nydusd?`
  if (hasErrno(err, 'EACCES')) return `the socket ${socketPath} may not be opened: ask as root`
  return `nydusd does not answer on ${socketPath}: see its log`
}

function remoteFault(status: number, text: string): Error {
  let body: Partial<ErrorBody> = {}
  try {
    body = JSON.parse(text) as Partial<ErrorBody>
  } catch {
    // Not our daemon's shape: the text itself is the message.
  }
  const code =
    body.fault !== undefined && body.fault in CODES ? (body.fault as FaultCode) : 'DAEMON_UNAVAILABLE'
  return fault(code, body.message ?? `nydusd answered HTTP ${status}: ${text.slice(0, 200)}`)
}
