/** A line about what happens now; with the time since the start, so that slow steps show. */
export function say(text: string): void {
  const seconds = (performance.now() / 1000).toFixed(1).padStart(6)
  process.stdout.write(`demo ${seconds} s  ${text}\n`)
}

export function mebibytes(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(1)} MiB`
}

/** Aligned columns, the first row being the heads. */
export function table(rows: string[][]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0)))
  const line = (row: string[]): string =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd()
  const rule = widths.map(width => '-'.repeat(width)).join('  ')
  return rows.map((row, i) => (i === 0 ? `${line(row)}\n${rule}` : line(row))).join('\n')
}
