import type { Command } from 'commander'
import { FileSource } from '../../common/byte-source.js'
import { fault } from '../../common/fault.js'
import type { BlobEntry } from '../../erofs/blob-table.js'
import { BLOB_FEATURES } from '../../erofs/format.js'
import { bitNames } from '../../erofs/struct-view.js'
import { checkBootstrap } from '../../image/read/check.js'
import { logLevelOption } from './options.js'
import { writeReport } from './report.js'

interface CheckFlags {
  bootstrap?: string
  outputJson?: string
}

/** `nydus-image check`: reads all of a bootstrap. */
export function addCheck(command: Command): void {
  command
    .command('check')
    .description('read the whole of a bootstrap and say whether it is sound')
    .argument('[bootstrap]', 'the file to check')
    .option('-B, --bootstrap <file>', 'the same, as older releases had it')
    .option('-J, --output-json <file>', 'write what the bootstrap refers to as JSON')
    .addOption(logLevelOption())
    .action(check)
}

function check(operand: string | undefined, flags: CheckFlags): void {
  const path = operand ?? flags.bootstrap
  if (path === undefined || (operand !== undefined && flags.bootstrap !== undefined))
    throw fault('USAGE', 'nydus-image check takes one bootstrap: nydus-image check BOOTSTRAP')
  const source = new FileSource(path)
  try {
    const { blobs, compressor, names, fileBytes, chunks } = checkBootstrap(source)
    process.stdout.write('RAFS filesystem metadata is valid, referenced data blobs:\n')
    for (const blob of blobs) process.stdout.write(`${describe(blob)}\n`)
    process.stdout.write(`${names} names, ${fileBytes} bytes of files in ${chunks} chunks\n`)
    if (flags.outputJson !== undefined) {
      const blobIds = blobs.map(({ blobId }) => blobId)
      writeReport(flags.outputJson, { bootstrap: path, blobIds, version: 6, compressor, pretty: false })
    }
  } finally {
    source.close()
  }
}

function describe(blob: BlobEntry): string {
  const { index, blobId, compressedSize, uncompressedSize, chunkSize, chunkCount, features } = blob
  return (
    `  ${index}: ${blobId}, ${compressedSize} bytes compressed, ${uncompressedSize} uncompressed, ` +
    `chunk size 0x${chunkSize.toString(16)}, ${chunkCount} chunks, features: ${bitNames(features, BLOB_FEATURES)}`
  )
}
