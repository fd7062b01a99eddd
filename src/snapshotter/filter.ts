/**
 * The filter language of List: `labels."containerd.io/snapshot.ref"==sha256:…,parent!=""`.
 *
 * A filter is a comma-separated list of selectors that must all match; of several filters one must. A selector is a
 * field path, and maybe an operator and a value; without them it asks whether the field is there. A malformed regular
 * expression matches nothing, as in containerd.
 */
import { fault } from '../common/fault.js'
import type { Info } from './snapshots.js'

export type Matcher = (info: Info) => boolean

/** @throws SNAPSHOT_INVALID with the place of the mistake */
export function parseFilters(filters: readonly string[]): Matcher {
  const alternatives = filters.map(parseFilter)
  return info => alternatives.length === 0 || alternatives.some(matches => matches(info))
}

function parseFilter(text: string): Matcher {
  if (text === '') return () => true
  const scanner = new Scanner(text)
  const selectors: Matcher[] = []
  do selectors.push(parseSelector(scanner))
  while (scanner.take(','))
  if (!scanner.atEnd) throw scanner.failure('a comma or the end')
  return info => selectors.every(matches => matches(info))
}

function parseSelector(scanner: Scanner): Matcher {
  const path = [scanner.field()]
  while (scanner.take('.')) path.push(scanner.field())
  if (scanner.take('==')) {
    const value = scanner.value()
    return info => fieldOf(info, path) === value
  }
  if (scanner.take('!=')) {
    const value = scanner.value()
    return info => fieldOf(info, path) !== value
  }
  if (scanner.take('~=')) {
    const pattern = compile(scanner.pattern())
    return info => {
      const value = fieldOf(info, path)
      return value !== undefined && pattern !== undefined && pattern.test(value)
    }
  }
  return info => fieldOf(info, path) !== undefined
}

/** The value of a field, `undefined` for one that is absent or that nobody knows. */
function fieldOf(info: Info, [first, ...rest]: readonly string[]): string | undefined {
  const key = rest.join('.')
  if (first === 'labels') return Object.hasOwn(info.labels, key) ? info.labels[key] : undefined
  if (rest.length > 0) return undefined
  if (first === 'name' || first === 'parent' || first === 'kind') return info[first]
  return undefined
}

/** RE2's leading flags and named groups are the two spellings of it in use that JavaScript writes otherwise. */
function compile(source: string): RegExp | undefined {
  const flags = /^\(\?([ims]+)\)/.exec(source)
  const body = source.slice(flags?.[0].length ?? 0).replaceAll('(?P<', '(?<')
  try {
    return new RegExp(body, `u${flags?.[1] ?? ''}`)
  } catch {
    return undefined
  }
}

class Scanner {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  get atEnd(): boolean {
    return this.#at === this.#text.length
  }

  take(token: string): boolean {
    if (!this.#text.startsWith(token, this.#at)) return false
    this.#at += token.length
    return true
  }

  field(): string {
    if (this.#text[this.#at] === '"') return this.#quoted('"')
    return this.#match(/[A-Za-z0-9_]+/y) ?? this.#fail('a field name')
  }

  value(): string {
    if (this.#text[this.#at] === '"') return this.#quoted('"')
    return this.#match(/[^\s,"]+/y) ?? this.#fail('a value')
  }

  pattern(): string {
    const quote = this.#text[this.#at]
    return quote === '/' || quote === '|' ? this.#quoted(quote) : this.value()
  }

  failure(expected: string): Error {
    return fault(
      'SNAPSHOT_INVALID',
      `cannot parse the filter ${JSON.stringify(this.#text)}: expected ${expected} at character ${this.#at}`,
    )
  }

  #fail(expected: string): never {
    throw this.failure(expected)
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at
    const text = pattern.exec(this.#text)?.[0]
    if (text !== undefined) this.#at += text.length
    return text
  }

  /** Quoted text. Between `"` all of Go's escapes count; between `/` or `|` only that of the quote itself. */
  #quoted(quote: string): string {
    this.#at++
    let out = ''
    for (;;) {
      const char = this.#text[this.#at]
      if (char === undefined) this.#fail(`the closing ${quote}`)
      if (quote === '"' && char === '\n') this.#fail(`the closing ${quote} on the same line`)
      this.#at++
      if (char === quote) return out
      if (char !== '\\') out += char
      else if (this.take(quote)) out += quote
      else out += quote === '"' ? this.#escape() : char
    }
  }

  /** What stands after a backslash in a quoted string of Go; `\x` and octal escapes name one byte. */
  #escape(): string {
    const simple = SIMPLE_ESCAPES[this.#text[this.#at] ?? '']
    if (simple !== undefined) {
      this.#at++
      return simple
    }
    const hex = this.#match(/x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}/y)
    const octal = hex === undefined ? this.#match(/[0-3][0-7]{2}/y) : undefined
    const code = hex !== undefined ? parseInt(hex.slice(1), 16) : parseInt(octal ?? '', 8)
    if (Number.isNaN(code) || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) this.#fail('an escape')
    return String.fromCodePoint(code)
  }
}

const SIMPLE_ESCAPES: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
}
