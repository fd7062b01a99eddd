import type { Logger } from '../common/log.js'
import { type Credential, type CredentialSource, credentialChain } from '../oci/credentials.js'
import { parseReference, registryHost } from '../oci/reference.js'
import type { BackendConfig, BackendConfigSource } from '../supervisor/image-mounts.js'
import { LABELS } from './labels.js'
import type { Labels } from './snapshots.js'

/**
 * Fills the backend for each image when it is asked: host and repository of a registry, and the credentials of now. Of
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
