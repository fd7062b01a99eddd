/**
 * All figures, one line each: `npm run bench [PART …]`. Needs root, a kernel path, docker-registry, curl and fio.
 */
import { benchColdRead } from './cold-read.js'
import { machineLine } from './figures.js'
import { benchFuse } from './fuse.js'
import { benchFirstRun } from './first-run.js'
import { benchHolder } from './holder.js'
import { benchIdleMemory } from './idle-memory.js'
import { benchMerge } from './merge.js'
import { Stage } from './stage.js'
import { benchStart } from './start.js'
import { benchWarmRead } from './warm-read.js'

const PARTS: Record<string, (stage: Stage, rounds: number) => Promise<void>> = {
  'cold-read': benchColdRead,
  'warm-read': benchWarmRead,
  'idle-memory': benchIdleMemory,
  'first-run': benchFirstRun,
  holder: benchHolder,
  merge: benchMerge,
  fuse: benchFuse,
  start: benchStart,
}

async function main(): Promise<void> {
  const wanted = process.argv.slice(2)
  const unknown = wanted.find(name => !(name in PARTS))
  if (unknown !== undefined)
    throw new Error(`no part ${unknown}; there are: ${Object.keys(PARTS).join(', ')}`)
  const rounds = Number(process.env['NYDUS_BENCH_ROUNDS'] ?? 5)
  process.stdout.write(`${machineLine()}\n`)
  for (const [name, part] of Object.entries(PARTS)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    const stage = await Stage.open()
    try {
      await part(stage, rounds)
    } finally {
      await stage.close()
    }
  }
}

main().catch((err: unknown) => {
  process.stderr.write(`bench: ${err instanceof Error ? (err.stack ?? err.message) : String(err)}\n`)
  process.exitCode = 1
})
