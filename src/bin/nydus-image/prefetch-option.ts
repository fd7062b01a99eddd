import { text } from 'node:stream/consumers'
import { Option } from 'commander'

export type PrefetchPolicy = 'fs' | 'blob' | 'none'

export function prefetchPolicyOption(): Option {
  return new Option(
    '--prefetch-policy <policy>',
    'what is fetched ahead: the paths on standard input (fs), or nothing',
  )
    .choices(['fs', 'blob', 'none'])
    .default('none')
}

/** The paths on standard input, one a line; everything when there is none. A policy of `none` reads nothing. */
export async function readPrefetchPaths(policy: PrefetchPolicy): Promise<string[]> {
  if (policy === 'none') return []
  const lines = (await text(process.stdin)).split('\n').map(line => line.trim())
  const paths = lines.filter(line => line !== '')
  return paths.length > 0 ? paths : ['/']
}
