/**
 * Numbers of the Linux FUSE protocol 7 (include/uapi/linux/fuse.h): opcodes, flags, sizes and places of fields. All
 * integers are in the byte order of the machine.
 */

export const PROTOCOL = { major: 7, minor: 41 } as const

/** Node number of the root of every FUSE mount. */
export const ROOT_NODE = 1

export const OPCODE = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  TMPFILE: 51,
} as const

/** INIT flags that a read-only server has a use for, by their bits; those from 32 on travel in `flags2`. */
export const INIT_FLAG_BITS = {
  ASYNC_READ: 0,
  EXPORT_SUPPORT: 4,
  DO_READDIRPLUS: 13,
  READDIRPLUS_AUTO: 14,
  NO_OPEN_SUPPORT: 17,
  PARALLEL_DIROPS: 18,
  ABORT_ERROR: 21,
  MAX_PAGES: 22,
  CACHE_SYMLINKS: 23,
  NO_OPENDIR_SUPPORT: 24,
  EXPLICIT_INVAL_DATA: 25,
  INIT_EXT: 30,
  HAS_RESEND: 39,
  ALLOW_IDMAP: 40,
} as const
export type InitFlag = keyof typeof INIT_FLAG_BITS

/** Flags of the answers to OPEN and OPENDIR. */
export const OPEN_REPLY = { KEEP_CACHE: 0x2, CACHE_DIR: 0x8 } as const

/** What a write with unique 0 tells the kernel. */
export const NOTIFY = { INVAL_INODE: 2, INVAL_ENTRY: 3, RESEND: 7 } as const

/** Set in the unique of a request that the kernel sends again: bit 63, here of the upper half. */
export const RESENT = 0x8000_0000

export const REQUEST_HEADER = 40
export const REPLY_HEADER = 16
export const ENTRY_SIZE = 128
export const ATTR_REPLY_SIZE = 104
export const DIRENT_SIZE = 24
export const STATFS_SIZE = 80
export const OPEN_REPLY_SIZE = 16
export const INIT_REQUEST_MIN = 16
export const INIT_REPLY_SIZE = 64

/** Pages of one READ at most: 1 MiB, the kernel's own bound. */
export const MAX_PAGES = 256
export const MAX_READ_BYTES = MAX_PAGES * 4096
/** The kernel wants room for a WRITE of this size in every read, though none arrives. */
export const MAX_WRITE_BYTES = 4096
/** Room for one request; a larger one takes more FORGETs at once. */
export const REQUEST_BYTES = 64 * 1024

/** Names are at most this long, in bytes. */
export const MAX_NAME_BYTES = 255

/** errno values of answers. */
export const ERRNO = {
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EACCES: 13,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENODATA: 61,
  ESTALE: 116,
} as const
