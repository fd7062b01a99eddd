/*
 * nydus-holder: a process that keeps descriptors open and does nothing else, so that they outlive whoever serves them.
 *
 *     nydus-holder SOCKET [3]         with 3 a line on descriptor 3 says that it listens
 *
 * Speaks the descriptor store's half of sd_notify(3) on a unix datagram socket (mode 0600; root or its own user):
 *
 *     FDSTORE=1        keep the one descriptor that came with the message, under the name of FDNAME
 *     FDNAME=          1 to 255 printable ASCII characters without a colon, as systemd has it
 *     FDSTOREREMOVE=1  close the descriptor of that name
 *     BARRIER=1        close the descriptor that came: everything sent before it is done
 *
 * Differences to systemd: a descriptor replaces the one of its name, a message without a valid name is refused, and
 * one that was handed over is never polled, so that none is dropped but by FDSTOREREMOVE.
 *
 * What it holds stands in SOCKET.table, replaced at once as a whole before a barrier is answered: the line
 * `nydus-holder 1 PID STARTTICKS`, and a line `NUMBER NAME` for each, for pidfd_getfd(2). A number is used again only
 * after a table without its old name was written. Where the table cannot be written a barrier is told so: a byte
 * comes before the end.
 *
 * Ends on SIGTERM, but only when it holds nothing. One thread; memory grows with the names alone, up to MAX_HELD.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_HELD = 16384,
	MESSAGE_MAX = 4096,
	NAME_MAX_BYTES = 255,
	RIGHTS_MAX = 253,
	CLOSING_MAX = 64,
	BARRIERS_MAX = 16,
};

struct held {
	int fd;
	char *name;
};

static struct held *table;
static size_t held_count, held_room;
/* Closed once a table without them is on its place. */
static int closing[CLOSING_MAX];
static size_t closing_count;
static int barriers[BARRIERS_MAX];
static size_t barrier_count;
static int table_is_stale = 1;
static char table_path[4096], new_table_path[4096 + 4];
static char identity[64];

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	struct timespec now;
	va_list values;

	clock_gettime(CLOCK_REALTIME, &now);
	fprintf(stderr, "%lld nydus-holder: ", (long long)now.tv_sec);
	va_start(values, format);
	vfprintf(stderr, format, values);
	va_end(values);
	fputc('\n', stderr);
}

/* ---------------------------------------------------------------- the table */

static int write_table(void)
{
	int fd = open(new_table_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "w");

	if (!out) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	fprintf(out, "%s\n", identity);
	for (size_t i = 0; i < held_count; i++)
		fprintf(out, "%d %s\n", table[i].fd, table[i].name);
	/* One that is cut short must not take the place of a whole one. */
	if (ferror(out)) {
		fclose(out);
		return -1;
	}
	return fclose(out) ? -1 : rename(new_table_path, table_path);
}

/* Brings the table up to date, and then does what had to wait for it. */
static void settle(void)
{
	if (table_is_stale && write_table() < 0) {
		say("cannot write %s: %s", table_path, strerror(errno));
		for (size_t i = 0; i < barrier_count; i++)
			if (write(barriers[i], "!", 1) < 0)
				say("a barrier cannot be answered: %s", strerror(errno));
	} else {
		table_is_stale = 0;
		while (closing_count)
			close(closing[--closing_count]);
	}
	while (barrier_count)
		close(barriers[--barrier_count]);
}

static struct held *find(const char *name)
{
	for (size_t i = 0; i < held_count; i++)
		if (!strcmp(table[i].name, name))
			return &table[i];
	return NULL;
}

static void close_later(int fd)
{
	if (closing_count == CLOSING_MAX)
		settle();
	/* Where no table can be written a stale one names it: better closed than kept for ever. */
	if (closing_count == CLOSING_MAX)
		close(fd);
	else
		closing[closing_count++] = fd;
}

/* The descriptor is the table's from here on. */
static void keep(const char *name, int fd)
{
	struct held *known = find(name);
	char *copy;

	if (known) {
		close_later(known->fd);
		known->fd = fd;
		table_is_stale = 1;
		return;
	}
	if (held_count == held_room && held_count < MAX_HELD) {
		size_t room = held_room ? held_room * 2 : 64;
		struct held *larger = realloc(table, room * sizeof *table);

		if (larger) {
			table = larger;
			held_room = room;
		}
	}
	copy = held_count < held_room ? strdup(name) : NULL;
	if (!copy) {
		say("%s is refused: %zu descriptors are held, and there is no room for more", name, held_count);
		close(fd);
		return;
	}
	table[held_count++] = (struct held){ fd, copy };
	table_is_stale = 1;
}

static void drop(const char *name)
{
	struct held *known = find(name);

	if (!known)
		return;
	close_later(known->fd);
	free(known->name);
	*known = table[--held_count];
	table_is_stale = 1;
}

/* ---------------------------------------------------------------- messages */

struct message {
	int fds[RIGHTS_MAX];
	size_t fd_count;
	int store, remove, barrier;
	const char *name;
};

static int is_name(const char *text)
{
	size_t length = strlen(text);

	if (!length || length > NAME_MAX_BYTES)
		return 0;
	for (; *text; text++)
		if (*text < ' ' || *text > '~' || *text == ':')
			return 0;
	return 1;
}

/* Reads the lines in place; those that it does not know mean nothing to it. */
static void parse(char *text, struct message *message)
{
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (!strcmp(line, "FDSTORE=1"))
			message->store = 1;
		else if (!strcmp(line, "FDSTOREREMOVE=1"))
			message->remove = 1;
		else if (!strcmp(line, "BARRIER=1"))
			message->barrier = 1;
		else if (!strncmp(line, "FDNAME=", 7))
			message->name = line + 7;
	}
}

static void obey(struct message *message)
{
	int named = message->name && is_name(message->name);

	if (message->barrier) {
		/* systemd's rule: alone, and with one descriptor. */
		if (message->store || message->remove || message->fd_count != 1) {
			say("a barrier is refused: it comes alone, with one descriptor");
			return;
		}
		if (barrier_count == BARRIERS_MAX)
			settle();
		barriers[barrier_count++] = message->fds[0];
		message->fd_count = 0;
	} else if (message->store || message->remove) {
		if (!named) {
			say("a message is refused: its name is missing, longer than %d bytes, or not printable", NAME_MAX_BYTES);
		} else if (message->remove) {
			drop(message->name);
		} else if (message->fd_count != 1) {
			say("%s is refused: it came with %zu descriptors instead of one", message->name, message->fd_count);
		} else {
			keep(message->name, message->fds[0]);
			message->fd_count = 0;
		}
	}
}

static int may_ask(const struct ucred *sender) { return sender && (sender->uid == 0 || sender->uid == geteuid()); }

/* 0 when there was none. */
static int hear(int socket_fd)
{
	static char text[MESSAGE_MAX + 1];
	union {
		struct cmsghdr aligned;
		char bytes[CMSG_SPACE(RIGHTS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec part = { text, MESSAGE_MAX };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	struct message message = { .fd_count = 0 };
	struct ucred credentials, *sender = NULL;
	ssize_t length = recvmsg(socket_fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (length < 0) {
		if (errno == EAGAIN)
			return 0;
		if (errno != EINTR)
			say("a message cannot be read: %s", strerror(errno));
		return errno == EINTR;
	}
	for (struct cmsghdr *at = CMSG_FIRSTHDR(&header); at; at = CMSG_NXTHDR(&header, at)) {
		if (at->cmsg_level != SOL_SOCKET)
			continue;
		if (at->cmsg_type == SCM_RIGHTS) {
			size_t bytes = at->cmsg_len - CMSG_LEN(0);

			memcpy(message.fds, CMSG_DATA(at), bytes);
			message.fd_count = bytes / sizeof(int);
		} else if (at->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&credentials, CMSG_DATA(at), sizeof credentials);
			sender = &credentials;
		}
	}
	text[length] = 0;
	/* A NUL would hide what follows it. Descriptors are cut off where we have no number left for them. */
	if (!may_ask(sender))
		say("a message of user %ld is refused", sender ? (long)sender->uid : -1L);
	else if (header.msg_flags & MSG_TRUNC)
		say("a message is refused: it is longer than %d bytes", MESSAGE_MAX);
	else if (header.msg_flags & MSG_CTRUNC)
		say("a message is refused: not all of its descriptors could be taken");
	else if (strlen(text) != (size_t)length)
		say("a message is refused: it has a NUL in it");
	else {
		parse(text, &message);
		obey(&message);
	}
	while (message.fd_count)
		close(message.fds[--message.fd_count]);
	return 1;
}

/* ---------------------------------------------------------------- start and end */

/* Field 22 of /proc/self/stat: with it a process is known again though pids are used again. */
static int learn_identity(void)
{
	char stat[1024], *at;
	FILE *file = fopen("/proc/self/stat", "re");
	size_t length = file ? fread(stat, 1, sizeof stat - 1, file) : 0;

	if (file)
		fclose(file);
	stat[length] = 0;
	at = strrchr(stat, ')');
	/* The space after the name begins field 3. */
	for (int field = 3; at && field <= 22; field++)
		at = strchr(at + 1, ' ');
	if (!at)
		return -1;
	snprintf(identity, sizeof identity, "nydus-holder 1 %d %llu", (int)getpid(), strtoull(at + 1, NULL, 10));
	return 0;
}

static void raise_limits(void)
{
	struct rlimit files = { MAX_HELD + 512, MAX_HELD + 512 };
	int fd;

	if (setrlimit(RLIMIT_NOFILE, &files) < 0 && getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &files) < 0)
			say("the limit of open files stays as it is: %s", strerror(errno));
	}
	/* One megabyte of it is not what the kernel looks for when memory is short, and its end costs every image. */
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (write(fd, "-999", 4) < 0 && errno != EACCES)
			say("oom_score_adj: %s", strerror(errno));
		close(fd);
	}
}

/* Whatever our parent forgot to close would live as long as we do. Kernels before 5.9 cannot. */
static void close_inherited(unsigned int from)
{
	if (syscall(SYS_close_range, from, ~0U, 0U) < 0 && errno != ENOSYS)
		say("close_range: %s", strerror(errno));
}

static int listen_on(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int on = 1, fd;

	if (strlen(path) >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
		return -1;
	if (unlink(path) < 0 && errno != ENOENT)
		return -1;
	umask(0177);
	return bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -1 : fd;
}

int main(int count, char **arguments)
{
	int tells = count == 3 && !strcmp(arguments[2], "3"), socket_fd, signal_fd;
	sigset_t signals;

	if (count < 2 || count > 2 + tells || strlen(arguments[1]) + sizeof ".table" > sizeof table_path) {
		fprintf(stderr, "usage: nydus-holder SOCKET [3]\n");
		return 2;
	}
	/* Of nobody's session and in nobody's directory: it fails where we lead a session already. */
	(void)setsid();
	if (chdir("/") < 0 || learn_identity() < 0) {
		say("cannot start: %s", strerror(errno));
		return 1;
	}
	close_inherited(tells ? 4 : 3);
	raise_limits();
	snprintf(table_path, sizeof table_path, "%s.table", arguments[1]);
	snprintf(new_table_path, sizeof new_table_path, "%s.new", table_path);
	sigfillset(&signals);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	socket_fd = listen_on(arguments[1]);
	if (signal_fd < 0 || socket_fd < 0) {
		say("cannot listen on %s: %s", arguments[1], strerror(errno));
		return 1;
	}
	settle();
	if (table_is_stale)
		return 1;
	if (tells) {
		if (write(3, "ready\n", 6) != 6)
			say("nobody waits for it");
		close(3);
	}
	for (;;) {
		struct pollfd fds[2] = { { socket_fd, POLLIN, 0 }, { signal_fd, POLLIN, 0 } };
		struct signalfd_siginfo received;

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return 1;
		while (hear(socket_fd))
			continue;
		/* What was asked before the signal is done before it. */
		if (table_is_stale || barrier_count)
			settle();
		if (read(signal_fd, &received, sizeof received) != sizeof received)
			continue;
		if (!held_count)
			break;
		say("it stays: it holds %zu descriptors", held_count);
	}
	unlink(table_path);
	unlink(arguments[1]);
	return 0;
}
