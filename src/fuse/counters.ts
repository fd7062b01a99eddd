/**
 * What is counted while requests are answered, in memory that threads share: each thread has lines of its own and adds
 * without locking; who asks adds the lines up.
 */
import { SIZE_CLASSES as CLASSES, sizeClass } from '../common/size-class.js'
import { OPCODE } from './protocol.js'
import { type ImageStats, OPERATIONS, READ_OPERATION } from './server.js'

const N = OPERATIONS.length

/** Places in a line of an image's counters, 64-bit floats. */
export const COUNT = {
  opens: 0,
  dataReadBytes: 1,
  readsBySize: 2,
  readsByLatency: 2 + CLASSES,
  hits: 2 + 2 * CLASSES,
  errors: 2 + 2 * CLASSES + N,
  latencyTotalUs: 2 + 2 * CLASSES + 2 * N,
  length: 64,
} as const

export type Line = Float64Array<SharedArrayBuffer>

/** Place of each opcode's operation in {@link OPERATIONS}; undefined for those that are not counted. */
export const OPERATION_OF: readonly (number | undefined)[] = operationTable()

function operationTable(): (number | undefined)[] {
  const codes = [
    OPCODE.GETATTR,
    OPCODE.READLINK,
    OPCODE.OPEN,
    OPCODE.RELEASE,
    OPCODE.READ,
    OPCODE.STATFS,
    OPCODE.GETXATTR,
    OPCODE.LISTXATTR,
    OPCODE.OPENDIR,
    OPCODE.LOOKUP,
    OPCODE.READDIR,
    OPCODE.READDIRPLUS,
    OPCODE.ACCESS,
    OPCODE.FORGET,
    OPCODE.BATCH_FORGET,
  ]
  const table: (number | undefined)[] = []
  codes.forEach((code, operation) => (table[code] = operation))
  return table
}

/** The counters of one image, a line for each of so many threads. */
export function createCounters(lines: number): SharedArrayBuffer {
  return new SharedArrayBuffer(lines * COUNT.length * 8)
}

export function lineOf(counters: SharedArrayBuffer, line: number): Line {
  return new Float64Array(counters, line * COUNT.length * 8, COUNT.length)
}

export function countOperation(line: Line, operation: number, failed: boolean): void {
  add(line, COUNT.hits + operation)
  if (failed) add(line, COUNT.errors + operation)
}

/** A READ that was answered. */
export function countRead(line: Line, bytes: number, latencyUs: number): void {
  add(line, COUNT.dataReadBytes, bytes)
  add(line, COUNT.readsBySize + sizeClass(bytes))
  add(line, COUNT.readsByLatency + latencyClass(latencyUs))
  add(line, COUNT.latencyTotalUs + READ_OPERATION, latencyUs)
}

export function sumCounters(counters: SharedArrayBuffer): ImageStats {
  const lines = counters.byteLength / 8 / COUNT.length
  const all = new Float64Array(counters)
  const at = (place: number): number => {
    let sum = 0
    for (let line = 0; line < lines; line++) sum += all[line * COUNT.length + place] ?? 0
    return Math.round(sum)
  }
  const range = (place: number, length: number): number[] => Array.from({ length }, (_, i) => at(place + i))
  return {
    opens: at(COUNT.opens),
    dataReadBytes: at(COUNT.dataReadBytes),
    readsBySize: range(COUNT.readsBySize, CLASSES),
    hits: range(COUNT.hits, N),
    errors: range(COUNT.errors, N),
    latencyTotalUs: range(COUNT.latencyTotalUs, N),
    readsByLatency: range(COUNT.readsByLatency, CLASSES),
  }
}

function latencyClass(us: number): number {
  let found = 0
  while (us > (LATENCY_LIMITS_US[found] ?? Infinity)) found++
  return found
}
const LATENCY_LIMITS_US = [200, 1000, 20_000, 50_000, 500_000, 1_000_000, 2_000_000, Infinity]

function add(line: Line, place: number, value = 1): void {
  line[place] = (line[place] ?? 0) + value
}
