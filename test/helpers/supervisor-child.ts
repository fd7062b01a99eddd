/** A supervisor in a process of its own, commanded over IPC by supervisor-process.ts, so that it can be killed. */
import { join } from 'node:path'
import { asFault } from '../../src/common/fault.js'
import { createLogger } from '../../src/common/log.js'
import { Store } from '../../src/common/store.js'
import type { BackendConfig, ImageSpec } from '../../src/supervisor/image-mounts.js'
import { takeServiceManager } from '../../src/supervisor/service-manager.js'
import { Supervisor } from '../../src/supervisor/supervisor.js'
import { fuseOptions } from './supervised.js'

export interface ChildOptions {
  readonly directory: string
  readonly driver: string
  readonly dedicated: boolean
  readonly backend: BackendConfig
}

if (process.send) {
  const { directory, driver, dedicated, backend } = JSON.parse(process.argv[2] ?? '') as ChildOptions
  const manager = takeServiceManager(process.env)
  const store = await Store.open(join(directory, 'state'))
  const supervisor = new Supervisor({
    root: directory,
    store,
    cacheDirectory: join(directory, 'cache'),
    logDirectory: join(directory, 'logs'),
    runDirectory: join(directory, 'run'),
    driver,
    fuse: fuseOptions(directory, { dedicated }),
    nydusdPath: '',
    logLevel: 'debug',
    validate: true,
    backendConfig: () => Promise.resolve(backend),
    ...(manager && { manager }),
    logger: createLogger({ name: 'supervisor', level: 'debug', fd: 1 }),
  })
  const commands = {
    mount: (spec: ImageSpec) => supervisor.mount(spec),
    unmount: (id: string) => supervisor.unmount(id),
    list: () => supervisor.list(),
    descriptors: () => supervisor.descriptors(),
    wrongMappings: () => supervisor.wrongMappings(),
    close: async (cleanup: boolean) => {
      await supervisor.close({ cleanup })
      await store.close()
    },
  }
  process.on('message', ({ id, name, value }: { id: number; name: keyof typeof commands; value: never }) => {
    Promise.resolve()
      .then<unknown>(() => commands[name](value))
      .then(
        result => process.send?.({ id, result }),
        (err: unknown) => process.send?.({ id, failure: asFault(err).message }),
      )
  })
  await supervisor.start()
  process.send({ id: 0 })
}
