/**
 * The one error type of the project.
 *
 * A fault has a *kind*, which says how each outside world is told (gRPC status, HTTP status, errno to the kernel,
 * exit code), and a *code*, which is stable, never reused, and what callers test. The message is one sentence for an
 * operator and ends with the next step where there is one. Secrets never enter message or context.
 */

/** How a kind of fault is told to each outside world. `grpc` is the numeric status code of the gRPC protocol. */
export const KINDS = {
  invalid_argument: { grpc: 3, http: 400, errno: 'EINVAL', exit: 2 },
  bad_config: { grpc: 9, http: 400, errno: 'EINVAL', exit: 3 },
  missing_prerequisite: { grpc: 9, http: 412, errno: 'EOPNOTSUPP', exit: 4 },
  failed_precondition: { grpc: 9, http: 412, errno: 'EINVAL', exit: 4 },
  not_found: { grpc: 5, http: 404, errno: 'ENOENT', exit: 5 },
  already_exists: { grpc: 6, http: 409, errno: 'EEXIST', exit: 6 },
  busy: { grpc: 10, http: 409, errno: 'EBUSY', exit: 6 },
  unauthorized: { grpc: 16, http: 401, errno: 'EACCES', exit: 7 },
  unavailable: { grpc: 14, http: 503, errno: 'EIO', exit: 8 },
  corrupt: { grpc: 15, http: 500, errno: 'EIO', exit: 9 },
  unimplemented: { grpc: 12, http: 501, errno: 'ENOSYS', exit: 10 },
  cancelled: { grpc: 1, http: 499, errno: 'EINTR', exit: 130 },
  internal: { grpc: 2, http: 500, errno: 'EIO', exit: 1 },
} as const

export type Kind = keyof typeof KINDS

export interface FaultOptions {
  /** What went wrong underneath; always kept. */
  cause?: unknown
  /** Facts for the log (ids, offsets, digests); never a secret. */
  context?: Record<string, unknown>
  /** True where the same call may succeed later (network, busy). */
  retryable?: boolean
}

export class Fault extends Error {
  override readonly name = 'Fault'
  readonly code: FaultCode
  readonly kind: Kind
  readonly context: Record<string, unknown>
  readonly retryable: boolean

  constructor(code: FaultCode, message: string, options: FaultOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.kind = CODES[code]
    this.context = options.context ?? {}
    this.retryable = options.retryable ?? this.kind === 'unavailable'
  }
}

/** Builds a fault: `throw fault('BACKEND_UNAVAILABLE', 'registry … does not answer', { cause: err })`. */
export function fault(code: FaultCode, message: string, options?: FaultOptions): Fault {
  return new Fault(code, message, options)
}

/** Wraps anything that was thrown; a Fault stays what it is. */
export function asFault(err: unknown, code: FaultCode = 'INTERNAL', prefix = ''): Fault {
  if (err instanceof Fault) return err
  const text = err instanceof Error ? err.message : String(err)
  return new Fault(code, prefix ? `${prefix}: ${text}` : text, { cause: err })
}

export function isFault(err: unknown, code?: FaultCode): err is Fault {
  return err instanceof Fault && (code === undefined || err.code === code)
}

/** True for a system error of Node with that errno name (`ENOENT`, …) and for native faults that carry it. */
export function hasErrno(err: unknown, name: string): boolean {
  if (err instanceof Fault) return err.context['errno'] === name
  return err instanceof Error && (err as NodeJS.ErrnoException).code === name
}

/** Every code, with its kind. Codes are added, never renamed or reused. */
export const CODES = {
  INTERNAL: 'internal',
  CANCELLED: 'cancelled',
  TIMEOUT: 'unavailable',
  USAGE: 'invalid_argument',
  NOT_ROOT: 'missing_prerequisite',
  CONFIG_INVALID: 'bad_config',
  CONFIG_MISSING: 'bad_config',
  UNIMPLEMENTED: 'unimplemented',
  FILE_MISSING: 'not_found',
  FILE_UNREADABLE: 'missing_prerequisite',

  // native boundary
  SYSCALL_FAILED: 'internal',
  NATIVE_LIBRARY: 'missing_prerequisite',
  NATIVE_TIMEOUT: 'unavailable',

  // RAFS and EROFS images
  RAFS_NOT_RAFS: 'corrupt',
  RAFS_UNSUPPORTED: 'missing_prerequisite',
  RAFS_TRUNCATED: 'corrupt',
  RAFS_FIELD: 'corrupt',
  INODE_TYPE: 'invalid_argument',
  BLOB_META_INVALID: 'corrupt',
  BLOB_TOC_INVALID: 'corrupt',

  // OCI and registries
  REFERENCE_INVALID: 'invalid_argument',
  MANIFEST_INVALID: 'corrupt',
  MANIFEST_UNSUPPORTED: 'missing_prerequisite',
  CREDENTIALS_INVALID: 'bad_config',
  REGISTRY_UNAUTHORIZED: 'unauthorized',
  REGISTRY_NOT_FOUND: 'not_found',
  REGISTRY_UNAVAILABLE: 'unavailable',
  REGISTRY_PROTOCOL: 'unavailable',
  REGISTRY_TLS: 'missing_prerequisite',
  REGISTRY_PLAIN_HTTP: 'missing_prerequisite',
  DIGEST_MISMATCH: 'corrupt',

  // chunk cache
  CHUNK_DIGEST_MISMATCH: 'corrupt',
  CHUNK_DECODE: 'corrupt',
  CACHE_FULL: 'unavailable',
  CACHE_IO: 'unavailable',
  CACHE_UNKNOWN_BLOB: 'not_found',
  CACHE_RANGE: 'invalid_argument',

  // drivers, daemon, supervisor
  DRIVER_UNSUPPORTED: 'missing_prerequisite',
  DRIVER_PROTOCOL: 'internal',
  CANARY_FAILED: 'failed_precondition',
  LOOP_DEVICE: 'failed_precondition',
  MOUNT_FAILED: 'unavailable',
  INSTANCE_EXISTS: 'already_exists',
  INSTANCE_UNKNOWN: 'not_found',
  INSTANCE_BUSY: 'busy',
  FUSE_UNAVAILABLE: 'missing_prerequisite',
  MOUNTPOINT_INVALID: 'invalid_argument',
  MOUNTPOINT_IN_USE: 'busy',
  DAEMON_STATE: 'failed_precondition',
  STATE_INVALID: 'failed_precondition',
  DAEMON_UNAVAILABLE: 'unavailable',
  HOLDER_UNAVAILABLE: 'unavailable',
  DAEMON_START: 'unavailable',
  UPGRADE_FAILED: 'failed_precondition',
  SYSTEM_UNAVAILABLE: 'unavailable',
  ADDRESS_IN_USE: 'busy',
  ROUTE_UNKNOWN: 'not_found',
  REQUEST_INVALID: 'invalid_argument',

  // snapshots
  SNAPSHOT_INVALID: 'invalid_argument',
  SNAPSHOT_NOT_FOUND: 'not_found',
  SNAPSHOT_EXISTS: 'already_exists',
  SNAPSHOT_STATE: 'failed_precondition',
  SNAPSHOT_LABELS: 'failed_precondition',
  SNAPSHOT_DAMAGED: 'corrupt',
  STORE_LOCKED: 'busy',
  STORE_IO: 'internal',
  STORE_DAMAGED: 'corrupt',
  STORE_VERSION: 'missing_prerequisite',

  // image conversion
  TAR_INVALID: 'corrupt',
  TAR_UNSAFE: 'corrupt',
  TAR_UNSUPPORTED: 'missing_prerequisite',
  IMAGE_TOO_LARGE: 'corrupt',
  IMAGE_INVALID: 'corrupt',
  TARGET_EXISTS: 'already_exists',
  IMAGE_MISMATCH: 'invalid_argument',
  IMAGE_DIFFERS: 'corrupt',

  // containerd client
  CONTAINERD_UNAVAILABLE: 'unavailable',
  CONTAINERD_ERROR: 'internal',
} as const satisfies Record<string, Kind>

export type FaultCode = keyof typeof CODES
