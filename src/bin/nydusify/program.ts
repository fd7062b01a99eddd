import { type Command, Option } from 'commander'
import { addLaterCommands, commandLine } from '../../common/command-line.js'
import { readVersion } from '../../common/version.js'
import { addCheck } from './check.js'
import { addCopy } from './copy.js'
import { addMount } from './mount.js'
import { addOptimize } from './optimize.js'
import { normalizeEnvironment } from './convert-options.js'
import { addConvert } from './convert.js'

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

/** Runs the command line. */
export async function nydusify(argv: readonly string[]): Promise<void> {
  await program().parseAsync(argv, { from: 'user' })
}
