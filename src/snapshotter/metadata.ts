import { type Fault, fault } from '../common/fault.js'
import type { Store } from '../common/store.js'
import type { CommitRequest, CreateRequest, Labels, Nanoseconds, UpdateRequest, Usage } from './snapshots.js'
import type { DamagedRecord, SnapshotRecord } from './record.js'
import { type Draft, SnapshotTable } from './table.js'

const NO_USAGE: Usage = { sizeBytes: 0, inodes: 0 }

/**
 * The rules of the snapshot tree: who may stand on whom, what may be committed, removed and changed. They are those of
 * containerd's own metadata, which its conformance suite checks.
 */
export class Metadata {
  readonly #table: SnapshotTable
  readonly #now: () => Nanoseconds

  private constructor(table: SnapshotTable, now: () => Nanoseconds) {
    this.#table = table
    this.#now = now
  }

  /**
   * @param lowestLastId ids up to it count as used: those of directories that no record tells of
   * @param now wall-clock time, never rounded down
   */
  static async open(store: Store, lowestLastId: number, now: () => Nanoseconds): Promise<Metadata> {
    return new Metadata(await SnapshotTable.open(store, lowestLastId), now)
  }

  get(name: string): SnapshotRecord | undefined {
    return this.#table.get(name)
  }

  /** @throws SNAPSHOT_NOT_FOUND, SNAPSHOT_DAMAGED */
  require(name: string): SnapshotRecord {
    return found(this.#table, name)
  }

  list(): SnapshotRecord[] {
    return this.#table.list()
  }

  listDamaged(): DamagedRecord[] {
    return this.#table.listDamaged()
  }

  /** The highest id that was used, as far as the store knows. */
  get storedSequence(): number {
    return this.#table.storedSequence
  }

  hasId(id: string): boolean {
    return this.#table.hasId(id)
  }

  nextId(): string {
    return this.#table.nextId()
  }

  /**
   * The snapshots below, nearest first.
   * @throws SNAPSHOT_DAMAGED the chain does not end, or a snapshot of it is missing, damaged or not committed
   */
  ancestors({ name, parent }: Pick<SnapshotRecord, 'name' | 'parent'>): SnapshotRecord[] {
    return ancestors(this.#table, name, parent)
  }

  /** Says early what `create` would say, before a directory is made in vain. @throws as `create` */
  checkCreate(request: CreateRequest): void {
    checkCreate(this.#table, request)
  }

  create(id: string, kind: 'active' | 'view', request: CreateRequest): Promise<SnapshotRecord> {
    return this.#table.write(draft => {
      checkCreate(draft, request)
      return this.#add(draft, { id, kind, name: request.key, parent: request.parent, labels: request.labels })
    })
  }

  /** Creates a snapshot and commits it under `name` in one step: for a layer that nobody has to fill. */
  createCommitted(id: string, name: string, request: CreateRequest): Promise<SnapshotRecord> {
    return this.#table.write(draft => {
      checkCreate(draft, request)
      checkNameIsFree(draft, name)
      return this.#add(draft, { id, kind: 'committed', name, parent: request.parent, labels: request.labels })
    })
  }

  /** The snapshot to be committed; says early what `commit` would say. @throws as `commit` */
  checkCommit(request: CommitRequest): SnapshotRecord {
    return checkCommit(this.#table, request)
  }

  commit(request: CommitRequest, usage: Usage): Promise<SnapshotRecord> {
    return this.#table.write(draft => {
      const active = checkCommit(draft, request)
      draft.delete(active)
      return this.#add(draft, {
        id: active.id,
        kind: 'committed',
        name: request.name,
        parent: active.parent === '' ? request.parent : active.parent,
        labels: request.labels,
        usage,
      })
    })
  }

  /** @returns the ids of the directories that were the snapshot's: several where several records had one name */
  remove(name: string): Promise<string[]> {
    return this.#table.write(draft => {
      const damaged = draft.damaged(name)
      const record = damaged.length > 0 ? undefined : found(draft, name)
      // Two records of one name may say that one stands on the other.
      const own = damaged.filter(({ parent }) => parent === name).length
      if (draft.childCount(name) > own && !(record && isCyclic(draft, record))) {
        throw fault(
          'SNAPSHOT_STATE',
          `cannot remove snapshot ${quote(name)}: others stand on it, remove those first`,
        )
      }
      if (record) draft.delete(record)
      else draft.deleteDamaged(name)
      return record ? [record.id] : damaged.map(({ id }) => id).filter(id => id !== '')
    })
  }

  update(request: UpdateRequest): Promise<SnapshotRecord> {
    return this.#table.write(draft => {
      const record = found(draft, request.name)
      const labels = persistent(updatedLabels(record.labels, request))
      const updated = { ...record, labels, updatedNs: this.#now() }
      draft.put(updated)
      return updated
    })
  }

  /** Waits until every write is on the disk or refused. */
  async idle(): Promise<void> {
    await this.#table.idle()
  }

  #add(
    draft: Draft,
    fields: Pick<SnapshotRecord, 'id' | 'kind' | 'name' | 'parent' | 'labels'> & { usage?: Usage },
  ): SnapshotRecord {
    const nowNs = this.#now()
    const record = {
      usage: NO_USAGE,
      ...fields,
      labels: persistent(fields.labels),
      createdNs: nowNs,
      updatedNs: nowNs,
    }
    draft.put(record)
    return record
  }
}

/** What both the table and a draft of it can tell. */
interface Lookup {
  get(name: string): SnapshotRecord | undefined
  damaged(name: string): readonly DamagedRecord[]
}

function checkCreate(lookup: Lookup, { key, parent }: CreateRequest): void {
  if (key === '') throw fault('SNAPSHOT_INVALID', 'a snapshot needs a key')
  if (parent !== '') checkParent(lookup, key, parent, 'SNAPSHOT_INVALID')
  refuseDamaged(lookup, key)
  if (lookup.get(key)) throw fault('SNAPSHOT_EXISTS', `snapshot ${quote(key)} already exists`)
}

function checkCommit(lookup: Lookup, request: CommitRequest): SnapshotRecord {
  checkNameIsFree(lookup, request.name)
  const active = found(lookup, request.key)
  if (active.kind !== 'active') {
    throw fault(
      'SNAPSHOT_STATE',
      `snapshot ${quote(active.name)} is ${active.kind}: only an active one can be committed`,
    )
  }
  if (request.parent === '' || request.parent === active.parent) return active
  if (active.parent !== '') {
    throw fault(
      'SNAPSHOT_INVALID',
      `snapshot ${quote(request.key)} stands on ${quote(active.parent)}, not on ${quote(request.parent)}`,
    )
  }
  checkParent(lookup, request.key, request.parent, 'SNAPSHOT_STATE')
  return active
}

function checkParent(
  lookup: Lookup,
  key: string,
  parent: string,
  notCommitted: 'SNAPSHOT_INVALID' | 'SNAPSHOT_STATE',
): void {
  refuseDamaged(lookup, parent)
  const record = lookup.get(parent)
  if (!record) {
    throw fault(
      'SNAPSHOT_NOT_FOUND',
      `cannot create snapshot ${quote(key)}: missing parent ${quote(parent)} bucket: not found; containerd knows a ` +
        'snapshot that is not in --root, remove stale ones with `ctr snapshot --snapshotter nydus rm`',
    )
  }
  if (record.kind !== 'committed')
    throw fault(notCommitted, `parent ${quote(parent)} of ${quote(key)} is ${record.kind}, not committed`)
  ancestors(lookup, parent, record.parent)
}

function checkNameIsFree(lookup: Lookup, name: string): void {
  if (name === '') throw fault('SNAPSHOT_INVALID', 'a committed snapshot needs a name')
  refuseDamaged(lookup, name)
  if (lookup.get(name)) throw fault('SNAPSHOT_EXISTS', `snapshot ${quote(name)} already exists`)
}

function ancestors(lookup: Lookup, name: string, parent: string): SnapshotRecord[] {
  const chain: SnapshotRecord[] = []
  const seen = new Set([name])
  for (let next = parent; next !== '';) {
    if (seen.has(next)) throw damagedFault(name, `its parents are a circle through ${quote(next)}`)
    seen.add(next)
    const record = lookup.get(next)
    if (!record) {
      const [{ reason = 'there is no such snapshot' } = {}] = lookup.damaged(next)
      throw damagedFault(name, `${quote(next)} below it: ${reason}`)
    }
    if (record.kind !== 'committed')
      throw damagedFault(name, `${quote(next)} below it is ${record.kind}, not committed`)
    chain.push(record)
    next = record.parent
  }
  return chain
}

/** True for one that stands on itself: of such a circle any may be removed, or none could. */
function isCyclic(lookup: Lookup, { name, parent }: SnapshotRecord): boolean {
  const seen = new Set<string>()
  for (let next = parent; next !== '' && !seen.has(next); next = lookup.get(next)?.parent ?? '') {
    if (next === name) return true
    seen.add(next)
  }
  return false
}

function refuseDamaged(lookup: Lookup, name: string): void {
  const [damaged] = lookup.damaged(name)
  if (damaged) throw damagedFault(name, damaged.reason)
}

/** What an operator does about a damaged snapshot. */
export const REMOVE_AND_PULL =
  'remove it and what stands on it (for an image: `ctr images rm`), and pull again'

/** @param reason half a sentence */
export function damagedFault(name: string, reason: string, cause?: unknown): Fault {
  const sentence = `snapshot ${quote(name)} is damaged: ${reason}; ${REMOVE_AND_PULL}`
  return fault('SNAPSHOT_DAMAGED', sentence, { cause })
}

function found(lookup: Lookup, name: string): SnapshotRecord {
  refuseDamaged(lookup, name)
  const record = lookup.get(name)
  if (!record) throw fault('SNAPSHOT_NOT_FOUND', `snapshot ${quote(name)} does not exist: not found`)
  return record
}

const LABEL_PATH = 'labels.'

function updatedLabels(before: Labels, { labels, paths }: UpdateRequest): Labels {
  if (paths.length === 0) return labels
  const after = new Map(Object.entries(before))
  for (const path of paths) {
    if (path === 'labels') {
      after.clear()
      for (const [key, value] of Object.entries(labels)) after.set(key, value)
    } else if (path.startsWith(LABEL_PATH)) {
      const key = path.slice(LABEL_PATH.length)
      const value = labels[key]
      if (value === undefined) after.delete(key)
      else after.set(key, value)
    } else {
      throw fault('SNAPSHOT_INVALID', `cannot update ${quote(path)} of a snapshot: only labels can change`)
    }
  }
  return Object.fromEntries(after)
}

/** A label without a value is not kept. */
function persistent(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ''))
}

function quote(name: string): string {
  return JSON.stringify(name)
}
