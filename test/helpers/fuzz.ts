import fc from 'fast-check'
import type { Test } from 'tap'
import { isFault } from '../../src/common/fault.js'

/** One change of a file's bytes. */
export interface Mutation {
  /** Where, as a fraction of the length: so that shrinking and truncating keep it meaningful. */
  at: number
  bytes: Uint8Array
}

/** Values that break bounds: small ones, sign bits, all ones, and plain noise, in each width of a field. */
const values = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 8 }),
  fc
    .constantFrom(1, 2, 4, 8)
    .chain(width => fc.constantFrom(0, 1, 0x7f, 0x80, 0xff).map(v => wide(width, v))),
  fc.nat({ max: 0x20000 }).map(value => Uint8Array.of(value & 0xff, (value >> 8) & 0xff, value >> 16, 0)),
)

function wide(width: number, value: number): Uint8Array {
  const bytes = new Uint8Array(width).fill(value === 0xff ? 0xff : 0)
  bytes[value === 0x80 ? width - 1 : 0] = value
  return bytes
}

/** Some changes anywhere in the file, at the offsets given by preference, and perhaps a cut. */
export function mutations(
  length: number,
  hot: readonly number[],
): fc.Arbitrary<{ edits: Mutation[]; keep: number }> {
  const anywhere = fc.nat({ max: length - 1 })
  const place =
    hot.length > 0 ? fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...hot) }, anywhere) : anywhere
  const edit = fc.record({ at: place, bytes: values })
  return fc.record({
    edits: fc.array(edit, { minLength: 1, maxLength: 6 }),
    keep: fc.oneof({ weight: 9, arbitrary: fc.constant(length) }, fc.nat({ max: length })),
  })
}

export function mutate(bytes: Uint8Array, { edits, keep }: { edits: Mutation[]; keep: number }): Buffer {
  const copy = Buffer.from(bytes)
  for (const { at, bytes } of edits) copy.set(bytes.subarray(0, copy.length - at), at)
  return copy.subarray(0, keep)
}

/** Allocations of the runtime itself, and of what it optimises while inputs are tried. */
const NOISE_BYTES = 8 * 2 ** 20

/**
 * Tries `runs` inputs (FUZZ_RUNS sets another number): each gives a result or a Fault, within a second, and allocates no
 * more than `maxBytes`. The seed is printed; FUZZ_SEED repeats a run.
 */
export function fuzzRuns<T>(
  t: Test,
  input: fc.Arbitrary<T>,
  body: (input: T) => void,
  { runs, maxBytes }: { runs: number; maxBytes: number },
): void {
  const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() & 0x7fffffff)
  const numRuns = Number(process.env['FUZZ_RUNS'] ?? runs)
  const property = fc.property(input, value => {
    const before = process.memoryUsage()
    onlyFaults(() => body(value), 1000)
    const after = process.memoryUsage()
    const grown = after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers
    if (grown > maxBytes + NOISE_BYTES)
      throw new Error(`${grown} bytes were allocated, ${maxBytes} are allowed`)
  })
  const result = fc.check(property, { seed, numRuns })
  const failure = result.failed ? `${fc.defaultReportMessage(result)} ${String(result.errorInstance)}` : ''
  t.equal(failure, '', `${result.numRuns} inputs, seed ${seed}`)
}

/**
 * Runs the body; anything thrown that is not a Fault fails the run, and so does taking long: by the processor's time, for a
 * machine that is busy with other tests says nothing of the body.
 */
export function onlyFaults(body: () => void, limitMs = 5000): void {
  const start = process.cpuUsage()
  try {
    body()
  } catch (err) {
    if (!isFault(err)) throw err
  }
  const { user, system } = process.cpuUsage(start)
  const tookMs = (user + system) / 1000
  if (tookMs > limitMs) throw new Error(`took ${tookMs.toFixed(0)} ms`)
}

/**
 * Tries inputs for about `forMs`. The seed is printed; FUZZ_SEED repeats a run, FUZZ_MS lengthens it.
 */
export function fuzz<T>(t: Test, input: fc.Arbitrary<T>, body: (input: T) => void, forMs: number): void {
  const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() & 0x7fffffff)
  const limit = Number(process.env['FUZZ_MS'] ?? forMs)
  const before = process.memoryUsage().rss
  let runs = 0
  const property = fc.property(input, value => {
    runs++
    body(value)
  })
  const result = fc.check(property, { seed, numRuns: 1e9, interruptAfterTimeLimit: limit })
  const failure = result.failed ? `${fc.defaultReportMessage(result)} ${String(result.errorInstance)}` : ''
  t.equal(failure, '', `seed ${seed}`)
  t.comment(`seed ${seed}, ${runs} inputs`)
  t.ok(runs > 20, `${runs} inputs were tried`)
  const grownMb = (process.memoryUsage().rss - before) / 1e6
  t.ok(grownMb < 250, `memory grew by ${grownMb.toFixed(0)} MB`)
}
