import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { isMainThread } from 'node:worker_threads'
import { fault, isFault } from '../common/fault.js'
import { syscallFault } from './errno.js'
import { type Arguments, type CType, openForeignLibrary } from './foreign.js'

/** Must equal `ABI` of native/nydus.h: raised together whenever a signature below changes. */
const ABI = 6

/** The functions of the library that is built of native/: result and arguments. A `pointer` is a Buffer, alive during the call. */
const SIGNATURES = {
  nydus_abi: ['int32', []],
  nydus_live_jobs: ['int32', []],
  nydus_job_mount: ['int32', ['pointer', 'pointer', 'pointer', 'uint64', 'pointer']],
  nydus_job_unmount: ['int32', ['pointer', 'int32']],
  nydus_job_mount_context: ['int32', ['pointer', 'pointer', 'pointer', 'uint32']],
  nydus_job_probe_read: ['int32', ['pointer', 'int64', 'uint32']],
  nydus_probe_parameter: ['int32', ['pointer', 'pointer', 'pointer', 'pointer', 'uint32', 'pointer']],
  nydus_start_poller: ['int32', ['int32', 'pointer']],
  nydus_fanotify_init: ['int32', ['uint32', 'uint32']],
  nydus_fanotify_mark: ['int32', ['int32', 'uint32', 'uint64', 'int32', 'pointer']],
  nydus_cachefiles_read_complete: ['int32', ['int32', 'uint32']],
  nydus_fuse_clone: ['int32', ['int32', 'int32']],
  nydus_fuse_backing_open: ['int32', ['int32', 'int32']],
  nydus_fuse_backing_close: ['int32', ['int32', 'uint32']],
  nydus_pidfd_open: ['int32', ['int32']],
  nydus_pidfd_getfd: ['int32', ['int32', 'int32']],
  nydus_same_file: ['int32', ['int32', 'int32', 'int32']],
  nydus_pidfd_send_signal: ['int32', ['int32', 'int32']],
  nydus_end_process: ['int32', ['int32']],
  nydus_dup_above: ['int32', ['int32', 'int32']],
  nydus_dup_onto: ['int32', ['int32', 'int32']],
  nydus_cloexec: ['int32', ['int32', 'int32']],
  nydus_get_open_files: ['int32', ['pointer']],
  nydus_set_open_files: ['int32', ['pointer']],
  nydus_fallocate: ['int32', ['int32', 'int32', 'int64', 'int64']],
  nydus_seek: ['int64', ['int32', 'int64', 'int32']],
  nydus_drop_cache: ['int32', ['int32', 'int64', 'int64']],
  nydus_resident_pages: ['int32', ['int32', 'uint64', 'pointer']],
  nydus_map_over: ['int32', ['pointer', 'uint64', 'int32', 'int64']],
  nydus_flock: ['int32', ['int32', 'int32']],
  nydus_exchange: ['int32', ['pointer', 'pointer']],
  nydus_list_xattrs: ['int64', ['pointer', 'pointer', 'uint64']],
  nydus_get_xattr: ['int64', ['pointer', 'pointer', 'pointer', 'uint64']],
  nydus_set_xattr: ['int32', ['pointer', 'pointer', 'pointer', 'uint64']],
  nydus_make_node: ['int32', ['pointer', 'uint32', 'uint32', 'uint32']],
  nydus_set_times: ['int32', ['pointer', 'int64', 'int64']],
  nydus_mount_id: ['int32', ['pointer', 'pointer']],
  nydus_real_time: ['int32', ['pointer']],
  nydus_job_send_state: ['int32', ['pointer', 'pointer', 'uint32', 'int32']],
  nydus_job_receive_state: ['int32', ['pointer']],
  nydus_notify: ['int32', ['pointer', 'pointer', 'pointer', 'uint32']],
  nydus_barrier: ['int32', ['pointer']],
} as const satisfies Record<string, readonly [CType, readonly CType[]]>

type Signatures = typeof SIGNATURES
export type NativeLibrary = {
  [Name in keyof Signatures]: (...values: Arguments<Signatures[Name][1]>) => number
}

let loaded: NativeLibrary | undefined

/**
 * The native library, loaded on first use, so that modules which only need constants and parsers cost nothing.
 * @throws NATIVE_LIBRARY when it is missing, of another build, or asked for in a worker (where the FFI crashes)
 */
export function getLibrary(): NativeLibrary {
  return (loaded ??= load())
}

/**
 * The library's path: beside the compiled sources, `dist/native/libnydus.so`.
 */
export function libraryPath(): string {
  return fileURLToPath(new URL('../../native/libnydus.so', import.meta.url))
}

function load(): NativeLibrary {
  if (!isMainThread)
    throw fault('NATIVE_LIBRARY', 'the native library was called in a worker: call it on the main thread')
  const path = libraryPath()
  if (!existsSync(path)) throw fault('NATIVE_LIBRARY', `native library ${path} is missing: run npm run build`)
  try {
    const bind = openForeignLibrary(path)
    // First, for a library of another build may lack functions of this one.
    const abi = bind('nydus_abi', ...SIGNATURES.nydus_abi)()
    if (abi !== ABI)
      throw fault(
        'NATIVE_LIBRARY',
        `native library ${path} has ABI ${abi}, not ${ABI}, from another build: run npm run build`,
      )
    const functions = Object.entries(SIGNATURES).map(([name, [result, types]]) => [
      name,
      bind(name, result, types),
    ])
    return Object.fromEntries(functions) as NativeLibrary
  } catch (cause) {
    if (isFault(cause)) throw cause
    throw fault('NATIVE_LIBRARY', `native library ${path} does not load: run npm ci and npm run build`, {
      cause,
    })
  }
}

/**
 * Passes a call's result on, or throws what it failed with.
 * @throws SYSCALL_FAILED
 */
export function checked(call: string, result: number, detail = ''): number {
  if (result < 0) throw syscallFault(call, -result, detail)
  return result
}

/**
 * A C string of the text, in UTF-8.
 * @throws SYSCALL_FAILED (EINVAL) for text with a NUL, which C would cut there
 */
export function cString(text: string): Buffer {
  return cBytes(Buffer.from(text))
}

/** A C string of the bytes, for names that need not be UTF-8. @throws as `cString` */
export function cBytes(bytes: Uint8Array): Buffer {
  if (bytes.includes(0))
    throw syscallFault('string', 22, `${JSON.stringify(Buffer.from(bytes).toString())} contains a NUL`)
  // Of its own memory, not of Node's pool: its address is asked for.
  const out = Buffer.alloc(bytes.length + 1)
  out.set(bytes)
  return out
}
