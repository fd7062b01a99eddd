/**
 * Image references as users and containerd write them: `[host[:port]/]path[:tag][@digest]`.
 * Grammar and the Docker Hub defaults follow the distribution project's reference rules.
 */
import { fault } from '../common/fault.js'
import { isOciDigest } from '../common/digest.js'

export interface Reference {
  /** Host with optional port, as written; `docker.io` when none was. */
  readonly domain: string
  /** Path without tag, `library/` added for Docker Hub's official images. */
  readonly repository: string
  readonly tag?: string
  readonly digest?: string
}

const DOCKER_HUB = 'docker.io'
const MAX_NAME = 255
const MAX_REFERENCE = 1024

const DOMAIN =
  /^(?:\[[0-9a-fA-F:]{2,45}\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::[0-9]{1,5})?$/
const PATH_COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/

/** Parses and normalises; without tag and digest the tag is `latest`. @throws REFERENCE_INVALID */
export function parseReference(text: string): Reference {
  if (text.length > MAX_REFERENCE) throw invalid(text.slice(0, 64), 'is too long')
  const at = text.indexOf('@')
  const digest = at < 0 ? undefined : text.slice(at + 1)
  if (digest !== undefined && !isOciDigest(digest))
    throw invalid(text, 'has a digest that is not sha256: and 64 lower-case hex digits')
  const beforeDigest = at < 0 ? text : text.slice(0, at)

  const lastColon = beforeDigest.lastIndexOf(':')
  const hasTag = lastColon > beforeDigest.lastIndexOf('/') && lastColon > beforeDigest.lastIndexOf(']')
  const tag = hasTag ? beforeDigest.slice(lastColon + 1) : undefined
  if (tag !== undefined && !TAG.test(tag)) throw invalid(text, 'has a tag with characters no tag may have')
  const name = hasTag ? beforeDigest.slice(0, lastColon) : beforeDigest

  const { domain, repository } = splitName(name)
  if (!DOMAIN.test(domain) || Number(portOf(domain) ?? 1) > 65535)
    throw invalid(text, `has a host that is none (${JSON.stringify(domain)})`)
  if (!repository.split('/').every(part => PATH_COMPONENT.test(part)))
    throw invalid(text, 'has a repository that is not lower-case words joined by / . _ -')
  if (domain.length + 1 + repository.length > MAX_NAME) throw invalid(text, 'has a name over 255 characters')

  if (tag === undefined && digest === undefined) return { domain, repository, tag: 'latest' }
  return {
    domain,
    repository,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  }
}

/** The full normalised form; `parseReference` of it gives an equal reference. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`
  return `${reference.domain}/${reference.repository}${tag}${digest}`
}

/** What to ask a registry for: the digest where there is one, else the tag. */
export function manifestSelector(reference: Reference): string {
  return reference.digest ?? reference.tag ?? 'latest'
}

/** The host that serves a reference's domain: Docker Hub's registry has another name than its references. */
export function registryHost(domain: string): string {
  return domain === DOCKER_HUB ? 'registry-1.docker.io' : domain
}

/** The key of a host in docker's config.json: Docker Hub goes by the address of its former index. */
export function credentialKey(host: string): string {
  const hub = host === DOCKER_HUB || host === 'index.docker.io' || host === 'registry-1.docker.io'
  return hub ? 'https://index.docker.io/v1/' : host
}

function splitName(name: string): { domain: string; repository: string } {
  const slash = name.indexOf('/')
  const first = slash < 0 ? '' : name.slice(0, slash)
  const isDomain =
    first !== '' && (/[.:[]/.test(first) || first === 'localhost' || first !== first.toLowerCase())
  const domain = !isDomain || first === 'index.docker.io' ? DOCKER_HUB : first
  const path = isDomain ? name.slice(slash + 1) : name
  const repository = domain === DOCKER_HUB && path !== '' && !path.includes('/') ? `library/${path}` : path
  return { domain, repository }
}

function portOf(domain: string): string | undefined {
  return /:([0-9]+)$/.exec(domain)?.[1]
}

function invalid(text: string, why: string): Error {
  return fault(
    'REFERENCE_INVALID',
    `image reference ${JSON.stringify(text)} ${why}: write it as [host[:port]/]path[:tag][@sha256:…]`,
  )
}
