/** The program `nydusd` as a file: what it is, and how the configured one is replaced. */
import { execFile } from 'node:child_process'
import { accessSync, constants, realpathSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { isAbsolute } from 'node:path'
import { promisify } from 'node:util'
import { asFault, fault } from '../common/fault.js'
import { readVersion } from '../common/version.js'

/** Node alone needs seconds on an emulated processor. */
const VERSION_TIMEOUT_MS = 60_000

/** @throws FILE_MISSING for what cannot be run */
export function checkProgram(nydusdPath: string): void {
  if (!isAbsolute(nydusdPath))
    throw fault('FILE_MISSING', `nydusd_path ${JSON.stringify(nydusdPath)} is not absolute: write it in full`)
  try {
    accessSync(nydusdPath, constants.X_OK)
  } catch (err) {
    throw fault('FILE_MISSING', `${nydusdPath} is no program that can be run: ${asFault(err).message}`, {
      cause: err,
    })
  }
}

/**
 * The commit that a program was built of, as a daemon of it tells.
 * @param nydusdPath ours when empty
 * @returns undefined where it is not known
 * @throws DAEMON_START when the program cannot be asked
 */
export async function readProgramCommit(nydusdPath: string): Promise<string | undefined> {
  const commit = nydusdPath === '' ? readVersion().revision : await askCommit(nydusdPath)
  return commit === 'unknown' ? undefined : commit
}

async function askCommit(nydusdPath: string): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)(nydusdPath, ['--version'], { timeout: VERSION_TIMEOUT_MS })
    return /^Git Commit:\s*(\S+)/m.exec(stdout)?.[1]
  } catch (err) {
    throw fault('DAEMON_START', `${nydusdPath} --version does not run: ${asFault(err).message}`, {
      cause: err,
    })
  }
}

/** Puts a link to the program where the configured one is, atomically, so that it stays after a restart. */
export function linkProgram(configured: string, nydusdPath: string): void {
  if (isSame(configured, nydusdPath)) return
  const temporary = `${configured}.tmp`
  rmSync(temporary, { force: true })
  symlinkSync(nydusdPath, temporary)
  renameSync(temporary, configured)
}

function isSame(a: string, b: string): boolean {
  try {
    return realpathSync(a) === realpathSync(b)
  } catch {
    return false
  }
}
