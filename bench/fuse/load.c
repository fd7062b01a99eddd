/*
 * What is done to a mount, and how much of it in a second.
 *
 * usage: load sequential FILE BYTES-A-READ | load random FILE READERS READS | load readdir DIRECTORY TIMES |
 *        load stat DIRECTORY PROCESSES ROUNDS | load cached FILE BYTES-A-READ
 *
 * Files are dropped from the page cache first, so that every byte comes from the server; what is read at random is read
 * once. `readdir` drops all dentries and inodes before each time. `stat` forces the kernel to ask the server.
 * `cached` reads what is in the page cache, and counts seconds of this process's processor time.
 * Prints MB/s, reads/s, entries/s or calls/s.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int open_dropped(const char *file)
{
	int fd = open(file, O_RDONLY);

	if (fd < 0)
		fail(file);
	if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		fail("posix_fadvise");
	return fd;
}

static double sequential(const char *file, size_t size)
{
	int fd = open_dropped(file);
	char *buffer = aligned_alloc(4096, size);
	double started = now();
	uint64_t total = 0;
	ssize_t count;

	while ((count = read(fd, buffer, size)) > 0)
		total += (uint64_t)count;
	if (count < 0)
		fail("read");
	return (double)total / (now() - started) / 1e6;
}

static double cached(const char *file, size_t size)
{
	int fd = open(file, O_RDONLY);
	char *buffer = aligned_alloc(4096, size);
	struct rusage before, after;
	uint64_t total = 0;
	ssize_t count;
	double spent;

	if (fd < 0)
		fail(file);
	while (read(fd, buffer, size) > 0)
		;
	getrusage(RUSAGE_SELF, &before);
	for (int i = 0; i < 3; i++) {
		lseek(fd, 0, SEEK_SET);
		while ((count = read(fd, buffer, size)) > 0)
			total += (uint64_t)count;
		if (count < 0)
			fail("read");
	}
	getrusage(RUSAGE_SELF, &after);
	spent = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
		(double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
	return (double)total / spent / 1e6;
}

/* Reader r of n reads every n-th of a scattered order of blocks. */
static double random_reads(const char *file, long readers, long reads)
{
	int fd = open_dropped(file), status;
	struct stat st;
	double started;
	uint64_t blocks;

	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	fstat(fd, &st);
	blocks = (uint64_t)st.st_size / 4096;
	started = now();
	for (long r = 0; r < readers; r++) {
		if (fork())
			continue;
		char buffer[4096];

		for (uint64_t i = (uint64_t)r; i < (uint64_t)reads; i += (uint64_t)readers)
			if (pread(fd, buffer, 4096, (off_t)(i * 2654435761ULL % blocks * 4096)) != 4096)
				fail("pread");
		_exit(0);
	}
	for (long r = 0; r < readers; r++)
		if (wait(&status) < 0 || status)
			exit(1);
	return (double)reads / (now() - started);
}

static void drop(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	if (fd < 0 || write(fd, "2", 1) != 1)
		fail("drop_caches");
	close(fd);
}

static double read_directory(const char *path, long times)
{
	double spent = 0;
	uint64_t entries = 0;

	for (long i = 0; i < times; i++) {
		DIR *directory;
		double started;

		drop();
		started = now();
		directory = opendir(path);
		if (!directory)
			fail(path);
		while (readdir(directory))
			entries++;
		closedir(directory);
		spent += now() - started;
	}
	return (double)entries / spent;
}

static double stat_storm(const char *path, long processes, long rounds)
{
	char (*names)[256] = malloc(100000 * 256);
	long count = 0;
	DIR *directory = opendir(path);
	struct dirent *entry;
	int at = open(path, O_RDONLY | O_DIRECTORY), status;
	double started;

	while (directory && count < 100000 && (entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			strcpy(names[count++], entry->d_name);
	started = now();
	for (long p = 0; p < processes; p++) {
		if (fork())
			continue;
		struct statx facts;

		for (long round = 0; round < rounds; round++)
			for (long i = 0; i < count; i++)
				if (statx(at, names[i], AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &facts))
					fail("statx");
		_exit(0);
	}
	for (long p = 0; p < processes; p++)
		if (wait(&status) < 0 || status)
			exit(1);
	return (double)(count * rounds * processes) / (now() - started);
}

int main(int argc, char **argv)
{
	const char *what = argc > 3 ? argv[1] : "";
	double value;

	if (!strcmp(what, "sequential"))
		value = sequential(argv[2], (size_t)atol(argv[3]));
	else if (!strcmp(what, "cached"))
		value = cached(argv[2], (size_t)atol(argv[3]));
	else if (!strcmp(what, "random") && argc > 4)
		value = random_reads(argv[2], atol(argv[3]), atol(argv[4]));
	else if (!strcmp(what, "readdir"))
		value = read_directory(argv[2], atol(argv[3]));
	else if (!strcmp(what, "stat") && argc > 4)
		value = stat_storm(argv[2], atol(argv[3]), atol(argv[4]));
	else
		return 2;
	printf("%.1f\n", value);
	return 0;
}
