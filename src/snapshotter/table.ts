import { asFault, isFault } from '../common/fault.js'
import type { Change, Store } from '../common/store.js'
import {
  type DamagedRecord,
  isDamaged,
  parseRecord,
  RECORD_PREFIX,
  type SnapshotRecord,
  toStored,
} from './record.js'

const SEQUENCE = 'sequence'

/**
 * What a writing operation sees and changes: everything that was written before it, whether on the disk yet or not.
 * An operation checks first and changes last: once it has changed something it must not throw.
 */
export class Draft {
  readonly #base: Tables
  readonly #changed = new Map<string, SnapshotRecord | undefined>()
  readonly #childDeltas = new Map<string, number>()
  readonly #removedKeys = new Set<string>()
  readonly #removedDamage = new Set<string>()

  constructor(base: Tables) {
    this.#base = base
  }

  get(name: string): SnapshotRecord | undefined {
    return this.#changed.has(name) ? this.#changed.get(name) : this.#base.byName.get(name)
  }

  damaged(name: string): readonly DamagedRecord[] {
    return this.#removedDamage.has(name) ? [] : (this.#base.damaged.get(name) ?? [])
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
    this.#removedKeys.add(RECORD_PREFIX + record.id)
    addTo(this.#childDeltas, record.parent, -1)
  }

  deleteDamaged(name: string): void {
    for (const { key, parent } of this.damaged(name)) {
      this.#removedKeys.add(key)
      addTo(this.#childDeltas, parent, -1)
    }
    this.#removedDamage.add(name)
  }

  get removedDamage(): ReadonlySet<string> {
    return this.#removedDamage
  }

  get changed(): ReadonlyMap<string, SnapshotRecord | undefined> {
    return this.#changed
  }

  /** Deletions come first: a committed snapshot keeps the id, and so the key, of the active one it was. */
  changes(): Change[] {
    const deletions = [...this.#removedKeys].map(key => ({ type: 'del' as const, key }))
    const puts = [...this.#changed.values()]
      .filter(record => record !== undefined)
      .map(record => ({ type: 'put' as const, key: RECORD_PREFIX + record.id, value: toStored(record) }))
    return [...deletions, ...puts]
  }
}

interface Tables {
  readonly byName: Map<string, SnapshotRecord>
  readonly childCounts: Map<string, number>
  /** By name; several that have one name are all damaged, for nobody can tell which of them is meant. */
  readonly damaged: Map<string, readonly DamagedRecord[]>
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
  readonly #tables: Tables = { byName: new Map(), childCounts: new Map(), damaged: new Map() }
  readonly #ids = new Set<string>()
  #lastId: number
  #queue: Waiting[] = []
  #draining: Promise<void> | undefined

  /** The highest id that was used, as far as the store knows. */
  readonly storedSequence: number

  private constructor(
    store: Store,
    records: readonly (SnapshotRecord | DamagedRecord)[],
    { sequence, lowestLastId }: { sequence: number; lowestLastId: number },
  ) {
    this.#store = store
    const { sound, damaged } = withoutDuplicates(records)
    for (const record of damaged) this.#addDamaged(record)
    this.#apply(sound)
    this.storedSequence = records.reduce((highest, { id }) => Math.max(highest, Number(id)), sequence)
    this.#lastId = Math.max(this.storedSequence, lowestLastId)
  }

  /** `lowestLastId`: ids up to it were used, whether the store knows of them or not. */
  static async open(store: Store, lowestLastId: number): Promise<SnapshotTable> {
    const records = (await store.listText(RECORD_PREFIX)).map(([key, text]) => parseRecord(key, text))
    return new SnapshotTable(store, records, { sequence: await readSequence(store), lowestLastId })
  }

  get(name: string): SnapshotRecord | undefined {
    return this.#tables.byName.get(name)
  }

  damaged(name: string): readonly DamagedRecord[] {
    return this.#tables.damaged.get(name) ?? []
  }

  listDamaged(): DamagedRecord[] {
    return [...this.#tables.damaged.values()].flat()
  }

  /** True for the directory of a snapshot, a damaged one's included. */
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
    for (const name of draft.removedDamage) this.#removeDamaged(name)
    this.#apply(draft.changed)
    for (const waiting of succeeded) waiting.settle()
  }

  #addDamaged(record: DamagedRecord): void {
    const { damaged, childCounts } = this.#tables
    damaged.set(record.name, [...(damaged.get(record.name) ?? []), record])
    this.#ids.add(record.id)
    addTo(childCounts, record.parent, 1)
  }

  #removeDamaged(name: string): void {
    const { damaged, childCounts } = this.#tables
    for (const { id, parent } of damaged.get(name) ?? []) {
      this.#ids.delete(id)
      addTo(childCounts, parent, -1)
    }
    damaged.delete(name)
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

/** Sound records by name, and damaged ones, those included that share a name. */
function withoutDuplicates(records: readonly (SnapshotRecord | DamagedRecord)[]): {
  sound: Map<string, SnapshotRecord>
  damaged: DamagedRecord[]
} {
  const byName = new Map<string, SnapshotRecord[]>()
  for (const record of records)
    if (!isDamaged(record)) byName.set(record.name, [...(byName.get(record.name) ?? []), record])
  const sound = new Map<string, SnapshotRecord>()
  const damaged: DamagedRecord[] = []
  for (const [name, same] of byName) {
    const [only] = same
    if (same.length === 1 && only) {
      sound.set(name, only)
      continue
    }
    const reason = `the records of directories ${same.map(({ id }) => id).join(' and ')} have one name`
    for (const { id, parent } of same) damaged.push({ key: RECORD_PREFIX + id, id, name, parent, reason })
  }
  for (const record of records.filter(isDamaged))
    damaged.push(byName.has(record.name) ? { ...record, name: `damaged/${record.id}` } : record)
  return { sound, damaged }
}

async function readSequence(store: Store): Promise<number> {
  try {
    return Number((await store.get<number>(SEQUENCE)) ?? 0) || 0
  } catch (err) {
    // Records and directories tell it as well.
    if (isFault(err, 'STORE_DAMAGED')) return 0
    throw err
  }
}
