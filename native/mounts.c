/* Mounting, unmounting, and reading what may hang, as jobs. */
#include "nydus.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

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

enum { PROBE_MAX = 1 << 20, SET_FLAG = 0, SET_STRING = 1, CMD_CREATE = 6, ATTR_RDONLY = 1, MOVE_EMPTY_PATH = 4, VALUE_LIMIT = 256 };

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
