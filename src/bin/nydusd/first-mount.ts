import { readFileSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { MountCommand } from '../../client/api.js'
import { asFault, fault, hasErrno } from '../../common/fault.js'
import { parseDaemonConfig } from '../../daemon/config.js'

/** Options of the image that is mounted from the start. */
export interface FirstMountOptions {
  bootstrap?: string
  metadata?: string
  config?: string
  localfsDir?: string
  virtualMountpoint: string
  prefetchFiles?: string
}

const CONFIG_LIMIT_BYTES = 1024 * 1024

/**
 * The mount that the command line asks for; undefined where it names no image.
 * @param pullAuth - `IMAGE_PULL_AUTH`: replaces the credentials of the configuration
 * @throws USAGE, CONFIG_MISSING, CONFIG_INVALID, FILE_MISSING
 */
export function firstMount(
  options: FirstMountOptions,
  pullAuth: string | undefined,
): { path: string; command: MountCommand } | undefined {
  const bootstrap = options.bootstrap ?? options.metadata
  if (bootstrap === undefined) {
    if (options.prefetchFiles !== undefined)
      throw fault('USAGE', '--prefetch-files belongs to --bootstrap: give both')
    return undefined
  }
  const config = withAuth(configText(options), pullAuth)
  const files = options.prefetchFiles === undefined ? null : readList(options.prefetchFiles)
  return {
    path: options.virtualMountpoint,
    command: { source: resolve(bootstrap), fs_type: 'rafs', config, prefetch_files: files },
  }
}

/** @throws CONFIG_MISSING */
export function readConfig(path: string): string {
  try {
    if (statSync(path).size > CONFIG_LIMIT_BYTES)
      throw fault('CONFIG_INVALID', `--config ${path} is larger than 1 MiB: is that the right file?`)
    return readFileSync(path, 'utf8')
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('CONFIG_MISSING', `--config ${path}: there is no such file`, { cause: err })
    throw asFault(err, 'CONFIG_MISSING', `--config ${path} cannot be read`)
  }
}

function configText({ config, localfsDir }: FirstMountOptions): string {
  if (localfsDir !== undefined) {
    if (config !== undefined)
      throw fault('USAGE', '--localfs-dir is a configuration by itself: drop --config')
    const dir = resolve(localfsDir)
    return JSON.stringify({
      version: 2,
      backend: { type: 'localfs', localfs: { dir } },
      cache: { type: 'blobcache', filecache: { work_dir: dir } },
      rafs: { mode: 'direct' },
    })
  }
  if (config === undefined) throw fault('USAGE', 'both --config and --localfs-dir are missing: give one')
  return readConfig(config)
}

function withAuth(text: string, auth: string | undefined): string {
  if (auth === undefined || auth === '') return text
  const config = parseDaemonConfig(text)
  const registry = config.backend?.registry
  if (!registry) return text
  return JSON.stringify({ ...config, backend: { ...config.backend, registry: { ...registry, auth } } })
}

function readList(path: string): string[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (err) {
    throw asFault(err, 'FILE_MISSING', `--prefetch-files ${path} cannot be read`)
  }
  return text
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '')
}
