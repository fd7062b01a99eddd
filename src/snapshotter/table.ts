import { asFault } from '../common/fault.js'
import type { Change, Store } from '../common/store.js'
import type { Kind, Labels, Nanoseconds, Usage } from './snapshots.js'

/** One snapshot as it is kept; immutable, a change makes a new one. */
export interface SnapshotRecord {
  /** Decimal, never used twice; the name of its directory from creation to removal. */
  readonly id: string
  readonly name: string
  readonly parent: string
  readonly kind: Kind
  readonly createdNs: Nanoseconds
  readonly updatedNs: Nanoseconds
  readonly labels: Labels
  /** Measured at commit. */
  readonly usage: Usage
}

/** Times are text in the store: JSON knows no integer of 64 bits. */
type StoredRecord = Omit<SnapshotRecord, 'createdNs' | 'updatedNs'> & { createdNs: string; updatedNs: string }

const PREFIX = 'snapshot/'
const SEQUENCE = 'sequence'

/**
 * What a writing operation sees and changes: everything that was written before it, whether on the disk yet or not.
 * An operation checks first and changes last: once it has changed something it must not throw.
 */
export class Draft {
  readonly #base: Tables
  readonly #changed = new Map<string, SnapshotRecord | undefined>()
  readonly #childDeltas = new Map<string, number>()
  readonly #removedIds = new Set<string>()

  constructor(base: Tables) {
    this.#base = base
  }

  get(name: string): SnapshotRecord | undefined {
    return this.#changed.has(name) ? this.#changed.get(name) : this.#base.byName.get(name)
  }

  childCount(name: string): number {
    return (this.#base.childCounts.get(name) ?? 0) + (this.#childDeltas.get(name) ?? 0)
  }

  put(record: SnapshotRecord): void {
    const before = this.get(record.name)
    if (before) this.delete(before)
    this.#changed.set(record.name, record)
    addTo(this.#childDeltas, record.parent, 1)
  }

  delete(record: SnapshotRecord): void {
    this.#changed.set(record.name, undefined)
    this.#removedIds.add(record.id)
    addTo(this.#childDeltas, record.parent, -1)
  }

  get changed(): ReadonlyMap<string, SnapshotRecord | undefined> {
    return this.#changed
  }

  /** Deletions come first: a committed snapshot keeps the id, and so the key, of the active one it was. */
  changes(): Change[] {
    const deletions = [...this.#removedIds].map(id => ({ type: 'del' as const, key: PREFIX + id }))
    const puts = [...this.#changed.values()]
      .filter(record => record !== undefined)
      .map(record => ({ type: 'put' as const, key: PREFIX + record.id, value: toStored(record) }))
    return [...deletions, ...puts]
  }
}

interface Tables {
  readonly byName: Map<string, SnapshotRecord>
  readonly childCounts: Map<string, number>
}

interface Waiting {
  run(draft: Draft): void
  settle(failure?: unknown): void
}

/**
 * All snapshots, in memory for reading and in the store for keeping.
 *
 * Readers see what is on the disk, never what is about to be. Writers run one after the other; those that come while a
 * flush is on its way share the next one, so that many at once cost few flushes. One that throws changes nothing.
 */
export class SnapshotTable {
  readonly #store: Store
  readonly #tables: Tables = { byName: new Map(), childCounts: new Map() }
  readonly #ids = new Set<string>()
  #lastId: number
  #queue: Waiting[] = []
  #draining: Promise<void> | undefined

  private constructor(store: Store, records: SnapshotRecord[], lastId: number) {
    this.#store = store
    this.#lastId = lastId
    this.#apply(new Map(records.map(record => [record.name, record])))
  }

  /** `lowestLastId`: ids up to it were used, whether the store knows of them or not. */
  static async open(store: Store, lowestLastId: number): Promise<SnapshotTable> {
    const stored = await store.list<StoredRecord>(PREFIX)
    const sequence = (await store.get<number>(SEQUENCE)) ?? 0
    return new SnapshotTable(
      store,
      stored.map(([, value]) => fromStored(value)),
      Math.max(sequence, lowestLastId),
    )
  }

  get(name: string): SnapshotRecord | undefined {
    return this.#tables.byName.get(name)
  }

  hasId(id: string): boolean {
    return this.#ids.has(id)
  }

  list(): SnapshotRecord[] {
    return [...this.#tables.byName.values()]
  }

  /** An id for a snapshot to come. It is used up even if the snapshot never comes. */
  nextId(): string {
    return String(++this.#lastId)
  }

  /** Runs one writing operation; answers its result after the flush. Rejects with what it throws, or STORE_IO. */
  write<T>(operation: (draft: Draft) => T): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let result: T
      this.#queue.push({
        run: draft => {
          result = operation(draft)
        },
        settle: failure => {
          if (failure === undefined) resolve(result)
          else reject(asFault(failure))
        },
      })
      this.#draining ??= this.#drain()
    })
  }

  /** Waits until everything that was handed in is on the disk or refused. */
  async idle(): Promise<void> {
    await this.#draining
  }

  async #drain(): Promise<void> {
    // Operations of one turn of the event loop share a flush.
    await Promise.resolve()
    while (this.#queue.length > 0) {
      const batch = this.#queue
      this.#queue = []
      await this.#flush(batch)
    }
    // In the same turn as the look at the queue: who comes later starts afresh.
    this.#draining = undefined
  }

  async #flush(batch: readonly Waiting[]): Promise<void> {
    const draft = new Draft(this.#tables)
    const succeeded: Waiting[] = []
    for (const waiting of batch) {
      try {
        waiting.run(draft)
        succeeded.push(waiting)
      } catch (err) {
        waiting.settle(err)
      }
    }
    const changes = draft.changes()
    try {
      if (changes.length > 0)
        await this.#store.write([...changes, { type: 'put', key: SEQUENCE, value: this.#lastId }])
    } catch (err) {
      for (const waiting of succeeded) waiting.settle(err)
      return
    }
    this.#apply(draft.changed)
    for (const waiting of succeeded) waiting.settle()
  }

  #apply(changed: ReadonlyMap<string, SnapshotRecord | undefined>): void {
    const { byName, childCounts } = this.#tables
    for (const name of changed.keys()) {
      const before = byName.get(name)
      if (!before) continue
      byName.delete(name)
      this.#ids.delete(before.id)
      addTo(childCounts, before.parent, -1)
    }
    for (const record of changed.values()) {
      if (!record) continue
      byName.set(record.name, record)
      this.#ids.add(record.id)
      addTo(childCounts, record.parent, 1)
    }
  }
}

function addTo(counts: Map<string, number>, parent: string, by: number): void {
  if (parent === '') return
  const count = (counts.get(parent) ?? 0) + by
  if (count === 0) counts.delete(parent)
  else counts.set(parent, count)
}

function toStored(record: SnapshotRecord): StoredRecord {
  return { ...record, createdNs: String(record.createdNs), updatedNs: String(record.updatedNs) }
}

function fromStored(stored: StoredRecord): SnapshotRecord {
  return { ...stored, createdNs: BigInt(stored.createdNs), updatedNs: BigInt(stored.updatedNs) }
}
