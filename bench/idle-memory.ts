/** What the daemon holds when an image is mounted and nobody reads. */
import { setTimeout as delay } from 'node:timers/promises'
import { mebibytes, median, report } from './figures.js'
import { oneFileTar, residentBytes, type Stage } from './stage.js'

const SETTLE_MS = 1500

export async function benchIdleMemory(stage: Stage, rounds: number): Promise<void> {
  const image = await stage.push([oneFileTar('small', 1 << 20)], 'zstd')
  const found: number[] = []
  for (let round = 0; round < rounds; round++) {
    const mounted = await stage.mount(image)
    await delay(SETTLE_MS)
    found.push(residentBytes(await mounted.node.daemonPid()))
    await mounted.end()
  }
  report({
    name: 'daemon with one image, idle: VmRSS',
    value: median(found) / 2 ** 20,
    target: { atMost: 90 },
    unit: ' MiB',
    detail: found.map(mebibytes).join(', '),
  })
}
