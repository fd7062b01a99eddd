/** What the fault registry holds, and the right answers to requests for it (distribution-spec 1.1). */
import { createHash, randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

export type Target = 'ping' | 'manifest' | 'blob' | 'upload' | 'token' | 'store' | 'other'

export interface Reply {
  status: number
  headers: Record<string, string>
  body: Uint8Array
}

export interface StoredManifest {
  bytes: Uint8Array
  mediaType: string
}

interface ContentOptions {
  auth?: { username: string; password: string; method: 'basic' | 'bearer'; tokenLifetimeS?: number }
  redirect?: boolean
  tls?: unknown
}

export class RegistryContent {
  host = ''
  storeHost = ''
  signature = 1
  tokenGeneration = 1
  readonly #options: ContentOptions
  readonly #blobs = new Map<string, Uint8Array>()
  readonly #manifests = new Map<string, StoredManifest>()
  readonly #uploads = new Map<string, Uint8Array[]>()

  constructor(options: ContentOptions) {
    this.#options = options
  }

  putBlob(repository: string, digest: string, bytes: Uint8Array): void {
    this.#blobs.set(`${repository}@${digest}`, bytes)
  }
  blob(repository: string, digest: string): Uint8Array | undefined {
    return this.#blobs.get(`${repository}@${digest}`)
  }
  putManifest(repository: string, name: string, manifest: StoredManifest): void {
    this.#manifests.set(`${repository}:${name}`, manifest)
  }
  manifest(repository: string, name: string): StoredManifest | undefined {
    return this.#manifests.get(`${repository}:${name}`)
  }

  classify(url: URL): { target: Target; digest: string | undefined } {
    const digest = /sha256:[0-9a-f]{64}/.exec(url.pathname)?.[0]
    const target: Target = url.pathname.startsWith('/store/')
      ? 'store'
      : url.pathname === '/token'
        ? 'token'
        : url.pathname === '/v2/'
          ? 'ping'
          : /\/blobs\/uploads\//.test(url.pathname)
            ? 'upload'
            : /\/blobs\//.test(url.pathname)
              ? 'blob'
              : /\/manifests\//.test(url.pathname)
                ? 'manifest'
                : 'other'
    return { target, digest }
  }

  /** Bytes of an upload count as they arrive, as they do in a real registry. */
  arriving(req: IncomingMessage, bytes: Uint8Array): void {
    const url = new URL(req.url ?? '/', 'http://registry')
    if (req.method === 'PATCH' || req.method === 'PUT') this.#uploads.get(url.pathname)?.push(bytes)
  }

  answer(req: IncomingMessage, body: Uint8Array): Reply {
    const url = new URL(req.url ?? '/', 'http://registry')
    const { target } = this.classify(url)
    if (target === 'token') return this.#token(req, url, body)
    const refused = this.#refuse(req, url)
    if (refused) return refused
    if (target === 'ping') return json(200, {})
    const [, repository = '', kind = '', name = ''] =
      /^\/v2\/(.+?)\/(manifests|blobs)\/(.*)$/.exec(url.pathname) ?? []
    if (target === 'upload') return this.#upload(req, url, repository)
    if (kind === 'manifests') return this.#manifest(req, repository, name, body)
    if (kind === 'blobs') return this.#blob(req, repository, name)
    return missing('UNSUPPORTED')
  }

  /** The second host, where redirects lead. */
  answerStore(req: IncomingMessage): Reply {
    const url = new URL(req.url ?? '/', 'http://store')
    if (url.searchParams.get('sig') !== String(this.signature)) return json(403, { error: 'expired' })
    const bytes = this.#blobs.get(decodeURIComponent(url.pathname.slice('/store/'.length)))
    return bytes ? ranged(req, bytes) : missing('BLOB_UNKNOWN')
  }

  #blob(req: IncomingMessage, repository: string, digest: string): Reply {
    const bytes = this.blob(repository, digest)
    if (!bytes) return missing('BLOB_UNKNOWN')
    if (this.#options.redirect !== true) return ranged(req, bytes)
    const at = `/store/${encodeURIComponent(`${repository}@${digest}`)}?sig=${this.signature}`
    const location = `${this.#options.tls === undefined ? 'http' : 'https'}://${this.storeHost}${at}`
    return { status: 307, headers: { location }, body: Buffer.alloc(0) }
  }

  #manifest(req: IncomingMessage, repository: string, name: string, body: Uint8Array): Reply {
    if (req.method === 'PUT') {
      const digest = digestOf(body)
      const mediaType = req.headers['content-type'] ?? ''
      for (const key of [name, digest]) this.putManifest(repository, key, { bytes: body, mediaType })
      return empty(201, {
        'docker-content-digest': digest,
        location: `/v2/${repository}/manifests/${digest}`,
      })
    }
    const found = this.manifest(repository, name)
    if (!found) return missing('MANIFEST_UNKNOWN')
    const headers = { 'content-type': found.mediaType, 'docker-content-digest': digestOf(found.bytes) }
    return { status: 200, headers, body: found.bytes }
  }

  #upload(req: IncomingMessage, url: URL, repository: string): Reply {
    if (req.method === 'POST') {
      const [digest, from] = [url.searchParams.get('mount'), url.searchParams.get('from')]
      const bytes = digest !== null && from !== null ? this.blob(from, digest) : undefined
      if (bytes && digest !== null) {
        this.putBlob(repository, digest, bytes)
        return empty(201, { location: `/v2/${repository}/blobs/${digest}` })
      }
      const location = `/v2/${repository}/blobs/uploads/${randomUUID()}`
      this.#uploads.set(location, [])
      return empty(202, { location: `${location}?state=0`, range: '0-0' })
    }
    const pieces = this.#uploads.get(url.pathname)
    if (!pieces) return missing('BLOB_UPLOAD_UNKNOWN')
    const bytes = Buffer.concat(pieces)
    const state = {
      location: `${url.pathname}?state=${bytes.length}`,
      range: `0-${Math.max(0, bytes.length - 1)}`,
    }
    if (req.method === 'GET') return empty(204, state)
    if (req.method === 'PATCH') {
      const start = /^([0-9]+)-/.exec(req.headers['content-range'] ?? '')?.[1]
      const length = Number(req.headers['content-length'] ?? 0)
      if (start !== undefined && Number(start) + length !== bytes.length) {
        pieces.splice(0, pieces.length, bytes.subarray(0, bytes.length - length))
        return empty(416, state)
      }
      return empty(202, state)
    }
    this.#uploads.delete(url.pathname)
    if (req.method === 'DELETE') return empty(204, {})
    const digest = url.searchParams.get('digest') ?? ''
    if (digest !== digestOf(bytes))
      return json(400, { errors: [{ code: 'DIGEST_INVALID', message: 'digest differs' }] })
    this.putBlob(repository, digest, bytes)
    return empty(201, { location: `/v2/${repository}/blobs/${digest}`, 'docker-content-digest': digest })
  }

  #refuse(req: IncomingMessage, url: URL): Reply | undefined {
    const { auth } = this.#options
    if (!auth) return undefined
    const repository = /^\/v2\/(.+?)\/(?:manifests|blobs)\//.exec(url.pathname)?.[1]
    const rights = req.method === 'GET' || req.method === 'HEAD' ? 'pull' : 'pull,push'
    const scope = repository === undefined ? '' : `repository:${repository}:${rights}`
    if (this.#admits(req.headers.authorization ?? '', scope)) return undefined
    const scheme = this.#options.tls === undefined ? 'http' : 'https'
    const realm = `realm="${scheme}://${this.host}/token",service="test"`
    const challenge =
      auth.method === 'basic'
        ? 'Basic realm="test"'
        : `Bearer ${realm}${scope === '' ? '' : `,scope="${scope}"`}`
    const reply = json(401, { errors: [{ code: 'UNAUTHORIZED', message: 'authentication required' }] })
    return { ...reply, headers: { ...reply.headers, 'www-authenticate': challenge } }
  }

  #admits(authorization: string, scope: string): boolean {
    const { username = '', password = '', method = 'basic' } = this.#options.auth ?? {}
    if (method === 'basic') return authorization === basic(username, password)
    const token = Buffer.from(authorization.replace('Bearer ', ''), 'base64url').toString('utf8')
    const [generation, granted = ''] = token.split('|')
    // A right to pull and push is a right to pull.
    const covers = granted.split(' ').some(one => scope === '' || one.startsWith(scope))
    return generation === String(this.tokenGeneration) && covers
  }

  #token(req: IncomingMessage, url: URL, body: Uint8Array): Reply {
    const { username = '', password = '', tokenLifetimeS } = this.#options.auth ?? {}
    const form = new URLSearchParams(Buffer.from(body).toString('utf8'))
    const byHeader = req.headers.authorization === basic(username, password)
    const byForm = form.get('username') === username && form.get('password') === password
    const byRefresh = form.get('refresh_token') === password
    if (!byHeader && !byForm && !byRefresh) return json(401, { errors: [{ code: 'UNAUTHORIZED' }] })
    const scope = form.get('scope') ?? url.searchParams.getAll('scope').join(' ')
    const token = Buffer.from(`${this.tokenGeneration}|${scope}`).toString('base64url')
    return json(200, { token, expires_in: tokenLifetimeS ?? 300 })
  }
}

function ranged(req: IncomingMessage, bytes: Uint8Array): Reply {
  const headers = { 'content-type': 'application/octet-stream', 'accept-ranges': 'bytes' }
  const match = /^bytes=([0-9]+)-([0-9]*)$/.exec(req.headers.range ?? '')
  if (!match) return { status: 200, headers, body: bytes }
  const start = Number(match[1])
  const end = Math.min(match[2] === '' ? Infinity : Number(match[2]), bytes.length - 1)
  if (start >= bytes.length) return empty(416, { 'content-range': `bytes */${bytes.length}` })
  const range = { 'content-range': `bytes ${start}-${end}/${bytes.length}` }
  return { status: 206, headers: { ...headers, ...range }, body: bytes.subarray(start, end + 1) }
}

function json(status: number, value: unknown): Reply {
  return { status, headers: { 'content-type': 'application/json' }, body: Buffer.from(JSON.stringify(value)) }
}

function missing(code: string): Reply {
  return json(404, { errors: [{ code, message: 'not here' }] })
}

function empty(status: number, headers: Record<string, string>): Reply {
  return { status, headers, body: Buffer.alloc(0) }
}

function basic(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
