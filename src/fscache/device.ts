import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { fault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { POLL, type Poller, startPoller } from '../native/poller.js'
import { type CachefilesMessage, MESSAGE_MAX_BYTES, parseMessage } from './protocol.js'

const DEVICE = '/dev/cachefiles'
const CULLING_PAUSE_MS = 5000

export interface DeviceOptions {
  /** Cache root handed to the kernel: needs O_TMPFILE, user xattrs, direct I/O. */
  directory: string
  /** Kernel cache tag, optional. */
  tag?: string
  /** The control descriptor of a predecessor: its cache is taken over with `restore`. */
  keptFd?: number
}

/**
 * The control descriptor of /dev/cachefiles: one cache in on-demand mode. Exclusive: while it or any object descriptor
 * is open nobody else can bind.
 */
export class CachefilesDevice {
  readonly fd: number
  readonly #restored: boolean
  readonly #buffer = Buffer.alloc(MESSAGE_MAX_BYTES)
  #poller: Poller | undefined

  /** @throws DRIVER_UNSUPPORTED when the kernel has no on-demand mode or the directory cannot serve as a cache */
  constructor(options: DeviceOptions) {
    this.#restored = options.keptFd !== undefined
    this.fd = options.keptFd ?? openDevice()
    if (this.#restored) return
    try {
      this.command(`dir ${options.directory}`)
      if (options.tag !== undefined) this.command(`tag ${options.tag}`)
      this.command('bind ondemand')
    } catch (err) {
      closeSync(this.fd)
      throw fault('DRIVER_UNSUPPORTED', bindSentence(err, options.directory), { cause: err })
    }
  }

  /** Begins to deliver messages. After a take-over every unanswered request comes again. */
  start(onMessage: (message: CachefilesMessage) => void, onCullingWanted: () => void, logger: Logger): void {
    let nextCullingMs = 0
    const arm = (): void => poller.arm(Date.now() < nextCullingMs ? POLL.IN : POLL.IN | POLL.OUT)
    const poller = startPoller(this.fd, revents => {
      if (revents & POLL.IN) this.#drain(onMessage, logger)
      if (revents & POLL.OUT) {
        // The device stays writable until space is freed, which takes the kernel a while, or is impossible.
        nextCullingMs = Date.now() + CULLING_PAUSE_MS
        setTimeout(arm, CULLING_PAUSE_MS).unref()
        onCullingWanted()
      }
      arm()
    })
    this.#poller = poller
    if (this.#restored) this.command('restore')
    arm()
  }

  /** Writes one command; each write(2) is one. */
  command(text: string): void {
    writeSync(this.fd, text)
  }

  async stop(): Promise<void> {
    await this.#poller?.stop()
    this.#poller = undefined
  }

  /** The device never blocks: no message is a read of 0 bytes, which is no end of file. */
  #drain(onMessage: (message: CachefilesMessage) => void, logger: Logger): void {
    for (;;) {
      const length = readSync(this.fd, this.#buffer, 0, this.#buffer.length, null)
      if (length === 0) return
      try {
        onMessage(parseMessage(this.#buffer.subarray(0, length)))
      } catch (err) {
        logger.error({ err }, 'a cachefiles message was not understood')
      }
    }
  }
}

function openDevice(): number {
  try {
    return openSync(DEVICE, constants.O_RDWR)
  } catch (err) {
    if (hasErrno(err, 'EBUSY')) {
      throw fault('DRIVER_UNSUPPORTED', `${DEVICE} is held by another daemon: stop it first`, { cause: err })
    }
    throw fault(
      'DRIVER_UNSUPPORTED',
      `cannot open ${DEVICE}: load the module cachefiles, or use another driver`,
      {
        cause: err,
      },
    )
  }
}

function bindSentence(err: unknown, directory: string): string {
  if (hasErrno(err, 'EINVAL')) return 'this kernel has cachefiles, but not its on-demand mode'
  return `the kernel refuses ${directory} as a cache: it needs a writable ext4 or xfs with user xattrs`
}
