/** OCI layouts with an image of one layer: many small files, or a large one. */
import { createHash, randomFillSync } from 'node:crypto'
import { createReadStream, createWriteStream, mkdirSync, readFileSync } from 'node:fs'
import { rename, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { encodeTarHeader, tarEnd, tarPadding, type TarItem } from '../../src/image/read/encode-tar.js'

const MIB = 1 << 20
const LARGE_BYTES = 4 * 2 ** 30
const FILES_IN_DIRECTORY = 20
const MAX_SMALL_BYTES = 8000

const attributes = {
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtimeSec: 1_700_000_000,
  mtimeNsec: 0,
  linkName: '',
  major: 0,
  minor: 0,
}

/** Packages of small files in no order, as directories are read: one in twenty is a link, some have attributes. */
export function* smallFiles(count: number): Generator<Uint8Array> {
  const binary = readFileSync(process.execPath)
  for (let i = 0; i < count; i++) {
    const file = scattered(i, count)
    const directory = `usr/lib/node_modules/package-${Math.floor(file / FILES_IN_DIRECTORY)}`
    const name = `${directory}/module-${file % FILES_IN_DIRECTORY}.js`
    if (file % FILES_IN_DIRECTORY === 7) {
      yield encodeTarHeader({ ...attributes, name, type: 'symlink', linkName: 'module-0.js', sizeBytes: 0 })
      continue
    }
    const start = (file * 479_001_599) % (binary.length - MAX_SMALL_BYTES)
    const body = binary.subarray(start, start + 100 + ((file * 104_729) % (MAX_SMALL_BYTES - 100)))
    const xattrs = new Map([['user.note', Buffer.from(String(file))]])
    yield* entry({ ...attributes, name, ...(file % 100 === 3 ? { xattrs } : {}) }, body)
  }
}

/** Each number below `count` once, near ones near each other. */
function scattered(index: number, count: number): number {
  const window = 1000
  const start = index - (index % window)
  const size = Math.min(window, count - start)
  return size === window ? start + ((index * 379) % window) : index
}

function* entry(item: Omit<TarItem, 'type' | 'sizeBytes'>, body: Uint8Array): Generator<Uint8Array> {
  yield encodeTarHeader({ ...item, type: 'regular', sizeBytes: body.length })
  yield body
  yield Buffer.alloc(tarPadding(body.length))
}

/** One file of 4 GiB. A layer has no holes to speak of: they are zeros that compress. */
export function* largeFile(random: boolean): Generator<Uint8Array> {
  yield encodeTarHeader({ ...attributes, name: 'large.img', type: 'regular', sizeBytes: LARGE_BYTES })
  const piece = Buffer.alloc(MIB)
  for (let at = 0; at < LARGE_BYTES; at += MIB) {
    if (random || at % (64 * MIB) === 0) yield randomFillSync(Buffer.allocUnsafe(MIB))
    else yield piece
  }
}

/** Gathers small pieces. */
function* archive(pieces: Iterable<Uint8Array>): Generator<Uint8Array> {
  let held: Uint8Array[] = []
  let bytes = 0
  for (const piece of [pieces, [tarEnd()]]) {
    for (const one of piece) {
      held.push(one)
      bytes += one.length
      if (bytes < MIB) continue
      yield Buffer.concat(held)
      held = []
      bytes = 0
    }
  }
  yield Buffer.concat(held)
}

/** The pieces are an archive without its end. */
export async function writeLayout(directory: string, pieces: Iterable<Uint8Array>): Promise<void> {
  const blobs = path.join(directory, 'blobs/sha256')
  mkdirSync(blobs, { recursive: true })
  const plain = createHash('sha256')
  function* hashed(): Generator<Uint8Array> {
    for (const piece of archive(pieces)) {
      plain.update(piece)
      yield piece
    }
  }
  const partial = path.join(blobs, 'partial')
  await pipeline(Readable.from(hashed()), createGzip({ level: 1 }), createWriteStream(partial))
  const packed = createHash('sha256')
  for await (const piece of createReadStream(partial)) packed.update(piece as Buffer)
  const digest = packed.digest('hex')
  const { size } = await stat(partial)
  await rename(partial, path.join(blobs, digest))
  const put = async (mediaType: string, document: unknown): Promise<object> => {
    const bytes = Buffer.from(JSON.stringify(document))
    const hex = createHash('sha256').update(bytes).digest('hex')
    await writeFile(path.join(blobs, hex), bytes)
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length }
  }
  const type = 'application/vnd.oci.image'
  const config = await put(`${type}.config.v1+json`, {
    architecture: os.arch() === 'x64' ? 'amd64' : os.arch(),
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${plain.digest('hex')}`] },
  })
  const layers = [{ mediaType: `${type}.layer.v1.tar+gzip`, digest: `sha256:${digest}`, size }]
  const manifest = await put(`${type}.manifest.v1+json`, {
    schemaVersion: 2,
    mediaType: `${type}.manifest.v1+json`,
    config,
    layers,
  })
  await writeFile(path.join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  await writeFile(
    path.join(directory, 'index.json'),
    JSON.stringify({ schemaVersion: 2, manifests: [manifest] }),
  )
}
