import { isFault } from '../../common/fault.js'
import { dockerConfigCredentials } from '../../oci/docker-config.js'
import { registryHost } from '../../oci/reference.js'
import { RegistryClient, type RegistryClientOptions } from '../../oci/registry-client.js'

export interface RegistryAccess {
  /** Domain of a reference. */
  readonly domain: string
  /** Any certificate will do, and plain HTTP where the host does not speak TLS. */
  readonly insecure: boolean
  readonly plainHttp: boolean
  readonly retryLimit?: number
  readonly retryDelayMs?: number
  /** Bytes of one request of an upload; 0 for the client's own measure. */
  readonly pushChunkBytes?: number
}

/** A registry may hash a layer of gigabytes before it answers the end of an upload. */
const SILENCE_TIMEOUT_MS = 120_000

/** A client with docker's credentials. @throws REGISTRY_* when an insecure registry does not answer */
export async function openRegistry(access: RegistryAccess): Promise<RegistryClient> {
  const host = registryHost(access.domain)
  const options: RegistryClientOptions = {
    host,
    credentials: dockerConfigCredentials(),
    silenceTimeoutMs: SILENCE_TIMEOUT_MS,
    ...(access.plainHttp ? { scheme: 'http' } : {}),
    ...(access.insecure ? { tls: { skipVerify: true } } : {}),
    ...(access.retryLimit === undefined ? {} : { retryLimit: access.retryLimit }),
    ...(access.retryDelayMs === undefined ? {} : { retry: { baseDelayMs: access.retryDelayMs } }),
    ...((access.pushChunkBytes ?? 0) > 0 ? { uploadPieceBytes: access.pushChunkBytes } : {}),
  }
  const client = new RegistryClient(options)
  if (!access.insecure || access.plainHttp) return client
  try {
    await client.ping()
    return client
  } catch (err) {
    await client.close()
    if (isFault(err, 'REGISTRY_PLAIN_HTTP')) return new RegistryClient({ ...options, scheme: 'http' })
    throw err
  }
}
