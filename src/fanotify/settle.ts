import { closeSync, openSync } from 'node:fs'
import { duplicateOnto, getCloseOnExec } from '../native/descriptor.js'
import { encodeDeny } from '../native/fanotify-events.js'
import type { Miss } from './messages.js'

/** Writes an answer; false when the kernel knows no unanswered event of that number. */
export type Respond = (answer: Buffer) => boolean

/**
 * Settles what a killed predecessor left, before the first event is read.
 *
 * Answers are matched by descriptor number alone, so every number of a journalled event is occupied here first: no new
 * event can get it while the old one is unanswered. Whatever the predecessor had read but not journalled is denied
 * once; EROFS asks again page by page after a single denial, and its reader gets the right bytes (observed).
 *
 * @returns how to give back the number of a settled entry
 */
export function reserveAndDeny(
  entries: readonly Pick<Miss, 'eventFd'>[],
  descriptorLimit: number,
  respond: Respond,
): Reservation {
  const journalled = new Set(entries.map(entry => entry.eventFd))
  const reserved = new Set<number>()
  const filler = openSync('/dev/null', 'r')
  if (journalled.has(filler)) reserved.add(filler)
  for (const eventFd of journalled) {
    if (getCloseOnExec(eventFd) !== undefined) continue
    duplicateOnto(filler, eventFd)
    reserved.add(eventFd)
  }
  if (!reserved.has(filler)) closeSync(filler)
  let denied = 0
  for (let eventFd = 0; eventFd < descriptorLimit; eventFd++) {
    if (!journalled.has(eventFd) && respond(encodeDeny(eventFd, 'EIO'))) denied++
  }
  return {
    denied,
    release: eventFd => {
      if (reserved.delete(eventFd)) closeSync(eventFd)
    },
  }
}

export interface Reservation {
  /** How many events were denied because nothing was known of them. */
  readonly denied: number
  release(eventFd: number): void
}
