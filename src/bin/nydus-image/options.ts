import { Option } from 'commander'

/** Every command has it, before or after its other options. */
export function logLevelOption(): Option {
  return new Option('-l, --log-level <level>', 'debug shows where an error came from')
    .choices(['trace', 'debug', 'info', 'warn', 'error'])
    .default('info')
}

/** Upstream's configuration of blob access, which its options for backends replace here. */
export function configOption(): Option {
  return new Option('-C, --config <file>', "accepted for upstream's sake: name a backend instead").hideHelp()
}
