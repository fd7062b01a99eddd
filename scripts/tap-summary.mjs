// Reads a TAP report of tap: prints a line for each test file and what failed or was skipped in it, and last three
// numbers: assertions that passed, that failed, and tests that were skipped.
import { readFileSync } from 'node:fs'

let passed = 0
let failed = 0
let skipped = 0
const failures = []
const skips = new Map()
for (const line of readFileSync(process.argv[2], 'utf8').split('\n')) {
  const match = /^( *)(not ok|ok) \d+(?: - )?(.*)$/.exec(line)
  if (!match) continue
  const [, indent, verdict, rest] = match
  const skip = /# SKIP ?(.*)$/i.exec(rest)
  const todo = /# TODO/i.test(rest)
  // A line that sums up what stands indented above it is no assertion of its own; it ends with its time.
  const summary = /# time=/.test(rest)
  if (indent === '' && !skip)
    console.log(`${verdict === 'ok' ? 'ok    ' : 'FAILED'} ${rest.replace(/ # time=.*/, '')}`)
  if (skip) {
    skipped++
    const why = skip[1] || 'no reason given'
    skips.set(why, (skips.get(why) ?? 0) + 1)
  } else if (summary || todo) {
    continue
  } else if (verdict === 'ok') {
    passed++
  } else {
    failed++
    failures.push(rest)
  }
}
for (const [why, count] of skips) console.log(`skipped ${count}: ${why}`)
for (const failure of failures) console.log(`not ok ${failure}`)
console.log(`${passed} ${failed} ${skipped}`)
