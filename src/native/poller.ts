/**
 * poll(2) for descriptors that epoll through Node does not reach: a thread of the C library polls and writes to a pipe.
 */
import { Socket } from 'node:net'
import { fault } from '../common/fault.js'
import { checked, getLibrary } from './library.js'

/** Bits of poll(2). ERR, HUP and NVAL are told whether asked for or not. */
export const POLL = { IN: 0x1, OUT: 0x4, ERR: 0x8, HUP: 0x10, NVAL: 0x20 } as const

export interface Poller {
  /**
   * Polls once for these events and then tells `onReady`; nothing is polled before the first call and between the
   * telling and the next call. A call before the telling replaces the events.
   */
  arm(events: number): void
  /** Ends the thread and resolves when it has let go of the descriptor. Idempotent. */
  stop(): Promise<void>
  /** Lets the process end although the poller is running. */
  unref(): void
}

/**
 * Watches a duplicate of the descriptor, so that closing the original is harmless.
 * @param onReady told what {@link POLL} bits are set, and does not throw
 * @throws SYSCALL_FAILED (EBADF, EMFILE, EAGAIN)
 */
export function startPoller(fd: number, onReady: (revents: number) => void): Poller {
  const ends = Buffer.alloc(8)
  checked('start of a poll thread', getLibrary().nydus_start_poller(fd, ends), `for descriptor ${fd}`)
  const ready = new Socket({ fd: ends.readInt32LE(0), readable: true, writable: false })
  const rearm = new Socket({ fd: ends.readInt32LE(4), readable: false, writable: true })
  let stopping = false
  const ended = new Promise<void>((resolve, reject) => {
    ready.on('data', (bytes: Buffer) => {
      for (const revents of bytes) if (!stopping) onReady(revents)
    })
    ready.on('error', reject)
    rearm.on('error', reject)
    ready.on('end', () => {
      rearm.destroy()
      if (stopping) resolve()
      else reject(fault('INTERNAL', `poll thread of descriptor ${fd} ended by itself: report this`))
    })
  })
  return {
    arm: events => {
      if (!stopping) rearm.write(Uint8Array.of(events))
    },
    stop: () => {
      stopping = true
      ready.ref()
      rearm.destroy()
      return ended
    },
    unref: () => {
      ready.unref()
      rearm.unref()
    },
  }
}
