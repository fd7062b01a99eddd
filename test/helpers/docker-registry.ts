/**
 * Debian's own registry on a free loopback port with storage of its own, for tests against the real thing.
 *
 * `t.test('…', { skip: missingDockerRegistry() }, async t => { const registry = await startDockerRegistry(t) … })`
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'

const PROGRAM = '/usr/bin/docker-registry'

/** The reason to skip, or false. */
export function missingDockerRegistry(): string | false {
  return existsSync(PROGRAM) ? false : `${PROGRAM} is not installed (Debian package docker-registry)`
}

export interface DockerRegistryOptions {
  /** User names and passwords; none lets anybody in. */
  users?: Record<string, string>
  tls?: { certFile: string; keyFile: string }
}

export interface AccessLine {
  method: string
  /** With the query. */
  path: string
  status: number
  /** Bytes of the body. */
  bytes: number
}

/** What a test needs of `t`: to be told when it ends. */
type Owner = Pick<Test, 'teardown'>

export class DockerRegistry {
  readonly #directory: string
  readonly #options: DockerRegistryOptions
  readonly #access: AccessLine[] = []
  #port = 0
  #child: ChildProcess | undefined

  constructor(options: DockerRegistryOptions) {
    this.#options = options
    this.#directory = mkdtempSync(path.join(os.tmpdir(), 'docker-registry-'))
  }

  /** `127.0.0.1:<port>`; stays the same over stop() and start(). */
  get host(): string {
    return `127.0.0.1:${this.#port}`
  }

  get url(): string {
    return `${this.#options.tls ? 'https' : 'http'}://${this.host}`
  }

  /** Where blobs are on the disk, to alter them behind the registry's back. */
  blobFile(digest: string): string {
    const hex = digest.replace(/^sha256:/, '')
    return path.join(this.#storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data')
  }

  /** Requests answered so far. A line is written right after its answer. */
  get accessLog(): readonly AccessLine[] {
    return this.#access
  }

  async start(): Promise<void> {
    const config = path.join(this.#directory, 'config.yml')
    writeFileSync(config, JSON.stringify(this.#config()))
    // Without this process the registry dies too, however this process ends.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', PROGRAM, 'serve', config], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, OTEL_TRACES_EXPORTER: 'none' },
    })
    this.#child = child
    createInterface({ input: child.stdout }).on('line', line => this.#note(line))
    const words: string[] = []
    this.#port = await new Promise<number>((resolve, reject) => {
      createInterface({ input: child.stderr }).on('line', line => {
        if (words.length < 50) words.push(line)
        const port = /listening on 127\.0\.0\.1:([0-9]+)/.exec(line)?.[1]
        if (port !== undefined) resolve(Number(port))
      })
      child.once('error', reject)
      child.once('exit', code => reject(new Error(`docker-registry ended with ${code}: ${words.join('\n')}`)))
    })
  }

  /** Stops serving; what was pushed stays. */
  async stop(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  }

  async remove(): Promise<void> {
    await this.stop()
    rmSync(this.#directory, { recursive: true, force: true })
  }

  /** Copies an image of an OCI layout directory (`oci:DIR:TAG`) here, with skopeo. */
  pushLayout(layout: string, layoutTag: string, name: string): void {
    const from = `oci:${layout}:${layoutTag}`
    const to = `docker://${this.host}/${name}`
    execFileSync('skopeo', ['copy', '--quiet', '--dest-tls-verify=false', from, to], { stdio: 'pipe' })
  }

  get #storage(): string {
    return path.join(this.#directory, 'storage')
  }

  #config(): unknown {
    mkdirSync(this.#storage, { recursive: true })
    const { users, tls } = this.#options
    const passwords = path.join(this.#directory, 'htpasswd')
    if (users) {
      const lines = Object.entries(users).map(([name, password]) => `${name}:${bcrypt(password)}\n`)
      writeFileSync(passwords, lines.join(''))
    }
    return {
      version: '0.1',
      log: { level: 'info', accesslog: { disabled: false } },
      storage: { filesystem: { rootdirectory: this.#storage }, delete: { enabled: true } },
      http: {
        addr: `127.0.0.1:${this.#port}`,
        ...(tls ? { tls: { certificate: tls.certFile, key: tls.keyFile } } : {}),
      },
      ...(users ? { auth: { htpasswd: { realm: 'test', path: passwords } } } : {}),
    }
  }

  #note(line: string): void {
    const match = /"([A-Z]+) (\S+) HTTP\/[0-9.]+" ([0-9]{3}) ([0-9]+)/.exec(line)
    if (!match) return
    const [, method = '', path = '', status, bytes] = match
    this.#access.push({ method, path, status: Number(status), bytes: Number(bytes) })
  }
}

/** Starts one that is removed when `t` ends. */
export async function startDockerRegistry(
  t: Owner,
  options: DockerRegistryOptions = {},
): Promise<DockerRegistry> {
  const registry = new DockerRegistry(options)
  t.teardown(() => registry.remove())
  await registry.start()
  return registry
}

/** The registry takes bcrypt only; perl's crypt(3) of Debian knows it. */
function bcrypt(password: string): string {
  const program = 'print crypt($ARGV[0], q($2y$05$abcdefghijklmnopqrstuu))'
  return execFileSync('perl', ['-e', program, password], { encoding: 'utf8' })
}
