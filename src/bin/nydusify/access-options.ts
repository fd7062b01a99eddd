import { InvalidArgumentError, Option } from 'commander'
import { parseDurationMs } from '../../common/duration.js'
import type { StoreAccess } from '../../image/convert/open-store.js'
import { parseNumber } from '../parse-size.js'

/** Flags of commands that deal with two images. */
export interface RegistryFlags {
  sourceInsecure: boolean
  targetInsecure: boolean
  plainHttp: boolean
}

/** Flags of commands that read one image and write another. */
export interface AccessFlags extends RegistryFlags {
  pushRetryCount: number
  pushRetryDelay: number
  pushChunkSize: number
}

export function registryOptions(): Option[] {
  return [
    new Option('--source-insecure', 'accept any certificate of the source, or plain HTTP').default(false),
    new Option('--target-insecure', 'accept any certificate of the target, or plain HTTP').default(false),
    new Option('--plain-http', 'speak plain HTTP to both registries').default(false),
  ]
}

export function accessOptions(): Option[] {
  return [
    ...registryOptions(),
    new Option('--push-retry-count <n>', 'retries of a push').argParser(parseNumber).default(3),
    new Option('--push-retry-delay <duration>', 'first wait between them')
      .argParser(parseDelay)
      .default(5000, '5s'),
    new Option('--push-chunk-size <size>', 'bytes of one request of an upload, as 16MB; 0 for 8MB')
      .argParser(parseSize)
      .default(0, '0MB'),
  ]
}

/** How a registry is reached that is written to; whether any certificate will do is another question. */
export function pushAccess(flags: AccessFlags): Omit<StoreAccess, 'reference' | 'archive' | 'insecure'> {
  const { plainHttp, pushRetryCount: retryLimit, pushRetryDelay: retryDelayMs } = flags
  return { plainHttp, retryLimit, retryDelayMs, pushChunkBytes: flags.pushChunkSize }
}

function parseDelay(text: string): number {
  const delayMs = parseDurationMs(text)
  if (delayMs === undefined || delayMs < 0) throw new InvalidArgumentError('It must be a duration like 5s.')
  return delayMs
}

function parseSize(text: string): number {
  const [, digits, unit = ''] = /^([0-9]{1,9})(?:([kmg])i?)?b?$/i.exec(text) ?? []
  if (digits === undefined) throw new InvalidArgumentError('It must be a size like 16MB.')
  return Number(digits) * 1024 ** ' kmg'.indexOf(unit === '' ? ' ' : unit.toLowerCase())
}
