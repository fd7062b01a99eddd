/*
 * The system calls that Node.js lacks, as a plain C ABI.
 *
 * Rules, for every exported function:
 *  - fixed-width arguments; the result is >= 0 or -errno; errno itself means nothing to the caller;
 *  - nothing that may wait for a daemon runs on the calling thread: that is a job (below), a detached thread which
 *    reports through a pipe;
 *  - a pointer is read or written during the call only: jobs copy what they need;
 *  - descriptors are made close-on-exec.
 *
 * Constants of newer kernels are written out, so that older headers build the same library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define ABI 6

static int64_t result_of(long value) { return value < 0 ? -errno : value; }

EXPORT int32_t nydus_abi(void) { return ABI; }

/* ---------------------------------------------------------------- jobs */

enum { TEXT_SIZE = 4080, MAX_JOBS = 256, THREAD_STACK = 256 * 1024, PROBE_MAX = 1 << 20 };

/* What a job writes to its pipe, followed by text_length bytes: the failed call's name, a newline, what is known. */
struct reply {
	int64_t result;
	uint32_t text_length;
	uint32_t abi;
};

struct job {
	int64_t (*run)(struct job *job);
	int reply_fd;
	uint64_t numbers[2];
	const char *strings[4];
	const char *packed;
	uint32_t packed_length;
	uint32_t text_length;
	char text[TEXT_SIZE];
	char copies[]; /* what strings[] and packed point to */
};

/* Bounds the threads that hang in the kernel; the only state of this library. */
static atomic_int live_jobs;

EXPORT int32_t nydus_live_jobs(void) { return atomic_load(&live_jobs); }

static void add_text(struct job *job, const char *text, size_t length)
{
	size_t space = TEXT_SIZE - job->text_length;

	if (length > space)
		length = space;
	memcpy(job->text + job->text_length, text, length);
	job->text_length += length;
}

/* Ends a job with errno, naming the call. */
static int64_t failed(struct job *job, const char *call)
{
	int error = errno;

	job->text_length = 0;
	add_text(job, call, strlen(call));
	add_text(job, "\n", 1);
	return -error;
}

/* True when nobody reads the reply any more: the deadline has passed. */
static int is_abandoned(struct job *job)
{
	struct pollfd reader = { .fd = job->reply_fd, .events = 0 };

	return poll(&reader, 1, 0) > 0 && (reader.revents & POLLERR);
}

static void *run_job(void *argument)
{
	struct job *job = argument;
	struct reply reply = { .abi = ABI };
	struct iovec parts[2] = { { &reply, sizeof reply }, { job->text, 0 } };

	reply.result = job->run(job);
	reply.text_length = parts[1].iov_len = reply.result < 0 ? job->text_length : 0;
	/* Fits the empty pipe; when the reader has gone there is nobody to tell. */
	if (writev(job->reply_fd, parts, 2) < 0)
		reply.result = -errno;
	close(job->reply_fd);
	free(job);
	atomic_fetch_sub(&live_jobs, 1);
	return NULL;
}

/* Starts a detached thread with every signal blocked, so that the process's handlers stay on its own threads. */
static int start_thread(void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all, before;
	int error = pthread_attr_init(&attributes);

	if (error)
		return error;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, THREAD_STACK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}

static struct job *new_job(int64_t (*run)(struct job *), const char *const strings[], int count, const void *packed,
			   uint32_t packed_length)
{
	/* Two more zeros: what is read as strings ends there, however the last record is cut short. */
	size_t size = sizeof(struct job) + packed_length + 2;
	struct job *job;
	char *copy;

	for (int i = 0; i < count; i++)
		size += strlen(strings[i]) + 1;
	job = calloc(1, size);
	if (!job)
		return NULL;
	job->run = run;
	copy = job->copies;
	for (int i = 0; i < count; i++) {
		job->strings[i] = copy;
		copy = stpcpy(copy, strings[i]) + 1;
	}
	if (packed_length)
		memcpy(copy, packed, packed_length);
	job->packed = copy;
	job->packed_length = packed_length;
	return job;
}

/* Runs the job on a thread of its own, which frees it. Returns the pipe's end to read the reply from. */
static int32_t start_job(struct job *job)
{
	int ends[2], error;

	if (!job)
		return -ENOMEM;
	if (atomic_fetch_add(&live_jobs, 1) >= MAX_JOBS) {
		error = EAGAIN;
		goto refuse;
	}
	if (pipe2(ends, O_CLOEXEC) < 0) {
		error = errno;
		goto refuse;
	}
	job->reply_fd = ends[1];
	error = start_thread(run_job, job);
	if (!error)
		return ends[0];
	close(ends[0]);
	close(ends[1]);
refuse:
	free(job);
	atomic_fetch_sub(&live_jobs, 1);
	return -error;
}

static int64_t run_mount(struct job *job)
{
	const char *data = job->numbers[1] ? job->strings[3] : NULL;

	if (mount(job->strings[0], job->strings[1], job->strings[2], job->numbers[0], data) < 0)
		return failed(job, "mount");
	return 0;
}

EXPORT int32_t nydus_job_mount(const char *source, const char *target, const char *type, uint64_t flags,
			       const char *data)
{
	struct job *job = new_job(run_mount, (const char *[]){ source, target, type, data ? data : "" }, 4, NULL, 0);

	if (job) {
		job->numbers[0] = flags;
		job->numbers[1] = data != NULL;
	}
	return start_job(job);
}

static int64_t run_unmount(struct job *job)
{
	return umount2(job->strings[0], (int)job->numbers[0]) < 0 ? failed(job, "umount2") : 0;
}

EXPORT int32_t nydus_job_unmount(const char *target, int32_t flags)
{
	struct job *job = new_job(run_unmount, &target, 1, NULL, 0);

	if (job)
		job->numbers[0] = (uint32_t)flags;
	return start_job(job);
}

/* ---------------------------------------------------------------- file system contexts */

enum { SET_FLAG = 0, SET_STRING = 1, CMD_CREATE = 6, ATTR_RDONLY = 1, MOVE_EMPTY_PATH = 4, VALUE_LIMIT = 256 };

static int fs_open(const char *type) { return (int)syscall(SYS_fsopen, type, 1 /* FSOPEN_CLOEXEC */); }

static int fs_config(int context, unsigned command, const char *key, const char *value)
{
	return (int)syscall(SYS_fsconfig, context, command, key, value, 0);
}

/* Appends the context's messages, each on a line: a level letter, a space, the text. Keeps errno. */
static size_t read_messages(int context, char *text, size_t space)
{
	size_t used = 0;
	int saved = errno;

	while (used + 1 < space) {
		ssize_t length = read(context, text + used, space - used - 1);

		if (length <= 0)
			break;
		used += (size_t)length;
		if (text[used - 1] != '\n')
			text[used++] = '\n';
	}
	errno = saved;
	return used;
}

static int64_t failed_in_context(struct job *job, const char *call, int context)
{
	int64_t result = failed(job, call);

	job->text_length += read_messages(context, job->text + job->text_length, TEXT_SIZE - job->text_length);
	return result;
}

/*
 * Hands the parameters in packed to the context: records of 's' key NUL value NUL (a string) or 'f' key NUL (a flag).
 * The kernel takes values below 256 bytes only: a longer path of source= or device= is opened (O_PATH) into held[] and
 * named by its descriptor, which the kernel resolves to the same file.
 */
static int set_parameters(struct job *job, int context, int *held, int *held_count)
{
	const char *at = job->packed, *end = at + job->packed_length;

	while (at < end) {
		char kind = *at++;
		const char *key = at, *value;
		char link[32];

		at += strlen(at) + 1;
		if (kind == 'f') {
			if (fs_config(context, SET_FLAG, key, NULL) < 0)
				return -1;
			continue;
		}
		value = at;
		at += strlen(at) + 1;
		if (strlen(value) >= VALUE_LIMIT && (!strcmp(key, "source") || !strcmp(key, "device"))) {
			int fd = open(value, O_PATH | O_CLOEXEC);

			if (fd < 0)
				return -1;
			held[(*held_count)++] = fd;
			snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
			value = link;
		}
		if (fs_config(context, SET_STRING, key, value) < 0)
			return -1;
	}
	return 0;
}

static int64_t create_and_mount(struct job *job, int context)
{
	const char *target = job->strings[1];
	int64_t result = 0;
	int fd;

	if (fs_config(context, CMD_CREATE, NULL, NULL) < 0)
		return failed_in_context(job, "fsconfig(FSCONFIG_CMD_CREATE)", context);
	if (!*target)
		return 0;
	fd = (int)syscall(SYS_fsmount, context, 1 /* FSMOUNT_CLOEXEC */, ATTR_RDONLY);
	if (fd < 0)
		return failed_in_context(job, "fsmount", context);
	if (is_abandoned(job)) {
		/* The caller was told that the mount failed: it must not appear now. */
		errno = ECANCELED;
		result = failed(job, "move_mount");
	} else if (syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_EMPTY_PATH) < 0) {
		result = failed(job, "move_mount");
	}
	close(fd);
	return result;
}

static int64_t run_mount_context(struct job *job)
{
	uint32_t parameters = 0;
	int context, *held, held_count = 0;
	int64_t result;

	for (uint32_t i = 0; i < job->packed_length; i++)
		parameters += job->packed[i] == 0;
	held = calloc(parameters + 1, sizeof *held);
	if (!held)
		return failed(job, "calloc");
	context = fs_open(job->strings[0]);
	if (context < 0) {
		result = failed(job, "fsopen");
	} else {
		if (set_parameters(job, context, held, &held_count) < 0)
			result = failed_in_context(job, "fsconfig", context);
		else
			result = create_and_mount(job, context);
		close(context);
	}
	while (held_count)
		close(held[--held_count]);
	free(held);
	return result;
}

/* fsopen, parameters, create; then, unless target is empty, fsmount read-only and move_mount to it. */
EXPORT int32_t nydus_job_mount_context(const char *type, const char *target, const void *packed, uint32_t length)
{
	if (length && ((const char *)packed)[length - 1])
		return -EINVAL;
	return start_job(new_job(run_mount_context, (const char *[]){ type, target }, 2, packed, length));
}

/*
 * Offers one parameter (value NULL: a flag) to a fresh context of the type and throws it away. Returns how many bytes
 * of messages were written to text, or -errno; *length_out has the bytes in both cases.
 */
EXPORT int32_t nydus_probe_parameter(const char *type, const char *key, const char *value, char *text, uint32_t space,
				     uint32_t *length_out)
{
	int context = fs_open(type), result = 0;

	*length_out = 0;
	if (context < 0)
		return -errno;
	if (fs_config(context, value ? SET_STRING : SET_FLAG, key, value) < 0)
		result = -errno;
	*length_out = (uint32_t)read_messages(context, text, space);
	close(context);
	return result;
}

/* ---------------------------------------------------------------- reads that may wait */

static int64_t run_probe_read(struct job *job)
{
	off_t offset = (off_t)job->numbers[0];
	size_t length = (size_t)job->numbers[1];
	int64_t result;
	void *buffer;
	int fd = open(job->strings[0], O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return failed(job, "open");
	buffer = malloc(length + 1);
	if (!buffer) {
		result = failed(job, "malloc");
	} else {
		ssize_t count = pread(fd, buffer, length, offset);

		result = count < 0 ? failed(job, "pread") : count;
		free(buffer);
	}
	close(fd);
	return result;
}

EXPORT int32_t nydus_job_probe_read(const char *path, int64_t offset, uint32_t length)
{
	struct job *job;

	if (length > PROBE_MAX)
		return -EINVAL;
	job = new_job(run_probe_read, &path, 1, NULL, 0);
	if (job) {
		job->numbers[0] = (uint64_t)offset;
		job->numbers[1] = length;
	}
	return start_job(job);
}

/* ---------------------------------------------------------------- poll to pipe */

struct poller {
	int watched, ready_fd, rearm_fd;
};

/*
 * Waits for a byte on rearm_fd: the events to poll for. Polls once for them, writes the revents byte to ready_fd, and
 * waits again. A byte that comes meanwhile replaces the events; the end of rearm_fd ends the thread.
 */
static void *run_poller(void *argument)
{
	struct poller *poller = argument;
	uint8_t events = 0, revents;

	for (;;) {
		struct pollfd fds[2] = { { events ? poller->watched : -1, events, 0 },
					 { poller->rearm_fd, POLLIN, 0 } };

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents) {
			if (read(poller->rearm_fd, &events, 1) != 1)
				break;
		} else if (fds[0].revents) {
			revents = (uint8_t)fds[0].revents;
			events = 0;
			if (write(poller->ready_fd, &revents, 1) != 1)
				break;
		}
	}
	close(poller->watched);
	close(poller->rearm_fd);
	close(poller->ready_fd);
	free(poller);
	return NULL;
}

/* ends[0]: read a byte of revents per event; ends[1]: write a byte of events to arm, close to stop. */
EXPORT int32_t nydus_start_poller(int32_t fd, int32_t ends[2])
{
	struct poller *poller = malloc(sizeof *poller);
	int ready[2] = { -1, -1 }, rearm[2] = { -1, -1 }, watched = -1, error;

	if (!poller)
		return -ENOMEM;
	watched = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (watched < 0 || pipe2(ready, O_CLOEXEC) < 0 || pipe2(rearm, O_CLOEXEC) < 0) {
		error = errno;
	} else {
		*poller = (struct poller){ watched, ready[1], rearm[0] };
		error = start_thread(run_poller, poller);
	}
	if (!error) {
		ends[0] = ready[0];
		ends[1] = rearm[1];
		return 0;
	}
	for (int i = 0; i < 2; i++) {
		if (ready[i] >= 0)
			close(ready[i]);
		if (rearm[i] >= 0)
			close(rearm[i]);
	}
	if (watched >= 0)
		close(watched);
	free(poller);
	return -error;
}

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

/* ---------------------------------------------------------------- descriptors over sockets */

enum { RIGHTS_MAX = 253, RECEIVED_MAX = 16, STATE_MAX = 64 << 20, SOCKET_SECONDS = 10 };

union control {
	struct cmsghdr aligned;
	char bytes[CMSG_SPACE(RIGHTS_MAX * sizeof(int32_t))];
};

/* Fills in the address of a socket ('@' first: an abstract name). Returns its length, 0 when the path does not fit. */
static socklen_t set_address(struct sockaddr_un *address, const char *path)
{
	size_t length = strlen(path);

	if (!length || length >= sizeof address->sun_path)
		return 0;
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(address->sun_path, path, length);
	if (path[0] == '@')
		address->sun_path[0] = 0;
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
}

static void add_rights(struct msghdr *header, union control *control, const int32_t *fds, uint32_t count)
{
	struct cmsghdr *rights;

	memset(control, 0, sizeof *control);
	header->msg_control = control;
	header->msg_controllen = CMSG_SPACE(count * sizeof(int32_t));
	rights = CMSG_FIRSTHDR(header);
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(count * sizeof(int32_t));
	memcpy(CMSG_DATA(rights), fds, count * sizeof(int32_t));
}

/* sd_notify(3): a datagram to a socket, with descriptors to keep. Never waits. */
EXPORT int32_t nydus_notify(const char *path, const char *message, const int32_t *fds, uint32_t fd_count)
{
	struct sockaddr_un address;
	struct iovec part = { (void *)message, strlen(message) };
	struct msghdr header = { .msg_name = &address, .msg_iov = &part, .msg_iovlen = 1 };
	union control control;
	int64_t result;
	int fd;

	header.msg_namelen = set_address(&address, path);
	if (!header.msg_namelen || fd_count > RIGHTS_MAX)
		return -EINVAL;
	if (fd_count)
		add_rights(&header, &control, fds, fd_count);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	result = result_of(sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT));
	close(fd);
	return result < 0 ? (int32_t)result : 0;
}

/*
 * sd_notify_barrier(3): sends the write end of a pipe and gives its read end, which ends when everything that was sent
 * before has been done.
 */
EXPORT int32_t nydus_barrier(const char *path)
{
	int32_t ends[2];
	int32_t result;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	result = nydus_notify(path, "BARRIER=1", &ends[1], 1);
	close(ends[1]);
	if (result < 0)
		close(ends[0]);
	return result < 0 ? result : ends[0];
}

/* A stream socket connected to the path, whose calls end by themselves; -1 with errno. */
static int connect_to(const char *path)
{
	struct timeval limit = { .tv_sec = SOCKET_SECONDS };
	struct sockaddr_un address;
	socklen_t length = set_address(&address, path);
	int fd, error;

	if (!length) {
		errno = EINVAL;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* The limit of sending holds for connect(2), too. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
	    connect(fd, (struct sockaddr *)&address, length) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

static int64_t run_send_state(struct job *job)
{
	int32_t kept = (int32_t)job->numbers[0];
	struct iovec part = { (void *)job->packed, job->packed_length };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	union control control;
	int64_t result = 0;
	int fd = connect_to(job->strings[0]);

	if (fd < 0) {
		result = failed(job, "connect");
		close(kept);
		return result;
	}
	/* The first part carries the descriptor. */
	add_rights(&header, &control, &kept, 1);
	while (part.iov_len && !result) {
		ssize_t sent = sendmsg(fd, &header, MSG_NOSIGNAL);

		if (sent < 0) {
			if (errno != EINTR)
				result = failed(job, "sendmsg");
			continue;
		}
		part.iov_base = (char *)part.iov_base + sent;
		part.iov_len -= (size_t)sent;
		header.msg_control = NULL;
		header.msg_controllen = 0;
	}
	close(kept);
	close(fd);
	return result;
}

/* Connects, sends the bytes (at least one) and the descriptor with the first of them, and closes. */
EXPORT int32_t nydus_job_send_state(const char *path, const char *bytes, uint32_t length, int32_t fd)
{
	struct job *job;
	int kept, result;

	if (!length || length > STATE_MAX)
		return -EINVAL;
	kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (kept < 0)
		return -errno;
	job = new_job(run_send_state, &path, 1, bytes, length);
	if (job)
		job->numbers[0] = (uint32_t)kept;
	result = start_job(job);
	if (result < 0)
		close(kept);
	return result;
}

/* Appends what came with a message to fds. */
static void collect_rights(struct msghdr *header, int32_t fds[RECEIVED_MAX], uint32_t *count)
{
	for (struct cmsghdr *at = CMSG_FIRSTHDR(header); at; at = CMSG_NXTHDR(header, at)) {
		size_t number;

		if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
			continue;
		number = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int32_t);
		for (size_t i = 0; i < number; i++) {
			int32_t fd;

			memcpy(&fd, CMSG_DATA(at) + i * sizeof fd, sizeof fd);
			if (*count < RECEIVED_MAX)
				fds[(*count)++] = fd;
			else
				close(fd);
		}
	}
}

static int write_all(int fd, const char *bytes, size_t length)
{
	while (length) {
		ssize_t written = write(fd, bytes, length);

		if (written < 0)
			return -1;
		bytes += written;
		length -= (size_t)written;
	}
	return 0;
}

/* Reads up to the end into `file`; the descriptors that came go to fds. 0, or what failed() gave. */
static int64_t receive_all(struct job *job, int fd, int file, int32_t fds[RECEIVED_MAX], uint32_t *count)
{
	static const size_t step = 32 * 1024;
	char *bytes = malloc(step);
	uint64_t total = 0;
	int64_t result = 0;

	if (!bytes)
		return failed(job, "malloc");
	for (;;) {
		union control control;
		struct iovec part = { bytes, step };
		struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
					 .msg_controllen = sizeof control };
		ssize_t got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			result = failed(job, "recvmsg");
			break;
		}
		collect_rights(&header, fds, count);
		if (!got)
			break;
		total += (uint64_t)got;
		if (total > STATE_MAX) {
			errno = EMSGSIZE;
			result = failed(job, "recvmsg");
			break;
		}
		if (write_all(file, bytes, (size_t)got) < 0) {
			result = failed(job, "write");
			break;
		}
	}
	free(bytes);
	return result;
}

static int64_t run_receive_state(struct job *job)
{
	int32_t fds[RECEIVED_MAX];
	uint32_t count = 0;
	int64_t result;
	int file, fd = connect_to(job->strings[0]);

	if (fd < 0)
		return failed(job, "connect");
	file = memfd_create("nydus-state", MFD_CLOEXEC);
	result = file < 0 ? failed(job, "memfd_create") : receive_all(job, fd, file, fds, &count);
	close(fd);
	if (!result && count != 1) {
		errno = EBADMSG;
		result = failed(job, "recvmsg");
	}
	if (!result && !is_abandoned(job))
		return (int64_t)fds[0] << 32 | file;
	while (count)
		close(fds[--count]);
	if (file >= 0)
		close(file);
	return result;
}

/*
 * Connects and reads to the end. The reply is two descriptors, the caller's: in the upper half the one that came (just
 * one must), in the lower half a memory file of the bytes.
 */
EXPORT int32_t nydus_job_receive_state(const char *path)
{
	return start_job(new_job(run_receive_state, &path, 1, NULL, 0));
}
