/**
 * containerd's registry host configuration: `DIR/<host>/hosts.toml` or docker's `DIR/<host>/*.crt`
 * (containerd's docs/hosts.md). Of it we take where to ask, in which order, and whom to trust.
 */
import { readFileSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { parse } from 'smol-toml'
import { asFault, fault, hasErrno } from '../common/fault.js'
import { type Scheme, isLoopbackHost } from '../oci/host.js'
import type { TlsOptions } from '../oci/tls.js'

/** One place where an image may be asked for. */
export interface RegistryHost {
  /** With port. */
  host: string
  scheme?: Scheme
  tls: TlsOptions
  headers: Record<string, string>
}

/**
 * Where images of `domain` are, mirrors first, the registry itself last. Without a directory for the domain it is the
 * registry alone. A mirror that may only pull, not resolve, is left out.
 * @throws CONFIG_INVALID naming the file and the key
 */
export function readHostsDirectory(directory: string, domain: string, registry: string): RegistryHost[] {
  for (const name of [domain.replace(/:(\d+)$/, '_$1_'), domain, '_default']) {
    const folder = path.join(directory, name)
    const entries = listFolder(folder)
    if (!entries) continue
    if (entries.includes('hosts.toml')) return readHostsFile(path.join(folder, 'hosts.toml'), registry)
    return [{ host: registry, tls: dockerCertificates(folder, entries), headers: {} }]
  }
  return [{ host: registry, tls: {}, headers: {} }]
}

function listFolder(folder: string): string[] | undefined {
  try {
    return readdirSync(folder)
  } catch (err) {
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'ENOTDIR')) return undefined
    throw asFault(err, 'CONFIG_INVALID', `cannot read ${folder}`)
  }
}

function readHostsFile(file: string, registry: string): RegistryHost[] {
  const table = new Table(parseToml(file), file, '')
  const mirrors = Object.entries(table.table('host') ?? {})
    .map(([url, value]) => ({ url, table: new Table(asTable(value, file, url), file, `host.${url}.`) }))
    .filter(({ table: mirror }) => mirrorAnswersAll(mirror))
    .map(({ url, table: mirror }) => hostOf(url, mirror))
  const server = table.text('server')
  return [
    ...mirrors,
    server === undefined ? { ...hostOf(registry, table), host: registry } : hostOf(server, table),
  ]
}

function mirrorAnswersAll(mirror: Table): boolean {
  const capabilities = mirror.texts('capabilities')
  return capabilities.length === 0 || (capabilities.includes('pull') && capabilities.includes('resolve'))
}

function hostOf(address: string, table: Table): RegistryHost {
  const text = address.includes('://')
    ? address
    : `${isLoopbackHost(address) ? 'http' : 'https'}://${address}`
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol)) throw table.wrong(address, 'is no http or https address')
  if (!/^(\/v2)?\/?$/.test(url.pathname)) throw table.wrong(address, 'has a path, which is not supported')
  const certificates = table.paths('ca')
  const [certFile, keyFile] = table.client()
  const headers = Object.entries(table.table('header') ?? {}).map(([key, value]) => [key, String(value)])
  return {
    host: url.host,
    ...(address.includes('://') ? { scheme: url.protocol === 'http:' ? 'http' : 'https' } : {}),
    tls: {
      ...(certificates.length > 0 ? { caFiles: certificates } : {}),
      ...(table.flag('skip_verify') ? { skipVerify: true } : {}),
      ...(certFile === undefined ? {} : { certFile, keyFile: keyFile ?? certFile }),
    },
    headers: Object.fromEntries(headers) as Record<string, string>,
  }
}

/** Docker's layout: every .crt is a CA; the first .cert with its .key is the client's. */
function dockerCertificates(folder: string, entries: string[]): TlsOptions {
  const caFiles = entries.filter(name => name.endsWith('.crt')).map(name => path.join(folder, name))
  const cert = entries.find(name => name.endsWith('.cert') && entries.includes(name.replace(/cert$/, 'key')))
  const client =
    cert === undefined
      ? {}
      : { certFile: path.join(folder, cert), keyFile: path.join(folder, cert.replace(/cert$/, 'key')) }
  return { ...(caFiles.length > 0 ? { caFiles } : {}), ...client }
}

function parseToml(file: string): Record<string, unknown> {
  try {
    return parse(readFileSync(file, 'utf8'))
  } catch (err) {
    throw asFault(err, 'CONFIG_INVALID', `cannot read ${file}`)
  }
}

function asTable(value: unknown, file: string, key: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>
  }
  throw fault('CONFIG_INVALID', `${file}: ${key} must be a table`)
}

/** One table of the file, whose keys are asked for with their types. */
class Table {
  readonly #values: Record<string, unknown>
  readonly #file: string
  readonly #prefix: string

  constructor(values: Record<string, unknown>, file: string, prefix: string) {
    this.#values = values
    this.#file = file
    this.#prefix = prefix
  }

  wrong(key: string, why: string): Error {
    return fault('CONFIG_INVALID', `${this.#file}: ${this.#prefix}${key} ${why}: correct it`)
  }

  text(key: string): string | undefined {
    const value = this.#values[key]
    if (value === undefined || typeof value === 'string') return value
    throw this.wrong(key, 'must be text')
  }

  flag(key: string): boolean {
    const value = this.#values[key] ?? false
    if (typeof value === 'boolean') return value
    throw this.wrong(key, 'must be true or false')
  }

  /** One text or several. */
  texts(key: string): string[] {
    const value = this.#values[key] ?? []
    const list: unknown[] = Array.isArray(value) ? value : [value]
    if (list.every(one => typeof one === 'string')) return list
    throw this.wrong(key, 'must be text or a list of texts')
  }

  /** As {@link texts}, relative to the file's folder. */
  paths(key: string): string[] {
    return this.texts(key).map(one => path.resolve(path.dirname(this.#file), one))
  }

  table(key: string): Record<string, unknown> | undefined {
    const value = this.#values[key]
    return value === undefined ? undefined : asTable(value, this.#file, `${this.#prefix}${key}`)
  }

  /** `client`: one file with both, or pairs of certificate and key, of which the first counts. */
  client(): string[] {
    const value = this.#values['client']
    const pair: unknown = Array.isArray(value) && Array.isArray(value[0]) ? value[0] : value
    return new Table({ pair }, this.#file, this.#prefix).paths('pair')
  }
}
