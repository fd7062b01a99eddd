/**
 * One file of 512 MiB, read in a row for the first time, beside curl of the same blob to a file. The registry has the
 * blob in its page cache for both: the disk is not what is compared.
 */
import { rmSync, statSync } from 'node:fs'
import path from 'node:path'
import { byTurns, report, timeCommand } from './figures.js'
import { oneFileTar, type Stage, touchMemory } from './stage.js'

const SIZE = 512 * 2 ** 20
/** The cache file and the mount have the bytes in the page cache, each for itself. */
const TOUCHED = 2.5 * SIZE

export async function benchColdRead(stage: Stage, rounds: number): Promise<void> {
  const image = await stage.push([oneFileTar('big', SIZE)], 'none')
  const url = stage.blobUrl(image.blobIds[0] ?? '')
  const target = path.join(stage.directory, 'curl')
  const curl = async (): Promise<number> => {
    touchMemory(stage.directory, TOUCHED)
    const seconds = await timeCommand('curl', ['--silent', '--fail', '--output', target, url])
    if (statSync(target).size < SIZE) throw new Error('curl got less than the file')
    rmSync(target)
    return SIZE / seconds
  }
  const lazy = async (): Promise<number> => {
    const mounted = await stage.mount(image)
    touchMemory(stage.directory, TOUCHED)
    const file = path.join(mounted.mountpoint, 'big')
    const seconds = await timeCommand('dd', [`if=${file}`, 'of=/dev/null', 'bs=1M'])
    await mounted.end()
    return SIZE / seconds
  }
  const { a, b } = await byTurns(rounds, curl, lazy)
  report({
    name: 'cold sequential read, 512 MiB, of curl to a file',
    value: b / a,
    target: { atLeast: 0.5 },
    detail: `${(b / 1e6).toFixed(0)} of ${(a / 1e6).toFixed(0)} MB/s`,
  })
}
