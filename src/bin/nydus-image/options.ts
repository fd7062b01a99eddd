import { Option } from 'commander'

/** Every command has it, before or after its other options. */
export function logLevelOption(): Option {
  return new Option('-l, --log-level <level>', 'debug shows where an error came from')
    .choices(['trace', 'debug', 'info', 'warn', 'error'])
    .default('info')
}
