/**
 * How fast a layer is converted, how much memory that takes and how big the result is: a generated tar.gz of 1 GiB, files
 * large and small, and one of 200,000 small files, through `buildLayer` and `encodeBootstrap` in a process of its own. By
 * turns with it run `gzip -dc | sha256sum` and then `zstd -3 -T1` of the same data. Time is of the clock and of the
 * processors, each as the median of its rounds; `mixed` or `small` as an argument measures one layer alone.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { createReadStream, createWriteStream, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { gzipSync } from 'node:zlib'
import tar from 'tar-stream'
import { keepYoungSpaceSmall } from '../src/common/garbage.js'
import { encodeBootstrap } from '../src/erofs/writer.js'
import { type LayerOptions, buildLayer } from '../src/image/build/build-layer.js'
import { CompressPool } from '../src/image/build/compress-pool.js'
import { DEFAULT_LIMITS } from '../src/image/tar/limits.js'
import { mergeLayers } from '../src/image/build/merge.js'

const MIB = 1 << 20
const ROUNDS = Number(process.env['NYDUS_BENCH_ROUNDS'] ?? 3)
/** Numbers of files, the most bytes of a small one, and what it is converted to. */
const LAYERS = {
  mixed: {
    large: 6,
    small: 40_000,
    smallBytes: 20_000,
    forms: ['zstd:0', 'zstd:131072', 'lz4_block:0', 'none:0'],
  },
  small: { large: 0, small: 200_000, smallBytes: 8000, forms: ['zstd:0', 'zstd:131072', 'zstd:524288'] },
} as const
type LayerName = keyof typeof LAYERS

interface Measured {
  seconds: number
  cpuSeconds: number
  storedBytes: number
  peakMiB: number
}

/** Large files are rotations of Node's own binary, so that they compress as programs do and share no chunk. */
async function writeLayer(name: LayerName, file: string): Promise<void> {
  const { large, small, smallBytes } = LAYERS[name]
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
  for (let i = 0; i < large; i++) {
    const cut = i * 1000 + 1
    await add(`bin/large${i}`, Buffer.concat([binary.subarray(cut), binary.subarray(0, cut)]))
  }
  for (let i = 0; i < small; i++) {
    const start = (i * 479_001_599) % (binary.length - smallBytes)
    const size = 100 + ((i * 104_729) % (smallBytes - 100))
    await add(`lib/${i % 1000}/small${i}`, binary.subarray(start, start + size))
  }
  archive.finalize()
  await done
}

/** The child: converts and prints what it took. */
async function convert(
  source: string,
  directory: string,
  compressor: LayerOptions['compressor'],
  batchSize: number,
): Promise<void> {
  // As nydusify does.
  keepYoungSpaceSmall()
  const started = performance.now()
  const pool = new CompressPool()
  const options: LayerOptions = {
    chunkSize: MIB,
    compressor,
    digester: 'blake3',
    version: 6,
    batchSize,
    limits: DEFAULT_LIMITS,
  }
  const layer = await buildLayer(createReadStream(source), path.join(directory, 'blob'), options, pool)
  const { bytes } = encodeBootstrap(mergeLayers([layer.root]), options)
  await pool.close()
  const cpu = process.cpuUsage()
  const seconds = (performance.now() - started) / 1000
  const peakMiB = peakRssMiB()
  const measured: Measured = {
    seconds,
    cpuSeconds: (cpu.user + cpu.system) / 1e6,
    // As a registry keeps them.
    storedBytes: layer.sizeBytes + gzipSync(bytes).length,
    peakMiB,
  }
  process.stdout.write(JSON.stringify(measured))
}

/** Of this program alone: getrusage(2) counts what its parent had before exec, too. */
function peakRssMiB(): number {
  const line = /VmHWM:\s+([0-9]+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))
  return Number(line?.[1]) / 1024
}

type Times = Pick<Measured, 'seconds' | 'cpuSeconds'>

/** Runs a line of shell and asks the shell what its children took. */
function shell(line: string, ...args: string[]): Times {
  const started = performance.now()
  const { status, stdout } = spawnSync('sh', ['-c', `set -e; ${line}; times`, 'sh', ...args], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error('gzip, zstd and sha256sum are needed')
  const seconds = (performance.now() - started) / 1000
  const children = stdout.trimEnd().split('\n').at(-1) ?? ''
  const taken = [...children.matchAll(/([0-9]+)m([0-9.]+)s/g)].map(([, m, s]) => Number(m) * 60 + Number(s))
  return { seconds, cpuSeconds: taken.reduce((a, b) => a + b, 0) }
}

const reference = (plain: string): Times =>
  shell('gzip -dc "$1.gz" | sha256sum > /dev/null; zstd -3 -T1 -q -c "$1" > /dev/null', plain)

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}

const line = (label: string, runs: readonly Times[], against: readonly Times[]): string => {
  const seconds = median(runs.map(run => run.seconds))
  const cpuSeconds = median(runs.map(run => run.cpuSeconds))
  const ratio = seconds / median(against.map(run => run.seconds))
  const cpuRatio = cpuSeconds / median(against.map(run => run.cpuSeconds))
  return (
    `${label}: ${seconds.toFixed(1)} s (ratio ${ratio.toFixed(2)}), ` +
    `${cpuSeconds.toFixed(1)} s of processors (${cpuRatio.toFixed(2)})`
  )
}

function run(source: string, directory: string, form: string): Measured {
  rmSync(path.join(directory, 'blob'), { force: true })
  const args = [import.meta.filename, source, directory, ...form.split(':')]
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })) as Measured
}

async function measure(name: LayerName, directory: string): Promise<void> {
  const plain = path.join(directory, `${name}.tar`)
  await writeLayer(name, plain)
  execFileSync('gzip', ['-k', plain])
  const source = `${plain}.gz`
  const zstdBytes = Number(
    execFileSync('sh', ['-c', 'zstd -3 -T1 -q -c "$1" | wc -c', 'sh', plain], { encoding: 'utf8' }),
  )
  const { forms, large, small } = LAYERS[name]
  const references: Times[] = []
  const runs = new Map<string, Measured[]>(forms.map(form => [form, []]))
  for (let round = 0; round < ROUNDS; round++) {
    references.push(reference(plain))
    for (const [form, own] of runs) own.push(run(source, directory, form))
  }
  const gzipBytes = statSync(source).size
  console.log(
    `${name}: ${(statSync(plain).size / MIB).toFixed(0)} MiB, ${large + small} files, load ${os.loadavg()[0]?.toFixed(1)}`,
  )
  console.log(line('gzip -dc | sha256sum; zstd -3 -T1', references, references))
  for (const [form, own] of runs) {
    const stored = own[0]?.storedBytes ?? 0
    const peak = Math.max(...own.map(({ peakMiB }) => peakMiB))
    console.log(
      `${line(`convert to ${form}`, own, references)}, size ${(stored / zstdBytes).toFixed(3)} of zstd -3, ` +
        `${(stored / gzipBytes).toFixed(3)} of the gzip, peak RSS ${peak.toFixed(0)} MiB`,
    )
  }
  rmSync(plain)
  rmSync(source)
}

async function main(only: string | undefined): Promise<void> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'bench-convert-'))
  try {
    for (const name of ['mixed', 'small'] as const)
      if (only === undefined || only === name) await measure(name, directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const [source, directory, compressor, batchSize] = process.argv.slice(2)
if (source !== undefined && directory !== undefined) {
  const known = (['zstd', 'lz4_block', 'none'] as const).find(name => name === compressor)
  await convert(source, directory, known ?? 'zstd', Number(batchSize))
} else {
  await main(source)
}
