#!/usr/bin/env node
import { type Command, Option } from 'commander'
import { addLaterCommands, commandLine } from '../common/command-line.js'
import { readVersion } from '../common/version.js'
import { addCheck } from './nydusify/check.js'
import { addCopy } from './nydusify/copy.js'
import { addMount } from './nydusify/mount.js'
import { addOptimize } from './nydusify/optimize.js'
import { normalizeEnvironment } from './nydusify/convert-options.js'
import { addConvert } from './nydusify/convert.js'
import { run } from './run.js'

/** Commands of upstream whose part comes with a later release. */
const LATER = ['build', 'pack', 'chunkdict', 'commit']

function program(): Command {
  const command = commandLine('nydusify')
    .description('converts container images to nydus images')
    .version(`nydusify ${readVersion().version}`, '--version', 'print the version')
    .option('-D, --debug', 'the same as --log-level debug')
    .addOption(
      new Option('--log-level <level>', 'how much to log')
        .choices(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'panic'])
        .default('info'),
    )
    .option('--log-file <file>', 'accepted; messages go to standard error')
  normalizeEnvironment(process.env, addConvert(command))
  addCheck(command)
  addCopy(command)
  addMount(command)
  addOptimize(command)
  addLaterCommands(command, LATER, 'nydusify convert, check and copy')
  return command
}

run('nydusify', async argv => {
  await program().parseAsync(argv, { from: 'user' })
})
