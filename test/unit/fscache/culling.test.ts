import t, { type Test } from 'tap'
import { mkdirSync, realpathSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fault } from '../../../src/common/fault.js'
import { silentLogger } from '../../../src/common/log.js'
import { cullBlob, cullObjects } from '../../../src/fscache/culling.js'

/** A cache directory as the kernel lays it out: objects as `volume/bucket/name`, the first one the oldest. */
function layOut(t: Test, ...objects: string[]): string {
  const directory = realpathSync(t.testdir({}))
  for (const [i, object] of objects.entries()) {
    const file = path.join(directory, 'cache', object)
    mkdirSync(path.dirname(file), { recursive: true })
    writeFileSync(file, '')
    utimesSync(file, 1000 + i, 1000 + i)
  }
  return directory
}

/** Notes commands with the directory that they were given in; refuses as the kernel does. */
function device(refusals: Record<string, string> = {}) {
  const commands: string[] = []
  const command = (text: string): void => {
    const errno = refusals[text]
    if (errno !== undefined) throw fault('SYSCALL_FAILED', text, { context: { errno } })
    commands.push(`${process.cwd()}: ${text}`)
  }
  return { commands, command }
}

t.test('the oldest objects first, from within their directory', async t => {
  const directory = layOut(t, 'Ierofs,a/@01/Dx', 'Ierofs,b/@02/Dy', 'Ierofs,b/@02/Dz')
  const home = process.cwd()
  const kernel = device({ 'cull Dy': 'EBUSY' })
  t.equal(cullObjects(kernel, directory, silentLogger), 2)
  t.same(kernel.commands, [
    `${directory}/cache/Ierofs,a/@01: cull Dx`,
    `${directory}/cache/Ierofs,b/@02: cull Dz`,
  ])
  t.equal(process.cwd(), home)
  t.throws(() => cullObjects(device({ 'cull Dx': 'EIO' }), directory, silentLogger), {
    code: 'SYSCALL_FAILED',
  })
  t.equal(process.cwd(), home, 'also after a failure')
  t.equal(cullObjects(device(), `${directory}/nowhere`, silentLogger), 0)
})

t.test('one blob in every domain', async t => {
  const directory = layOut(t, 'Ierofs,a/@01/Dx', 'Ierofs,b/@02/Dx', 'Ierofs,b/@02/Dxy')
  const kernel = device()
  cullBlob(kernel, directory, 'x')
  t.same(kernel.commands.sort(), [
    `${directory}/cache/Ierofs,a/@01: cull Dx`,
    `${directory}/cache/Ierofs,b/@02: cull Dx`,
  ])
  t.throws(() => cullBlob(device({ 'cull Dx': 'EBUSY' }), directory, 'x'), { code: 'INSTANCE_BUSY' })
  cullBlob(device({ 'cull Dx': 'ENOENT' }), directory, 'x')
})
