import { openSync } from 'node:fs'
import { type DestinationStream, type Logger, destination, pino } from 'pino'

export type { Logger } from 'pino'

/** Log levels of the command lines, upstream's names included. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'warning', 'error', 'fatal', 'panic'] as const

/** Keys whose values never reach a log, at any of the first two levels of an object. */
const SECRET_KEYS = [
  'authorization',
  'Authorization',
  'auth',
  'password',
  'registry_token',
  'token',
  'secret',
]

/**
 * The root logger of a process: JSON lines on standard error, on another descriptor, or appended to `file`.
 * Writes are synchronous, so that a process killed right after a line has written it.
 */
export function createLogger(options: { name: string; level?: string; fd?: number; file?: string }): Logger {
  const stream: DestinationStream = destination({
    dest: options.file === undefined ? (options.fd ?? 2) : openSync(options.file, 'a', 0o600),
    sync: true,
  })
  return pino(
    {
      name: options.name,
      level: pinoLevel(options.level ?? 'info'),
      base: { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { err: serializeError },
      redact: { paths: SECRET_KEYS.flatMap(key => [key, `*.${key}`]), censor: '[secret]' },
    },
    stream,
  )
}

/** A logger that says nothing: the default of library classes in tests. */
export const silentLogger: Logger = pino({ level: 'silent' })

/** Maps the snapshotter's level names (warning, panic) to pino's; unknown names become `info`. */
export function pinoLevel(level: string): string {
  const name = level.toLowerCase()
  if (name === 'warning') return 'warn'
  if (name === 'panic') return 'fatal'
  return (LOG_LEVELS as readonly string[]).includes(name) ? name : 'info'
}

function serializeError(err: unknown): unknown {
  if (!(err instanceof Error)) return err
  const out: Record<string, unknown> = { message: err.message }
  if ('code' in err) out['code'] = err.code
  if ('context' in err) out['context'] = err.context
  if (err.cause instanceof Error) out['cause'] = serializeError(err.cause)
  else if (err.cause !== undefined) out['cause'] = err.cause
  if (!('kind' in err)) out['stack'] = err.stack
  return out
}
