import type { Command } from 'commander'
import type { BlobPlace } from '../../image/read/chunk-reader.js'
import { isBlobId } from '../../common/digest.js'
import { BLOB_FEATURES, PLACEHOLDER_BLOB_ID } from '../../erofs/format.js'
import { bitNames } from '../../erofs/struct-view.js'
import { type CheckedImage, checkBootstrap } from '../../image/read/check.js'
import { type ExpectedBlob, checkBlob } from '../../image/read/check-blob.js'
import {
  type BlobFlags,
  type BootstrapFlags,
  OpenBootstrap,
  addBlobOptions,
  addBootstrapOptions,
  bootstrapPath,
  openBlobs,
} from './open-image.js'
import { configOption, logLevelOption } from './options.js'
import { writeReport } from './report.js'

interface CheckFlags extends BootstrapFlags, BlobFlags {
  readonly outputJson?: string
  readonly verbose?: true
}

/** `nydus-image check`: reads all of a bootstrap, and with the blobs at hand all of these. */
export function addCheck(command: Command): void {
  const checkCommand = command
    .command('check')
    .description('read the whole of an image and say whether it is sound')
  addBlobOptions(addBootstrapOptions(checkCommand))
    .option('-v, --verbose', 'say what is checked')
    .option('-J, --output-json <file>', 'write what the bootstrap refers to as JSON')
    .addOption(configOption())
    .addOption(logLevelOption())
    .action(check)
}

async function check(operand: string | undefined, flags: CheckFlags): Promise<void> {
  const bootstrap = OpenBootstrap.open(bootstrapPath('check', operand, flags))
  try {
    const sound = checkBootstrap(bootstrap.source)
    const checked = { ...sound, blobs: sound.blobs.map(blob => identified(blob, bootstrap.stem)) }
    printImage(checked)
    const backend = openBlobs('check', flags, checked.blobs.length)
    if (backend !== undefined) {
      try {
        for (const blob of checked.blobs) await checkOne(blob, backend, flags.verbose ?? false)
      } finally {
        await backend.close()
      }
      process.stdout.write(`all ${checked.blobs.length} blobs are sound\n`)
    }
    if (flags.outputJson !== undefined) report(flags.outputJson, bootstrap.path, checked)
  } finally {
    bootstrap.close()
  }
}

/** A blob that does not know its own id is the one that the file is named after. */
function identified(blob: ExpectedBlob, stem: string): ExpectedBlob {
  const known = blob.entry.blobId !== PLACEHOLDER_BLOB_ID || !isBlobId(stem)
  return known ? blob : { ...blob, entry: { ...blob.entry, blobId: stem } }
}

function printImage({ blobs, names, fileBytes, chunks, warnings }: CheckedImage): void {
  process.stdout.write('RAFS filesystem metadata is valid, referenced data blobs:\n')
  for (const [index, { entry }] of blobs.entries()) process.stdout.write(`${describe(index, entry)}\n`)
  process.stdout.write(`${names} names, ${fileBytes} bytes of files in ${chunks} chunks\n`)
  for (const warning of warnings) process.stderr.write(`nydus-image: ${warning}\n`)
}

function describe(index: number, entry: ExpectedBlob['entry']): string {
  const { blobId, compressedSize, uncompressedSize, chunkSize, chunkCount, features } = entry
  return (
    `  ${index}: ${blobId}, ${compressedSize} bytes compressed, ${uncompressedSize} uncompressed, ` +
    `chunk size 0x${chunkSize.toString(16)}, ${chunkCount} chunks, features: ${bitNames(features, BLOB_FEATURES)}`
  )
}

async function checkOne(blob: ExpectedBlob, place: BlobPlace, verbose: boolean): Promise<void> {
  const { blobId } = blob.entry
  const { storedBytes, chunks, unknownChunks } = await checkBlob(blob, place.open(blobId))
  if (!verbose) return
  const unknown = unknownChunks === 0 ? '' : `, ${unknownChunks} more without a digest`
  process.stdout.write(
    `blob ${blobId}: ${storedBytes} bytes, ${chunks - unknownChunks} chunks have their digest${unknown}\n`,
  )
}

function report(file: string, bootstrap: string, { blobs, version, compressor }: CheckedImage): void {
  const blobIds = blobs.map(({ entry }) => entry.blobId)
  writeReport(file, { bootstrap, blobIds, version, compressor, pretty: false })
}
