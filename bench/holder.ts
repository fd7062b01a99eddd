/** The process that keeps descriptors: its memory, and how long a mount waits until everybody keeps another one. */
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '../src/common/log.js'
import { Holders } from '../src/supervisor/holders.js'
import { mebibytes, median, report } from './figures.js'
import { residentBytes, type Stage } from './stage.js'

const MANY = 1000

export async function benchHolder(_stage: Stage, rounds: number): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'nydus-bench-'))
  const holders = new Holders({ runDirectory: directory, logDirectory: directory, logger: silentLogger })
  const kept = new Map<string, number>()
  const keep = async (count: number): Promise<number> => {
    for (let index = 0; index < count; index++)
      kept.set(`fill.${String(kept.size).padStart(64, '0')}`, openSync('/dev/null', 'r'))
    const beganMs = performance.now()
    await holders.put('shared', kept)
    return performance.now() - beganMs
  }
  try {
    await holders.open()
    await keep(1)
    const one = residentBytes(holders.pid ?? 0)
    const alone: number[] = []
    for (let round = 0; round < rounds; round++) alone.push(await keep(1))
    const fill = await keep(MANY - kept.size)
    const many = residentBytes(holders.pid ?? 0)
    const beside: number[] = []
    for (let round = 0; round < rounds; round++) beside.push(await keep(1))
    const detail = `${mebibytes(one)} with 1, ${mebibytes(many)} with ${MANY.toLocaleString('en')}`
    report({ name: 'holder: VmRSS', value: many / 2 ** 20, target: { atMost: 10 }, unit: ' MiB', detail })
    const milliseconds = (values: readonly number[]): string =>
      values.map(value => value.toFixed(2)).join(', ')
    report({
      name: 'another descriptor is kept, with its barrier',
      value: median(beside),
      target: { atMost: 10 },
      unit: ' ms',
      detail: `first ${milliseconds(alone)} ms, beside ${MANY} ${milliseconds(beside)} ms, ${MANY} at once ${fill.toFixed(0)} ms`,
    })
    await holders.remove('shared', [...kept.keys()])
  } finally {
    await holders.close({ end: true })
    for (const fd of kept.values()) closeSync(fd)
    rmSync(directory, { recursive: true, force: true })
  }
}
