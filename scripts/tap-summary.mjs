// Reads TAP reports: prints what failed and what was skipped and why, and last three numbers: assertions that passed,
// that failed, and tests that were skipped.
import { readFileSync } from 'node:fs'

let passed = 0
let failed = 0
let skipped = 0
const failures = []
const skips = new Map()
for (const file of process.argv.slice(2)) {
  for (const line of readFileSync(file, 'utf8').split('\n')) {
    const match = /^ *(not ok|ok) \d+(?: - )?(.*)$/.exec(line)
    if (!match) continue
    const [, verdict, rest] = match
    const skip = /# SKIP ?(.*)$/i.exec(rest)
    if (skip) {
      skipped++
      const why = skip[1] || 'no reason given'
      skips.set(why, (skips.get(why) ?? 0) + 1)
    } else if (/# time=/.test(rest)) {
      // Sums up what stands indented above it: no assertion of its own.
    } else if (verdict === 'ok') {
      passed++
    } else {
      failed++
      failures.push(rest)
    }
  }
}
for (const [why, count] of skips) console.log(`skipped ${count}: ${why}`)
for (const failure of failures) console.log(`not ok ${failure}`)
console.log(`${passed} ${failed} ${skipped}`)
