/** npm run storm: see README.md. */
import { parseArgs } from 'node:util'
import type { Test } from 'tap'
import { DRIVERS, TARGETS } from './kills.js'
import { CONTROL, DEFAULTS, NEGATIVE_CONTROL, runStorm } from './storm.js'
import { tell } from './summary.js'

/** Ends with 1 where a reader saw harm or too few kills counted, with 2 for a wrong command line. */
async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      driver: { type: 'string' },
      kills: { type: 'string', default: '25' },
      target: { type: 'string', default: DEFAULTS.targets.join(',') },
      seed: { type: 'string', default: String(Date.now() % 100_000) },
      logs: { type: 'string' },
      'negative-control': { type: 'boolean', default: false },
    },
  })
  const driver = DRIVERS.find(name => name === values.driver)
  const targets = [...TARGETS, 'upgrade' as const].filter(name => values.target.split(',').includes(name))
  const [kills, seed] = [Number(values.kills), Number(values.seed)]
  if (!driver || targets.length === 0 || !Number.isSafeInteger(kills) || !Number.isSafeInteger(seed)) {
    const options = `[--kills N] [--target ${TARGETS.join(',')},upgrade] [--seed S] [--logs DIR] [--negative-control]`
    process.stderr.write(`usage: storm.sh --driver ${DRIVERS.join('|')} ${options}\n`)
    return 2
  }
  const control = values['negative-control']
  const summary = await withTeardown(t =>
    runStorm(t, {
      ...DEFAULTS,
      driver,
      kills,
      targets,
      seed,
      progress: words => process.stderr.write(`${new Date().toISOString()} ${words}\n`),
      ...(values.logs !== undefined && { logs: values.logs }),
      ...(control && NEGATIVE_CONTROL),
    }),
  )
  process.stdout.write(`${tell(summary)}\n${JSON.stringify(summary)}\n`)
  const harm = summary.failed + summary.wrong + summary.zero > 0
  if (!control) return harm || summary.counted < kills ? 1 : 0
  const failed = CONTROL[driver](summary)
  process.stdout.write(
    failed ? 'the control failed, as it must\n' : 'the control did not fail: the storm proves nothing\n',
  )
  return failed ? 0 : 1
}

/** As a test would: everything that was begun is ended, last first. */
async function withTeardown<T>(use: (t: Pick<Test, 'teardown'>) => Promise<T>): Promise<T> {
  const ends: (() => unknown)[] = []
  const teardown = ((end: () => unknown) => ends.push(end)) as unknown as Test['teardown']
  try {
    return await use({ teardown })
  } finally {
    for (const end of ends.reverse()) await end()
  }
}

process.exitCode = await main()
