import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import t, { type Test } from 'tap'
import { startDaemon } from '../../../src/supervisor/daemon-process.js'

const UNSUPPORTED = 'nydusd: this kernel cannot ask (DRIVER_UNSUPPORTED)\n'

/** A program that says `words` and ends without opening its API. */
function failingDaemon(t: Test, words: string, earlierLog: string) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'daemon-process-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const nydusdPath = path.join(folder, 'nydusd')
  const logPath = path.join(folder, 'nydusd.log')
  writeFileSync(nydusdPath, `#!/bin/sh\nprintf '%s' '${words}'\nexit 1\n`, { mode: 0o755 })
  writeFileSync(logPath, earlierLog)
  return { nydusdPath, args: [], logPath, kept: [] }
}

t.test('a daemon that ends with an unsupported driver says so in its own words', async t => {
  await t.rejects(startDaemon(failingDaemon(t, UNSUPPORTED, '')), {
    code: 'DRIVER_UNSUPPORTED',
    message: 'this kernel cannot ask',
  })
})

t.test('an unsupported driver of an earlier daemon is not taken for the reason of this one', async t => {
  const command = failingDaemon(t, 'nydusd: no space left\n', UNSUPPORTED)
  await t.rejects(startDaemon(command), { code: 'DAEMON_START', message: /no space left/ })
})
