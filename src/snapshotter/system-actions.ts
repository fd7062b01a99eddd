import { fault } from '../common/fault.js'
import type { BackendConfig } from '../supervisor/image-mounts.js'
import type { Supervisor } from '../supervisor/supervisor.js'
import type { PrefetchLists } from './prefetch-lists.js'
import type { SystemActions } from './system-routes.js'

/**
 * What the system controller of a snapshotter does.
 * @param supervisor undefined before it is loaded, and where no image can be mounted
 * @param template the backend of a daemon that serves several images
 */
export function systemActions(
  supervisor: () => Supervisor | undefined,
  template: BackendConfig,
  prefetchLists: PrefetchLists,
  doctor: Pick<SystemActions, 'examine' | 'removeDamaged'>,
): SystemActions {
  const daemons: SystemActions['daemons'] = () => supervisor()?.daemons() ?? Promise.resolve([])
  return {
    daemons,
    backend: async id => {
      const found = await supervisor()?.backendOf(id)
      if (found) return found
      if ((await daemons()).some(daemon => daemon.id === id)) return template
      throw fault(
        'INSTANCE_UNKNOWN',
        `there is no daemon ${JSON.stringify(id)}: GET /api/v1/daemons lists them`,
      )
    },
    descriptors: () => supervisor()?.descriptors() ?? Promise.resolve([]),
    upgrade: async nydusdPath => {
      const upgraded = supervisor()?.upgrade(nydusdPath)
      if (!upgraded)
        throw fault('UPGRADE_FAILED', 'images are not served here, or not yet: there is no daemon')
      await upgraded
    },
    ...doctor,
    putPrefetchLists: lists => prefetchLists.put(lists),
  }
}
