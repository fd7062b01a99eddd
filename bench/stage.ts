/** What every bench stands on: a directory, a registry and a daemon of its own, taken down whatever happens. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { type DockerRegistry, startDockerRegistry } from '../test/helpers/docker-registry.js'
import { unmountBelow } from '../test/helpers/containerd.js'
import { type Supervised, supervise } from '../test/helpers/supervised.js'
import type { Compressor } from '../src/common/codec.js'
import { encodeBootstrap } from '../src/erofs/writer.js'
import { buildLayer } from '../src/image/build/build-layer.js'
import { CompressPool } from '../src/image/build/compress-pool.js'
import { DEFAULT_LIMITS } from '../src/image/tar/limits.js'
import { mergeLayers } from '../src/image/build/merge.js'
import type { ByteStream } from '../src/image/tar/layer-stream.js'
import { RegistryClient } from '../src/oci/registry-client.js'

const CHUNK_SIZE = 1024 * 1024
const REPOSITORY = 'bench'

type Ending = () => unknown

/** Like a test's: what was begun last ends first. */
export class Endings {
  readonly #endings: Ending[] = []

  teardown(ending: Ending): void {
    this.#endings.push(ending)
  }

  async end(): Promise<void> {
    for (const ending of this.#endings.splice(0).reverse()) await ending()
  }
}

/** An image on a registry: the bootstrap here, the blobs there. */
export interface StagedImage {
  readonly bootstrapPath: string
  /** sha256 of the stored blobs, without prefix, lowest layer first. */
  readonly blobIds: readonly string[]
}

export interface MountedStage {
  readonly node: Supervised
  readonly mountpoint: string
  /** Where the cache files are. */
  readonly cacheDirectory: string
  end(): Promise<void>
}

export class Stage {
  readonly directory: string
  readonly registry: DockerRegistry
  readonly #endings: Endings
  #images = 0
  #mounts = 0

  private constructor(directory: string, registry: DockerRegistry, endings: Endings) {
    this.directory = directory
    this.registry = registry
    this.#endings = endings
  }

  static async open(): Promise<Stage> {
    const endings = new Endings()
    const directory = mkdtempSync(path.join(os.tmpdir(), 'nydus-bench-'))
    endings.teardown(() => {
      unmountBelow(directory)
      rmSync(directory, { recursive: true, force: true })
    })
    try {
      return new Stage(directory, await startDockerRegistry(endings), endings)
    } catch (err) {
      await endings.end()
      throw err
    }
  }

  /** Converts tar archives, lowest layer first, and pushes their blobs. */
  async push(layers: readonly ByteStream[], compressor: Compressor): Promise<StagedImage> {
    const directory = path.join(this.directory, `image-${++this.#images}`)
    mkdirSync(directory)
    const client = new RegistryClient({ host: this.registry.host })
    const pool = new CompressPool()
    const options = {
      chunkSize: CHUNK_SIZE,
      compressor,
      digester: 'blake3',
      version: 6,
      batchSize: 0,
      limits: DEFAULT_LIMITS,
    } as const
    try {
      const built = []
      for (const [index, layer] of layers.entries()) {
        const file = path.join(directory, `layer-${index}`)
        const one = await buildLayer(layer, file, options, pool)
        await client.uploadBlob(REPOSITORY, createReadStream(file))
        rmSync(file)
        if (one.blob && one.cacheMeta) {
          // Converters ship it beside the bootstrap.
          writeFileSync(path.join(directory, `${one.digestHex}.blob.meta`), one.cacheMeta)
        }
        built.push(one)
      }
      const { bytes, blobs } = encodeBootstrap(mergeLayers(built.map(({ root }) => root)), options)
      const bootstrapPath = path.join(directory, 'image.boot')
      writeFileSync(bootstrapPath, bytes)
      return { bootstrapPath, blobIds: blobs.map(({ id }) => id) }
    } finally {
      await pool.close()
      await client.close()
    }
  }

  blobUrl(blobId: string): string {
    return `${this.registry.url}/v2/${REPOSITORY}/blobs/sha256:${blobId}`
  }

  /** Mounts the image with an empty cache and a daemon of its own. */
  async mount(image: StagedImage): Promise<MountedStage> {
    const endings = new Endings()
    const directory = path.join(this.directory, `node-${++this.#mounts}`)
    const mountpoint = path.join(directory, 'mnt')
    const backend = {
      type: 'registry',
      config: { scheme: 'http', host: this.registry.host, repo: REPOSITORY },
    }
    endings.teardown(() => {
      unmountBelow(directory)
      rmSync(directory, { recursive: true, force: true })
    })
    this.#endings.teardown(() => endings.end())
    const overrides = { logLevel: 'info' }
    const node = await supervise(endings, directory, backend, overrides)
    const { bootstrapPath } = image
    const spec = { id: '1', imageRef: 'bench/image', bootstrapPath, mountpoint, labels: {} }
    await node.supervisor.mount(spec)
    return { node, mountpoint, cacheDirectory: path.join(directory, 'cache'), end: () => endings.end() }
  }

  async close(): Promise<void> {
    await this.#endings.end()
  }
}

/** A tar archive of one file of incompressible bytes, made as it is read. */
export function oneFileTar(name: string, sizeBytes: number): ByteStream {
  return Readable.from(oneFile(name, sizeBytes))
}

function* oneFile(name: string, sizeBytes: number): Generator<Buffer> {
  const head = Buffer.alloc(512)
  head.write(name, 0)
  head.write('0000644\0' + '0000000\0' + '0000000\0', 100)
  head.write(`${sizeBytes.toString(8).padStart(11, '0')}\0${'0'.repeat(11)}\0`, 124)
  head.write('        0', 148)
  head.write('ustar\x0000', 257)
  const sum = head.reduce((total, byte) => total + byte, 0)
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  yield head
  for (let at = 0; at < sizeBytes; at += CHUNK_SIZE) yield noise(at).subarray(0, sizeBytes - at)
  yield Buffer.alloc(1024)
}

/** 1 MiB that no two seeds share and nothing compresses. */
function noise(seed: number): Buffer {
  const bytes = createHash('shake256', { outputLength: CHUNK_SIZE })
  return bytes.update(String(seed)).digest()
}

/** The page cache holds nothing afterwards: every file comes from the disk. */
export function dropPageCache(): void {
  execFileSync('sync')
  writeFileSync('/proc/sys/vm/drop_caches', '3')
}

/**
 * A virtual machine's host may lend memory when it is first touched, and takes it back when it is free for seconds: on
 * such a machine the first gigabyte was written with 0.5 GB/s and the same again with 5. What fills the page cache is to
 * find memory that was touched just now, on both sides of a ratio.
 */
export function touchMemory(directory: string, sizeBytes: number): void {
  const file = path.join(directory, 'touch')
  execFileSync('dd', ['if=/dev/zero', `of=${file}`, 'bs=1M', `count=${sizeBytes >> 20}`], { stdio: 'ignore' })
  rmSync(file)
}

/** Resident bytes of a process that are its own memory or file pages it maps, as VmRSS. */
export function residentBytes(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kib) * 1024
}
