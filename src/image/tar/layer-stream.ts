import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import zstd from 'zstd-napi/binding.js'
import { asFault, fault } from '../../common/fault.js'
import type { LayerLimits } from './limits.js'

export type ByteStream = AsyncIterable<Uint8Array>

const OUTPUT_BYTES = 128 * 1024
const MAGIC_BYTES = 6

/**
 * The tar inside a layer: gunzipped, zstd-decompressed or as it is, told by its first bytes (media types lie).
 * @throws TAR_INVALID for damaged or cut compression, TAR_UNSUPPORTED for others, IMAGE_TOO_LARGE beyond the limits
 */
export async function* decompressLayer(source: ByteStream, limits: LayerLimits): AsyncGenerator<Uint8Array> {
  const input = new CountedInput(source)
  let outputBytes = 0
  try {
    for await (const piece of decompress(input, await input.peek(MAGIC_BYTES))) {
      outputBytes += piece.length
      checkSize(outputBytes, input.bytes, limits)
      yield piece
    }
    // The source checks its digest at its end, which padding behind the compressed data must not hide.
    await input.drain()
  } finally {
    await input.close()
  }
}

function checkSize(outputBytes: number, inputBytes: number, limits: LayerLimits): void {
  if (outputBytes > limits.maxBytes) {
    throw fault(
      'IMAGE_TOO_LARGE',
      `the layer holds more than ${limits.maxBytes} bytes uncompressed: raise --max-layer-size if you trust it`,
    )
  }
  if (outputBytes > limits.ratioFloorBytes && outputBytes > limits.maxRatio * inputBytes) {
    throw fault(
      'IMAGE_TOO_LARGE',
      `the layer's ${inputBytes} compressed bytes grew to more than ${outputBytes}: it looks like a ` +
        'decompression bomb; raise --max-compression-ratio if you trust it',
    )
  }
}

function decompress(input: CountedInput, magic: Uint8Array): ByteStream {
  const first = Buffer.from(magic).toString('hex')
  if (first.startsWith('1f8b')) return gunzip(input)
  if (first.startsWith('28b52ffd') || /^5.2a4d18/.test(first)) return unzstd(input)
  const other = first.startsWith('fd377a585a00') ? 'xz' : first.startsWith('425a68') ? 'bzip2' : undefined
  if (other === undefined) return input
  throw fault('TAR_UNSUPPORTED', `the layer is compressed with ${other}: only gzip and zstd are supported`)
}

async function* gunzip(input: ByteStream): AsyncGenerator<Uint8Array> {
  const gunzipper = createGunzip({ chunkSize: OUTPUT_BYTES })
  const feeding = pipeline(Readable.from(input, { highWaterMark: 1 }), gunzipper)
  // The reader below sees the same failure.
  feeding.catch(() => undefined)
  try {
    for await (const piece of gunzipper) yield piece as Buffer
  } catch (err) {
    if (err instanceof Error && 'code' in err && String(err.code).startsWith('Z_'))
      throw fault('TAR_INVALID', `the layer's gzip data is damaged or cut: ${err.message}`, { cause: err })
    throw err
  } finally {
    gunzipper.destroy()
  }
}

/** Not zstd-napi's own stream: that decodes all of a written piece at once, whatever it grows to. */
async function* unzstd(input: ByteStream): AsyncGenerator<Uint8Array> {
  const context = new zstd.DCtx()
  let inFrame = false
  let out = Buffer.allocUnsafe(OUTPUT_BYTES)
  for await (const piece of input) {
    let rest = piece
    for (;;) {
      const [hint, produced, consumed] = decodeSome(context, out, rest)
      // An idle context asks for the next frame's header: that is not the middle of one.
      if (produced > 0 || consumed > 0) inFrame = hint !== 0
      rest = rest.subarray(consumed)
      if (produced > 0) {
        yield out.subarray(0, produced)
        out = Buffer.allocUnsafe(OUTPUT_BYTES)
      }
      if (rest.length === 0 && produced < OUTPUT_BYTES) break
    }
  }
  if (inFrame) throw fault('TAR_INVALID', 'the layer ends in the middle of a zstd frame')
}

function decodeSome(context: zstd.DCtx, out: Buffer, input: Uint8Array): [number, number, number] {
  try {
    const [hint, produced, consumed] = context.decompressStream(out, input)
    return [hint, produced, consumed]
  } catch (err) {
    throw asFault(err, 'TAR_INVALID', "the layer's zstd data is damaged")
  }
}

/** Counts what is read, and lets one look at the first bytes. */
class CountedInput implements ByteStream {
  bytes = 0
  readonly #source: AsyncIterator<Uint8Array>
  readonly #head: Uint8Array[] = []

  constructor(source: ByteStream) {
    this.#source = source[Symbol.asyncIterator]()
  }

  async peek(length: number): Promise<Uint8Array> {
    let have = 0
    while (have < length) {
      const next = await this.#source.next()
      if (next.done) break
      this.#head.push(next.value)
      have += next.value.length
    }
    return Buffer.concat(this.#head).subarray(0, length)
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      const head = this.#head.shift()
      const next = head ? { value: head, done: false as const } : await this.#source.next()
      if (next.done) return
      this.bytes += next.value.length
      yield next.value
    }
  }

  async drain(): Promise<void> {
    while (!(await this.#source.next()).done);
  }

  async close(): Promise<void> {
    await this.#source.return?.()
  }
}
