/**
 * What a FUSE service leaves to its successor: JSON of our own, with a version. It goes through a supervisor (`sendfd`,
 * `takeover`) as one message, or lies in a directory of the run directory, a file a mount, so that a mount costs the same
 * however many there are. Configurations hold credentials: the files are root's alone and end with the boot.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { MountCommand } from '../client/api.js'
import { fault, hasErrno } from '../common/fault.js'
import { replaceFile } from '../common/replace-file.js'
import type { FuseState } from '../fuse/server.js'

const VERSION = 1
const JOURNAL = 'requests'

/** A mount as it was asked for. */
export interface MountRecord {
  readonly path: string
  readonly command: MountCommand
  /** Milliseconds since 1970. */
  readonly mountedMs: number
  /** Of a mount without a cache of its own: where its bytes are until its end. */
  readonly privateCache?: string
}

export interface ServiceState {
  readonly server: FuseState
  readonly mounts: readonly MountRecord[]
}

export function encodeServiceState(state: ServiceState): Buffer {
  return Buffer.from(JSON.stringify({ nydus_fuse: VERSION, ...state }))
}

/** @throws STATE_INVALID for what another program or version wrote */
export function parseServiceState(bytes: Buffer): ServiceState {
  const { server, mounts } = parseVersioned(bytes, 'the state of the predecessor')
  return { server: server as FuseState, mounts: mounts as MountRecord[] }
}

/** The state of one service in a directory, kept current while it runs. */
export class StateDirectory {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  /** What a predecessor left. @throws STATE_INVALID, also where it left nothing */
  read(): ServiceState {
    const server = parseVersioned(this.#readFile('server.json'), this.#path)['server'] as FuseState
    const names = readdirSync(this.#path).filter(name => name.endsWith('.mount'))
    const records = names.map(
      name => parseVersioned(this.#readFile(name), this.#path)['mount'] as MountRecord,
    )
    return { server, mounts: records }
  }

  /** Where requests are written down, in the directory, which is made. */
  get journalPath(): string {
    mkdirSync(this.#path, { recursive: true, mode: 0o700 })
    return join(this.#path, JOURNAL)
  }

  /** Forgets the mounts that another process left; the journal is the server's. */
  reset(): void {
    mkdirSync(this.#path, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(this.#path)) if (name !== JOURNAL) rmSync(join(this.#path, name))
  }

  putServer(server: FuseState): void {
    this.#write('server.json', { server })
  }

  putMount(mount: MountRecord): void {
    this.#write(fileOf(mount.path), { mount })
  }

  removeMount(path: string): void {
    rmSync(join(this.#path, fileOf(path)), { force: true })
  }

  remove(): void {
    rmSync(this.#path, { recursive: true, force: true })
  }

  #write(name: string, content: object): void {
    replaceFile(
      join(this.#path, name),
      Buffer.from(JSON.stringify({ nydus_fuse: VERSION, ...content })),
      0o600,
    )
  }

  #readFile(name: string): Buffer {
    try {
      return readFileSync(join(this.#path, name))
    } catch (err) {
      if (!hasErrno(err, 'ENOENT')) throw err
      throw fault(
        'STATE_INVALID',
        `the predecessor left no ${join(this.#path, name)}: unmount and mount again`,
        {
          cause: err,
        },
      )
    }
  }
}

function parseVersioned(bytes: Buffer, where: string): Record<string, unknown> {
  let parsed: unknown
  try {
    parsed = JSON.parse(bytes.toString('utf8'))
  } catch {
    // The parser's sentence quotes the text, which holds credentials.
    throw fault('STATE_INVALID', `${where} is not of this program: unmount and mount again`)
  }
  const version =
    typeof parsed === 'object' && parsed !== null && 'nydus_fuse' in parsed ? parsed.nydus_fuse : undefined
  if (version !== VERSION) {
    const said = version === undefined ? 'no version' : `version ${JSON.stringify(version)}`
    throw fault('STATE_INVALID', `${where} has ${said}, not ${VERSION}: unmount and mount again`)
  }
  return parsed as Record<string, unknown>
}

/** A path may be longer than a file's name. */
function fileOf(path: string): string {
  return `${createHash('sha256').update(path).digest('hex')}.mount`
}
