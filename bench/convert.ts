/**
 * How fast a layer is converted: a generated tar.gz of half a gigabyte, files large and small, through `buildLayer` and
 * `encodeBootstrap` in a process of its own, beside `gzip -dc | zstd -3` on the same file. Prints the ratio of the best of
 * two rounds each, and the peak memory of the conversion.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { createReadStream, createWriteStream, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import tar from 'tar-stream'
import { encodeBootstrap } from '../src/erofs/writer.js'
import { type LayerOptions, buildLayer } from '../src/image/build/build-layer.js'
import { CompressPool } from '../src/image/build/compress-pool.js'
import { DEFAULT_LIMITS } from '../src/image/tar/limits.js'
import { mergeLayers } from '../src/image/build/merge.js'

const MIB = 1 << 20
const ROUNDS = 2
const LARGE_FILES = 4
const SMALL_FILES = 10_000
const COMPRESSORS = ['zstd', 'lz4_block', 'none'] as const

interface Measured {
  seconds: number
  storedBytes: number
  peakMiB: number
}

/** Large files are rotations of Node's own binary, so that they compress as programs do and share no chunk. */
async function writeLayer(file: string): Promise<void> {
  const binary = readFileSync(process.execPath)
  const archive = tar.pack()
  const done = pipeline(archive, createWriteStream(file))
  const add = (name: string, body: Buffer): Promise<void> =>
    new Promise((resolve, reject) => {
      archive.entry({ name, mode: 0o755 }, body, err => {
        if (err) reject(err)
        else resolve()
      })
    })
  for (let i = 0; i < LARGE_FILES; i++) {
    const cut = i * 1000 + 1
    await add(`bin/large${i}`, Buffer.concat([binary.subarray(cut), binary.subarray(0, cut)]))
  }
  for (let i = 0; i < SMALL_FILES; i++) {
    const start = (i * 7919) % (binary.length - 32_768)
    const size = 500 + ((i * 104_729) % 20_000)
    await add(`lib/${i % 100}/small${i}`, binary.subarray(start, start + size))
  }
  archive.finalize()
  await done
}

/** The child: converts and prints what it took. */
async function convert(
  source: string,
  directory: string,
  compressor: LayerOptions['compressor'],
): Promise<void> {
  const started = performance.now()
  const pool = new CompressPool()
  const options: LayerOptions = { chunkSize: MIB, compressor, digester: 'blake3', limits: DEFAULT_LIMITS }
  const layer = await buildLayer(createReadStream(source), path.join(directory, 'blob'), options, pool)
  const { bytes } = encodeBootstrap(mergeLayers([layer.root]), options)
  await pool.close()
  const measured: Measured = {
    seconds: (performance.now() - started) / 1000,
    storedBytes: layer.sizeBytes + bytes.length,
    peakMiB: peakRssMiB(),
  }
  process.stdout.write(JSON.stringify(measured))
}

/** Of this program alone: getrusage(2) counts what its parent had before exec, too. */
function peakRssMiB(): number {
  const line = /VmHWM:\s+([0-9]+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))
  return Number(line?.[1]) / 1024
}

function best<T>(measure: () => T, seconds: (result: T) => number): T {
  const results = Array.from({ length: ROUNDS }, measure)
  return results.reduce((a, b) => (seconds(b) < seconds(a) ? b : a))
}

function reference(source: string): number {
  const started = performance.now()
  const { status } = spawnSync('sh', ['-c', 'gzip -dc "$1" | zstd -3 -q > /dev/null', 'sh', source])
  if (status !== 0) throw new Error('gzip and zstd are needed')
  return (performance.now() - started) / 1000
}

async function main(): Promise<void> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'bench-convert-'))
  try {
    const plain = path.join(directory, 'layer.tar')
    await writeLayer(plain)
    const { size } = statSync(plain)
    execFileSync('gzip', [plain])
    const source = `${plain}.gz`
    const referenceS = best(
      () => reference(source),
      s => s,
    )
    const rate = (seconds: number): string => `${(size / MIB / seconds).toFixed(0)} MiB/s`
    console.log(`layer: ${(size / MIB).toFixed(0)} MiB, ${LARGE_FILES + SMALL_FILES} files`)
    console.log(`gzip -dc | zstd -3: ${rate(referenceS)}`)
    for (const compressor of COMPRESSORS) {
      const measured = best(
        () => {
          rmSync(path.join(directory, 'blob'), { force: true })
          const args = [import.meta.filename, source, directory, compressor]
          return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })) as Measured
        },
        ({ seconds }) => seconds,
      )
      const ratio = (referenceS / measured.seconds).toFixed(2)
      console.log(
        `convert to ${compressor}: ${rate(measured.seconds)}, ratio ${ratio}, ` +
          `${(measured.storedBytes / MIB).toFixed(0)} MiB stored, peak RSS ${measured.peakMiB.toFixed(0)} MiB`,
      )
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const [source, directory, compressor] = process.argv.slice(2)
if (source !== undefined && directory !== undefined) {
  await convert(source, directory, COMPRESSORS.find(name => name === compressor) ?? 'zstd')
} else {
  await main()
}
