import { InvalidArgumentError, Option } from 'commander'
import { DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE } from '../erofs/format.js'

/** The size of an image's chunks, under the names that a tool has for it. */
export function chunkSizeOption(flags: string): Option {
  return new Option(flags, 'power of two, 0x1000 to 0x1000000')
    .argParser(parseChunkSize)
    .default(DEFAULT_CHUNK_SIZE, `0x${DEFAULT_CHUNK_SIZE.toString(16)}`)
}

/** The value of an option that takes the size of a chunk, decimal or with `0x`. @throws InvalidArgumentError */
function parseChunkSize(text: string): number {
  const size = parseNumber(text)
  if (size < MIN_CHUNK_SIZE || size > MAX_CHUNK_SIZE || !Number.isInteger(Math.log2(size)))
    throw new InvalidArgumentError('It must be a power of two from 0x1000 to 0x1000000.')
  return size
}

/** The same, or 0 for none. @throws InvalidArgumentError */
export function parseBatchSize(text: string): number {
  return parseNumber(text) === 0 ? 0 : parseChunkSize(text)
}

/** Decimal, or hexadecimal with `0x`. @throws InvalidArgumentError */
export function parseNumber(text: string): number {
  const value = /^(?:0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : NaN
  if (!Number.isSafeInteger(value))
    throw new InvalidArgumentError('It must be a whole number, decimal or with 0x.')
  return value
}
