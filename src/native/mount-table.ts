import { readFileSync } from 'node:fs'

/** One line of mountinfo, proc(5): what is mounted where. */
export interface MountEntry {
  /** st_dev of its files: `major:minor`. */
  readonly device: string
  readonly mountpoint: string
  readonly fsType: string
  /** As the kernel shows it: the file or device, or `none`. */
  readonly source: string
  /** Options of the super block, comma-separated. */
  readonly superOptions: string
}

/** Parses mountinfo text; lines of a form that proc(5) does not describe are passed over. */
export function parseMountInfo(text: string): MountEntry[] {
  const entries: MountEntry[] = []
  for (const line of text.split('\n')) {
    const fields = line.split(' ')
    const separator = fields.indexOf('-', 6)
    const mountpoint = fields[4]
    if (separator < 0 || mountpoint === undefined) continue
    entries.push({
      device: fields[2] ?? '',
      mountpoint: unescape(mountpoint),
      fsType: fields[separator + 1] ?? '',
      source: unescape(fields[separator + 2] ?? ''),
      superOptions: fields[separator + 3] ?? '',
    })
  }
  return entries
}

export function readMountTable(): MountEntry[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'))
}

/** The mount that is visible at a path: the last one there. */
export function findMount(mountpoint: string): MountEntry | undefined {
  return readMountTable().findLast(entry => entry.mountpoint === mountpoint)
}

/** The FUSE mount that is visible at a path: of type `fuse`, or of one with a subtype. */
export function findFuseMount(mountpoint: string): MountEntry | undefined {
  const entry = findMount(mountpoint)
  return entry?.fsType === 'fuse' || entry?.fsType.startsWith('fuse.') ? entry : undefined
}

/** Spaces, tabs, newlines and backslashes stand as octal escapes. */
function unescape(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_match, octal: string) => String.fromCharCode(parseInt(octal, 8)))
}
