/**
 * A reader of one image, a process of its own: reads every page once in an order of its own, and looks at every byte.
 *
 *   node reader.js '{"root": …, "plan": …, "seed": …, "pagesARead": …, "thinkMs": …}'
 *
 * Tells on standard output, a JSON object a line: what was wrong, how long slow reads took, how many there were.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { type ImagePlan, judgePage, PAGE, seededRandom, shuffle } from './content.js'

export interface ReaderTask {
  readonly root: string
  readonly plan: ImagePlan
  readonly seed: number
  readonly pagesARead: number
  /** Mean of the pause after each read. */
  readonly thinkMs: number
}

export type ReaderLine =
  | {
      readonly kind: 'failed' | 'wrong' | 'zero'
      readonly path: string
      readonly page: number
      readonly detail: string
    }
  /** Milliseconds of the monotonic clock. */
  | { readonly kind: 'slow'; readonly fromMs: number; readonly toMs: number }
  /** Since the last such line. */
  | { readonly kind: 'reads'; readonly reads: number; readonly pages: number }
  | { readonly kind: 'done' }

const SLOW_MS = 20
const REPORT_MS = 500

const nowMs = (): number => Number(process.hrtime.bigint() / 1000n) / 1000
const say = (line: ReaderLine): void => void writeSync(1, `${JSON.stringify(line)}\n`)

const task = JSON.parse(process.argv[2] ?? '') as ReaderTask
const { plan, root, pagesARead } = task
const random = seededRandom(task.seed)
const clock = new Int32Array(new SharedArrayBuffer(4))
const buffer = Buffer.alloc(pagesARead * PAGE)
const expected = Buffer.alloc(PAGE)
let reads = 0
let pages = 0
let reportedMs = nowMs()

const places = plan.files.flatMap(file =>
  Array.from({ length: Math.ceil(file.pages / pagesARead) }, (_, index) => ({
    file,
    page: index * pagesARead,
  })),
)
for (const { file, page } of shuffle(places, random)) {
  const fromMs = nowMs()
  let length = 0
  try {
    const fd = openSync(join(root, file.path), 'r')
    try {
      length = readSync(fd, buffer, 0, buffer.length, page * PAGE)
    } finally {
      closeSync(fd)
    }
    const wanted = Math.min(pagesARead, file.pages - page) * PAGE
    if (length !== wanted)
      say({ kind: 'failed', path: file.path, page, detail: `${length} of ${wanted} bytes were read` })
  } catch (err) {
    say({ kind: 'failed', path: file.path, page, detail: String(err) })
  }
  const toMs = nowMs()
  if (toMs - fromMs >= SLOW_MS) say({ kind: 'slow', fromMs, toMs })
  reads++
  for (let at = 0; at + PAGE <= length; at += PAGE) {
    const number = page + at / PAGE
    const got = buffer.subarray(at, at + PAGE)
    const verdict = judgePage(got, expected, [plan.image, file.file, number])
    if (verdict !== 'right')
      say({ kind: verdict, path: file.path, page: number, detail: got.subarray(0, 32).toString('hex') })
    pages++
  }
  if (toMs - reportedMs >= REPORT_MS) {
    say({ kind: 'reads', reads, pages })
    reads = pages = 0
    reportedMs = toMs
  }
  Atomics.wait(clock, 0, 0, random() * 2 * task.thinkMs)
}
say({ kind: 'reads', reads, pages })
say({ kind: 'done' })
