#!/usr/bin/env node
/**
 * Mount helper for mounts of type `fuse.nydus-overlayfs`: what the snapshotter tells runtimes like Kata Containers is
 * taken off, and the rest is mounted as the overlay that it is. Called as mount helpers are:
 * `nydus-overlayfs overlay TARGET -o OPTIONS`.
 */
import path from 'node:path'
import type { Command } from 'commander'
import { commandLine } from '../common/command-line.js'
import { fault } from '../common/fault.js'
import { readVersion } from '../common/version.js'
import { parseMountOptions } from '../native/mount-options.js'
import { mount } from '../native/mount.js'
import { requireRoot, run } from './run.js'

const NAME = 'nydus-overlayfs'
/** For the runtime alone. They hold credentials: no sentence of ours may show them. */
const DROPPED = ['extraoption=', 'io.katacontainers.volume=']
/** mount(2) takes one page of options; the kernel adds none of its own. */
const DATA_MAX_BYTES = 4096 - 512
const FOUR_ARGUMENTS = `the four arguments are: ${NAME} overlay TARGET -o OPTIONS`
const MOUNT_TIMEOUT_MS = 60_000
const PATHS = /^(lowerdir|upperdir|workdir)=(.*)$/s

run(NAME, async argv => {
  if (argv.length === 1) {
    await program().parseAsync([...argv], { from: 'user' })
    return
  }
  const [source, target, flag, text] = argv
  if (argv.length !== 4 || source !== 'overlay' || flag !== '-o' || target === undefined) {
    throw fault('USAGE', FOUR_ARGUMENTS)
  }
  const options = (text ?? '').split(',').filter(option => !DROPPED.some(prefix => option.startsWith(prefix)))
  const { flags, data } = parseMountOptions(options.filter(option => option !== ''))
  if (data.length === 0) {
    throw fault('USAGE', 'the options name no directory: an overlay needs at least lowerdir=')
  }
  requireRoot(NAME)
  await mount({
    source: 'overlay',
    target: path.resolve(target),
    type: 'overlay',
    flags,
    data: fitting(data).join(','),
    timeoutMs: MOUNT_TIMEOUT_MS,
  })
})

/** What a person asks of it; whoever mounts gives four arguments. */
function program(): Command {
  return commandLine(NAME)
    .description('mount helper that drops what is told to runtimes and mounts the overlay')
    .version(`${NAME} ${readVersion().version}`, '--version', 'print the version')
    .usage('overlay TARGET -o OPTIONS | --help | --version')
    .action(() => {
      throw fault('USAGE', FOUR_ARGUMENTS)
    })
}

/** Options that are too long become short ones by a change of the working directory to where all their paths lie. */
function fitting(data: readonly string[]): readonly string[] {
  if (Buffer.byteLength(data.join(',')) < DATA_MAX_BYTES) return data
  const files = data.flatMap(option => splitPaths(PATHS.exec(option)?.[2]))
  const parents = files.map(file => path.dirname(file))
  const [first = '/'] = parents
  const common = parents.reduce(commonParent, first)
  process.chdir(common)
  return data.map(option => {
    const [, name, value] = PATHS.exec(option) ?? []
    if (name === undefined) return option
    return `${name}=${splitPaths(value)
      .map(file => path.relative(common, file))
      .join(':')}`
  })
}

/** Colons within a path are escaped. */
function splitPaths(list = ''): string[] {
  return list === '' ? [] : list.split(/(?<!\\):/)
}

function commonParent(a: string, b: string): string {
  let common = a
  while (common !== '/' && b !== common && !b.startsWith(`${common}/`)) common = path.dirname(common)
  return common
}
