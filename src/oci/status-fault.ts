/** What an HTTP status of a registry means to us. */
import { fault, type Fault } from '../common/fault.js'
import type { HttpResponse } from './http-response.js'
import { parseRetryAfter } from './retry.js'

const MAX_ERROR_BYTES = 16 << 10

/** Statuses that may be different a moment later. */
const TRANSIENT = new Set([408, 425, 429])

/**
 * The fault for an answer that is not what was asked for; reads the answer's body away. `subject` is what was asked
 * about, in words: `blob sha256:… of app on registry.example`.
 */
export async function statusFault(
  response: HttpResponse,
  subject: string,
  action: 'pull' | 'push' = 'pull',
): Promise<Fault> {
  const { status } = response
  const retryAfterMs = parseRetryAfter(response.header('retry-after'))
  const said = await errorText(response)
  const context = { status, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }
  if (status === 401) {
    const remedy = 'run "docker login" for this host, or set auth in the configuration'
    return fault('REGISTRY_UNAUTHORIZED', `${subject}: no valid credentials${said}: ${remedy}`, { context })
  }
  if (status === 403) {
    const remedy = action === 'pull' ? 'ask for the right to pull it' : 'ask for the right to push there'
    return fault('REGISTRY_UNAUTHORIZED', `${subject}: access denied${said}: ${remedy}`, { context })
  }
  if (status === 404 || status === 410) {
    const remedy = 'check the name, or whether it was deleted'
    return fault('REGISTRY_NOT_FOUND', `${subject} does not exist${said}: ${remedy}`, { context })
  }
  if (status === 413) {
    const remedy =
      'raise the limit of the registry or of the proxy before it (nginx: client_max_body_size), or push in smaller ' +
      'pieces with --push-chunk-size'
    return fault('REGISTRY_PROTOCOL', `${subject}: a request was too large (413)${said}: ${remedy}`, {
      context,
      retryable: false,
    })
  }
  if (status === 429)
    return fault('REGISTRY_UNAVAILABLE', `${subject}: too many requests (429)${said}: try later`, { context })
  if (status >= 500 || TRANSIENT.has(status)) {
    const remedy = `look into the registry’s log${action === 'push' ? ', then push again' : ''}`
    return fault('REGISTRY_UNAVAILABLE', `${subject}: answered ${status}${said}: ${remedy}`, { context })
  }
  if (status === 416) {
    const remedy = 'it was cut short or replaced, push it again'
    return fault('REGISTRY_PROTOCOL', `${subject}: is shorter than the range asked for: ${remedy}`, {
      context,
      retryable: false,
    })
  }
  return fault('REGISTRY_PROTOCOL', `${subject}: unexpected answer ${status}${said}`, {
    context,
    retryable: false,
  })
}

/** The registry's own words (OCI distribution-spec, error codes), made harmless; nothing where it has none. */
async function errorText(response: HttpResponse): Promise<string> {
  const isJson = /^application\/(?:[a-z0-9.+-]*\+)?json\b/i.test(response.header('content-type') ?? '')
  if (!isJson) {
    await response.discard()
    return ''
  }
  try {
    const body = JSON.parse(Buffer.from(await response.bytes(MAX_ERROR_BYTES)).toString('utf8')) as {
      errors?: { code?: unknown; message?: unknown }[]
    }
    const first = body.errors?.[0]
    const words = [first?.code, first?.message].filter(word => typeof word === 'string' && word !== '')
    const text = words.join(': ').replace(/[^\x20-\x7e]/g, '?')
    return text === '' ? '' : ` (${text.slice(0, 200)})`
  } catch {
    return ''
  }
}
