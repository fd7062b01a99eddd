import { createInterface } from 'node:readline'
import type { Command } from 'commander'
import { asFault } from '../../common/fault.js'
import type { ImageInode } from '../../erofs/image-tree.js'
import { Inspector } from '../../image/read/inspect.js'
import { type BootstrapFlags, OpenBootstrap, addBootstrapOptions, bootstrapPath } from './open-image.js'
import { configOption, logLevelOption } from './options.js'

interface InspectFlags extends BootstrapFlags {
  readonly request?: string
}

/** `nydus-image inspect`: questions about a bootstrap, at a prompt or one as JSON. */
export function addInspect(command: Command): void {
  addBootstrapOptions(command.command('inspect').description('answer questions about a bootstrap'))
    .option('-R, --request <command>', 'answer this one as JSON; help lists them')
    .addOption(configOption())
    .addOption(logLevelOption())
    .action(inspect)
}

async function inspect(operand: string | undefined, flags: InspectFlags): Promise<void> {
  const bootstrap = OpenBootstrap.open(bootstrapPath('inspect', operand, flags))
  try {
    const numbers = new Map<number, ImageInode>()
    const inspector = new Inspector(bootstrap.load({ numbers }), numbers)
    if (flags.request === undefined) await prompt(inspector)
    else request(inspector, flags.request)
  } finally {
    bootstrap.close()
  }
}

function request(inspector: Inspector, line: string): void {
  const { text, json } = inspector.answer(line) ?? { text: '', json: null }
  process.stdout.write(`${json === null ? text : ''}${JSON.stringify(json)}\n`)
}

/** Reads lines until `exit` or the end; a wrong one is told and the next is waited for. */
async function prompt(inspector: Inspector): Promise<void> {
  const lines = createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: process.stdin.isTTY,
  })
  lines.setPrompt(process.stdin.isTTY ? 'inspect> ' : '')
  lines.prompt()
  for await (const line of lines) {
    if (line.trim() !== '' && !answer(inspector, line)) break
    lines.prompt()
  }
  lines.close()
}

/** False where the line asks to end. */
function answer(inspector: Inspector, line: string): boolean {
  try {
    const given = inspector.answer(line)
    process.stdout.write(given?.text ?? '')
    return given !== undefined
  } catch (err) {
    process.stdout.write(`${asFault(err).message}\n`)
    return true
  }
}
