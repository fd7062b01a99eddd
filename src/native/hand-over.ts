/**
 * A daemon hands what it holds to a supervisor, and its successor takes it from there (nydusd's fail-over protocol): the
 * daemon is the client of the supervisor's socket, and bytes and one descriptor (SCM_RIGHTS) go one way until the end.
 */
import { closeSync, fstatSync, readSync } from 'node:fs'
import { cString, getLibrary } from './library.js'
import { type JobOptions, waitForJob } from './wait.js'

/**
 * Sends the bytes and a duplicate of the descriptor to whoever listens on the socket.
 * @param bytes - 1 to 64 MiB
 * @throws SYSCALL_FAILED: ENOENT, ECONNREFUSED (nobody listens), EAGAIN (nobody reads), EPIPE; NATIVE_TIMEOUT
 */
export async function sendState(
  socketPath: string,
  bytes: Uint8Array,
  fd: number,
  options: JobOptions,
): Promise<void> {
  // Of its own memory: its address is asked for.
  const copy = Buffer.alloc(bytes.length, bytes)
  const pipeFd = getLibrary().nydus_job_send_state(cString(socketPath), copy, copy.length, fd)
  await waitForJob(`sending of state to ${socketPath}`, pipeFd, options)
}

/**
 * Takes bytes and descriptor (close-on-exec, the caller's) from whoever listens on the socket.
 * @throws SYSCALL_FAILED: ENOENT, ECONNREFUSED, EAGAIN (nothing came), EBADMSG (not one descriptor); NATIVE_TIMEOUT
 */
export async function receiveState(
  socketPath: string,
  options: JobOptions,
): Promise<{ bytes: Buffer; fd: number }> {
  const pipeFd = getLibrary().nydus_job_receive_state(cString(socketPath))
  const both = await waitForJob(`receiving of state from ${socketPath}`, pipeFd, options)
  const file = both % 2 ** 32
  try {
    const bytes = Buffer.alloc(fstatSync(file).size)
    for (let done = 0; done < bytes.length;) done += readSync(file, bytes, done, bytes.length - done, done)
    return { bytes, fd: Math.floor(both / 2 ** 32) }
  } finally {
    closeSync(file)
  }
}
