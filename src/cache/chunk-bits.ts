/** One bit a chunk, most significant bit of a byte first, as upstream's chunk map has it (nydusd.md 5.2). */
export class ChunkBits {
  readonly count: number
  readonly bytes: Uint8Array
  #set = 0

  /** Starts with the bits of `bytes`, which is taken over; bits past `count` are cleared. */
  constructor(count: number, bytes = new Uint8Array(Math.ceil(count / 8))) {
    this.count = count
    this.bytes = bytes
    const tail = count & 7
    const last = bytes.length - 1
    if (tail !== 0) bytes[last] = (bytes[last] ?? 0) & (0xff << (8 - tail))
    for (const byte of bytes) this.#set += ONES[byte] ?? 0
  }

  /** How many bits are set. */
  get setCount(): number {
    return this.#set
  }

  get full(): boolean {
    return this.#set === this.count
  }

  has(chunk: number): boolean {
    return ((this.bytes[chunk >> 3] ?? 0) & (0x80 >> (chunk & 7))) !== 0
  }

  /** Sets the bit; false when it was set already. */
  set(chunk: number): boolean {
    if (this.has(chunk)) return false
    this.bytes[chunk >> 3] = (this.bytes[chunk >> 3] ?? 0) | (0x80 >> (chunk & 7))
    this.#set++
    return true
  }

  clear(chunk: number): void {
    if (!this.has(chunk)) return
    this.bytes[chunk >> 3] = (this.bytes[chunk >> 3] ?? 0) & ~(0x80 >> (chunk & 7))
    this.#set--
  }

  /** Sets every bit that is set in `other`, which has the same count. */
  add(other: ChunkBits): void {
    for (let chunk = 0; chunk < this.count; chunk++) if (other.has(chunk)) this.set(chunk)
  }

  setAll(): void {
    for (let chunk = 0; chunk < this.count; chunk++) this.set(chunk)
  }
}

const ONES = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll('0', '').length)
