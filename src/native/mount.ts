import { isFault } from '../common/fault.js'
import { cString, getLibrary } from './library.js'
import { errnoName } from './errno.js'
import { type JobOptions, waitForJob, parseContextMessages } from './wait.js'

/** Flags of mount(2). */
export const MS = {
  RDONLY: 0x1,
  NOSUID: 0x2,
  NODEV: 0x4,
  NOEXEC: 0x8,
  SYNCHRONOUS: 0x10,
  REMOUNT: 0x20,
  MANDLOCK: 0x40,
  DIRSYNC: 0x80,
  NOATIME: 0x400,
  NODIRATIME: 0x800,
  BIND: 0x1000,
  MOVE: 0x2000,
  REC: 0x4000,
  PRIVATE: 0x4_0000,
  SLAVE: 0x8_0000,
  SHARED: 0x10_0000,
  RELATIME: 0x20_0000,
  STRICTATIME: 0x100_0000,
} as const

export interface MountRequest extends JobOptions {
  readonly source: string
  readonly target: string
  /** File system type; `none` for a bind mount. */
  readonly type: string
  /** Of {@link MS}. */
  readonly flags?: number
  /** Comma-separated options, at most one page. */
  readonly data?: string
}

/**
 * mount(2): bind, overlay, fuse and the like.
 * @throws SYSCALL_FAILED, NATIVE_TIMEOUT (the mount may then still appear)
 */
export async function mount(request: MountRequest): Promise<void> {
  const { source, target, type, flags = 0, data } = request
  const pipeFd = getLibrary().nydus_job_mount(
    cString(source),
    cString(target),
    cString(type),
    flags,
    data === undefined ? null : cString(data),
  )
  await waitForJob(`mount of ${type} ${source} on ${target}`, pipeFd, request)
}

/** Makes the mount at the target independent of, or bound to, other namespaces: `MS.PRIVATE`, `MS.SLAVE`, `MS.SHARED`. */
export async function setPropagation(target: string, flags: number, options: JobOptions): Promise<void> {
  await mount({ source: 'none', target, type: 'none', flags, ...options })
}

const MNT_DETACH = 2
const UMOUNT_NOFOLLOW = 8

/**
 * umount2(2); does not follow a symbolic link. A busy mount gives EBUSY unless `lazy`.
 * @throws SYSCALL_FAILED (EINVAL: nothing is mounted there), NATIVE_TIMEOUT (it may then still go)
 */
export async function unmount(target: string, options: JobOptions & { lazy?: boolean }): Promise<void> {
  const flags = UMOUNT_NOFOLLOW | (options.lazy === true ? MNT_DETACH : 0)
  await waitForJob(`unmount of ${target}`, getLibrary().nydus_job_unmount(cString(target), flags), options)
}

/** One parameter of a mount context: a string, or `true` for a flag. */
export type MountParameter = readonly [key: string, value: string | true]

export interface ErofsMount extends JobOptions {
  /** The bootstrap (file-backed), or the fsid again (fscache). */
  readonly source: string
  /** A file per blob, in the order of the image's device table. */
  readonly devices?: readonly string[]
  readonly target: string
  readonly fsid?: string
  readonly domainId?: string
}

/**
 * Mounts an EROFS image read-only through fsopen(2), so that hundreds of devices fit and the kernel's own messages
 * reach the fault. A mount that outlives its deadline does not appear later.
 * @throws SYSCALL_FAILED (`context.messages`: what the kernel said), NATIVE_TIMEOUT
 */
export async function mountErofs(request: ErofsMount): Promise<void> {
  await runContext('erofs', request.target, erofsParameters(request), request)
}

/**
 * Whether the kernel takes this image and these devices as an EROFS mount of plain files: creates a superblock, mounts
 * it nowhere and lets it go. Use a valid image on the file system in question.
 * @returns undefined when it does, else the errno: `ENOTBLK` where file-backed mounts are not built in
 * @throws NATIVE_TIMEOUT
 */
export async function probeErofsFileBacked(
  imagePath: string,
  devices: readonly string[],
  options: JobOptions,
): Promise<ProbeFailure | undefined> {
  try {
    await runContext('erofs', '', erofsParameters({ source: imagePath, devices }), options)
    return undefined
  } catch (err) {
    if (!isFault(err, 'SYSCALL_FAILED')) throw err
    return { errno: String(err.context['errno']), message: err.message }
  }
}

export interface ProbeFailure {
  readonly errno: string
  readonly message: string
}

/** What a fresh mount context says to a parameter. */
export interface ParameterProbe {
  readonly accepted: boolean
  /** Of the refusal. */
  readonly errno?: string
  /** The kernel's messages without their level: a parameter may be accepted and yet `not supported`. */
  readonly messages: readonly string[]
}

/**
 * Offers a parameter to EROFS and creates nothing. For `fsid`: no message means on-demand mode is built in, "not
 * supported" that it is off, "Unknown parameter" that it was removed. Refused with ENODEV: no EROFS in this kernel; with
 * EPERM: no privilege to mount.
 */
export function probeErofsParameter(key: string, value: string | true): ParameterProbe {
  const text = Buffer.alloc(4096)
  const length = Buffer.alloc(4)
  const result = getLibrary().nydus_probe_parameter(
    cString('erofs'),
    cString(key),
    value === true ? null : cString(value),
    text,
    text.length,
    length,
  )
  const messages = parseContextMessages(text.subarray(0, length.readUInt32LE(0)).toString().split('\n'))
  return result < 0 ? { accepted: false, errno: errnoName(-result), messages } : { accepted: true, messages }
}

function erofsParameters(
  request: Pick<ErofsMount, 'source' | 'devices' | 'fsid' | 'domainId'>,
): MountParameter[] {
  const parameters: MountParameter[] = [['source', request.source]]
  for (const device of request.devices ?? []) parameters.push(['device', device])
  if (request.fsid !== undefined) parameters.push(['fsid', request.fsid])
  if (request.domainId !== undefined) parameters.push(['domain_id', request.domainId])
  parameters.push(['ro', true])
  return parameters
}

async function runContext(
  type: string,
  target: string,
  parameters: readonly MountParameter[],
  options: JobOptions,
): Promise<void> {
  const packed = Buffer.concat(parameters.map(packParameter))
  const source = parameters.find(([key]) => key === 'source')?.[1]
  const pipeFd = getLibrary().nydus_job_mount_context(cString(type), cString(target), packed, packed.length)
  const call = target === '' ? `probe of ${type} ${source}` : `mount of ${type} ${source} on ${target}`
  await waitForJob(call, pipeFd, options)
}

/** The record that native/mounts.c reads: `s` key NUL value NUL, or `f` key NUL. */
function packParameter([key, value]: MountParameter): Buffer {
  return value === true
    ? Buffer.concat([Buffer.from('f'), cString(key)])
    : Buffer.concat([Buffer.from('s'), cString(key), cString(value)])
}
