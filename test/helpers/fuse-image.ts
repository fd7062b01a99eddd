import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import type { ChildImage } from './fuse-child.js'

const TOOL = path.resolve(import.meta.dirname, '../../src/bin/nydus-image.js')

/** Builds an image of a directory tree, to be shown at `shown`; `name` tells it from others of the test. */
export function buildFuseImage(
  directory: string,
  tree: string,
  shown: string,
  { name = 'image', options = ['--compressor', 'zstd'] }: { name?: string; options?: readonly string[] } = {},
): ChildImage {
  const place = path.join(directory, `${name}-built`)
  const blobs = path.join(place, 'blobs')
  mkdirSync(blobs, { recursive: true })
  const bootstrap = path.join(place, 'bootstrap')
  execFileSync(process.execPath, [TOOL, 'create', ...options, '-B', bootstrap, '-D', blobs, tree], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return { path: shown, bootstrap, blobs, cache: path.join(place, 'cache') }
}
