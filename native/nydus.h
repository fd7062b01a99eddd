/*
 * What the parts of libnydus share.
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
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define ABI 6

static inline int64_t result_of(long value) { return value < 0 ? -errno : value; }

/* Starts a detached thread with every signal blocked, so that the process's handlers stay on its own threads. */
int start_thread(void *(*run)(void *), void *argument);

/* ---------------------------------------------------------------- jobs */

enum { TEXT_SIZE = 4080 };

/* What may wait in the kernel, on a thread of its own. */
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

/* A job with copies of the strings and of the packed bytes; NULL without memory. */
struct job *new_job(int64_t (*run)(struct job *), const char *const strings[], int count, const void *packed,
		    uint32_t packed_length);

/* Runs the job on a thread of its own, which frees it. Returns the pipe's end to read the reply from. */
int32_t start_job(struct job *job);

/* Ends a job with errno, naming the call. */
int64_t failed(struct job *job, const char *call);

/* True when nobody reads the reply any more: the deadline has passed. */
int is_abandoned(struct job *job);
