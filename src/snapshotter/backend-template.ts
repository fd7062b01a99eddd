import { readFileSync } from 'node:fs'
import { fault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { type Credential, type CredentialSource, credentialChain } from '../oci/credentials.js'
import { parseReference, registryHost } from '../oci/reference.js'
import type { BackendConfig, BackendConfigSource } from '../supervisor/image-mounts.js'
import { LABELS } from './labels.js'
import type { Labels } from './snapshots.js'

const REGISTRY: BackendConfig = { type: 'registry', config: {} }

/**
 * The backend section of nydusd's JSON template, in any of its shapes: `device.backend` (fusedev), `config.backend_type`
 * and `config.backend_config` (fscache), `backend` (version 2). The rest of the template is for nydusd's own eyes.
 *
 * @param given whether somebody named the file; the default one may be missing, then images come from their registry
 * @throws CONFIG_MISSING, CONFIG_INVALID; neither quotes the text, which holds passwords
 */
export function readBackendTemplate(file: string, given: boolean): BackendConfig {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (err) {
    if (hasErrno(err, 'ENOENT') && !given) return REGISTRY
    throw fault(
      'CONFIG_MISSING',
      `nydusd's configuration ${file} cannot be read: name another --nydusd-config`,
      {
        cause: err,
      },
    )
  }
  let template: unknown
  try {
    template = JSON.parse(text)
  } catch {
    throw fault('CONFIG_INVALID', `nydusd's configuration ${file} is not JSON: mend it`)
  }
  const backend = backendOf(template)
  if (!backend) {
    throw fault(
      'CONFIG_INVALID',
      `nydusd's configuration ${file} names no backend: it needs device.backend (fusedev) or config.backend_type and ` +
        'config.backend_config (fscache)',
    )
  }
  return backend
}

function backendOf(template: unknown): BackendConfig | undefined {
  const fusedev = member(member(template, 'device'), 'backend')
  const fscache = member(template, 'config')
  const version2 = member(template, 'backend')
  const candidates: [unknown, unknown][] = [
    [member(fusedev, 'type'), member(fusedev, 'config')],
    [member(fscache, 'backend_type'), member(fscache, 'backend_config')],
    [member(version2, 'type'), member(version2, String(member(version2, 'type')))],
  ]
  const [type, config] = candidates.find(([type]) => typeof type === 'string' && type !== '') ?? []
  if (typeof type !== 'string') return undefined
  return { type, config: isObject(config) ? config : {} }
}

/**
 * Fills the template for each image when it is asked: host and repository of a registry, and the credentials of now. Of
 * a template for another kind of backend nothing changes.
 *
 * @param credentials asked after the labels of the image
 */
export function backendConfigSource(
  template: BackendConfig,
  credentials: CredentialSource,
  log: Logger,
): BackendConfigSource {
  return async ({ imageRef, labels }) => {
    if (template.type !== 'registry') return template
    const { domain, repository } = parseReference(imageRef)
    const host = registryHost(domain)
    const credential = await credentialChain([labelCredentials(labels), credentials], log).find(host)
    return {
      type: 'registry',
      config: { ...template.config, host, repo: repository, ...authOf(credential, host, log) },
    }
  }
}

/** What the puller of the image handed over. */
function labelCredentials(labels: Labels): CredentialSource {
  const username = labels[LABELS.pullUsername]
  const password = labels[LABELS.pullSecret]
  const known = username !== undefined && password !== undefined
  return {
    name: 'labels',
    find: () => Promise.resolve(known ? { kind: 'basic', username, password } : undefined),
  }
}

/** Upstream's two keys. Without a credential those of the template stay. */
function authOf(
  credential: Credential | undefined,
  host: string,
  log: Logger,
): Record<string, string | undefined> {
  switch (credential?.kind) {
    case undefined:
      return {}
    case 'basic': {
      const text = `${credential.username}:${credential.password}`
      return { auth: Buffer.from(text).toString('base64'), registry_token: undefined }
    }
    case 'bearer':
      return { registry_token: credential.token, auth: undefined }
    case 'identity':
      log.warn({ host }, 'identity tokens cannot be handed to nydusd: log in with user and password')
      return {}
  }
}

function member(value: unknown, name: string): unknown {
  return isObject(value) ? value[name] : undefined
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
