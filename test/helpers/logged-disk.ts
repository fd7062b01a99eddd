/**
 * A disk that remembers every write and flush in the order in which they reached it, and what of them is left after a
 * power cut: an image file behind QEMU's blklogwrites, exported by FUSE, below a loop device, with ext4 on it.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { until } from './lazy-node.js'

const SECTOR = 512
const MAGIC = 0x6a736677736872n
const FLUSH = 1
const DISCARD = 4

export class LoggedDisk {
  readonly mountpoint: string
  readonly logPath: string
  /** The disk as it was before the first logged write. */
  readonly before: Buffer
  readonly #image: string
  readonly #daemon: ChildProcess
  #loop = ''

  private constructor(directory: string, sizeBytes: number) {
    this.mountpoint = directory
    this.logPath = `${directory}.log`
    this.#image = `${directory}.raw`
    const exported = `${directory}.disk`
    writeFileSync(this.#image, '')
    truncateSync(this.#image, sizeBytes)
    const lazy = 'lazy_itable_init=0,lazy_journal_init=0'
    execFileSync('mkfs.ext4', ['-q', '-F', '-b', '4096', '-J', 'size=4', '-E', lazy, this.#image])
    this.before = readFileSync(this.#image)
    writeFileSync(this.logPath, '')
    writeFileSync(exported, '')
    this.#daemon = spawn(
      'qemu-storage-daemon',
      [
        ...['--blockdev', `driver=file,filename=${this.#image},node-name=disk`],
        ...['--blockdev', `driver=file,filename=${this.logPath},node-name=log`],
        ...['--blockdev', `driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=${SECTOR}`],
        ...['--export', `fuse,id=export,node-name=logged,mountpoint=${exported},writable=on`],
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    )
  }

  /** @param directory an empty one: the mountpoint; the disk's files get its name with an ending */
  static async start(directory: string, sizeBytes: number): Promise<LoggedDisk> {
    const disk = new LoggedDisk(directory, sizeBytes)
    const exported = `${directory}.disk`
    try {
      await until('the export of the disk', () => {
        if (disk.#daemon.exitCode !== null) throw new Error('qemu-storage-daemon ended')
        return readFileSync('/proc/mounts', 'utf8').includes(` ${exported} `)
      })
      disk.#loop = execFileSync('losetup', ['-f', '--show', exported], { encoding: 'utf8' }).trim()
      execFileSync('mount', ['-t', 'ext4', disk.#loop, directory])
      return disk
    } catch (err) {
      await disk.kill()
      throw err
    }
  }

  /** The disk fails for good: each read and write of it is an I/O error from now on. */
  async kill(): Promise<void> {
    const ended = once(this.#daemon, 'exit')
    if (this.#daemon.exitCode === null && this.#daemon.kill('SIGKILL')) await ended
  }

  /** Unmounts and ends everything. The image then holds all that was written. */
  async stop(): Promise<Buffer> {
    for (const command of [
      ['umount', '-l', this.mountpoint],
      ['losetup', '-d', this.#loop],
    ]) {
      try {
        execFileSync(command[0]!, command.slice(1), { stdio: 'ignore' })
      } catch {
        // Not that far yet, or already gone.
      }
    }
    if (this.#daemon.exitCode === null && this.#daemon.signalCode === null) {
      const ended = once(this.#daemon, 'exit')
      this.#daemon.kill('SIGTERM')
      await ended
    }
    return readFileSync(this.#image)
  }
}

/** One entry of a log in the format of dm-log-writes (drivers/md/dm-log-writes.c says it). */
export interface LogEntry {
  readonly kind: 'write' | 'discard' | 'flush'
  /** On the disk, in bytes. */
  readonly offset: number
  readonly data: Buffer
  /** Size of the log with this entry and all before it. */
  readonly logBytes: number
}

export function readLog(logPath: string): LogEntry[] {
  const log = readFileSync(logPath)
  const sector = log.readUInt32LE(24)
  if (log.readBigUInt64LE(0) !== MAGIC || sector !== SECTOR) throw new Error(`${logPath} is no write log`)
  const entries: LogEntry[] = []
  for (let at = SECTOR; at + SECTOR <= log.length;) {
    const [offset, length, flags] = [0, 8, 16].map(field => Number(log.readBigUInt64LE(at + field))) as [
      number,
      number,
      number,
    ]
    at += SECTOR
    const discard = (flags & DISCARD) !== 0
    const sizeBytes = length * SECTOR
    const data = discard ? Buffer.alloc(sizeBytes) : log.subarray(at, at + sizeBytes)
    if (!discard) at += sizeBytes
    const kind = discard ? 'discard' : (flags & FLUSH) !== 0 && length === 0 ? 'flush' : 'write'
    entries.push({ kind, offset: offset * SECTOR, data, logBytes: at })
  }
  return entries
}

/** What a disk holds after a power cut: `lost` drops and tears what no flush had made sure. */
export type Loss = 'nothing' | 'lost'

/**
 * Images of the disk at cuts that ascend. The bytes of `disk` are taken over.
 */
export class CutReplay {
  readonly #durable: Buffer
  readonly #entries: readonly LogEntry[]
  /** Entries before it are in `#durable`. */
  #done = 0

  constructor(disk: Buffer, entries: readonly LogEntry[]) {
    this.#durable = disk
    this.#entries = entries
  }

  /**
   * The disk after the first `count` entries. What was written before the last flush among them is there; of the rest
   * everything, or what `random` leaves of it: each write whole, gone, or a part of its sectors.
   */
  at(count: number, loss: Loss, random: () => number): Buffer {
    let flush = count - 1
    while (flush >= this.#done && this.#entries[flush]!.kind !== 'flush') flush--
    for (; this.#done < flush; this.#done++) apply(this.#durable, this.#entries[this.#done]!)
    const disk = Buffer.from(this.#durable)
    for (const entry of this.#entries.slice(this.#done, count)) {
      if (loss === 'nothing') apply(disk, entry)
      else tear(disk, entry, random)
    }
    return disk
  }
}

function apply(disk: Buffer, { data, offset }: LogEntry): void {
  data.copy(disk, offset)
}

function tear(disk: Buffer, entry: LogEntry, random: () => number): void {
  const fate = random()
  if (fate < 0.4) return
  if (fate < 0.8) return apply(disk, entry)
  for (let at = 0; at < entry.data.length; at += SECTOR) {
    if (random() < 0.5) entry.data.copy(disk, entry.offset + at, at, at + SECTOR)
  }
}

/** An image of a disk, mounted on a directory while `use` runs, which leaves nothing in it open unless it fails. */
export async function withDisk<T>(image: Buffer, directory: string, use: () => Promise<T>): Promise<T> {
  const file = `${directory}.raw`
  writeFileSync(file, image)
  execFileSync('mount', ['-t', 'ext4', '-o', 'loop', file, directory])
  let used = false
  try {
    const result = await use()
    used = true
    return result
  } finally {
    execFileSync('umount', used ? [directory] : ['-l', directory])
    rmSync(file)
  }
}
