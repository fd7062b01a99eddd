/**
 * Checks tables of a configuration against fastest-validator schemas and tells everything that is wrong at once, each
 * problem with the path of its key. No value of a text ever enters a message: it may be a secret.
 */
import FastestValidator, { type ValidationRule, type ValidationSchema } from 'fastest-validator'
import { fault } from './fault.js'

// The package is CommonJS: its class is the default export's own default under some loaders.
const Validator = FastestValidator.default ?? FastestValidator
const validator = new Validator({
  haltOnFirstError: false,
  useNewCustomCheckerFunction: true,
  messages: {
    required: '{field}: the key is missing',
    string: '{field}: text is wanted',
    stringEmpty: '{field}: it must not be empty',
    stringMax: '{field}: it may have {expected} characters',
    boolean: '{field}: true or false is wanted',
    array: '{field}: a list is wanted',
    object: '{field}: a table is wanted',
    record: '{field}: a table is wanted',
  },
})

/** Rules that schemas are made of. */
export const text = { type: 'string' } as const
export const filledText = { type: 'string', empty: false } as const
export const flag = { type: 'boolean' } as const
export const table = { type: 'object' } as const

export function wholeNumber(min: number, max: number) {
  const wanted = `{field}: ${min} to ${max} is wanted`
  const messages = {
    number: wanted,
    numberInteger: `${wanted}, not {actual}`,
    numberMin: `${wanted}, not {actual}`,
    numberMax: `${wanted}, not {actual}`,
  }
  return { type: 'number', integer: true, min, max, messages } as const
}

export function word(...values: readonly string[]) {
  return {
    type: 'enum',
    values,
    messages: { enumValue: `{field}: ${values.filter(Boolean).join(' or ')} is wanted` },
  } as const
}

export function list(items: object) {
  return { type: 'array', items } as const
}

export function pattern(expression: RegExp, wanted: string) {
  return { type: 'string', pattern: expression, messages: { stringPattern: `{field}: ${wanted} is wanted` } }
}

/** Of a rule, one for a key that may be missing; with a default that is then taken. */
export function optional<T extends object>(rule: T, value?: unknown): T & { optional: true } {
  return { ...rule, optional: true, ...(value === undefined ? {} : { default: value }) }
}

/** What checking a table found. Where there are no problems `value` fits the schema. */
export interface CheckedTable<T> {
  /** A copy, with defaults set, without unknown keys and without nulls, which count as missing. */
  readonly value: T
  readonly problems: readonly string[]
  /** Sentences about keys that the schema does not have. */
  readonly unknown: readonly string[]
}

/** Returns a checker of tables for `schema`. `path` is where the table stands in its document, empty for the whole. */
export function tableChecker<T>(schema: ValidationSchema): (raw: unknown, path: string) => CheckedTable<T> {
  const check = validator.compile(schema)
  return (raw, path) => {
    if (!isTable(raw))
      return { value: {} as T, problems: [`${path || 'the document'}: a table is wanted`], unknown: [] }
    const value = structuredClone(raw)
    const unknown: string[] = []
    prune(value, schema, path, unknown)
    const result = check(value)
    if (result instanceof Promise) throw fault('INTERNAL', 'a configuration schema must be synchronous')
    const problems = result === true ? [] : result.map(({ message = '', field }) => message || field)
    return { value: value as T, problems: problems.map(problem => join(path, problem)), unknown }
  }
}

/** Returns a checker that throws CONFIG_INVALID listing all problems, of which an unknown key is one. */
export function configChecker<T>(schema: ValidationSchema): (value: unknown, where: string) => T {
  const check = tableChecker<T>(schema)
  return (raw, where) => {
    const { value, problems, unknown } = check(raw, where)
    refuseProblems([...unknown, ...problems])
    return value
  }
}

/** @throws CONFIG_INVALID when there are any */
export function refuseProblems(problems: readonly string[]): void {
  if (problems.length > 0) throw fault('CONFIG_INVALID', problems.join('; '), { context: { problems } })
}

/** Takes nulls and unknown keys out of a table and of those in it whose keys the schema names. */
function prune(
  value: Record<string, unknown>,
  schema: ValidationSchema,
  path: string,
  unknown: string[],
): void {
  const known = Object.keys(schema).filter(key => !key.startsWith('$$'))
  for (const key of Object.keys(value)) {
    const entry = value[key]
    if (!known.includes(key)) unknown.push(`${join(path, shown(key))}: unknown key, ${hint(key, known)}`)
    if (entry === null || !known.includes(key)) Reflect.deleteProperty(value, key)
    else pruneEntry(entry, schema[key] as ValidationRule, join(path, key), unknown)
  }
}

function pruneEntry(entry: unknown, rule: ValidationRule, path: string, unknown: string[]): void {
  if (typeof rule !== 'object' || Array.isArray(rule)) return
  const { props, items } = rule as { props?: ValidationSchema; items?: ValidationRule }
  if (props && isTable(entry)) prune(entry, props, path, unknown)
  if (items && Array.isArray(entry))
    for (const [i, item] of entry.entries()) pruneEntry(item, items, `${path}[${i}]`, unknown)
}

function join(path: string, rest: string): string {
  return path === '' ? rest : `${path}.${rest}`
}

/** A key as a message may hold it. */
function shown(key: string): string {
  return /^[\w-]{1,80}$/.test(key) ? key : JSON.stringify(key.slice(0, 80))
}

function hint(key: string, known: readonly string[]): string {
  const near = nearest(key, known)
  return near === undefined ? `known keys are ${known.join(', ')}` : `did you mean "${near}"?`
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
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
