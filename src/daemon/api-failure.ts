import type { ErrorBody } from '../client/api.js'
import { asFault, type Fault, KINDS } from '../common/fault.js'
import type { Route } from './routes.js'

export interface Failure {
  readonly status: number
  readonly body: ErrorBody
}

/**
 * A failed request as upstream tells it (nydusd.md 3.1): its few statuses, and as message the endpoint and the cause
 * around the sentence, `Mount(MountFilesystem(…))`. Requests that are malformed get the sentence alone.
 */
export function describeFailure(err: unknown, route: Route | undefined): Failure {
  const failure = asFault(err)
  const [endpoint, cause] = route?.failure ?? []
  const plain = endpoint === undefined || failure.code === 'REQUEST_INVALID'
  const message = plain ? failure.message : `${endpoint}(${cause}(${failure.message}))`
  return { status: statusOf(failure, cause), body: { code: 'UNDEFINED', message, fault: failure.code } }
}

function statusOf(failure: Fault, cause: string | undefined): number {
  if (failure.code === 'DAEMON_STATE' || failure.code === 'REQUEST_INVALID') return 400
  if (failure.kind === 'unimplemented') return 501
  // What upstream does not have, and instances, whose statuses it leaves open.
  if (cause === undefined || cause === 'Blobs') return KINDS[failure.kind].http
  return cause === 'Metrics' && failure.kind === 'not_found' ? 404 : 500
}
