/**
 * nydusify on an image of many small files, and on one of a single large one: how long `convert`, `check`,
 * `convert --reverse` and the comparison of what comes back take, and their peak memory. The argument is the number of
 * files (200,000), `large` (a file of 4 GiB of holes and some data) or `random` (4 GiB of random data); after it come options
 * of `convert`.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { largeFile, smallFiles, writeLayout } from '../test/helpers/file-layers.js'
import { measureNydusify } from '../test/helpers/nydusify.js'
import { machineLine } from './figures.js'

/** Runs nydusify and tells what that took. @throws when it fails */
async function run(label: string, ...args: string[]): Promise<void> {
  process.stdout.write(`${label.padEnd(24)} ${(await measureNydusify(args)).told}\n`)
}

async function main(what: string, options: readonly string[]): Promise<void> {
  const keep = process.env['NYDUS_BENCH_DIRECTORY']
  const directory = keep ?? mkdtempSync(path.join(os.tmpdir(), 'bench-many-files-'))
  const at = (name: string): string => path.join(directory, name)
  try {
    const pieces =
      what === 'large' || what === 'random' ? largeFile(what === 'random') : smallFiles(Number(what))
    await writeLayout(at('source'), pieces)
    process.stdout.write(`${what} ${options.join(' ')}: ${machineLine()}\n`)
    const from = ['--source', 'bench/files:plain', '--source-archive', at('source')]
    const nydus = ['bench/files:nydus', '--target-archive', at('nydus')]
    const work = ['--work-dir', at('work')]
    await run('convert', 'convert', ...from, '--target', ...nydus, ...work, ...options)
    await run('check', 'check', ...from, '--target', ...nydus, ...work)
    const image = ['--source', 'bench/files:nydus', '--source-archive', at('nydus')]
    const plain = ['--target', 'bench/files:again', '--target-archive', at('again')]
    await run('reverse', 'convert', '--reverse', ...image, ...plain, ...work)
    await run('check of the reversed', 'check', ...from, ...plain, ...work)
  } finally {
    if (keep === undefined) rmSync(directory, { recursive: true, force: true })
  }
}

const [what = '200000', ...options] = process.argv.slice(2)
await main(what, options)
