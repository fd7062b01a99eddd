import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'

/** Reads random ranges past the page cache, and compares each with a copy elsewhere, until its input ends. */
const SCRIPT = `
import json, os, random, select, sys, time
mounted, copy = sys.argv[1:3]
size = os.path.getsize(copy)
expected = os.open(copy, os.O_RDONLY)
reads = wrong = errors = 0
longest = 0.0
last = ''
while True:
    ended = select.select([0], [], [], 0.002)[0]
    if ended:
        break
    at = random.randrange(0, size) // 4096 * 4096
    began = time.monotonic()
    try:
        fd = os.open(mounted, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        data = os.pread(fd, 16384, at)
        os.close(fd)
        if data != os.pread(expected, 16384, at):
            wrong += 1
    except OSError as err:
        errors += 1
        last = str(err)
    longest = max(longest, time.monotonic() - began)
    reads += 1
print(json.dumps({'reads': reads, 'wrong': wrong, 'errors': errors, 'last': last, 'longestMs': round(longest * 1000)}))
`

export interface ReadCounts {
  reads: number
  wrong: number
  errors: number
  last: string
  longestMs: number
}

export interface SteadyReader {
  /** Ends it. */
  counts(): Promise<ReadCounts>
}

/** A process that reads `file` of a mount on and on; `copy` holds what is right. It ends with the test. */
export function startSteadyReader(t: Pick<Test, 'teardown'>, file: string, copy: string): SteadyReader {
  const child: ChildProcess = spawn('python3', ['-c', SCRIPT, file, copy], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  let text = ''
  child.stdout?.on('data', (part: Buffer) => (text += part.toString()))
  const closed = once(child, 'close')
  return {
    async counts() {
      child.stdin?.end()
      await closed
      return JSON.parse(text) as ReadCounts
    },
  }
}
