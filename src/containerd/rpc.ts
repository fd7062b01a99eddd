import { createConnection } from 'node:net'
import { fileURLToPath } from 'node:url'
import {
  type CallOptions,
  Client,
  type ClientDuplexStream,
  Metadata,
  type MethodDefinition,
  type ServiceError,
  credentials,
  status,
} from '@grpc/grpc-js'
import { type PackageDefinition, loadSync } from '@grpc/proto-loader'
import { CODES, type Fault, type FaultCode, fault, hasErrno, isFault } from '../common/fault.js'

/** The snapshots service is the one that we serve: one description for both sides. */
const PROTO_FILES = [
  'containerd-content',
  'containerd-images',
  'containerd-leases',
  'snapshots',
  'containerd-diff',
]
const PROTO_DIRECTORY = fileURLToPath(new URL('../../../proto/', import.meta.url))

/** How long containerd may take to accept a connection. */
const CONNECT_TIMEOUT_MS = 10_000
/** The largest answer read: an image record or a snapshot's mounts are far below. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024

type AnyMethod = MethodDefinition<object, object>
/** A bidirectional stream of plain messages. */
export type Duplex<Request, Response> = ClientDuplexStream<Request, Response>

/**
 * A connection to containerd's gRPC socket, bound to one namespace and, once there is one, to a lease.
 * Field and service names are those of `proto/*.proto`, in camel case.
 */
export class Rpc {
  readonly address: string
  readonly namespace: string
  readonly #client: Client
  readonly #definitions: PackageDefinition
  #leaseId: string | undefined

  private constructor(address: string, namespace: string) {
    this.address = address
    this.namespace = namespace
    this.#definitions = loadSync(
      PROTO_FILES.map(name => `${PROTO_DIRECTORY}${name}.proto`),
      {
        includeDirs: [PROTO_DIRECTORY],
        longs: Number,
        enums: Number,
        defaults: true,
        arrays: true,
        objects: true,
      },
    )
    this.#client = new Client(`unix:${address}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    })
  }

  /** @throws CONTAINERD_UNAVAILABLE when nobody listens at `address`, NOT_ROOT when this user may not connect */
  static async connect(address: string, namespace: string): Promise<Rpc> {
    await checkListener(address)
    return new Rpc(address, namespace)
  }

  /** From now on what calls make is held by this lease; undefined lets go. */
  setLease(leaseId: string | undefined): void {
    this.#leaseId = leaseId
  }

  /** One question, one answer. @throws CONTAINERD_UNAVAILABLE, TIMEOUT, our snapshotter's own faults, CONTAINERD_ERROR (see {@link hasStatus}) */
  unary<Response>(service: string, method: string, request: object, timeoutMs: number): Promise<Response> {
    const definition = this.#method(service, method)
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        definition.path,
        definition.requestSerialize,
        definition.responseDeserialize,
        request,
        this.#metadata(),
        this.#options(timeoutMs),
        (err, response) => {
          if (err) reject(this.toFault(err, `${service}.${method}`))
          else resolve(response as Response)
        },
      )
    })
  }

  /** A stream of messages both ways; its `error` event carries what {@link toFault} takes. */
  duplex<Request, Response>(service: string, method: string, timeoutMs: number): Duplex<Request, Response> {
    const definition = this.#method(service, method)
    return this.#client.makeBidiStreamRequest(
      definition.path,
      definition.requestSerialize,
      definition.responseDeserialize,
      this.#metadata(),
      this.#options(timeoutMs),
    ) as unknown as Duplex<Request, Response>
  }

  /** What containerd answered, in its own words. */
  toFault(err: unknown, what: string): Fault {
    // A stream that is destroyed on our side ends with an error of Node's, which has no details.
    const { code, details = '' } = err as Partial<ServiceError>
    const context = { grpc: code, call: what, address: this.address }
    if (code === status.CANCELLED) return fault('CANCELLED', 'cancelled', { cause: err, context })
    if (code === status.DEADLINE_EXCEEDED) {
      return fault('TIMEOUT', `containerd did not answer ${what} in time: look at its log`, {
        cause: err,
        context,
      })
    }
    if (code === status.UNAVAILABLE && /No connection established|Connection dropped|ECONN/.test(details)) {
      return unavailable(this.address, err)
    }
    const own = ownCode(details)
    const said = own === undefined ? details : details.replace(` (${own})`, '')
    const sentence = `containerd: ${said || String(err)}${remedyFor(details)}`
    return fault(own ?? 'CONTAINERD_ERROR', sentence, { cause: err, context })
  }

  close(): void {
    this.#client.close()
  }

  #method(service: string, method: string): AnyMethod {
    const qualified = `containerd.services.${service.toLowerCase()}.v1.${service}`
    const definition = (this.#definitions[qualified] as Record<string, AnyMethod> | undefined)?.[method]
    if (!definition) throw fault('INTERNAL', `proto/ defines no ${qualified}/${method}`)
    return definition
  }

  #metadata(): Metadata {
    const metadata = new Metadata()
    metadata.set('containerd-namespace', this.namespace)
    if (this.#leaseId !== undefined) metadata.set('containerd-lease', this.#leaseId)
    return metadata
  }

  #options(timeoutMs: number): CallOptions {
    return { deadline: Date.now() + timeoutMs }
  }
}

/** The code of a refusal by our own snapshotter, which says more than the status that containerd makes of it. */
function ownCode(details: string): FaultCode | undefined {
  const codes = [...details.matchAll(/ \(([A-Z_]+)\)/g)].map(match => match[1] ?? '')
  return codes.find((code): code is FaultCode => Object.hasOwn(CODES, code))
}

/** The next step, where containerd's own sentence has none. */
function remedyFor(details: string): string {
  const missing = /snapshotter not loaded: ([^:]+)/.exec(details)?.[1]
  if (missing === undefined) return ''
  return `; add [proxy_plugins.${missing}] with its socket to containerd's configuration, or choose another --snapshotter`
}

/** True for a fault that carries this gRPC status of containerd's. */
export function hasStatus(err: unknown, code: 'NOT_FOUND' | 'ALREADY_EXISTS' | 'UNAVAILABLE'): boolean {
  return isFault(err) && err.context['grpc'] === status[code]
}

/** A plain connection first: gRPC would retry in silence until its deadline. */
function checkListener(address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ path: address, timeout: CONNECT_TIMEOUT_MS })
    socket.once('connect', () => {
      socket.destroy()
      resolve()
    })
    socket.once('timeout', () => socket.destroy(new Error('no connection in time')))
    socket.once('error', err => {
      if (hasErrno(err, 'EACCES')) {
        reject(
          fault('NOT_ROOT', `this user may not use ${address}: run it as root or with sudo`, { cause: err }),
        )
      } else reject(unavailable(address, err))
    })
  })
}

function unavailable(address: string, cause: unknown): Fault {
  return fault(
    'CONTAINERD_UNAVAILABLE',
    `containerd does not answer at ${address}: start it (systemctl start containerd) or name its socket with --address`,
    { cause },
  )
}
