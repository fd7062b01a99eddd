/* The system calls that Node.js lacks and that do not wait, one function each. */
#include "nydus.h"
#include <fcntl.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

EXPORT int32_t nydus_abi(void) { return ABI; }

/* ---------------------------------------------------------------- fanotify */

/* Kernel's O_LARGEFILE: glibc says 0 on 64-bit, but files above 2 GiB need it in the event flags. */
#if defined(__aarch64__) || defined(__arm__)
#define LARGE_FILE 0400000
#else
#define LARGE_FILE 0100000
#endif

EXPORT int32_t nydus_fanotify_init(uint32_t flags, uint32_t event_flags)
{
	return (int32_t)result_of(fanotify_init(flags | FAN_CLOEXEC, event_flags | LARGE_FILE | O_CLOEXEC));
}

/* path NULL: the file that dirfd names. */
EXPORT int32_t nydus_fanotify_mark(int32_t group, uint32_t flags, uint64_t mask, int32_t dirfd, const char *path)
{
	return (int32_t)result_of(fanotify_mark(group, flags, mask, dirfd, path));
}

/* ---------------------------------------------------------------- cachefiles and FUSE devices */

EXPORT int32_t nydus_cachefiles_read_complete(int32_t object_fd, uint32_t message_id)
{
	return (int32_t)result_of(ioctl(object_fd, 0x40049801UL, (unsigned long)message_id));
}

EXPORT int32_t nydus_fuse_clone(int32_t fresh_fd, int32_t session_fd)
{
	uint32_t session = (uint32_t)session_fd;

	return (int32_t)result_of(ioctl(fresh_fd, 0x8004e500UL, &session));
}

EXPORT int32_t nydus_fuse_backing_open(int32_t device_fd, int32_t backing_fd)
{
	struct {
		int32_t fd;
		uint32_t flags;
		uint64_t padding;
	} map = { backing_fd, 0, 0 };

	return (int32_t)result_of(ioctl(device_fd, 0x4010e501UL, &map));
}

EXPORT int32_t nydus_fuse_backing_close(int32_t device_fd, uint32_t backing_id)
{
	return (int32_t)result_of(ioctl(device_fd, 0x4004e502UL, &backing_id));
}

/* ---------------------------------------------------------------- processes and descriptors */

EXPORT int32_t nydus_pidfd_open(int32_t pid) { return (int32_t)result_of(syscall(SYS_pidfd_open, pid, 0)); }

EXPORT int32_t nydus_pidfd_getfd(int32_t pidfd, int32_t fd)
{
	return (int32_t)result_of(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
}

/* Whether another process's descriptor and one of ours are one open file (kcmp(2), KCMP_FILE): 1 or 0. */
EXPORT int32_t nydus_same_file(int32_t pid, int32_t fd, int32_t own_fd)
{
	long order = syscall(SYS_kcmp, getpid(), pid, 0, own_fd, fd);

	return order < 0 ? -errno : order == 0;
}

EXPORT int32_t nydus_pidfd_send_signal(int32_t pidfd, int32_t signal_number)
{
	return (int32_t)result_of(syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL, 0));
}

/* Ends every thread at once (exit_group), those that are blocked in the kernel included; no exit handler runs. */
EXPORT int32_t nydus_end_process(int32_t status)
{
	_exit(status);
}

EXPORT int32_t nydus_dup_above(int32_t fd, int32_t lowest)
{
	return (int32_t)result_of(fcntl(fd, F_DUPFD_CLOEXEC, lowest));
}

EXPORT int32_t nydus_dup_onto(int32_t fd, int32_t target)
{
	return (int32_t)result_of(dup3(fd, target, O_CLOEXEC));
}

/* want 1: set close-on-exec, 0: clear it, -1: ask. Returns what it was before. */
EXPORT int32_t nydus_cloexec(int32_t fd, int32_t want)
{
	int flags = fcntl(fd, F_GETFD);

	if (flags >= 0 && want >= 0 && fcntl(fd, F_SETFD, want ? FD_CLOEXEC : 0) < 0)
		flags = -1;
	return flags < 0 ? -errno : (flags & FD_CLOEXEC) != 0;
}

EXPORT int32_t nydus_get_open_files(uint64_t limits[2])
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	limits[0] = limit.rlim_cur;
	limits[1] = limit.rlim_max;
	return 0;
}

EXPORT int32_t nydus_set_open_files(const uint64_t limits[2])
{
	struct rlimit limit = { limits[0], limits[1] };

	return (int32_t)result_of(setrlimit(RLIMIT_NOFILE, &limit));
}

/* ---------------------------------------------------------------- files */

EXPORT int32_t nydus_fallocate(int32_t fd, int32_t mode, int64_t offset, int64_t length)
{
	int result;

	do
		result = fallocate(fd, mode, offset, length);
	while (result < 0 && errno == EINTR);
	return (int32_t)result_of(result);
}

EXPORT int64_t nydus_seek(int32_t fd, int64_t offset, int32_t whence)
{
	return result_of(lseek(fd, offset, whence));
}

EXPORT int32_t nydus_drop_cache(int32_t fd, int64_t offset, int64_t length)
{
	return -posix_fadvise(fd, offset, length, POSIX_FADV_DONTNEED);
}

/* One byte a page of [0, length): 1 where it is in the page cache. */
EXPORT int32_t nydus_resident_pages(int32_t fd, uint64_t length, uint8_t *pages)
{
	void *map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
	int result;

	if (map == MAP_FAILED)
		return -errno;
	result = (int)result_of(mincore(map, length, pages));
	munmap(map, length);
	return result;
}

/* Puts a part of a file in the place of the whole pages of memory. Where the first of them begins, from 0 on. */
EXPORT int32_t nydus_map_over(void *memory, uint64_t length, int32_t fd, int64_t offset)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)memory;
	uintptr_t aligned = (begin + page - 1) / page * page;

	if (mmap((void *)aligned, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED)
		return -errno;
	return (int32_t)(aligned - begin);
}

EXPORT int32_t nydus_flock(int32_t fd, int32_t operation)
{
	return (int32_t)result_of(flock(fd, operation));
}

EXPORT int32_t nydus_exchange(const char *first, const char *second)
{
	return (int32_t)result_of(syscall(SYS_renameat2, AT_FDCWD, first, AT_FDCWD, second, 2 /* RENAME_EXCHANGE */));
}

/* Of the name itself, where it is a symbolic link. */
EXPORT int64_t nydus_list_xattrs(const char *path, char *names, uint64_t size)
{
	return result_of(llistxattr(path, names, size));
}

EXPORT int64_t nydus_get_xattr(const char *path, const char *name, void *value, uint64_t size)
{
	return result_of(lgetxattr(path, name, value, size));
}

EXPORT int32_t nydus_set_xattr(const char *path, const char *name, const void *value, uint64_t size)
{
	return (int32_t)result_of(lsetxattr(path, name, value, size, 0));
}

EXPORT int32_t nydus_make_node(const char *path, uint32_t mode, uint32_t major_number, uint32_t minor_number)
{
	return (int32_t)result_of(mknod(path, mode, makedev(major_number, minor_number)));
}

/* Both times of the name itself, where it is a symbolic link. */
EXPORT int32_t nydus_set_times(const char *path, int64_t seconds, int64_t nanoseconds)
{
	struct timespec times[2] = {{seconds, nanoseconds}, {seconds, nanoseconds}};

	return (int32_t)result_of(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW));
}

EXPORT int32_t nydus_mount_id(const char *path, uint64_t *id)
{
	struct statx facts;

	if (statx(AT_FDCWD, path, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0x1000 /* STATX_MNT_ID */, &facts) < 0)
		return -errno;
	if (!(facts.stx_mask & 0x1000))
		return -ENOSYS;
	/* stx_mnt_id by its place: the field is missing in older headers. */
	memcpy(id, (const char *)&facts + 0x90, sizeof *id);
	return 0;
}

EXPORT int32_t nydus_real_time(int64_t *nanoseconds)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now) < 0)
		return -errno;
	*nanoseconds = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	return 0;
}
