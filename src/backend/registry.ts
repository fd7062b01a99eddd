/** Blobs of one repository on a registry, configured with upstream's keys (nydusd.md 2.2, 4.3). */
import { isBlobId } from '../common/digest.js'
import { fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { type Credential, type CredentialSource, parseBasicAuth } from '../oci/credentials.js'
import type { FetchOptions } from '../oci/blob-fetcher.js'
import type { Scheme } from '../oci/host.js'
import { registryHost } from '../oci/reference.js'
import { RegistryClient, type RegistryClientOptions } from '../oci/registry-client.js'
import { observeRead } from './read-events.js'
import type { Backend, BlobReader, ReadOptions } from './reader.js'

/** Upstream's names. */
export interface RegistryConfig {
  /** `http` or anything else for https. Without it a loopback host may speak either. */
  scheme?: string
  host: string
  repo: string
  /** Base64 of `user:password`. */
  auth?: string | null
  registry_token?: string | null
  blob_url_scheme?: string
  blob_redirected_host?: string
  skip_verify?: boolean
  ca_cert_files?: string[]
  /** Seconds of silence before an attempt is given up; 0 waits for ever. */
  timeout?: number
  /** Seconds; 0 waits for ever. */
  connect_timeout?: number
  retry_limit?: number
  proxy?: Record<string, unknown>
  mirrors?: unknown[]
}

/**
 * Upstream's default is no retry in its configuration and three in its code for a waiting reader: three is what its
 * users have, and a reader that gets EIO for one lost packet is what nobody wants.
 */
const DEFAULT_RETRY_LIMIT = 3

/** @throws CREDENTIALS_INVALID when `auth` is malformed */
export function createRegistryBackend(config: RegistryConfig, logger: Logger): Backend {
  if (config.proxy !== undefined && config.proxy['url'] !== '')
    logger.warn(
      { key: 'proxy' },
      'backend key is not used by this release: requests go to the registry itself',
    )
  if (config.mirrors !== undefined && config.mirrors.length > 0)
    logger.warn(
      { key: 'mirrors' },
      'backend key is not used by this release: requests go to the registry itself',
    )
  return new RegistryBackend(config)
}

class RegistryBackend implements Backend {
  readonly type = 'registry'
  readonly #client: RegistryClient
  readonly #repository: string

  readonly #credentials: ConfiguredCredentials

  constructor(config: RegistryConfig) {
    this.#credentials = new ConfiguredCredentials(config)
    this.#client = new RegistryClient(clientOptions(config, this.#credentials))
    this.#repository = config.repo
  }

  setAuth(auth: string): void {
    this.#credentials.setAuth(auth)
  }

  open(blobId: string): BlobReader {
    if (!isBlobId(blobId))
      throw fault(
        'CONFIG_INVALID',
        `${JSON.stringify(blobId.slice(0, 80))} is no blob id: it has 64 hex digits`,
      )
    return new RegistryBlob(this.#client, this.#repository, blobId)
  }

  close(): Promise<void> {
    return this.#client.close()
  }
}

class RegistryBlob implements BlobReader {
  readonly blobId: string
  readonly #client: RegistryClient
  readonly #repository: string
  #size: number | undefined

  constructor(client: RegistryClient, repository: string, blobId: string) {
    this.#client = client
    this.#repository = repository
    this.blobId = blobId
  }

  async size(options: ReadOptions): Promise<number> {
    return (this.#size ??= await this.#client.fetchBlobSize(this.#repository, this.#digest, lane(options)))
  }

  read(offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    return observeRead({ backend: 'registry', blobId: this.blobId, kind: options.kind, offset, length }, () =>
      this.#client.fetchBlobRange(this.#repository, this.#digest, offset, length, lane(options)),
    )
  }

  get #digest(): string {
    return `sha256:${this.blobId}`
  }
}

function lane(options: ReadOptions): FetchOptions {
  const { kind, signal, into, onBytes } = options
  return { lane: kind === 'demand' ? 'demand' : 'background', signal, into, onBytes }
}

/** What the configuration says, or who changed it since. The client asks again when the registry refuses. */
class ConfiguredCredentials implements CredentialSource {
  readonly name = 'configuration'
  #credential: Credential | undefined

  constructor(config: RegistryConfig) {
    const token = config.registry_token?.trim() ?? ''
    if (token === '') this.setAuth(config.auth ?? '')
    else this.#credential = { kind: 'bearer', token }
  }

  setAuth(auth: string): void {
    const text = auth.trim()
    this.#credential = text === '' ? undefined : parseBasicAuth(text, 'backend key "auth"')
  }

  find(): Promise<Credential | undefined> {
    return Promise.resolve(this.#credential)
  }
}

function clientOptions(config: RegistryConfig, credentials: CredentialSource): RegistryClientOptions {
  const redirectScheme = config.blob_url_scheme ?? ''
  const redirectHost = config.blob_redirected_host ?? ''
  return {
    host: registryHost(config.host),
    ...(config.scheme === undefined ? {} : { scheme: schemeOf(config.scheme) }),
    credentials,
    tls: { caFiles: config.ca_cert_files ?? [], skipVerify: config.skip_verify ?? false },
    connectTimeoutMs: (config.connect_timeout ?? 5) * 1000,
    silenceTimeoutMs: (config.timeout ?? 5) * 1000,
    retryLimit: config.retry_limit ?? DEFAULT_RETRY_LIMIT,
    redirect: {
      ...(redirectScheme === '' ? {} : { scheme: schemeOf(redirectScheme) }),
      ...(redirectHost === '' ? {} : { host: redirectHost }),
    },
  }
}

function schemeOf(text: string): Scheme {
  return text === 'http' ? 'http' : 'https'
}
