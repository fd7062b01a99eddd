/**
 * Checks a configuration object against a fastest-validator schema and tells everything that is wrong with it at once,
 * with a suggestion for each unknown key.
 */
import FastestValidator, { type ValidationSchema } from 'fastest-validator'
import { fault } from './fault.js'

// The package is CommonJS: its class is the default export's own default under some loaders.
const Validator = FastestValidator.default ?? FastestValidator
const validator = new Validator({ haltOnFirstError: false, useNewCustomCheckerFunction: true })

/** Returns a checker of objects for `schema`. The checker throws CONFIG_INVALID listing all problems. */
export function configChecker<T>(schema: ValidationSchema): (value: unknown, where: string) => T {
  const keys = Object.keys(schema).filter(key => !key.startsWith('$$'))
  const check = validator.compile(schema)
  return (value, where) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw fault('CONFIG_INVALID', `${where} is not a table of keys and values: write it as one`)
    const problems = Object.keys(value)
      .filter(key => !keys.includes(key))
      .map(key => unknownKey(key, keys))
    const result = check(value)
    if (result instanceof Promise) throw fault('INTERNAL', 'a configuration schema must be synchronous')
    // The value itself stays out of the message: it may be a secret.
    if (result !== true)
      problems.push(...result.map(problem => problem.message ?? `${problem.field} is wrong`))
    if (problems.length === 0) return value as T
    throw fault('CONFIG_INVALID', `${where}: ${problems.join('; ')}`, { context: { where, problems } })
  }
}

function unknownKey(key: string, known: readonly string[]): string {
  const near = nearest(key, known)
  const hint = near === undefined ? `known keys are ${known.join(', ')}` : `did you mean "${near}"?`
  return `unknown key ${JSON.stringify(key.slice(0, 80))}, ${hint}`
}

/** The known word within a third of the word's length in edits; undefined when none is near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  if (word.length > 80) return undefined
  let best: string | undefined
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase())
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance]
  }
  return best
}

/** Insertions, deletions, replacements and swaps of neighbours. */
function editDistance(a: string, b: string): number {
  let before: number[] = []
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      const swapped = isSwap ? (before[j - 2] ?? 0) + 1 : Infinity
      next.push(Math.min(replaced, swapped, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    before = row
    row = next
  }
  return row[b.length] ?? 0
}
