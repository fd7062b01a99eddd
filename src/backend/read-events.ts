/**
 * What backends tell about their reads: one message a logical read on the diagnostics channel `nydus:backend:read`.
 * Metrics and tracing subscribe; with no subscriber a message costs next to nothing.
 */
import { channel } from 'node:diagnostics_channel'
import { asFault, type Fault, type FaultCode } from '../common/fault.js'
import type { RequestKind } from './reader.js'

export interface BackendRead {
  /** `registry`, `localfs`, … */
  readonly backend: string
  readonly blobId: string
  readonly kind: RequestKind
  readonly offset: number
  /** Bytes asked for. */
  readonly length: number
  readonly durationMs: number
  /** Both undefined when the read succeeded. */
  readonly error?: FaultCode
  readonly message?: string
}

export const backendReads = channel('nydus:backend:read')

/** Runs a read and publishes how it went. */
export async function observeRead<T>(
  read: Omit<BackendRead, 'durationMs' | 'error' | 'message'>,
  run: () => Promise<T>,
): Promise<T> {
  if (!backendReads.hasSubscribers) return run()
  const began = performance.now()
  const publish = (failure?: Fault): void => {
    const durationMs = performance.now() - began
    const outcome = failure && { error: failure.code, message: failure.message }
    const message: BackendRead = { ...read, durationMs, ...outcome }
    backendReads.publish(message)
  }
  try {
    const result = await run()
    publish()
    return result
  } catch (err) {
    publish(asFault(err))
    throw err
  }
}
