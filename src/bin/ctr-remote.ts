#!/usr/bin/env node
import { Writable } from 'node:stream'
import { createInterface } from 'node:readline/promises'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { commandLine } from '../common/command-line.js'
import { fault, isFault } from '../common/fault.js'
import { runCtr } from '../containerd/ctr.js'
import { TextProgress } from '../containerd/progress.js'
import { pullImage } from '../containerd/pull.js'
import { type RegistryFlags, openRegistry } from '../containerd/registries.js'
import { Rpc } from '../containerd/rpc.js'
import { type WantedPlatform, hostPlatform } from '../oci/platform.js'
import { parseReference } from '../oci/reference.js'
import { run } from './run.js'

/** ctr's global flags that take a value: the sub-command comes after them. */
const VALUE_FLAGS = ['--address', '-a', '--namespace', '-n', '--timeout', '--connect-timeout']

interface Flags extends Omit<RegistryFlags, 'user' | 'refreshToken'> {
  address: string
  namespace: string
  snapshotter: string
  timeout?: number
  user?: string
  refresh?: string
  label: Record<string, string>
  platform: WantedPlatform
}

run('ctr-remote', async argv => {
  const arguments_ = rpullArguments(argv)
  if (arguments_) await command().parseAsync(arguments_, { from: 'user' })
  else {
    if (argv.length === 0 || ['--help', '-h', 'help'].includes(argv[0] ?? '')) {
      process.stdout.write(
        'ctr-remote: ctr, with "image rpull" added, which pulls lazily through a snapshotter.\n\n',
      )
    }
    await runCtr(argv)
  }
})

/** Global and own flags of `[images|image|i] rpull`; undefined for any other line. */
function rpullArguments(argv: readonly string[]): string[] | undefined {
  let at = 0
  while (argv[at]?.startsWith('-')) at += VALUE_FLAGS.includes(argv[at] ?? '') ? 2 : 1
  if (!['images', 'image', 'i'].includes(argv[at] ?? '') || argv[at + 1] !== 'rpull') return undefined
  return [...argv.slice(0, at), ...argv.slice(at + 2)]
}

function command(): Command {
  return commandLine('ctr-remote image rpull')
    .description(
      'pulls an image and unpacks it on the way; layers that the snapshotter serves lazily are not fetched',
    )
    .argument('[reference]', 'the image, as in registry.example/app:1')
    .addOption(
      new Option('-a, --address <socket>', "containerd's gRPC socket")
        .env('CONTAINERD_ADDRESS')
        .default('/run/containerd/containerd.sock'),
    )
    .addOption(
      new Option('-n, --namespace <name>', 'namespace of containerd')
        .env('CONTAINERD_NAMESPACE')
        .default('default'),
    )
    .addOption(
      new Option('--snapshotter <name>', 'snapshotter to unpack into')
        .env('CONTAINERD_SNAPSHOTTER')
        .default('nydus'),
    )
    .option(
      '--platform <os/arch[/variant]>',
      'which image of a multi-platform one',
      parsePlatform,
      hostPlatform(),
    )
    .option('--label <key=value>', 'label of the image record; may be repeated', addLabel, {})
    .option('--plain-http', 'speak HTTP without TLS; loopback registries need no flag')
    .option('-k, --skip-verify', 'accept any certificate of the registry')
    .option('-u, --user <name[:password]>', 'user of the registry; a password not given is asked for')
    .option('--refresh <token>', 'refresh token for the authorization server')
    .option('--hosts-dir <directory>', "containerd's registry host configuration (certs.d)")
    .option('--tlscacert <file>', 'PEM of a certificate authority to trust')
    .option('--tlscert <file>', 'PEM of the client certificate')
    .option('--tlskey <file>', 'PEM of its key')
    .option('--timeout <duration>', 'give up after this long, as in 90s or 5m; 0 never', parseDuration)
    .option('--connect-timeout <duration>', 'accepted for ctr; a connection is given 10s', parseDuration)
    .option('--debug', 'show where an error came from')
    .action(rpull)
}

async function rpull(reference: string | undefined, flags: Flags): Promise<void> {
  if (reference === undefined) {
    throw fault(
      'USAGE',
      'please provide an image reference to pull: ctr-remote image rpull registry.example/app:1',
    )
  }
  const image = parseReference(reference)
  const access = await registryFlags(flags)
  const { signal, release } = stopSignal(flags.timeout)
  const progress = new TextProgress(process.stdout)
  const rpc = await Rpc.connect(flags.address, flags.namespace)
  try {
    const registry = await openRegistry(image, access, signal)
    try {
      const { snapshotter, platform, label: labels } = flags
      const result = await pullImage(
        rpc,
        registry,
        { reference: image, snapshotter, platform, labels },
        progress,
        signal,
      )
      const { digest, layers, unfetchedLayers } = result
      progress.line(`pulled ${reference} ${digest}: ${layers} layers, ${unfetchedLayers} of them not fetched`)
    } finally {
      await registry.close()
    }
  } catch (err) {
    throw isFault(signal.reason) ? signal.reason : err
  } finally {
    rpc.close()
    release()
  }
}

async function registryFlags(flags: Flags): Promise<RegistryFlags> {
  const { user, refresh, ...rest } = flags
  if ((flags.tlscert === undefined) !== (flags.tlskey === undefined)) {
    throw fault('USAGE', '--tlscert and --tlskey belong together: give both or neither')
  }
  return {
    ...rest,
    ...(refresh === undefined ? {} : { refreshToken: refresh }),
    ...(user === undefined ? {} : { user: await credential(user) }),
  }
}

async function credential(user: string): Promise<{ username: string; password: string }> {
  const colon = user.indexOf(':')
  if (colon >= 0) return { username: user.slice(0, colon), password: user.slice(colon + 1) }
  process.stderr.write(`Password of ${user}: `)
  const terminal = process.stdin.isTTY
  // Nothing is echoed: what is typed goes to an output that drops it.
  const output = new Writable({ write: (_chunk, _encoding, done) => done() })
  const lines = createInterface({ input: process.stdin, output, terminal })
  const password = await lines.question('')
  lines.close()
  process.stderr.write('\n')
  return { username: user, password }
}

/** Aborts at Ctrl-C, `kill` and the end of the time given, so that what was begun can be taken back. */
function stopSignal(timeoutMs = 0): { signal: AbortSignal; release: () => void } {
  const abort = new AbortController()
  const stop = (): void => abort.abort()
  process.on('SIGINT', stop).on('SIGTERM', stop).on('SIGHUP', stop)
  const late = (): void => abort.abort(fault('TIMEOUT', 'the time that --timeout gives is up'))
  const timer = timeoutMs > 0 ? setTimeout(late, timeoutMs) : undefined
  const release = (): void => {
    clearTimeout(timer)
    process.off('SIGINT', stop).off('SIGTERM', stop).off('SIGHUP', stop)
  }
  return { signal: abort.signal, release }
}

function addLabel(text: string, labels: Record<string, string>): Record<string, string> {
  const equals = text.indexOf('=')
  if (equals === 0) throw new InvalidArgumentError('a label needs a key, as in key=value.')
  return equals < 0
    ? { ...labels, [text]: '' }
    : { ...labels, [text.slice(0, equals)]: text.slice(equals + 1) }
}

function parsePlatform(text: string): WantedPlatform {
  const [os, architecture, variant, more] = text.split('/')
  if (!os || !architecture || more !== undefined) {
    throw new InvalidArgumentError('a platform is written os/architecture or os/architecture/variant.')
  }
  return { os, architecture, ...(variant ? { variant } : {}) }
}

const UNITS_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** Go's durations, as ctr takes them: 90s, 1m30s, 0. In milliseconds. */
function parseDuration(text: string): number {
  if (text === '0') return 0
  if (!/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(text)) {
    throw new InvalidArgumentError('a duration is written like 90s, 5m or 1m30s.')
  }
  let totalMs = 0
  for (const [, number, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)) {
    totalMs += Number(number) * (UNITS_MS[unit ?? ''] ?? 0)
  }
  return totalMs
}
