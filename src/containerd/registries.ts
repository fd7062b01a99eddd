import { asFault, isFault } from '../common/fault.js'
import { type CredentialSource, fixedCredential } from '../oci/credentials.js'
import { dockerConfigCredentials } from '../oci/docker-config.js'
import { type Reference, manifestSelector, registryHost } from '../oci/reference.js'
import { RegistryClient } from '../oci/registry-client.js'
import type { TlsOptions } from '../oci/tls.js'
import { type RegistryHost, readHostsDirectory } from './hosts-directory.js'

/** The registry flags of `ctr`, as far as they choose where to ask and as whom. */
export interface RegistryFlags {
  plainHttp?: boolean
  skipVerify?: boolean
  hostsDir?: string
  tlscacert?: string
  tlscert?: string
  tlskey?: string
  /** What `--user` gives; without a password and with it. */
  user?: { username: string; password: string }
  refreshToken?: string
}

/**
 * A client of the first registry that has the image: mirrors in their order, then the registry itself. The caller
 * closes it.
 * @throws CONFIG_INVALID; of several failures the registry's own
 */
export async function openRegistry(
  reference: Reference,
  flags: RegistryFlags,
  signal: AbortSignal,
): Promise<RegistryClient> {
  const hosts = registryHosts(reference, flags)
  let last: unknown
  for (const [i, host] of hosts.entries()) {
    const client = new RegistryClient({ ...host, credentials: credentials(flags) })
    if (i === hosts.length - 1 && last === undefined) return client
    try {
      await client.resolve(reference.repository, manifestSelector(reference), { signal })
      return client
    } catch (err) {
      await client.close()
      if (isFault(err, 'CANCELLED')) throw err
      last = err
    }
  }
  throw asFault(last)
}

function registryHosts(reference: Reference, flags: RegistryFlags): RegistryHost[] {
  const registry = registryHost(reference.domain)
  const hosts =
    flags.hostsDir === undefined
      ? [{ host: registry, tls: {}, headers: {} }]
      : readHostsDirectory(flags.hostsDir, reference.domain, registry)
  return hosts.map(host => ({
    ...host,
    ...(flags.plainHttp === true ? { scheme: 'http' as const } : {}),
    tls: { ...host.tls, ...tlsOf(flags) },
  }))
}

function tlsOf(flags: RegistryFlags): TlsOptions {
  const { tlscacert, tlscert, tlskey, skipVerify } = flags
  return {
    ...(tlscacert === undefined ? {} : { caFiles: [tlscacert] }),
    ...(tlscert === undefined ? {} : { certFile: tlscert }),
    ...(tlskey === undefined ? {} : { keyFile: tlskey }),
    ...(skipVerify === true ? { skipVerify } : {}),
  }
}

function credentials(flags: RegistryFlags): CredentialSource {
  if (flags.refreshToken !== undefined)
    return fixedCredential({ kind: 'identity', token: flags.refreshToken })
  if (flags.user) return fixedCredential({ kind: 'basic', ...flags.user })
  return dockerConfigCredentials()
}
