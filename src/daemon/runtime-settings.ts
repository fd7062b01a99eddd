import { isTable } from '../common/config-check.js'
import { fault } from '../common/fault.js'
import type { MountConfig } from './config.js'

/**
 * Settings of a mount's backend that may change while it serves: upstream's keys (nydusd.md 3.7). Of these
 * `registry_auth` is looked at by registries whenever their credentials are refused; the others are kept, and shown as
 * they were put.
 */
const KEYS = ['registry_auth', 'proxy_url', 'dragonfly_scheduler_endpoint'] as const
type SettingKey = (typeof KEYS)[number]
export type Settings = Partial<Record<SettingKey, string>>

/** The pairs of all mounts, with the path and `:` before each key. Values are secret. */
export function listSettings(mounts: Iterable<[string, { settings: Settings }]>): Record<string, string> {
  const all = [...mounts].flatMap(([path, { settings }]) =>
    Object.entries(settings).map(([key, value]) => [`${path}:${key}`, value] as const),
  )
  return Object.fromEntries(all)
}

/** @throws CONFIG_INVALID for a key that there is not */
export function checkSettings(settings: Readonly<Record<string, string>>): Settings {
  const unknown = Object.keys(settings).find(key => !(KEYS as readonly string[]).includes(key))
  if (unknown === undefined) return settings
  throw fault(
    'CONFIG_INVALID',
    `unknown setting ${JSON.stringify(unknown.slice(0, 80))}: ${KEYS.join(', ')} are known`,
  )
}

/** What a configuration says about them. */
export function settingsOf({ backend }: MountConfig): Settings {
  const { auth, proxy } = backend[backend.type] ?? {}
  const { url, dragonfly_scheduler_endpoint: scheduler } = isTable(proxy) ? proxy : {}
  const pairs = [
    ['registry_auth', auth],
    ['proxy_url', url],
    ['dragonfly_scheduler_endpoint', scheduler],
  ]
  return Object.fromEntries(
    pairs.filter(([, value]) => typeof value === 'string' && value !== ''),
  ) as Settings
}
