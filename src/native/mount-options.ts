/** The options of a mount(8) command line, told apart: flags of mount(2), and what the file system itself reads. */
import { MS } from './mount.js'

/** Words that set a flag, and words that take one back. */
const SET: Readonly<Record<string, number>> = {
  bind: MS.BIND,
  dirsync: MS.DIRSYNC,
  mand: MS.MANDLOCK,
  noatime: MS.NOATIME,
  nodev: MS.NODEV,
  nodiratime: MS.NODIRATIME,
  noexec: MS.NOEXEC,
  nosuid: MS.NOSUID,
  rbind: MS.BIND | MS.REC,
  relatime: MS.RELATIME,
  remount: MS.REMOUNT,
  ro: MS.RDONLY,
  strictatime: MS.STRICTATIME,
  sync: MS.SYNCHRONOUS,
}
const CLEAR: Readonly<Record<string, number>> = {
  async: MS.SYNCHRONOUS,
  atime: MS.NOATIME,
  defaults: 0,
  dev: MS.NODEV,
  diratime: MS.NODIRATIME,
  exec: MS.NOEXEC,
  nomand: MS.MANDLOCK,
  norelatime: MS.RELATIME,
  nostrictatime: MS.STRICTATIME,
  rw: MS.RDONLY,
  suid: MS.NOSUID,
}

/** Of two words about one flag the later counts. */
export function parseMountOptions(options: readonly string[]): { flags: number; data: string[] } {
  let flags = 0
  const data: string[] = []
  for (const option of options) {
    const [set, clear] = [wordIn(SET, option), wordIn(CLEAR, option)]
    if (set !== undefined) flags |= set
    else if (clear !== undefined) flags &= ~clear
    else data.push(option)
  }
  return { flags, data }
}

function wordIn(words: Readonly<Record<string, number>>, option: string): number | undefined {
  return Object.hasOwn(words, option) ? words[option] : undefined
}
