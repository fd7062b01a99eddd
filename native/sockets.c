/* Descriptors over unix sockets: to a service manager or a holder, and to and from a supervisor. */
#include "nydus.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

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
