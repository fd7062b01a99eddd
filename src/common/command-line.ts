/**
 * How the command lines of the project are built on commander: nothing of it is written to standard error but the one
 * sentence that the process ends with.
 */
import { Command, type CommanderError } from 'commander'
import { fault, type Fault } from './fault.js'

/** A program, or with `command()` of it a sub-command, that throws its errors and says nothing itself. */
export function commandLine(name: string): Command {
  return new Command(name).exitOverride().configureOutput({ writeErr: () => undefined })
}

/**
 * Makes sub-commands known whose part comes with a later release: whatever follows their name, they are refused.
 * @param built what there is instead, for the sentence
 */
export function addLaterCommands(parent: Command, names: readonly string[], built: string): void {
  for (const name of names) {
    parent
      .command(name, { hidden: true })
      .allowUnknownOption()
      .allowExcessArguments()
      .helpOption(false)
      .action(() => {
        throw fault(
          'UNIMPLEMENTED',
          `${pathOf(parent)} ${name} comes with a later release: there is ${built}`,
        )
      })
  }
}

/** The fault of what commander threw: its sentence in one line, and where to read on; undefined after help or version. */
export function usageFault(name: string, err: CommanderError): Fault | undefined {
  if (err.exitCode === 0) return undefined
  if (err.code === 'commander.help') return fault('USAGE', `no command is given: ${name} --help lists them`)
  const [said = '', hint] = err.message.replace(/^error: /, '').split('\n')
  const meant = hint === undefined ? '' : ` ${hint.replace('(Did', '(did')}`
  return fault('USAGE', `${said.replace(/\.$/, '')}${meant}: ${name} --help tells what there is`, {
    cause: err,
  })
}

function pathOf(command: Command): string {
  const above = command.parent ? `${pathOf(command.parent)} ` : ''
  return above + command.name()
}
