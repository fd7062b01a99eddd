/** How a snapshot is kept in the store: JSON below `snapshot/<id>`, and what makes such an entry unusable. */
import { type Kind, KIND_NAMES, type Labels, type Nanoseconds, type Usage } from './snapshots.js'

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

/** A record that cannot be used. Its name and parent count as far as they can be read. */
export interface DamagedRecord {
  readonly key: string
  /** Of its directory; empty where the key tells none. */
  readonly id: string
  /** A stand-in, `damaged/<id>`, where it cannot be read. */
  readonly name: string
  readonly parent: string
  /** Half a sentence: what is wrong with it. */
  readonly reason: string
}

/** Times are text in the store: JSON knows no integer of 64 bits. */
type StoredRecord = Omit<SnapshotRecord, 'createdNs' | 'updatedNs'> & {
  /** Absent in the first one. */
  readonly version?: number
  readonly createdNs: string
  readonly updatedNs: string
}

export const RECORD_PREFIX = 'snapshot/'
const VERSION = 1

export function toStored(record: SnapshotRecord): StoredRecord {
  return { ...record, createdNs: String(record.createdNs), updatedNs: String(record.updatedNs) }
}

/** @param text as it was stored below `key` */
export function parseRecord(key: string, text: string): SnapshotRecord | DamagedRecord {
  const id = key.slice(RECORD_PREFIX.length)
  const damaged = (reason: string, { name, parent }: Record<string, unknown> = {}): DamagedRecord => ({
    key,
    id: /^\d{1,15}$/.test(id) ? id : '',
    name: typeof name === 'string' && name !== '' ? name : `damaged/${id}`,
    parent: typeof parent === 'string' ? parent : '',
    reason,
  })
  let stored: unknown
  try {
    stored = JSON.parse(text)
  } catch {
    return damaged('its record is not JSON')
  }
  if (!isObject(stored)) return damaged('its record is no object')
  const reason = problemOf(stored, id)
  if (reason !== undefined) return damaged(reason, stored)
  const { version: _version, createdNs, updatedNs, ...rest } = stored as unknown as StoredRecord
  return { ...rest, createdNs: BigInt(createdNs), updatedNs: BigInt(updatedNs) }
}

export function isDamaged(record: SnapshotRecord | DamagedRecord): record is DamagedRecord {
  return 'reason' in record
}

/** The order of the checks is that of what an operator wants to know first. */
function problemOf(stored: Record<string, unknown>, id: string): string | undefined {
  const { version = VERSION } = stored
  if (typeof version !== 'number' || version > VERSION)
    return `its record has version ${JSON.stringify(version)}, of a newer release`
  const fields = ['id', 'name', 'parent', 'kind', 'createdNs', 'updatedNs', 'labels', 'usage']
  const missing = fields.filter(field => stored[field] === undefined)
  if (missing.length > 0) return `its record lacks ${missing.join(', ')}`
  if (stored['id'] !== id) return `its record is that of directory ${JSON.stringify(stored['id'])}`
  if (typeof stored['name'] !== 'string' || stored['name'] === '') return 'its record has no name'
  if (typeof stored['parent'] !== 'string') return 'the parent in its record is no name'
  if (!(KIND_NAMES as readonly unknown[]).includes(stored['kind']))
    return `its record has the unknown kind ${JSON.stringify(stored['kind'])}`
  if (!isTime(stored['createdNs']) || !isTime(stored['updatedNs'])) return 'a time in its record is no number'
  const { labels, usage } = stored
  if (!isObject(labels) || Object.values(labels).some(value => typeof value !== 'string'))
    return 'the labels in its record are no texts'
  if (!isObject(usage) || !isCount(usage['sizeBytes']) || !isCount(usage['inodes']))
    return 'the usage in its record is no number'
  return undefined
}

function isTime(value: unknown): boolean {
  return typeof value === 'string' && /^-?\d{1,19}$/.test(value)
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
