import { execFileSync } from 'node:child_process'
import path from 'node:path'
import type { Mount } from '../../src/snapshotter/snapshots.js'

/**
 * Mounts what a snapshotter returned, runs `use` on it, and unmounts. The options of a long overlay do not fit into the
 * one page that mount(2) takes, so their paths are made relative to the directory that all of them lie in, as
 * containerd does.
 */
export async function withMounted<T>(
  mounts: readonly Mount[],
  target: string,
  use: (root: string) => T | Promise<T>,
): Promise<T> {
  for (const { type, source, options } of mounts) {
    const { cwd, short } = shorten(options)
    const kind = type === 'bind' ? [] : ['-t', type]
    execFileSync('mount', [...kind, '-o', short.join(','), source, target], { cwd })
  }
  try {
    return await use(target)
  } finally {
    for (let count = mounts.length; count > 0; count--) execFileSync('umount', [target])
  }
}

const PATH_OPTION = /^(lowerdir|upperdir|workdir)=(.*)$/

function shorten(options: readonly string[]): { cwd: string; short: string[] } {
  const paths = options.flatMap(option => PATH_OPTION.exec(option)?.[2]?.split(':') ?? [])
  const parents = paths.map(file => path.dirname(file))
  const cwd = parents.reduce((common, next) => commonParent(common, next), parents[0] ?? '/')
  const short = options.map(option => {
    const [, name, value] = PATH_OPTION.exec(option) ?? []
    if (name === undefined || value === undefined) return option
    const relative = value.split(':').map(file => path.relative(cwd, file))
    return `${name}=${relative.join(':')}`
  })
  return { cwd, short }
}

function commonParent(a: string, b: string): string {
  let common = a
  while (b !== common && !b.startsWith(`${common}/`)) common = path.dirname(common)
  return common
}
