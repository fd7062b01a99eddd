/**
 * Collecting garbage before V8 would, in work that takes in gigabytes and is to stay small: V8 weighs its own objects, and
 * lets buffers outside of its heap lie until there are 64 MiB of them.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

type Collect = (options?: { type: 'minor' }) => void
let collect: Collect | undefined
let keptBytes = 0

/**
 * Frees what nobody holds any more; of what is young alone it takes less than a millisecond. V8 frees the memory of buffers
 * on another thread: it is gone for certain, and no longer counted, when the next collection begins.
 */
export function collectGarbage(which: 'young' | 'all'): void {
  if (collect === undefined) {
    setFlagsFromString('--expose-gc')
    collect = runInNewContext('gc') as Collect
  }
  if (which === 'young') collect({ type: 'minor' })
  else collect()
}

const SLACK_BYTES = 16 * 1024 * 1024

/** Collects all garbage where buffers have grown by more than `slackBytes` since this was done the last time. */
export function limitBufferGarbage(slackBytes = SLACK_BYTES): void {
  const { arrayBuffers } = process.memoryUsage()
  keptBytes = Math.min(keptBytes, arrayBuffers)
  if (arrayBuffers <= keptBytes + slackBytes) return
  collectGarbage('all')
  collectGarbage('young') // waits for the memory the first one frees, which would be counted as kept
  keptBytes = process.memoryUsage().arrayBuffers
}

/**
 * Keeps the space for V8's young objects as small as it is. V8 takes what is kept for a reason to let it grow, to 48 MiB,
 * and buffers that nobody needs any more wait until it is full. For all threads of the process; V8 forgets it whenever one
 * is started.
 */
export function keepYoungSpaceSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1')
}
