import { Client } from 'undici'
import { CODES, fault, type FaultCode, hasErrno } from '../common/fault.js'
import type { ErrorBody } from './api.js'

export type Method = 'GET' | 'PUT' | 'POST' | 'DELETE'

export interface UnixHttpClientOptions {
  readonly socketPath: string
  /** For the whole of a call. */
  readonly timeoutMs?: number
  readonly userAgent?: string
  /** The code of a server that does not answer. */
  readonly silence: FaultCode
  /** Its name, and what its socket is, for sentences. */
  readonly server: string
  readonly option: string
}

/** JSON over HTTP on a unix socket; what the server refuses comes back as the fault that it named. */
export class UnixHttpClient {
  readonly #client: Client
  readonly #options: UnixHttpClientOptions
  readonly #headers: Record<string, string>

  constructor(options: UnixHttpClientOptions) {
    const { socketPath, userAgent, timeoutMs = 30_000 } = options
    this.#options = options
    this.#headers = userAgent === undefined ? {} : { 'user-agent': userAgent }
    this.#client = new Client('http://localhost', {
      socketPath,
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
      connect: { timeout: 2000 },
    })
  }

  /** The text of the answer. */
  async send(method: Method, path: string, body?: unknown): Promise<string> {
    const { silence, server } = this.#options
    const response = await this.#client
      .request({
        method,
        path,
        headers: { ...this.#headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
      .catch((err: unknown) => {
        throw fault(silence, this.#silence(err), { cause: err })
      })
    const text = await response.body.text()
    if (response.statusCode < 300) return text
    throw remoteFault(response.statusCode, text, silence, server)
  }

  async close(): Promise<void> {
    await this.#client.destroy()
  }

  #silence(err: unknown): string {
    const { socketPath, server, option } = this.#options
    if (hasErrno(err, 'ENOENT')) return `there is no socket ${socketPath}: is that ${option}?`
    if (hasErrno(err, 'EACCES')) return `the socket ${socketPath} may not be opened: ask as root`
    return `${server} does not answer on ${socketPath}: see its log`
  }
}

function remoteFault(status: number, text: string, silence: FaultCode, server: string): Error {
  let body: Partial<ErrorBody> = {}
  try {
    body = JSON.parse(text) as Partial<ErrorBody>
  } catch {
    // Not our server's shape: the text itself is the message.
  }
  const code = body.fault !== undefined && body.fault in CODES ? (body.fault as FaultCode) : silence
  return fault(code, sentenceOf(body.message) ?? `${server} answered HTTP ${status}: ${text.slice(0, 200)}`)
}

/** What went wrong, out of the words that upstream's API has around it: `Mount(MountFilesystem(…))`. */
function sentenceOf(message: string | undefined): string | undefined {
  return message === undefined ? undefined : (/^\w+\(\w+\((.*)\)\)$/s.exec(message)?.[1] ?? message)
}
