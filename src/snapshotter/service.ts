/**
 * The snapshots service of containerd on gRPC: messages in, messages out, and nothing else. What the calls mean is in
 * snapshots.ts.
 */
import { fileURLToPath } from 'node:url'
import {
  type GrpcObject,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceClientConstructor,
  type ServiceDefinition,
  type UntypedServiceImplementation,
  loadPackageDefinition,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { Fault, KINDS, asFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { Info, Labels, Mount, Nanoseconds, Snapshots, Usage } from './snapshots.js'

const PROTO = fileURLToPath(new URL('../../../proto/snapshots.proto', import.meta.url))
const NS_PER_SECOND = 1_000_000_000n
/** Infos of one message of List: far below gRPC's 4 MB, however many labels they have. */
const LIST_BATCH = 100

/** The client class that @grpc/grpc-js makes of the service; `service` in it is the definition to serve. */
export function loadSnapshotsClient(): ServiceClientConstructor {
  const loaded = loadPackageDefinition(
    loadSync(PROTO, { keepCase: true, longs: String, enums: String, defaults: true }),
  )
  const client = ['containerd', 'services', 'snapshots', 'v1', 'Snapshots'].reduce<unknown>(
    (scope, name) => (scope as GrpcObject)[name],
    loaded,
  )
  return client as ServiceClientConstructor
}

interface KeyRequest {
  key: string
}
interface CreateMessage extends KeyRequest {
  parent: string
  labels: Labels
}
interface CommitMessage extends CreateMessage {
  name: string
}
interface UpdateMessage {
  info: { name: string; labels: Labels } | null
  update_mask: { paths: string[] } | null
}

/** Definition and handlers for `Server.addService`. Failures are told by the status of their kind. */
export function snapshotsService(
  snapshots: Snapshots,
  log: Logger,
): [ServiceDefinition, UntypedServiceImplementation] {
  const unary =
    <Q, A>(method: string, answer: (request: Q) => A | Promise<A>) =>
    (call: ServerUnaryCall<Q, A>, done: sendUnaryData<A>): void => {
      const startedMs = performance.now()
      Promise.resolve()
        .then(() => answer(call.request))
        .then(
          message => {
            done(null, message)
            return undefined
          },
          (err: unknown) => {
            done(toStatus(err))
            return asFault(err)
          },
        )
        .then(failure => {
          logCall(log, method, call.request, performance.now() - startedMs, failure)
        })
        .catch((err: unknown) => {
          log.error({ method, err }, 'answer cannot be sent')
        })
    }

  return [
    loadSnapshotsClient().service,
    {
      Prepare: unary('Prepare', async (request: CreateMessage) => ({
        mounts: (await snapshots.prepare(request)).map(toMount),
      })),
      View: unary('View', async (request: CreateMessage) => ({
        mounts: (await snapshots.view(request)).map(toMount),
      })),
      Mounts: unary('Mounts', async ({ key }: KeyRequest) => ({
        mounts: (await snapshots.mounts(key)).map(toMount),
      })),
      Commit: unary('Commit', async (request: CommitMessage) => {
        await snapshots.commit(request)
        return {}
      }),
      Remove: unary('Remove', async ({ key }: KeyRequest) => {
        await snapshots.remove(key)
        return {}
      }),
      Stat: unary('Stat', ({ key }: KeyRequest) => ({ info: toInfo(snapshots.stat(key)) })),
      Update: unary('Update', async ({ info, update_mask: mask }: UpdateMessage) => {
        const { name, labels } = info ?? { name: '', labels: {} }
        return { info: toInfo(await snapshots.update({ name, labels, paths: mask?.paths ?? [] })) }
      }),
      List: (call: ServerWritableStream<{ filters: string[] }, unknown>) => {
        sendList(call, snapshots).catch((err: unknown) => {
          call.emit('error', toStatus(err))
        })
      },
      Usage: unary('Usage', async ({ key }: KeyRequest) => toUsage(await snapshots.usage(key))),
      Cleanup: unary('Cleanup', async () => {
        await snapshots.cleanup()
        return {}
      }),
    },
  ]
}

async function sendList(
  call: ServerWritableStream<{ filters: string[] }, unknown>,
  snapshots: Snapshots,
): Promise<void> {
  const infos = snapshots.list(call.request.filters)
  for (let at = 0; at < infos.length && !call.cancelled; at += LIST_BATCH) {
    const flowing = call.write({ info: infos.slice(at, at + LIST_BATCH).map(toInfo) })
    if (!flowing) await drained(call)
  }
  call.end()
}

/** A client that goes away while it is waited for ends the wait too. */
async function drained(call: ServerWritableStream<unknown, unknown>): Promise<void> {
  await new Promise<void>(resolve => {
    call.once('drain', resolve)
    call.once('cancelled', resolve)
    if (call.cancelled) resolve()
  })
}

/** "Already exists" to a layer that needs no unpacking is protocol; what clients do wrong is theirs to report. */
function logCall(log: Logger, method: string, request: unknown, durationMs: number, failure?: Fault): void {
  const key = (request as Partial<KeyRequest>).key
  const facts = { method, snapshotKey: key, durMs: Math.round(durationMs * 1000) / 1000 }
  if (!failure) log.debug(facts, 'call')
  else if (KINDS[failure.kind].exit >= 7 || failure.kind === 'internal')
    log.error({ ...facts, err: failure }, 'call failed')
  else log.info({ ...facts, code: failure.code, reason: failure.message }, 'call refused')
}

/**
 * The status of a failure: the code of its kind, and the whole chain of what went wrong. Its own code stands at the end,
 * for containerd passes the sentence on but turns most kinds of status into "unknown".
 */
function toStatus(err: unknown): { code: number; details: string } {
  const failure = asFault(err)
  return { code: KINDS[failure.kind].grpc, details: `${wholeMessage(failure)} (${failure.code})` }
}

function wholeMessage(failure: Error): string {
  const parts = [failure.message]
  for (let cause = failure.cause; cause instanceof Error; cause = cause.cause) {
    if (!parts.some(part => part.includes(cause.message))) parts.push(cause.message)
  }
  return parts.join(': ')
}

function toMount({ type, source, options }: Mount): object {
  return { type, source, target: '', options }
}

function toInfo(info: Info): object {
  return {
    name: info.name,
    parent: info.parent,
    kind: info.kind.toUpperCase(),
    created_at: toTimestamp(info.createdNs),
    updated_at: toTimestamp(info.updatedNs),
    labels: info.labels,
  }
}

function toTimestamp(ns: Nanoseconds): object {
  return { seconds: String(ns / NS_PER_SECOND), nanos: Number(ns % NS_PER_SECOND) }
}

function toUsage({ sizeBytes, inodes }: Usage): object {
  return { size: String(sizeBytes), inodes: String(inodes) }
}
