/** Which processes have files of an image mapped, directly or through an overlay above it: proc(5). */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { parseMountInfo } from '../native/mount-table.js'

export interface MappedFile {
  readonly pid: number
  /** Its name, as /proc/PID/comm has it. */
  readonly command: string
  /** By its control group: the id that a runtime gave the container, or the group's last name. */
  readonly container: string
  /** From the root of the image. */
  readonly path: string
  /** Opens as the very file, whatever has become of its name. */
  readonly handle: string
}

/** Where files of the image show: a mountpoint in the view of some process. */
interface View {
  readonly device: string
  readonly mountpoint: string
}

/** @param mountpoint of the image; overlays name it among their lower layers */
export async function findMappedFiles(mountpoint: string): Promise<MappedFile[]> {
  const views = new Map<string, View[]>()
  const found: MappedFile[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      found.push(...(await mappedBy(name, mountpoint, views)))
    } catch {
      // It has ended, or is ending.
    }
  }
  return found
}

async function mappedBy(pid: string, mountpoint: string, views: Map<string, View[]>): Promise<MappedFile[]> {
  const directory = join('/proc', pid)
  const maps = await readFile(join(directory, 'maps'), 'utf8')
  if (maps === '') return []
  const namespace = `${await readlink(join(directory, 'ns/mnt'))} ${await readlink(join(directory, 'root'))}`
  let known = views.get(namespace)
  if (!known) {
    known = viewsOf(await readFile(join(directory, 'mountinfo'), 'utf8'), mountpoint)
    views.set(namespace, known)
  }
  const files = new Map<string, string>()
  for (const { range, device, path } of parseMaps(maps)) {
    const view = known.find(({ device: own, mountpoint: at }) => own === device && isBelow(path, at))
    if (view) files.set(path.slice(view.mountpoint === '/' ? 0 : view.mountpoint.length), range)
  }
  if (files.size === 0) return []
  const command = (await readFile(join(directory, 'comm'), 'utf8')).trimEnd()
  const container = containerOf(await readFile(join(directory, 'cgroup'), 'utf8'))
  return [...files].map(([path, range]) => ({
    pid: Number(pid),
    command,
    container,
    path,
    handle: join(directory, 'map_files', range),
  }))
}

function viewsOf(mountInfo: string, mountpoint: string): View[] {
  return parseMountInfo(mountInfo).filter(({ fsType, mountpoint: at, superOptions }) => {
    if (fsType === 'erofs') return at === mountpoint
    return fsType === 'overlay' && lowerLayers(superOptions).includes(mountpoint)
  })
}

/** Of an overlay's options; a colon in a name is escaped, which ours have not. */
function lowerLayers(options: string): string[] {
  return options
    .split(',')
    .filter(option => option.startsWith('lowerdir'))
    .flatMap(option => option.slice(option.indexOf('=') + 1).split(':'))
}

/** Lines of proc(5)'s maps that name a file; the device in the form of mountinfo, in decimal. */
export function parseMaps(text: string): { range: string; device: string; path: string }[] {
  const found: { range: string; device: string; path: string }[] = []
  for (const line of text.split('\n')) {
    const fields = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) [1-9]\d* +(\/.*)$/.exec(line)
    if (!fields) continue
    const [, from = '', to = '', major = '', minor = '', path = ''] = fields
    const device = `${Number.parseInt(major, 16)}:${Number.parseInt(minor, 16)}`
    // The names in map_files have no leading zeros.
    const range = [from, to].map(address => BigInt(`0x${address}`).toString(16)).join('-')
    found.push({ range, device, path: path.replace(/ \(deleted\)$/, '').replaceAll('\\012', '\n') })
  }
  return found
}

/** From the lines of /proc/PID/cgroup. */
export function containerOf(cgroups: string): string {
  const paths = cgroups.split('\n').map(line => line.slice(line.indexOf(':', line.indexOf(':') + 1) + 1))
  const id = /[0-9a-f]{64}/.exec(paths.join('\n'))?.[0]
  const deepest = paths.reduce((longest, path) => (path.length > longest.length ? path : longest), '')
  return id ?? deepest.split('/').at(-1) ?? ''
}

function isBelow(path: string, directory: string): boolean {
  return directory === '/' || path.startsWith(`${directory}/`)
}
