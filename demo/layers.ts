/** The layers of the demo's image: taken from this machine, so that nothing has to be downloaded. */
import { execFileSync } from 'node:child_process'
import { existsSync, lstatSync, readdirSync, readlinkSync, realpathSync } from 'node:fs'
import path from 'node:path'
import type { Entry } from './image.js'
import { webAppFiles } from './web-app.js'

const BUSYBOX_NAMES = ['sh', 'ls', 'cat', 'ps', 'env', 'sleep', 'find', 'grep', 'sha256sum']

/** A shell and the usual small tools. */
export function busyboxLayer(): Entry[] {
  const busybox = ['/bin/busybox', '/usr/bin/busybox'].find(existsSync)
  if (busybox === undefined) throw new Error('busybox is not installed: apt-get install busybox-static')
  const links = BUSYBOX_NAMES.map((name): Entry => {
    return { path: `bin/${name}`, mode: 0o777, type: 'symlink', target: 'busybox' }
  })
  const passwd = memoryFile('etc/passwd', 'root:x:0:0:root:/:/bin/sh\n')
  const tmp: Entry = { path: 'tmp', mode: 0o1777, type: 'directory' }
  return withDirectories([...withLibraries('bin/busybox', busybox), ...links, passwd, tmp])
}

/** This very Node with its shared libraries. */
export function nodeLayer(): Entry[] {
  return withDirectories(withLibraries('usr/bin/node', realpathSync(process.execPath)))
}

/** npm as it came with Node: some thousand files that the application never reads. Empty where there is none. */
export function toolsLayer(): Entry[] {
  const node = realpathSync(process.execPath)
  const npm = ['../lib/node_modules/npm', '../share/nodejs/npm']
    .map(relative => path.join(path.dirname(node), relative))
    .find(existsSync)
  return npm === undefined ? [] : withDirectories(treeBelow(npm, 'usr/lib/node_modules/npm'))
}

export function applicationLayer(): Entry[] {
  return withDirectories(webAppFiles().map(file => memoryFile(`app/${file.path}`, file.content)))
}

/** A program and the shared libraries that ldd(1) names, at their own paths. */
function withLibraries(at: string, program: string): Entry[] {
  let listing = ''
  try {
    listing = execFileSync('ldd', [program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    // Statically linked: ldd says so and fails.
  }
  const libraries = [...listing.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map(([, library]) => library ?? '')
  return [
    hostFile(at, realpathSync(program)),
    ...libraries.map(library => hostFile(library.slice(1), realpathSync(library))),
  ]
}

function treeBelow(directory: string, at: string): Entry[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((item): Entry[] => {
    const source = path.join(directory, item.name)
    const target = `${at}/${item.name}`
    if (item.isDirectory()) return treeBelow(source, target)
    if (item.isSymbolicLink()) {
      return [{ path: target, mode: 0o777, type: 'symlink', target: readlinkSync(source) }]
    }
    return item.isFile() ? [hostFile(target, source)] : []
  })
}

function hostFile(at: string, file: string): Entry {
  const { mode, size } = lstatSync(file)
  return { path: at, mode: mode & 0o755, type: 'file', sizeBytes: size, source: { file } }
}

function memoryFile(at: string, text: string): Entry {
  const bytes = Buffer.from(text)
  return { path: at, mode: 0o644, type: 'file', sizeBytes: bytes.length, source: { bytes } }
}

/** The same entries behind the directories that they are in, parents first. */
function withDirectories(entries: Entry[]): Entry[] {
  const known = new Set(entries.filter(entry => entry.type === 'directory').map(entry => entry.path))
  const missing = new Set<string>()
  for (const entry of entries) {
    for (let at = path.dirname(entry.path); at !== '.' && !known.has(at); at = path.dirname(at))
      missing.add(at)
  }
  const directories = [...missing].sort().map((at): Entry => ({ path: at, mode: 0o755, type: 'directory' }))
  return [...directories, ...entries]
}
