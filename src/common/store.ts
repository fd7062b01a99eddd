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
import { crc32 } from 'node:zlib'
import { ClassicLevel } from 'classic-level'
import { asFault, fault } from './fault.js'
import { holdsData, isDamage, repairLevel } from './store-repair.js'

/** One change of an atomic write. */
export type Change = { type: 'put'; key: string; value: unknown } | { type: 'del'; key: string }

/** What is kept of all other entries, in the same batch as each change of theirs. */
interface Sum {
  readonly version: number
  readonly count: number
  /** Of the checksums of the entries, by exclusive or. */
  readonly sum: number
}

const SUM_KEY = 'store/sum'
const VERSION = 1

/**
 * The node's crash-safe state: an ordered map of text keys to JSON values in a LevelDB directory.
 *
 * `write` is atomic and answers only after the log is flushed to the disk; one process at a time may hold the store.
 * LevelDB (classic-level, prebuilt) was chosen over lmdb for needing no override to install with `npm ci`, and over
 * SQLite for needing no compiler.
 *
 * LevelDB skips what it cannot read of its log and begins anew where its CURRENT file is missing, both without a word.
 * So a sum over all entries is kept among them, and compared when the store is opened: {@link damage}.
 */
export class Store {
  /** Sentences about what was found wrong when it was opened; empty for a sound store. */
  readonly damage: readonly string[]
  readonly #db: ClassicLevel<string, string>
  /** Checksum of each entry. */
  readonly #checksums: Map<string, number>
  #sum: number
  #writing: Promise<void> = Promise.resolve()

  private constructor(
    db: ClassicLevel<string, string>,
    checksums: Map<string, number>,
    damage: readonly string[],
  ) {
    this.#db = db
    this.#checksums = checksums
    this.#sum = sumOf(checksums)
    this.damage = damage
  }

  /**
   * Opens the store, repairs its files if they cannot be read, and checks that what was written is there.
   * @throws STORE_LOCKED when another process holds it, STORE_VERSION, STORE_DAMAGED it cannot be repaired, STORE_IO
   */
  static async open(directory: string): Promise<Store> {
    if (!existsSync(directory) || readdirSync(directory).length === 0) {
      await create(directory).catch((err: unknown) => {
        throw openFault(err, directory)
      })
    }
    const damage: string[] = []
    let opened
    try {
      opened = await openLevel(directory)
    } catch (err) {
      if (!isDamage(err)) throw openFault(err, directory)
      damage.push(await repairLevel(directory, causeOf(err).message))
      opened = await openLevel(directory).catch((again: unknown) => {
        throw openFault(again, directory)
      })
    }
    const { db, entries } = opened
    const checksums = new Map(entries.map(([key, text]) => [key, checksumOf(key, text)]))
    checksums.delete(SUM_KEY)
    try {
      const mismatch = compare(entries.find(([key]) => key === SUM_KEY)?.[1], checksums, directory)
      if (mismatch !== undefined) damage.push(mismatch)
    } catch (err) {
      await db.close()
      throw err
    }
    return new Store(db, checksums, damage)
  }

  /** True while nothing was ever written. */
  get isEmpty(): boolean {
    return this.#checksums.size === 0
  }

  /** @throws STORE_DAMAGED its value is not JSON */
  async get<T>(key: string): Promise<T | undefined> {
    const text = await this.#db.get(key)
    return text === undefined ? undefined : (parse(key, text) as T)
  }

  /** All entries whose key starts with `prefix`, in key order, from one consistent view. @throws STORE_DAMAGED */
  async list<T>(prefix: string): Promise<[string, T][]> {
    return (await this.listText(prefix)).map(([key, text]) => [key, parse(key, text) as T])
  }

  /** As `list`, for who can do without those values that are not JSON: each is the text that was stored. */
  async listText(prefix: string): Promise<[string, string][]> {
    return await this.#db.iterator({ gte: prefix, lt: `${prefix}\uffff` }).all()
  }

  /** Applies all changes or none, flushed. @throws STORE_IO */
  write(changes: readonly Change[]): Promise<void> {
    // In order, for each write holds the sum of all before it.
    this.#writing = this.#writing.catch(() => undefined).then(() => this.#write(changes))
    return this.#writing
  }

  async close(): Promise<void> {
    await this.#writing.catch(() => undefined)
    await this.#db.close()
  }

  async #write(changes: readonly Change[]): Promise<void> {
    // Of several changes of one key the last one counts.
    const after = new Map(
      changes.map(change => [change.key, change.type === 'put' ? JSON.stringify(change.value) : undefined]),
    )
    const checksums = new Map(
      [...after].map(([key, text]) => [key, text === undefined ? undefined : checksumOf(key, text)]),
    )
    let [count, sum] = [this.#checksums.size, this.#sum]
    for (const [key, checksum] of checksums) {
      const before = this.#checksums.get(key)
      sum ^= (before ?? 0) ^ (checksum ?? 0)
      count += (checksum === undefined ? 0 : 1) - (before === undefined ? 0 : 1)
    }
    const total: Sum = { version: VERSION, count, sum: sum >>> 0 }
    const batch = [...after, [SUM_KEY, JSON.stringify(total)] as const].map(([key, value]) =>
      value === undefined ? { type: 'del' as const, key } : { type: 'put' as const, key, value },
    )
    try {
      await this.#db.batch(batch, { sync: true })
    } catch (err) {
      throw asFault(err, 'STORE_IO', 'cannot write the state')
    }
    this.#sum = total.sum
    for (const [key, checksum] of checksums) {
      if (checksum === undefined) this.#checksums.delete(key)
      else this.#checksums.set(key, checksum)
    }
  }
}

interface OpenedLevel {
  readonly db: ClassicLevel<string, string>
  readonly entries: readonly [string, string][]
}

/** Opens the files and reads all of them once: damage in the middle of one shows only then. */
async function openLevel(directory: string): Promise<OpenedLevel> {
  const db = new ClassicLevel<string, string>(directory, { valueEncoding: 'utf8' })
  try {
    await db.open({ createIfMissing: !holdsData(directory) })
    return { db, entries: await db.iterator().all() }
  } catch (err) {
    await db.close()
    throw err
  }
}

function openFault(err: unknown, directory: string): Error {
  const cause = causeOf(err)
  if ('code' in cause && cause.code === 'LEVEL_LOCKED') {
    const sentence = `${directory} is held by another process: stop it, or use another --root`
    return fault('STORE_LOCKED', sentence, { cause: err })
  }
  return asFault(cause, 'STORE_IO', `cannot open the state in ${directory}`)
}

/** classic-level says what happened in the cause. */
function causeOf(err: unknown): Error {
  return err instanceof Error && err.cause instanceof Error ? err.cause : asFault(err)
}

/** What is missing, in a sentence. A store of before the sum was kept has none. @throws STORE_VERSION */
function compare(
  stored: string | undefined,
  checksums: ReadonlyMap<string, number>,
  directory: string,
): string | undefined {
  if (stored === undefined) return undefined
  let expected: Partial<Sum>
  try {
    expected = JSON.parse(stored) as Partial<Sum>
  } catch {
    return `the sum over the entries of ${directory} is damaged itself: what is there is taken as it is`
  }
  if (typeof expected.version === 'number' && expected.version > VERSION) {
    throw fault(
      'STORE_VERSION',
      `the state in ${directory} has version ${expected.version}, and this release knows ${VERSION}: start the release ` +
        'that wrote it, or use another --root',
    )
  }
  if (expected.count === checksums.size && expected.sum === sumOf(checksums)) return undefined
  return (
    `the state in ${directory} is not what was written: it has ${checksums.size} entries of ${expected.count ?? '?'}, ` +
    'and some are lost or changed'
  )
}

function parse(key: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (err) {
    throw fault('STORE_DAMAGED', `the entry ${key} of the state is not JSON`, { cause: err })
  }
}

function checksumOf(key: string, text: string): number {
  return crc32(`${key}\0${text}`)
}

function sumOf(checksums: ReadonlyMap<string, number>): number {
  let sum = 0
  for (const checksum of checksums.values()) sum ^= checksum
  return sum >>> 0
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
