const UNITS_NS: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  μs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
}

/** Milliseconds of a duration as Go writes it: `24h`, `1m30s`, `-1.5h`, `0`. `undefined` for anything else. */
export function parseDurationMs(text: string): number | undefined {
  const match = /^([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0)$/.exec(text)
  if (!match) return undefined
  const [, sign, body = ''] = match
  let ns = 0
  for (const [, amount, unit = ''] of body.matchAll(/([\d.]+)([a-zµμ]+)/g))
    ns += Number(amount) * (UNITS_NS[unit] ?? 0)
  return ((sign === '-' ? -1 : 1) * ns) / 1e6
}
