/** The readers of an image, all of them processes: ours, fio by read(2) and by mmap(2), sha256sum. */
import { type ChildProcess, spawn } from 'node:child_process'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { seededRandom, sha256Of } from './content.js'
import { FIO_FILE, type StormImage } from './image.js'
import type { ReaderLine, ReaderTask } from './reader.js'
import type { Findings } from './findings.js'

const READER = path.join(import.meta.dirname, 'reader.js')
/** A reader that tells nothing for so long waits for somebody who will not come. */
const STUCK_MS = 60_000

export interface Readers {
  /** Resolves when each has read what it wanted. */
  readonly done: Promise<unknown>
  /** Ends them, in the middle of a read maybe. */
  stop(): Promise<void>
}

export interface ReaderPace {
  /** Pages; of ours that read one page each. */
  readonly random: number
  /** Of ours that read 16 pages each. */
  readonly large: number
  readonly thinkMs: number
}

export function startReaders(
  root: string,
  image: StormImage,
  seed: number,
  pace: ReaderPace,
  findings: Findings,
): Readers {
  const running: Running[] = []
  const random = seededRandom(seed)
  const ours = (pagesARead: number): void => {
    const task: ReaderTask = {
      root,
      plan: image.plan,
      seed: Math.floor(random() * 2 ** 32),
      pagesARead,
      thinkMs: pace.thinkMs,
    }
    running.push(watchOurs(spawn(process.execPath, [READER, JSON.stringify(task)], STDIO), findings))
  }
  for (let n = 0; n < pace.random; n++) ours(1)
  for (let n = 0; n < pace.large; n++) ours(16)
  if (image.fioBytes > 0) {
    for (const engine of ['psync', 'mmap'])
      running.push(
        watchFio(spawn('fio', fioArgs(path.join(root, FIO_FILE), engine), STDIO), engine, findings),
      )
  }
  const sums = new Sums(root, image, random, findings)
  return {
    done: Promise.all(running.map(({ ended }) => ended)),
    stop: async () => {
      sums.stop()
      for (const { child } of running) child.kill('SIGTERM')
      await Promise.all([sums.ended, ...running.map(({ ended }) => ended)])
    },
  }
}

const STDIO = { stdio: ['ignore', 'pipe', 'pipe'] as ['ignore', 'pipe', 'pipe'] }

interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<void>
}

/** Ends with the process; one that we ended has done nothing wrong. */
function watch(
  child: ChildProcess,
  what: string,
  findings: Findings,
  judge: (words: string) => void,
): Running {
  let words = ''
  let stuck: NodeJS.Timeout
  const alive = (): void => {
    clearTimeout(stuck)
    stuck = setTimeout(() => {
      findings.failed(`${what}: nothing was read for ${STUCK_MS} ms`)
      child.kill('SIGKILL')
    }, STUCK_MS)
  }
  alive()
  const hear = (bytes: Buffer): void => {
    alive()
    if (words.length < 10_000) words += bytes.toString()
  }
  child.stderr?.on('data', hear)
  if (what.startsWith('fio')) child.stdout?.on('data', hear)
  else child.stdout?.on('data', alive)
  const ended = new Promise<void>(resolve => {
    child.once('close', (code, signal) => {
      clearTimeout(stuck)
      if (signal !== null && signal !== 'SIGTERM' && signal !== 'SIGKILL')
        findings.failed(`${what} ended by ${signal}`)
      else if (code !== null && code !== 0 && !child.killed) judge(words)
      resolve()
    })
  })
  return { child, ended }
}

function watchOurs(child: ChildProcess, findings: Findings): Running {
  createInterface({ input: child.stdout! }).on('line', line => {
    const said = JSON.parse(line) as ReaderLine
    switch (said.kind) {
      case 'reads':
        findings.reads += said.reads
        findings.pages += said.pages
        break
      case 'slow':
        findings.slow.push(said)
        break
      case 'done':
        break
      case 'failed':
      case 'wrong':
      case 'zero':
        findings[said.kind](`${said.path}, page ${said.page}: ${said.detail}`)
    }
  })
  return watch(child, 'reader', findings, words => findings.failed(`a reader ended: ${words.slice(-500)}`))
}

function fioArgs(file: string, engine: string): string[] {
  const job = [`--name=${engine}`, `--filename=${file}`, '--readonly', '--rw=randread', '--bs=4k']
  const check = ['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--invalidate=0']
  return [...job, ...check, `--ioengine=${engine}`, '--rate_iops=60', '--eta=always', '--eta-interval=1']
}

function watchFio(child: ChildProcess, engine: string, findings: Findings): Running {
  return watch(child, `fio ${engine}`, findings, words => {
    const told = words
      .split('\n')
      .filter(line => /verify|error|err=/i.test(line))
      .slice(0, 3)
      .join('; ')
    if (/bad magic header 0,/.test(words)) findings.zero(`fio ${engine}: ${told}`)
    else if (/verify/.test(words)) findings.wrong(`fio ${engine}: ${told}`)
    else findings.failed(`fio ${engine}: ${told || words.slice(-300)}`)
  })
}

/** sha256sum of random files, one after the other. */
class Sums {
  readonly ended: Promise<void>
  #stopped = false
  #child: ChildProcess | undefined

  constructor(root: string, image: StormImage, random: () => number, findings: Findings) {
    this.ended = this.#run(root, image, random, findings)
  }

  stop(): void {
    this.#stopped = true
    this.#child?.kill('SIGTERM')
  }

  async #run(root: string, { plan }: StormImage, random: () => number, findings: Findings): Promise<void> {
    for (const file of plan.files.filter(() => random() < 0.2)) {
      if (this.#stopped) return
      let output = ''
      const child = spawn('sha256sum', [path.join(root, file.path)], STDIO)
      this.#child = child
      child.stdout.on('data', (bytes: Buffer) => (output += bytes.toString()))
      const { ended } = watch(child, 'sha256sum', findings, words => findings.failed(`sha256sum: ${words}`))
      await ended
      if (child.killed || output === '') continue
      findings.sums++
      if (!output.startsWith(sha256Of(plan.image, file))) findings.wrong(`sha256sum of ${file.path}`)
    }
  }
}
