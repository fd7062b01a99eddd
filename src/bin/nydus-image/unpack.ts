import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import type { Command } from 'commander'
import type { Backend } from '../../backend/reader.js'
import { asFault, fault, hasErrno } from '../../common/fault.js'
import type { RafsImage } from '../../erofs/image-tree.js'
import { ChunkReader } from '../../image/read/chunk-reader.js'
import { unpackToDirectory } from '../../image/read/unpack-directory.js'
import { type Unpacked, unpackToTar } from '../../image/read/unpack-tar.js'
import { makeNode, setTimes } from '../../native/make-file.js'
import { setXattr } from '../../native/xattr.js'
import { requireRoot } from '../run.js'
import {
  type BlobFlags,
  type BootstrapFlags,
  OpenBootstrap,
  addBlobOptions,
  addBootstrapOptions,
  bootstrapPath,
  openBlobs,
} from './open-image.js'
import { logLevelOption } from './options.js'
import { openStreamOutput } from './stream-output.js'

interface UnpackFlags extends BootstrapFlags, BlobFlags {
  readonly output?: string
  readonly outputDir?: string
}

/** `nydus-image unpack`: an image as a tar archive or as a directory. */
export function addUnpack(command: Command): void {
  const unpackCommand = command
    .command('unpack')
    .description('write an image as a tar archive or a directory')
  addBlobOptions(addBootstrapOptions(unpackCommand))
    .option('-o, --output <file>', 'the PAX archive to write; - is the standard output')
    .option('--output-dir <dir>', 'the directory to make instead, as root')
    .addOption(logLevelOption())
    .action(unpack)
}

async function unpack(operand: string | undefined, flags: UnpackFlags): Promise<void> {
  const { output, outputDir } = flags
  if ((output === undefined) === (outputDir === undefined))
    throw fault('USAGE', 'nydus-image unpack takes --output FILE or --output-dir DIR')
  if (outputDir !== undefined) requireRoot('nydus-image unpack --output-dir')
  const bootstrap = OpenBootstrap.open(bootstrapPath('unpack', operand, flags))
  let backend: Backend | undefined
  try {
    const image = bootstrap.load()
    backend = openBlobs('unpack', flags, image.blobs.length)
    if (backend === undefined && image.blobs.length > 0)
      throw fault('USAGE', 'the image has data: say where it is with --blob, --blob-dir or --backend-type')
    const chunks = new ChunkReader(backend ?? { open: noBlob })
    if (outputDir !== undefined) await toDirectory(image, chunks, outputDir)
    else report(await toTar(image, chunks, output ?? ''))
  } finally {
    await backend?.close()
    bootstrap.close()
  }
}

function noBlob(blobId: string): never {
  throw fault('RAFS_FIELD', `a file refers to blob ${blobId}, which the image does not have`)
}

async function toTar(image: RafsImage, chunks: ChunkReader, target: string): Promise<Unpacked> {
  const output = await openStreamOutput(target)
  try {
    const unpacked = await unpackToTar(image, chunks, bytes => output.write(bytes))
    await output.flush()
    await output.finish()
    return unpacked
  } finally {
    await output.abort()
  }
}

function report({ sockets }: Unpacked): void {
  if (sockets > 0)
    process.stderr.write(`nydus-image: ${sockets} sockets are left out: a tar archive holds none\n`)
}

/** Made beside its place and renamed, so that nobody sees half of it. */
async function toDirectory(image: RafsImage, chunks: ChunkReader, target: string): Promise<void> {
  const directory = path.resolve(target)
  requireFree(directory)
  const beside = `${directory}.${process.pid}.new`
  const mask = process.umask(0)
  try {
    mkdirSync(beside, 0o700)
    await unpackToDirectory(image, chunks, beside, { makeNode, setXattr, setTimes })
    renameSync(beside, directory)
  } catch (err) {
    rmSync(beside, { recursive: true, force: true })
    throw asFault(err, 'FILE_UNREADABLE', `${target} cannot be made`)
  } finally {
    process.umask(mask)
  }
}

/** @throws TARGET_EXISTS unless nothing or an empty directory stands there */
function requireFree(directory: string): void {
  try {
    if (readdirSync(directory).length === 0) return
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return
    if (!hasErrno(err, 'ENOTDIR')) throw asFault(err, 'FILE_UNREADABLE', `${directory} cannot be read`)
  }
  throw fault('TARGET_EXISTS', `${directory} exists and is not empty: name another directory, or remove it`)
}
