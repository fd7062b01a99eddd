import type { Stats } from 'node:fs'
import { lstat, readdir } from 'node:fs/promises'
import path from 'node:path'
import { hasErrno } from '../common/fault.js'
import type { Usage } from './snapshots.js'

/** lstat(2) calls under way at once: enough to keep libuv's threads busy. */
const PARALLEL = 8

/**
 * Disk space under a directory, itself included: allocated blocks, every inode once. A file that vanishes meanwhile
 * does not count; a directory that is not there is empty.
 */
export async function readUsage(directory: string): Promise<Usage> {
  const seen = new Set<string>()
  let sizeBytes = 0
  const count = (stats: Stats): void => {
    const inode = `${stats.dev}:${stats.ino}`
    if (seen.has(inode)) return
    seen.add(inode)
    sizeBytes += stats.blocks * 512
  }

  const root = await ifPresent(lstat(directory))
  if (root) count(root)
  const pending = root?.isDirectory() ? [directory] : []
  for (let parent = pending.pop(); parent !== undefined; parent = pending.pop()) {
    const names = (await ifPresent(readdir(parent))) ?? []
    for (let at = 0; at < names.length; at += PARALLEL) {
      const paths = names.slice(at, at + PARALLEL).map(name => path.join(parent, name))
      const found = await Promise.all(paths.map(child => ifPresent(lstat(child))))
      found.forEach((stats, index) => {
        if (!stats) return
        count(stats)
        const child = paths[index]
        if (stats.isDirectory() && child !== undefined) pending.push(child)
      })
    }
  }
  return { sizeBytes, inodes: seen.size }
}

/**
 * Disk space of the files of one blob in the cache directory, `<hex>` and `<hex>.<anything>`, and in the directories
 * below it, which daemons of single images have to themselves.
 */
export async function readBlobUsage(cacheDirectory: string, blobId: string): Promise<Usage> {
  const isOwn = (name: string): boolean => name === blobId || name.startsWith(`${blobId}.`)
  const entries = (await ifPresent(readdir(cacheDirectory, { withFileTypes: true }))) ?? []
  const files = entries.filter(({ name }) => isOwn(name)).map(({ name }) => path.join(cacheDirectory, name))
  for (const entry of entries) {
    if (!entry.isDirectory()) continue
    const directory = path.join(cacheDirectory, entry.name)
    const names = (await ifPresent(readdir(directory))) ?? []
    files.push(...names.filter(isOwn).map(name => path.join(directory, name)))
  }
  const usages = await Promise.all(files.map(file => readUsage(file)))
  return {
    sizeBytes: usages.reduce((sum, usage) => sum + usage.sizeBytes, 0),
    inodes: usages.reduce((sum, usage) => sum + usage.inodes, 0),
  }
}

async function ifPresent<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading
  } catch (err) {
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'ENOTDIR')) return undefined
    throw err
  }
}
