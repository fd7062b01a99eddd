/** The tables that configure backends, in upstream's words (nydusd.md 2.2). */
import type { ValidationSchema } from 'fastest-validator'
import {
  filledText,
  flag,
  list,
  optional,
  pattern,
  tableChecker,
  text,
  wholeNumber,
  type CheckedTable,
} from '../common/config-check.js'
import type { LocalFsConfig } from './localfs.js'
import type { RegistryConfig } from './registry.js'

export const BACKEND_TYPES = ['registry', 'localfs', 'oss', 's3', 'localdisk', 'http-proxy'] as const
export type BackendType = (typeof BACKEND_TYPES)[number]

export interface BackendTables {
  readonly registry: RegistryConfig
  readonly localfs: LocalFsConfig
  readonly oss: Record<string, unknown>
  readonly s3: Record<string, unknown>
  readonly localdisk: Record<string, unknown>
  readonly 'http-proxy': Record<string, unknown>
}

const HOST = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?$/
const REPO = /^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:\/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*$/
const SECONDS_MAX = 0xffff_ffff

const seconds = optional(wholeNumber(0, SECONDS_MAX))
const optionalText = optional(text)

/** Keys of every backend that is asked by HTTP. */
const http = {
  skip_verify: optional(flag),
  ca_cert_files: optional(list(filledText)),
  timeout: seconds,
  connect_timeout: seconds,
  retry_limit: optional(wholeNumber(0, 255)),
  proxy: {
    type: 'object',
    optional: true,
    props: {
      url: optionalText,
      ping_url: optionalText,
      fallback: optional(flag),
      check_interval: seconds,
      use_http: optional(flag),
      check_pause_elapsed: seconds,
      dragonfly_scheduler_endpoint: optionalText,
    },
  },
  mirrors: optional(
    list({
      type: 'object',
      props: {
        host: text,
        ping_url: optionalText,
        headers: { type: 'record', key: 'string', value: 'string', optional: true },
        auth_through: optional(flag),
        health_check_interval: seconds,
        failure_limit: optional(wholeNumber(0, 255)),
      },
    }),
  ),
} as const

const bucket = {
  scheme: optionalText,
  object_prefix: optionalText,
  access_key_id: optionalText,
  access_key_secret: optionalText,
  bucket_name: filledText,
}

const SCHEMAS: Record<BackendType, ValidationSchema> = {
  registry: {
    scheme: optionalText,
    host: { ...pattern(HOST, 'HOST or HOST:PORT'), max: 255 },
    repo: { ...pattern(REPO, 'a repository name without tag'), max: 255 },
    auth: optionalText,
    registry_token: optionalText,
    blob_url_scheme: optionalText,
    blob_redirected_host: optionalText,
    ...http,
  },
  localfs: {
    blob_file: optionalText,
    dir: optionalText,
    alt_dirs: optional(list(filledText)),
    readahead: optional(flag),
    readahead_sec: optional(wholeNumber(0, SECONDS_MAX)),
  },
  oss: { ...bucket, endpoint: filledText, ...http },
  s3: { ...bucket, endpoint: text, region: filledText, ...http },
  localdisk: { device_path: filledText, disable_gpt: optional(flag) },
  'http-proxy': {
    addr: pattern(/^(?:https?:\/\/.|\/.)/, 'http://…, https://… or the absolute path of a unix socket'),
    path: optionalText,
    ...http,
  },
}

const checkers = Object.fromEntries(
  BACKEND_TYPES.map(type => [type, tableChecker<BackendTables[BackendType]>(SCHEMAS[type])]),
) as { [Type in BackendType]: (raw: unknown, path: string) => CheckedTable<BackendTables[Type]> }

export function isBackendType(type: string): type is BackendType {
  return (BACKEND_TYPES as readonly string[]).includes(type)
}

/** Checks the table of a backend; `path` is where it stands in its document. */
export function checkBackendTable<Type extends BackendType>(
  type: Type,
  raw: unknown,
  path: string,
): CheckedTable<BackendTables[Type]> {
  const checked = checkers[type](raw, path)
  if (type !== 'localfs' || checked.problems.length > 0) return checked
  const { dir = '', blob_file: blobFile = '' } = checked.value as LocalFsConfig
  if (dir !== '' || blobFile !== '') return checked
  return { ...checked, problems: [`${path}: neither "dir" nor "blob_file" says where blobs are: set one`] }
}
