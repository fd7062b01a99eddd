import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
} from 'node:fs'
import path from 'node:path'
import { ClassicLevel } from 'classic-level'
import { asFault, fault } from './fault.js'

/** One change of an atomic write. */
export type Change = { type: 'put'; key: string; value: unknown } | { type: 'del'; key: string }

/**
 * The node's crash-safe state: an ordered map of text keys to JSON values in a LevelDB directory.
 *
 * `write` is atomic and answers only after the log is flushed to the disk; one process at a time may hold the store.
 * LevelDB (classic-level, prebuilt) was chosen over lmdb for needing no override to install with `npm ci`, and over
 * SQLite for needing no compiler.
 */
export class Store {
  readonly #db: ClassicLevel<string, unknown>

  private constructor(db: ClassicLevel<string, unknown>) {
    this.#db = db
  }

  /** @throws STORE_LOCKED when another process holds it, STORE_IO */
  static async open(directory: string): Promise<Store> {
    try {
      if (!existsSync(directory) || readdirSync(directory).length === 0) await create(directory)
      const db = new ClassicLevel<string, unknown>(directory, { valueEncoding: 'json' })
      await db.open()
      return new Store(db)
    } catch (err) {
      const cause = err instanceof Error && err.cause instanceof Error ? err.cause : err
      if (cause instanceof Error && 'code' in cause && cause.code === 'LEVEL_LOCKED') {
        throw fault(
          'STORE_LOCKED',
          `${directory} is held by another process: stop it, or use another --root`,
          {
            cause: err,
          },
        )
      }
      throw asFault(cause, 'STORE_IO', `cannot open the state in ${directory}`)
    }
  }

  async get<T>(key: string): Promise<T | undefined> {
    return (await this.#db.get(key)) as T | undefined
  }

  /** All entries whose key starts with `prefix`, in key order, from one consistent view. */
  async list<T>(prefix: string): Promise<[string, T][]> {
    return (await this.#db.iterator({ gte: prefix, lt: `${prefix}\uffff` }).all()) as [string, T][]
  }

  /** Applies all changes or none, flushed. @throws STORE_IO */
  async write(changes: Change[]): Promise<void> {
    try {
      await this.#db.batch(changes, { sync: true })
    } catch (err) {
      throw asFault(err, 'STORE_IO', 'cannot write the state')
    }
  }

  async close(): Promise<void> {
    await this.#db.close()
  }
}

/**
 * Makes an empty store. LevelDB flushes its first files late, and a power cut leaves some that it cannot open: under its
 * final name the store appears whole and on the disk.
 */
async function create(directory: string): Promise<void> {
  const fresh = `${directory}.new`
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { recursive: true, mode: 0o700 })
  const db = new ClassicLevel(fresh)
  await db.open()
  await db.close()
  flush(fresh)
  renameSync(fresh, directory)
  flush(path.dirname(directory))
}

/** Makes the entries of a directory durable. */
function flush(directory: string): void {
  const fd = openSync(directory, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
