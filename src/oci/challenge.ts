/** WWW-Authenticate of a registry's 401 (RFC 9110 11.6.1): a list of challenges, each a scheme and parameters. */

export interface Challenge {
  /** Lower-case: `basic`, `bearer`. */
  readonly scheme: string
  /** Names lower-case. */
  readonly parameters: ReadonlyMap<string, string>
}

const MAX_HEADER = 8192
const TOKEN = /[A-Za-z0-9!#$%&'*+.^_`|~-]+/y
const SPACE = /[ \t]*/y
const SEPARATORS = /[ \t,]*/y
const QUOTED = /"((?:[^"\\]|\\[^])*)"/y
/** An unquoted value; wider than the grammar, as registries send URLs and scopes unquoted. */
const BARE = /[^\s,"]+/y
const TOKEN68 = /[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))/y

/** Parses the header; what cannot be read ends the list. Never throws. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = []
  if (header.length > MAX_HEADER) return challenges
  const cursor = new Cursor(header)
  cursor.take(SEPARATORS)
  while (!cursor.done) {
    const scheme = cursor.take(TOKEN)
    if (scheme === undefined) return challenges
    const parameters = new Map<string, string>()
    challenges.push({ scheme: scheme.toLowerCase(), parameters })
    const spaced = cursor.take(SPACE) !== ''
    if (spaced && cursor.peekParameter() === undefined) cursor.take(TOKEN68)
    for (;;) {
      cursor.take(SEPARATORS)
      const name = cursor.peekParameter()
      if (name === undefined) break
      const value = cursor.takeParameter()
      if (value === undefined) return challenges
      if (!parameters.has(name)) parameters.set(name, value)
    }
  }
  return challenges
}

class Cursor {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  get done(): boolean {
    return this.#at >= this.#text.length
  }

  take(pattern: RegExp): string | undefined {
    return this.#match(pattern)?.[0]
  }

  /** The name before the next `=`, lower-case, without moving. */
  peekParameter(): string | undefined {
    const start = this.#at
    const name = this.take(TOKEN)
    this.take(SPACE)
    const isParameter = name !== undefined && this.#text[this.#at] === '='
    // `Negotiate abc==` is a token68, not a parameter.
    const isPadding = isParameter && /^=*[ \t]*(?:,|$)/.test(this.#text.slice(this.#at, this.#at + 4))
    this.#at = start
    return isParameter && !isPadding ? name.toLowerCase() : undefined
  }

  takeParameter(): string | undefined {
    this.take(TOKEN)
    this.take(SPACE)
    this.#at++
    this.take(SPACE)
    const quoted = this.#match(QUOTED)?.[1]
    if (quoted !== undefined) return quoted.replace(/\\([^])/g, '$1')
    return this.take(BARE)
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at
    const match = pattern.exec(this.#text)
    if (!match) return undefined
    this.#at += match[0].length
    return match
  }
}
