/* poll(2) on a thread, told through pipes: for descriptors that the event loop cannot watch. */
#include "nydus.h"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

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
