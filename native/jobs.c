/* Calls that may wait for a daemon: each a detached thread, which reports through a pipe. */
#include "nydus.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_JOBS = 256, THREAD_STACK = 256 * 1024 };

/* What a job writes to its pipe, followed by text_length bytes: the failed call's name, a newline, what is known. */
struct reply {
	int64_t result;
	uint32_t text_length;
	uint32_t abi;
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

int64_t failed(struct job *job, const char *call)
{
	int error = errno;

	job->text_length = 0;
	add_text(job, call, strlen(call));
	add_text(job, "\n", 1);
	return -error;
}

int is_abandoned(struct job *job)
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

int start_thread(void *(*run)(void *), void *argument)
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

struct job *new_job(int64_t (*run)(struct job *), const char *const strings[], int count, const void *packed,
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

int32_t start_job(struct job *job)
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
