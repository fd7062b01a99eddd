/** Numbers and tables as a person reads them. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

export function bytesText(bytes: number): string {
  let [value, unit] = [bytes, 0]
  for (; value >= 1024 && unit < UNITS.length - 1; unit++) value /= 1024
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit] ?? ''}`
}

/** A name and its value a line, values below one another. */
export function pairsText(rows: readonly (readonly [name: string, value: string | number])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length)) + 2
  return rows.map(([name, value]) => `${`${name}:`.padEnd(width)}${value}\n`).join('')
}

/** Columns, the first to the left and all others to the right. */
export function columnsText(rows: readonly (readonly (string | number)[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map(row => String(row[i] ?? '').length)))
  return rows
    .map(row => {
      const cells = row.map((cell, i) =>
        i === 0 ? String(cell).padEnd(widths[i] ?? 0) : String(cell).padStart(widths[i] ?? 0),
      )
      return `${cells.join('  ').trimEnd()}\n`
    })
    .join('')
}

export function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}

/** Of the size classes in which reads are counted. */
export const SIZE_NAMES = ['<1K', '<4K', '<16K', '<64K', '<128K', '<512K', '<1M', '>=1M']
