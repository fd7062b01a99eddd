/** The short form of the storm: processes of a node are killed while cold images are read, and every byte is looked at. */
import { existsSync } from 'node:fs'
import t from 'tap'
import { missingDockerRegistry } from '../helpers/docker-registry.js'
import { fanotifyMissing, fuseMissing } from '../helpers/supervised.js'
import { CONTROL, DEFAULTS, NEGATIVE_CONTROL, runStorm, type StormOptions } from '../storm/storm.js'
import { tell } from '../storm/summary.js'

const KILLS = 25

const missing = ['containerd', 'runc', 'skopeo', 'setpriv', 'busybox'].find(
  name => !['/usr/bin', '/usr/sbin', '/bin'].some(directory => existsSync(`${directory}/${name}`)),
)
const skip = missingDockerRegistry() || (missing === undefined ? false : `${missing} is not installed`)

/** Small images, which are soon read, and soon cold again. */
const SHORT = {
  ...DEFAULTS,
  kills: KILLS,
  seed: 1,
  imageSize: { files: 24, pagesAFile: 128, fioBytes: 4 << 20 },
  lifeMs: 10_000,
} satisfies Omit<StormOptions, 'driver'>

t.setTimeout(900_000)

for (const [driver, lacking] of [
  ['fanotify', fanotifyMissing],
  ['fusedev', fuseMissing],
] as const) {
  t.test(
    `${KILLS} kills on ${driver}: nobody sees a failed read or a wrong byte`,
    { skip: skip || lacking },
    async t => {
      const summary = await runStorm(t, { ...SHORT, driver })
      t.comment(tell(summary))
      t.match(summary, { failed: 0, wrong: 0, zero: 0, counted: KILLS }, tell(summary))
      t.ok(summary.pages > 0)
      t.ok(summary.coldRounds > 1, 'the image was made cold again')
      t.same(Object.keys(summary.byTarget).sort(), [...DEFAULTS.targets].sort())
    },
  )

  t.test(`control: with nothing kept the storm fails on ${driver}`, { skip: skip || lacking }, async t => {
    const summary = await runStorm(t, { ...SHORT, ...NEGATIVE_CONTROL, slots: 1, driver })
    t.comment(tell(summary))
    t.ok(CONTROL[driver](summary), `it says how: ${tell(summary)}`)
  })
}
