import { type ChildProcess, fork } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { existsSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import type { FuseServerOptions } from '../../src/fuse/server.js'
import type { Commands } from './fuse-child.js'
import { rootMissing, scratch } from './scratch.js'

/** Reason to skip what mounts FUSE; false where that works. */
export const fuseMissing: string | false = rootMissing || (existsSync('/dev/fuse') ? false : 'no /dev/fuse')

type Result<Name extends keyof Commands> = Awaited<ReturnType<Commands[Name]>>

/** A FUSE server in a child process. */
export class FuseServing {
  readonly directory: string
  readonly mountpoint: string
  readonly child: ChildProcess
  /** `read` each time that the backend is asked, `ended` when the session is over. */
  readonly events = new EventEmitter()
  readonly #waiting = new Map<number, { resolve: (value: never) => void; reject: (err: Error) => void }>()
  #calls = 0

  constructor(directory: string, sessionFd?: number) {
    this.directory = directory
    this.mountpoint = path.join(directory, 'mnt')
    const stdio = ['ignore', 'inherit', 'inherit', 'ipc'] as const
    this.child = fork(path.join(import.meta.dirname, 'fuse-child.js'), [], {
      stdio: sessionFd === undefined ? [...stdio] : [...stdio, sessionFd],
    })
    this.child.on('message', (message: Message) => {
      if ('event' in message) return void this.events.emit(message.event)
      const waiting = this.#waiting.get(message.id)
      this.#waiting.delete(message.id)
      if (message.failure) waiting?.reject(Object.assign(new Error(message.failure.message), message.failure))
      else waiting?.resolve(message.value as never)
    })
    this.child.once('exit', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('the server has ended'))
    })
  }

  call<Name extends keyof Commands>(name: Name, ...args: Parameters<Commands[Name]>): Promise<Result<Name>> {
    const id = ++this.#calls
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve, reject })
      this.child.send({ id, name, args })
    })
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    const ended = once(this.child, 'exit')
    this.child.kill(signal)
    await ended
  }
}

type Message =
  { event: string } | { id: number; value?: unknown; failure?: { code: string; message: string } }

/** A server with a mount of its own; unmounted and ended with the test. */
export async function serveFuse(
  t: Pick<Test, 'teardown'>,
  options: Partial<Omit<FuseServerOptions, 'logger' | 'mountpoint'>> = {},
): Promise<FuseServing> {
  const directory = scratch(t)
  const serving = new FuseServing(directory)
  mkdirSync(serving.mountpoint)
  t.teardown(() => serving.kill())
  await serving.call('open', { ...options, mountpoint: serving.mountpoint })
  return serving
}
