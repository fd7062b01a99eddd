import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

/** Images made by the reference tools, beside the source tree; undefined where they are not at hand. */
export function fixturesDirectory(): string | undefined {
  const directory = path.resolve(import.meta.dirname, '../../../../shared/fixtures')
  return existsSync(directory) ? directory : undefined
}

/** One line of `torture/expected.jsonl`: what the merged tree must look like. */
export interface ExpectedEntry {
  path?: string
  path_hex?: string
  type: string
  mode: string
  uid: number
  gid: number
  mtime: number
  size?: number
  sha256?: string
  nlink?: number
  target?: string
  rdev?: [number, number]
  xattrs?: Record<string, string>
}

export function readExpected(fixtures: string): ExpectedEntry[] {
  const lines = readFileSync(path.join(fixtures, 'torture/expected.jsonl'), 'utf8').trim().split('\n')
  return lines.map(line => JSON.parse(line) as ExpectedEntry)
}

export interface FixtureImage {
  name: string
  bootstrap: string
  /** Directory of its blobs, named by their ids. */
  blobs: string
}

/** Images of `rafs/` in one version of the format. */
export function rafsImages(fixtures: string, version: 'v5' | 'v6'): FixtureImage[] {
  const base = path.join(fixtures, 'rafs')
  return readdirSync(base)
    .filter(name => name.startsWith(`${version}-`))
    .map(name => ({
      name,
      bootstrap: path.join(base, name, 'merged.boot'),
      blobs: path.join(base, name, 'blobs'),
    }))
}

export const rafsV6Images = (fixtures: string): FixtureImage[] => rafsImages(fixtures, 'v6')
