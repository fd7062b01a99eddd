import { isTable } from '../common/config-check.js'
import { fault } from '../common/fault.js'
import type { MountConfig } from './config.js'

/** Upstream's keys (nydusd.md 3.7). */
const KEYS = ['registry_auth', 'proxy_url', 'dragonfly_scheduler_endpoint'] as const
type SettingKey = (typeof KEYS)[number]
export type Settings = Partial<Record<SettingKey, string>>

/**
 * Settings of backends that may change while they serve, by mountpoint. Of these `registry_auth` is looked at by
 * registries whenever their credentials are refused; the others are kept, and shown as they were put.
 */
export class RuntimeSettings {
  readonly #byId = new Map<string, Settings>()

  /** What the configuration of a new mount says. What was put before stays. */
  seed(id: string, settings: Settings): void {
    this.#byId.set(id, { ...settings, ...this.#byId.get(id) })
  }

  forget(id: string): void {
    this.#byId.delete(id)
  }

  /** The pairs of one mount; without `id` of all, with `id:` before each key. Values are secret. */
  list(id: string | undefined): Record<string, string> {
    if (id !== undefined) return { ...this.#byId.get(id) }
    const all = [...this.#byId].flatMap(([owner, settings]) =>
      Object.entries(settings).map(([key, value]) => [`${owner}:${key}`, value] as const),
    )
    return Object.fromEntries(all)
  }

  /** The keys must be known. */
  put(id: string, settings: Settings): void {
    this.#byId.set(id, { ...this.#byId.get(id), ...settings })
  }
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
