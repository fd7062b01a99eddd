import { constants } from 'node:os'
import { getSystemErrorMap } from 'node:util'
import { Fault, fault } from '../common/fault.js'

/** Errors that mounts, caches and FUSE really return and that Node does not name. */
const UNNAMED: Readonly<Record<string, readonly [number, string]>> = {
  ENOTBLK: [15, 'block device required'],
  EBADFD: [77, 'file descriptor in bad state'],
  EREMOTEIO: [121, 'remote I/O error'],
  EUCLEAN: [117, 'structure needs cleaning: the image is damaged'],
  ESHUTDOWN: [108, 'transport endpoint is shut down'],
}

const numbers = new Map<string, number>(Object.entries(constants.errno))
for (const [name, [number]] of Object.entries(UNNAMED)) numbers.set(name, number)

// Where two names share a number, the first stays: those of the manual pages.
const names = new Map<number, string>([
  [numbers.get('EAGAIN')!, 'EAGAIN'],
  [numbers.get('EOPNOTSUPP')!, 'EOPNOTSUPP'],
])
for (const [name, number] of numbers) if (!names.has(number)) names.set(number, name)

/** Linux's name of an errno: `EBUSY` for 16; `E<number>` for one without a name. */
export function errnoName(number: number): string {
  return names.get(number) ?? `E${number}`
}

/**
 * The number of an errno name: 16 for `EBUSY`.
 * @throws USAGE for a name that does not exist
 */
export function errnoNumber(name: string): number {
  const number = numbers.get(name)
  if (number === undefined) throw fault('USAGE', `errno ${name} does not exist: use a name of errno(3)`)
  return number
}

/** What an errno means, in words. */
export function errnoText(number: number): string {
  const name = errnoName(number)
  return UNNAMED[name]?.[1] ?? getSystemErrorMap().get(-number)?.[1] ?? 'unknown error'
}

/** A failed system call: `<call> <detail>: EBUSY, resource busy or locked`, with errno in the context. */
export function syscallFault(call: string, number: number, detail = ''): Fault {
  const errno = errnoName(number)
  return fault('SYSCALL_FAILED', `${call}${detail && ` ${detail}`}: ${errno}, ${errnoText(number)}`, {
    context: { errno, errnoNumber: number, call },
  })
}
