import type { DaemonInfo, InstanceInfo, MountInfo } from '../../client/api.js'
import { isTable } from '../../common/config-check.js'
import { bytesText, pairsText } from './show.js'

/** The daemon, and a block for each image that it has mounted. */
export function infoText(info: DaemonInfo): string {
  const { version, state, driver, pid, id, supervisor, passed_over: passedOver = [] } = info
  const head = pairsText([
    ['Version', version.package_ver],
    ['Commit', version.git_commit],
    ['Build time', version.build_time],
    ['Profile', version.profile],
    ['Status', state],
    ['Driver', driver],
    ['Process', pid],
    ...(id === null ? [] : [['Id', id] as const]),
    ...(supervisor === null ? [] : [['Supervisor', supervisor] as const]),
    ...passedOver.map(reason => ['Passed over', reason] as const),
  ])
  const mounts = Object.values(info.backend_collection ?? {})
  return [head, ...mounts.map(mountText)].join('\n')
}

function mountText({ mountpoint, backend_type: type, mounted_time: time, config }: MountInfo): string {
  const at = (...keys: string[]): unknown =>
    keys.reduce<unknown>((table, key) => (isTable(table) ? table[key] : undefined), config)
  const word = (value: unknown): string => (typeof value === 'string' && value !== '' ? value : '-')
  const batch = at('rafs', 'prefetch', 'batch_size')
  return pairsText([
    ['Mountpoint', mountpoint],
    ['Type', type],
    ['Mounted Time', time],
    ['Backend', word(at('backend', 'type'))],
    ['Cache', word(at('cache', 'filecache', 'work_dir') ?? at('cache', 'fscache', 'work_dir'))],
    ['Mode', word(at('rafs', 'mode'))],
    ['Prefetch', at('rafs', 'prefetch', 'enable') === true ? 'on' : 'off'],
    ['Prefetch Merging Size', typeof batch === 'number' ? bytesText(batch) : '-'],
  ])
}

export function instancesText(instances: readonly InstanceInfo[]): string {
  return instances
    .map(({ domain_id: domain, id, blobs, metadata_path: path }) => {
      const complete = blobs.filter(blob => blob.complete).length
      const bytes = blobs.reduce((sum, blob) => sum + blob.size_bytes, 0)
      return `${domain} ${id} ${complete}/${blobs.length} ${bytes} ${path}\n`
    })
    .join('')
}
