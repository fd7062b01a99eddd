#!/usr/bin/env node
import type { Command } from 'commander'
import { addLaterCommands, commandLine } from '../common/command-line.js'
import { readVersion } from '../common/version.js'
import { addCheck } from './nydus-image/check.js'
import { addCreate } from './nydus-image/create.js'
import { addInspect } from './nydus-image/inspect.js'
import { addChunkDict } from './nydus-image/chunkdict.js'
import { addCompact } from './nydus-image/compact.js'
import { addExport } from './nydus-image/export.js'
import { addMerge } from './nydus-image/merge.js'
import { addStat } from './nydus-image/stat.js'
import { addUnpack } from './nydus-image/unpack.js'
import { run } from './run.js'

/** Commands of upstream whose part comes with a later release. */
const LATER = ['optimize']

function program(): Command {
  const command = commandLine('nydus-image')
    .description('builds, looks at and takes apart nydus images')
    .version(`nydus-image ${readVersion().version}`, '--version', 'print the version')
  addCheck(command)
  addCreate(command)
  addInspect(command)
  addStat(command)
  addUnpack(command)
  addMerge(command)
  addCompact(command)
  addChunkDict(command)
  addExport(command)
  addLaterCommands(command, LATER, 'nydus-image check; images are made with nydusify convert')
  return command
}

run('nydus-image', async argv => {
  await program().parseAsync(argv, { from: 'user' })
})
