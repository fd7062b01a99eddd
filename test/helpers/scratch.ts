import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Test } from 'tap'
import { unmountBelow } from './containerd.js'

/** Reason to skip what only root may do; false for root. */
export const rootMissing = process.geteuid?.() === 0 ? false : 'needs root'

/** A directory of the test's own. Whatever is still mounted below it is unmounted when the test ends, and it is removed. */
export function scratch(t: Pick<Test, 'teardown'>): string {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'nydus-test-'))
  t.teardown(() => {
    unmountBelow(directory)
    rmSync(directory, { recursive: true, force: true })
  })
  return directory
}

/** Matches the fault of a system call that failed with that errno. */
export function syscallFailure(errno: string, call?: string): { code: string; context: object } {
  return { code: 'SYSCALL_FAILED', context: { errno, ...(call !== undefined && { call }) } }
}
