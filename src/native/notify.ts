/**
 * sd_notify(3): telling a service manager something, and its descriptor store. nydus-holder speaks the store's half of it
 * too, so that one client serves both.
 */
import { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { fault, hasErrno } from '../common/fault.js'
import { checked, cString, getLibrary } from './library.js'
import type { JobOptions } from './wait.js'

/**
 * Tells the service manager something (sd_notify(3)): `READY=1`, or `FDSTORE=1\nFDNAME=…` with descriptors to keep.
 * @param socketPath `$NOTIFY_SOCKET`; a leading `@` means an abstract name
 * @throws SYSCALL_FAILED: ENOENT, ECONNREFUSED (nobody listens), EAGAIN (its queue is full), EINVAL (path too long)
 */
export function notifyServiceManager(socketPath: string, message: string, fds: readonly number[] = []): void {
  const numbers = Buffer.alloc(fds.length * 4)
  fds.forEach((fd, i) => numbers.writeInt32LE(fd, i * 4))
  const result = getLibrary().nydus_notify(cString(socketPath), cString(message), numbers, fds.length)
  checked('notification', result, `of ${socketPath}`)
}

/**
 * Hands a duplicate of the descriptor to the store; it is there after the next barrier.
 * @param name 1 to 255 printable ASCII characters without a colon; systemd keeps several of one name
 * @throws as `notifyServiceManager`; EAGAIN after the time that is given
 */
export async function storeDescriptor(
  socketPath: string,
  name: string,
  fd: number,
  options: JobOptions,
): Promise<void> {
  // It would poll them, and drop a FUSE device whose connection somebody aborted.
  const message = `FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`
  await patiently(options, () => notifyServiceManager(socketPath, message, [fd]))
}

/** Takes what has that name out of the store. @throws as `storeDescriptor` */
export async function removeDescriptor(socketPath: string, name: string, options: JobOptions): Promise<void> {
  await patiently(options, () => notifyServiceManager(socketPath, `FDSTOREREMOVE=1\nFDNAME=${name}`))
}

/**
 * Resolves when everything that was sent before is done (sd_notify_barrier(3)).
 * @throws SYSCALL_FAILED as `storeDescriptor`, NATIVE_TIMEOUT, HOLDER_UNAVAILABLE when the store says that it could not
 */
export async function storeBarrier(socketPath: string, options: JobOptions): Promise<void> {
  const pipe = await patiently(options, () =>
    checked('barrier', getLibrary().nydus_barrier(cString(socketPath)), `of ${socketPath}`),
  )
  await new Promise<void>((resolve, reject) => {
    const socket = new Socket({ fd: pipe, readable: true, writable: false })
    const fail = (err: Error): void => {
      clearTimeout(timer)
      socket.destroy()
      reject(err)
    }
    const timer = setTimeout(() => {
      const sentence = `${socketPath} did not answer within ${options.timeoutMs} ms: see whether its process runs`
      fail(fault('NATIVE_TIMEOUT', sentence, { context: { call: 'barrier', timeoutMs: options.timeoutMs } }))
    }, options.timeoutMs)
    // systemd writes nothing; our holder a byte when it cannot say what it holds.
    socket.on('data', () =>
      fail(fault('HOLDER_UNAVAILABLE', `${socketPath} cannot keep descriptors: see its log`)),
    )
    socket.on('error', fail)
    socket.on('end', () => {
      clearTimeout(timer)
      resolve()
    })
  })
}

/** Its queue is short, and it may be busy: a full one is waited for. */
async function patiently<T>({ timeoutMs }: JobOptions, send: () => T): Promise<T> {
  for (const deadlineMs = Date.now() + timeoutMs; ; await delay(1)) {
    try {
      return send()
    } catch (err) {
      if (!hasErrno(err, 'EAGAIN') || Date.now() > deadlineMs) throw err
    }
  }
}
