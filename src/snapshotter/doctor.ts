/** What is wrong on this node, for `nydusctl doctor`. Looking changes nothing. */
import { statfs } from 'node:fs/promises'
import type { DoctorReport, Finding } from '../client/system-client.js'
import { asFault } from '../common/fault.js'
import type { Store } from '../common/store.js'
import type { Supervisor } from '../supervisor/supervisor.js'
import type { Images } from './images.js'
import type { Snapshotter } from './snapshotter.js'

/** Less than this and the cache cannot take a few more chunks of every image. */
const LITTLE_SPACE_BYTES = 256 << 20

export interface DoctorInput {
  readonly store: Store
  readonly snapshotter: Snapshotter
  readonly images: Images
  /** Undefined before it is loaded, and where no image can be mounted. */
  readonly supervisor: Supervisor | undefined
  readonly cacheDirectory: string
}

export async function examine(input: DoctorInput): Promise<DoctorReport> {
  const { store, snapshotter, images, supervisor, cacheDirectory } = input
  const daemons = (await supervisor?.daemons()) ?? []
  const space = await readSpace(cacheDirectory)
  const findings: Finding[] = [
    ...store.damage.map(problem => ({
      area: 'state',
      subject: 'store',
      problem,
      next: 'look at the disk and its file system; what is lost is pulled again',
    })),
    ...(await snapshotter.check()),
    ...(images.failure === undefined
      ? []
      : [
          {
            area: 'image',
            subject: 'all',
            problem: `images cannot be served: ${images.failure}`,
            next: 'mend that; the next container that needs an image tries it again',
          },
        ]),
    ...(supervisor?.problems() ?? []).map(problem => ({ area: 'image', ...problem })),
    ...((await supervisor?.wrongMappings()) ?? []).map(({ pid, imageRef, mountpoint }) => ({
      area: 'image',
      subject: imageRef,
      problem: `process ${pid} has memory of ${mountpoint} that was read while nobody kept its descriptors, and may be wrong`,
      next: 'restart its container',
    })),
    ...daemons
      .filter(({ pid }) => pid === 0)
      .map(({ id, restartInMs }) => ({
        area: 'daemon',
        subject: id,
        problem: restartInMs > 0 ? 'it keeps dying, and is started after a pause' : 'it does not run',
        next: 'see its log nydusd.log and that of the snapshotter',
      })),
    ...space.findings,
  ]
  return {
    findings,
    snapshots: snapshotter.list([]).length,
    images: supervisor?.list().length ?? 0,
    driver: daemons.find(({ driver }) => driver !== '')?.driver ?? '',
    daemons: daemons.map(({ id, pid, driver, deaths }) => ({ id, pid, driver, deaths })),
    cache_directory: cacheDirectory,
    cache_free_bytes: space.freeBytes,
  }
}

async function readSpace(directory: string): Promise<{ freeBytes: number; findings: Finding[] }> {
  const finding = (problem: string, next: string): Finding => ({
    area: 'cache',
    subject: directory,
    problem,
    next,
  })
  let freeBytes: number
  try {
    const { bavail, bsize } = await statfs(directory)
    freeBytes = bavail * bsize
  } catch (err) {
    // Made with the first image.
    if (asFault(err).message.includes('ENOENT')) return { freeBytes: 0, findings: [] }
    return {
      freeBytes: 0,
      findings: [finding(`it cannot be read: ${asFault(err).message}`, 'mend or mount it')],
    }
  }
  if (freeBytes >= LITTLE_SPACE_BYTES) return { freeBytes, findings: [] }
  const problem = `its file system has ${freeBytes >> 20} MiB left`
  return { freeBytes, findings: [finding(problem, 'free some: reads of missing data fail when it is full')] }
}
