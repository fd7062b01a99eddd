/** Mending the files of a LevelDB that cannot be read. */
import { cpSync, readdirSync, rmSync } from 'node:fs'
import { ClassicLevel } from 'classic-level'
import { fault } from './fault.js'

/** What LevelDB says of files that are wrong or missing: CURRENT alone, or any other. */
const MISSING = /does not exist \(create_if_missing is false\)|No such file or directory/
const WRONG = /^Corruption|truncated|checksum|bad block|malformed|\.ldb: Invalid argument/i

/** True for an error of opening or reading that a repair may mend, which a full or read-only disk is not. */
export function isDamage(err: unknown): boolean {
  if (!(err instanceof Error)) return false
  const isCorrupt = 'code' in err && err.code === 'LEVEL_CORRUPTION'
  return isCorrupt || MISSING.test(err.message) || WRONG.test(err.message) || isDamage(err.cause)
}

/** True for a directory with files of a LevelDB: it would take one without CURRENT for a new one. */
export function holdsData(directory: string): boolean {
  return readdirSync(directory).some(name => /^MANIFEST-|\.(ldb|log)$/.test(name))
}

/**
 * Makes the files of a LevelDB readable again; a copy of what was found stays beside it.
 * @param reason what is wrong with them
 * @returns a sentence about it
 * @throws STORE_DAMAGED
 */
export async function repairLevel(directory: string, reason: string): Promise<string> {
  const copy = `${directory}.damaged`
  try {
    rmSync(copy, { recursive: true, force: true })
    cpSync(directory, copy, { recursive: true })
    await ClassicLevel.repair(directory)
  } catch (err) {
    const next = `restore ${directory} from a copy, or move it and the directory snapshots beside it away and pull again`
    throw fault('STORE_DAMAGED', `the state in ${directory} cannot be repaired (${reason}): ${next}`, {
      cause: err,
    })
  }
  return `the state in ${directory} could not be read (${reason}) and was repaired; a copy of before is in ${copy}`
}
