#!/usr/bin/env node
import { writeFileSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { FileSource } from '../common/byte-source.js'
import { addLaterCommands, commandLine } from '../common/command-line.js'
import { asFault, fault } from '../common/fault.js'
import { readVersion } from '../common/version.js'
import type { BlobEntry } from '../erofs/blob-table.js'
import { BLOB_FEATURES } from '../erofs/format.js'
import { bitNames } from '../erofs/struct-view.js'
import { checkBootstrap } from '../image/check.js'
import { run } from './run.js'

/** Commands of upstream whose part comes with a later release. */
const LATER = ['create', 'merge', 'inspect', 'stat', 'unpack', 'export', 'compact', 'chunkdict', 'optimize']

interface CheckFlags {
  bootstrap?: string
  outputJson?: string
}

function program(): Command {
  const command = commandLine('nydus-image')
    .description('looks at nydus images')
    .version(`nydus-image ${readVersion().version}`, '--version', 'print the version')
  command
    .command('check')
    .description('read the whole of a bootstrap and say whether it is sound')
    .argument('[bootstrap]', 'the file to check')
    .option('-B, --bootstrap <file>', 'the same, as older releases had it')
    .option('-J, --output-json <file>', 'write what the bootstrap refers to as JSON')
    .addOption(
      new Option('-l, --log-level <level>', 'debug shows where an error came from')
        .choices(['trace', 'debug', 'info', 'warn', 'error'])
        .default('info'),
    )
    .action(check)
  addLaterCommands(command, LATER, 'nydus-image check; images are made with nydusify convert')
  return command
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
    if (flags.outputJson !== undefined) writeReport(flags.outputJson, path, blobs, compressor)
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

/** Keys of upstream's report; its consumers read `blobs`, `fs_version` and `compressor`. */
function writeReport(file: string, bootstrap: string, blobs: readonly BlobEntry[], compressor: string): void {
  const { version, revision } = readVersion()
  const report = {
    version: `${version}-${revision}`,
    bootstrap,
    blobs: blobs.map(({ blobId }) => blobId),
    trace: {},
    fs_version: '6',
    compressor,
  }
  try {
    writeFileSync(file, `${JSON.stringify(report)}\n`)
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `the bootstrap is sound, but ${file} cannot be written`)
  }
}

run('nydus-image', async argv => {
  await program().parseAsync(argv, { from: 'user' })
})
