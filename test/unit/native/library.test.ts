import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { once } from 'node:events'
import t from 'tap'
import { checked, cString, getLibrary, libraryPath } from '../../../src/native/library.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'

const compiled = fileURLToPath(new URL('../../../', import.meta.url))
const modulePath = path.join(compiled, 'src/native/library.js')

/** Loads a copy of the compiled sources beside another library (or none) and returns the fault's code and sentence. */
function loadCopy(t: Parameters<typeof scratch>[0], prepare: (nativeDirectory: string) => void): string {
  const directory = scratch(t)
  for (const folder of ['native', 'common'])
    cpSync(path.join(compiled, 'src', folder), path.join(directory, 'src', folder), { recursive: true })
  writeFileSync(path.join(directory, 'package.json'), '{"type":"module"}')
  symlinkSync(path.join(compiled, '../node_modules'), path.join(directory, 'node_modules'))
  mkdirSync(path.join(directory, 'native'))
  prepare(path.join(directory, 'native'))
  const url = pathToFileURL(path.join(directory, 'src/native/library.js')).href
  const script = `import(${JSON.stringify(url)})
    .then(m => m.getLibrary()).then(() => console.log('loaded'), e => console.log(e.code, e.message))`
  return spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' }).stdout
}

t.test('a missing library names the remedy', async t => {
  t.match(
    loadCopy(t, () => {}),
    /^NATIVE_LIBRARY .*libnydus\.so is missing: run npm run build/,
  )
})

t.test('a file that is no library names the remedy', async t => {
  const said = loadCopy(t, at => writeFileSync(path.join(at, 'libnydus.so'), 'not a library'))
  t.match(said, /^NATIVE_LIBRARY .*does not load: run npm ci and npm run build/)
})

t.test('a library of another build is refused before its other functions are looked up', async t => {
  const said = loadCopy(t, at => {
    writeFileSync(path.join(at, 'old.c'), 'int nydus_abi(void) { return 99; }')
    execFileSync('cc', ['-shared', '-fPIC', '-o', path.join(at, 'libnydus.so'), path.join(at, 'old.c')])
  })
  t.match(said, /^NATIVE_LIBRARY .*has ABI 99, not \d+.*run npm run build/)
})

t.test('a worker may import the module but not call the library', async t => {
  const script = `import(${JSON.stringify(pathToFileURL(modulePath).href)}).then(m => {
    const { parentPort } = require('node:worker_threads')
    try { m.getLibrary(); parentPort.postMessage('loaded') } catch (e) { parentPort.postMessage(e.code) }
  })`
  const worker = new Worker(script, { eval: true })
  const [said] = (await once(worker, 'message')) as [string]
  t.equal(said, 'NATIVE_LIBRARY')
  await worker.terminate()
})

t.test('loads once and answers', async t => {
  t.ok(path.isAbsolute(libraryPath()))
  t.equal(getLibrary(), getLibrary(), 'one object')
  t.ok(getLibrary().nydus_abi() > 0)
})

t.test('C strings', async t => {
  t.throws(() => cString('a\0b'), syscallFailure('EINVAL'), 'NUL is refused')
  t.strictSame(cString('ä'), Buffer.from([0xc3, 0xa4, 0]))
})

t.test('results below zero are thrown', async t => {
  t.throws(() => checked('call', -2, 'of x'), { message: /^call of x: ENOENT/, context: { call: 'call' } })
  t.equal(checked('call', 0), 0)
})
