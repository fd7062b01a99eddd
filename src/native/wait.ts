/**
 * Work that may wait for a daemon: a thread of the C library does it and reports through a pipe, so that the main
 * thread never blocks. A thread that hangs is abandoned at its deadline; it keeps neither memory of ours nor the process.
 */
import { Socket } from 'node:net'
import { fault } from '../common/fault.js'
import { syscallFault } from './errno.js'
import { checked, getLibrary } from './library.js'

export interface JobOptions {
  /** How long to wait for the kernel, in milliseconds. */
  readonly timeoutMs: number
}

const REPLY_SIZE = 16

/**
 * Waits for a job that the C library started.
 * @param call what is being tried, for the sentence of a fault: `umount2 /mnt/x`
 * @param pipeFd result of a `nydus_job_*` function: the pipe's read end, or -errno
 * @returns the call's result, >= 0
 * @throws SYSCALL_FAILED with what the kernel said, NATIVE_TIMEOUT at the deadline
 */
export async function waitForJob(call: string, pipeFd: number, options: JobOptions): Promise<number> {
  const reply = await readToEnd(call, checked('start of a thread', pipeFd, `for ${call}`), options.timeoutMs)
  if (reply.length < REPLY_SIZE)
    throw fault('INTERNAL', `${call}: its thread ended without a reply of ${REPLY_SIZE} bytes: report this`)
  const result = Number(reply.readBigInt64LE(0))
  if (result >= 0) return result
  const text = reply.subarray(REPLY_SIZE, REPLY_SIZE + reply.readUInt32LE(8)).toString()
  const [failedCall = '', ...lines] = text.split('\n')
  const messages = parseContextMessages(lines)
  const said = messages.join('; ')
  const failure = syscallFault(`${call} failed: ${failedCall}`, -result, said && `(kernel: ${said})`)
  throw fault('SYSCALL_FAILED', failure.message, {
    context: { ...failure.context, call: failedCall, ...(said && { messages }) },
  })
}

/** Threads of jobs that have not ended, abandoned ones included; more than 256 are refused with EAGAIN. */
export function countLiveJobs(): number {
  return getLibrary().nydus_live_jobs()
}

/** The messages of a mount context without the level letter that the kernel puts before each: `e erofs: …`. */
export function parseContextMessages(lines: readonly string[]): string[] {
  return lines.filter(line => line !== '').map(line => line.replace(/^[ewi] /, ''))
}

function readToEnd(call: string, fd: number, timeoutMs: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const socket = new Socket({ fd, readable: true, writable: false })
    const timer = setTimeout(() => {
      socket.destroy()
      reject(
        fault(
          'NATIVE_TIMEOUT',
          `${call} did not return within ${timeoutMs} ms: see whether its daemon answers`,
          {
            context: { call, timeoutMs },
          },
        ),
      )
    }, timeoutMs)
    socket.on('data', chunk => chunks.push(chunk))
    socket.on('error', err => {
      clearTimeout(timer)
      reject(fault('INTERNAL', `${call}: the pipe to its thread failed: report this`, { cause: err }))
    })
    socket.on('end', () => {
      clearTimeout(timer)
      resolve(Buffer.concat(chunks))
    })
  })
}
