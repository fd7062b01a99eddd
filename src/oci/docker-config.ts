/** Credentials of docker's config.json: `auths`, `credHelpers`, `credsStore` (docker CLI documentation). */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import path from 'node:path'
import { fault, hasErrno } from '../common/fault.js'
import { type Credential, type CredentialSource, parseBasicAuth } from './credentials.js'
import { credentialKey } from './reference.js'

const HELPER_DEADLINE_MS = 10_000
const HELPER_OUTPUT_LIMIT = 1 << 20

/** The file that docker's own tools would read for this user. */
export function dockerConfigPath(env: NodeJS.ProcessEnv = process.env): string {
  return path.join(env['DOCKER_CONFIG'] ?? path.join(homedir(), '.docker'), 'config.json')
}

/** Reads the file at every question, so that a login or a rotation counts at once. A missing file knows no host. */
export function dockerConfigCredentials(file = dockerConfigPath()): CredentialSource {
  return {
    name: `docker config ${file}`,
    async find(host) {
      const config = await readConfig(file)
      if (!config) return undefined
      const key = credentialKey(host)
      const helper = helperFor(config, key)
      if (helper !== undefined) {
        const found = await askHelper(helper, key)
        if (found) return found
      }
      return fromAuths(config, key, file)
    },
  }
}

async function readConfig(file: string): Promise<Record<string, unknown> | undefined> {
  let text
  try {
    text = await readFile(file, 'utf8')
  } catch (err) {
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'ENOTDIR')) return undefined
    throw fault('CREDENTIALS_INVALID', `cannot read ${file}: check its owner and mode`, { cause: err })
  }
  let config: unknown
  try {
    config = JSON.parse(text)
  } catch {
    // The parser's message quotes the text, and the text holds passwords: it is no cause to keep.
    throw fault('CREDENTIALS_INVALID', `${file} is not JSON: mend it, or run "docker login" again`)
  }
  if (!isObject(config)) throw fault('CREDENTIALS_INVALID', `${file} is not a JSON object`)
  return config
}

function helperFor(config: Record<string, unknown>, key: string): string | undefined {
  const helpers = config['credHelpers']
  const special = isObject(helpers) ? helpers[key] : undefined
  const name = special ?? config['credsStore']
  return typeof name === 'string' && name !== '' ? name : undefined
}

function fromAuths(config: Record<string, unknown>, key: string, file: string): Credential | undefined {
  const auths = config['auths']
  if (!isObject(auths)) return undefined
  const entry = auths[key] ?? Object.entries(auths).find(([name]) => bareHost(name) === bareHost(key))?.[1]
  if (!isObject(entry)) return undefined
  const text = (name: string): string => (typeof entry[name] === 'string' ? entry[name] : '')
  if (text('identitytoken') !== '') return { kind: 'identity', token: text('identitytoken') }
  if (text('registrytoken') !== '') return { kind: 'bearer', token: text('registrytoken') }
  if (text('auth') !== '')
    return parseBasicAuth(text('auth'), `auths[${JSON.stringify(key)}].auth of ${file}`)
  if (text('username') !== '')
    return { kind: 'basic', username: text('username'), password: text('password') }
  return undefined
}

/** Old logins wrote `https://host/v1/` where newer ones write `host`. */
function bareHost(key: string): string {
  return key.replace(/^https?:\/\//, '').replace(/\/.*$/, '')
}

/** `docker-credential-NAME get`: the key on standard input, JSON on standard output (docker-credential-helpers). */
async function askHelper(name: string, key: string): Promise<Credential | undefined> {
  const program = `docker-credential-${name}`
  if (!/^[A-Za-z0-9._-]+$/.test(name))
    throw fault('CREDENTIALS_INVALID', `${JSON.stringify(name)} is no name of a credential helper`)
  const { failure, stdout } = await runHelper(program, key)
  if (failure) {
    // A helper that knows nothing says so in words and exits with 1.
    if (/credentials not found|no credentials/i.test(stdout)) return undefined
    if (hasErrno(failure, 'ENOENT'))
      throw fault(
        'CREDENTIALS_INVALID',
        `${program} is not in PATH: install it, or remove it from config.json`,
      )
    const why = failure.killed === true ? `gave no answer in ${HELPER_DEADLINE_MS / 1000} s` : 'failed'
    const asked = `echo ${key} | ${program} get`
    throw fault('CREDENTIALS_INVALID', `${program} ${why}: try "${asked}" by hand`, {
      context: { exitCode: failure.code },
    })
  }
  let answer: unknown
  try {
    answer = JSON.parse(stdout)
  } catch {
    throw fault('CREDENTIALS_INVALID', `${program} did not answer with JSON: check its version`)
  }
  if (!isObject(answer)) return undefined
  const { Username: username, Secret: secret } = answer
  if (typeof username !== 'string' || typeof secret !== 'string' || secret === '') return undefined
  if (username === '<token>') return { kind: 'identity', token: secret }
  if (username === '') return { kind: 'bearer', token: secret }
  return { kind: 'basic', username, password: secret }
}

type HelperFailure = Error & { code?: number | string | null; killed?: boolean }

function runHelper(program: string, input: string): Promise<{ failure?: HelperFailure; stdout: string }> {
  return new Promise(resolve => {
    const child = execFile(
      program,
      ['get'],
      { timeout: HELPER_DEADLINE_MS, killSignal: 'SIGKILL', maxBuffer: HELPER_OUTPUT_LIMIT },
      (failure, stdout) => resolve(failure ? { failure, stdout } : { stdout }),
    )
    // A helper may end without reading; its exit code tells the rest.
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
  })
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
