import { rmSync } from 'node:fs'
import type { Logger } from '../common/log.js'
import { ChunkBits } from './chunk-bits.js'
import { DurableMap } from './durable-map.js'
import { WrittenMap } from './written-map.js'

/** The two levels of one blob's ready map, and which chunks they must have for the blob to be complete. */
export class ReadyMaps {
  readonly #written: WrittenMap
  readonly #durable: DurableMap
  /** Chunks that some image can ask for; undefined until that is known. */
  #expected: ChunkBits | undefined
  #missing = 0
  #missingDurable = 0

  private constructor(written: WrittenMap, durable: DurableMap) {
    this.#written = written
    this.#durable = durable
  }

  /** Opens or creates both levels beside the cache file; see DurableMap and WrittenMap for what is trusted. */
  static open(dataPath: string, chunkCount: number, bootId: string, logger: Logger): ReadyMaps {
    const durable = DurableMap.open(durablePath(dataPath), chunkCount, logger)
    try {
      return new ReadyMaps(WrittenMap.open(writtenPath(dataPath), durable.bits, bootId, logger), durable)
    } catch (err) {
      durable.close()
      throw err
    }
  }

  /** Removes what is said of a cache file that is not there. */
  static forget(dataPath: string): void {
    rmSync(writtenPath(dataPath), { force: true })
    rmSync(durablePath(dataPath), { force: true })
  }

  /** Says which chunks count. */
  expect(counts: (chunk: number) => boolean): void {
    const { bits } = this.#written
    this.#expected = new ChunkBits(bits.count)
    this.#missing = 0
    this.#missingDurable = 0
    for (let chunk = 0; chunk < bits.count; chunk++) {
      if (!counts(chunk)) continue
      this.#expected.set(chunk)
      if (!bits.has(chunk)) this.#missing++
      if (!this.#durable.bits.has(chunk)) this.#missingDurable++
    }
  }

  /** Says that it is not known which chunks count: all do. */
  expectAll(): void {
    this.#expected = undefined
  }

  get complete(): boolean {
    return this.#written.bits.full || (this.#expected !== undefined && this.#missing === 0)
  }

  get durable(): boolean {
    return this.#durable.bits.full || (this.#expected !== undefined && this.#missingDurable === 0)
  }

  /** True when the chunk's bytes are in the cache file. */
  has(chunk: number): boolean {
    return this.#written.bits.has(chunk)
  }

  /** To be called after the chunk's bytes were written. */
  setWritten(chunk: number): void {
    const fresh = !this.has(chunk)
    this.#written.set(chunk)
    if (fresh && this.#expected?.has(chunk)) this.#missing--
  }

  /** To be called after the chunks' bytes were flushed. */
  async setDurable(chunks: readonly number[]): Promise<void> {
    const fresh = chunks.filter(chunk => this.#expected?.has(chunk) && !this.#durable.bits.has(chunk))
    await this.#durable.add(chunks)
    this.#missingDurable -= fresh.length
  }

  /** Chunks whose bytes the disk could not take: they are not written any more, nor after a restart. */
  distrust(chunks: readonly number[]): void {
    for (const chunk of chunks) if (this.has(chunk) && this.#expected?.has(chunk)) this.#missing++
    this.#written.distrust(chunks)
  }

  /** Chunks that are written and not durable. */
  notDurable(): number[] {
    const chunks: number[] = []
    for (let chunk = 0; chunk < this.#written.bits.count; chunk++) {
      if (this.has(chunk) && !this.#durable.bits.has(chunk)) chunks.push(chunk)
    }
    return chunks
  }

  close(): void {
    this.#written.close()
    this.#durable.close()
  }
}

/** Upstream's name (nydusd.md 5.1). */
function durablePath(dataPath: string): string {
  return `${dataPath}.chunk_map`
}

function writtenPath(dataPath: string): string {
  return `${dataPath.replace(/\.data$/, '')}.written`
}
