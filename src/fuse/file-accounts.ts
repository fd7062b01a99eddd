import { SIZE_CLASSES, sizeClass } from '../common/size-class.js'
import type { Access } from './access-log.js'
import { OPERATIONS, READ_OPERATION } from './server.js'
import type { Accounting, FileStats } from './server.js'

interface FileAccount {
  dataReadBytes: number
  readonly readsBySize: number[]
  readonly hits: number[]
  readonly errors: number[]
  firstReadMs: number | undefined
}

/** What was done to each inode of one image. */
export class FileAccounts {
  readonly #accounting: Accounting
  readonly #files = new Map<number, FileAccount>()
  readonly #latest = new Set<number>()

  constructor(accounting: Accounting) {
    this.#accounting = accounting
  }

  get enabled(): boolean {
    const { files, pattern, latest } = this.#accounting
    return files || pattern || latest
  }

  add({ ino, operation, failed, bytes, timeMs }: Access): void {
    const read = operation === READ_OPERATION && !failed
    if (read && this.#accounting.latest) this.#latest.add(ino)
    if (!this.#accounting.files && !this.#accounting.pattern) return
    let file = this.#files.get(ino)
    if (!file) {
      const zeros = (length: number): number[] => new Array<number>(length).fill(0)
      const n = OPERATIONS.length
      file = {
        dataReadBytes: 0,
        readsBySize: zeros(SIZE_CLASSES),
        hits: zeros(n),
        errors: zeros(n),
        firstReadMs: undefined,
      }
      this.#files.set(ino, file)
    }
    count(file.hits, operation)
    if (failed) count(file.errors, operation)
    if (!read) return
    file.dataReadBytes += bytes
    count(file.readsBySize, sizeClass(bytes))
    file.firstReadMs ??= timeMs
  }

  stats(): FileStats[] {
    return [...this.#files]
      .sort(([a], [b]) => a - b)
      .map(([ino, file]) => ({
        ino,
        totalOperations: file.hits.reduce((sum, hits) => sum + hits, 0),
        dataReadBytes: file.dataReadBytes,
        readsBySize: [...file.readsBySize],
        hits: [...file.hits],
        errors: [...file.errors],
        firstReadMs: file.firstReadMs,
      }))
  }

  /** Inodes read since the last call, neighbours as one range. */
  takeLatestReads(): ([number] | [number, number])[] {
    const ranges: [number, number][] = []
    for (const ino of [...this.#latest].sort((a, b) => a - b)) {
      const last = ranges.at(-1)
      if (last?.[1] === ino - 1) last[1] = ino
      else ranges.push([ino, ino])
    }
    this.#latest.clear()
    return ranges.map(([first, last]) => (first === last ? [first] : [first, last]))
  }
}

function count(counters: number[], place: number): void {
  counters[place] = (counters[place] ?? 0) + 1
}
