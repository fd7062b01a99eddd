/*
 * A FUSE server in C that serves a directory, to compare ours with: all metadata in memory, a thread for each of
 * THREADS, blocked in read(2) on one descriptor, or on clones of it with CLONE 1.
 *
 * usage: peer SOURCE MOUNTPOINT THREADS CLONE
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { REQUEST = 64 * 1024, ANSWER = 1 << 20 };

struct node {
	char *name, *path;
	struct stat st;
	uint32_t parent, first, count; /* children are nodes[order[first..]], sorted by name */
	int fd;
};

static struct node *nodes;
static uint32_t node_count, node_space, *order, order_count;

static uint32_t new_node(const char *path, const char *name, uint32_t parent)
{
	struct node *node;

	if (node_count == node_space) {
		node_space = node_space ? node_space * 2 : 1024;
		nodes = realloc(nodes, node_space * sizeof *nodes);
	}
	node = &nodes[node_count];
	memset(node, 0, sizeof *node);
	node->name = strdup(name);
	node->path = strdup(path);
	node->parent = parent;
	node->fd = -1;
	if (lstat(path, &node->st) < 0)
		abort();
	return node_count++;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(nodes[*(const uint32_t *)a].name, nodes[*(const uint32_t *)b].name);
}

static void load(uint32_t self)
{
	char path[4096];
	uint32_t from = node_count, count;
	DIR *directory = opendir(nodes[self].path);
	struct dirent *entry;

	while ((entry = readdir(directory))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		snprintf(path, sizeof path, "%s/%s", nodes[self].path, entry->d_name);
		new_node(path, entry->d_name, self);
	}
	closedir(directory);
	count = node_count - from;
	order = realloc(order, (order_count + count + 1) * sizeof *order);
	for (uint32_t i = 0; i < count; i++)
		order[order_count + i] = from + i;
	qsort(order + order_count, count, sizeof *order, by_name);
	nodes[self].first = order_count;
	nodes[self].count = count;
	order_count += count;
	for (uint32_t i = 0; i < count; i++)
		if (S_ISDIR(nodes[from + i].st.st_mode))
			load(from + i);
}

static void fill_attr(struct fuse_attr *attr, uint32_t index)
{
	const struct stat *st = &nodes[index].st;

	memset(attr, 0, sizeof *attr);
	attr->ino = index;
	attr->size = (uint64_t)st->st_size;
	attr->blocks = (uint64_t)(st->st_size + 511) / 512;
	attr->mtime = attr->atime = attr->ctime = (uint64_t)st->st_mtime;
	attr->mode = st->st_mode;
	attr->nlink = (uint32_t)st->st_nlink;
	attr->uid = st->st_uid;
	attr->gid = st->st_gid;
	attr->blksize = 4096;
}

static void fill_entry(struct fuse_entry_out *entry, uint32_t index)
{
	memset(entry, 0, sizeof *entry);
	entry->entry_valid = entry->attr_valid = 1ULL << 32;
	entry->nodeid = index;
	if (index)
		fill_attr(&entry->attr, index);
}

/* 0: there is none. Node 0 is never used, the root is 1. */
static uint32_t find(uint32_t directory, const char *name)
{
	uint32_t low = nodes[directory].first, high = low + nodes[directory].count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		int c = strcmp(nodes[order[middle]].name, name);

		if (!c)
			return order[middle];
		if (c < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}

static size_t list(uint32_t self, uint64_t from, char *out, size_t size, int plus)
{
	size_t used = 0;

	for (uint64_t i = from; i < nodes[self].count + 2ULL; i++) {
		uint32_t index = i == 0 ? self : i == 1 ? nodes[self].parent : order[nodes[self].first + i - 2];
		const char *name = i == 0 ? "." : i == 1 ? ".." : nodes[index].name;
		size_t length = strlen(name), head = plus ? sizeof(struct fuse_entry_out) : 0;
		size_t need = FUSE_DIRENT_ALIGN(head + sizeof(struct fuse_dirent) + length);
		struct fuse_dirent *dirent = (struct fuse_dirent *)(out + used + head);

		if (used + need > size)
			break;
		if (plus)
			fill_entry((struct fuse_entry_out *)(out + used), i < 2 ? 0 : index);
		dirent->ino = index;
		dirent->off = i + 1;
		dirent->namelen = (uint32_t)length;
		dirent->type = IFTODT(nodes[index].st.st_mode);
		memcpy(dirent->name, name, length);
		used += need;
	}
	return used;
}

static void answer(int fd, uint64_t unique, int error, void *payload, size_t length)
{
	struct fuse_out_header header = { (uint32_t)(sizeof header + length), error, unique };
	struct iovec parts[2] = { { &header, sizeof header }, { payload, length } };

	if (writev(fd, parts, length ? 2 : 1) < 0 && errno != ENOENT)
		perror("writev");
}

static void *serve(void *argument)
{
	int fd = (int)(long)argument;
	char *request = aligned_alloc(4096, REQUEST), *out = aligned_alloc(4096, ANSWER);
	struct fuse_in_header *in = (void *)request;
	void *body = request + sizeof *in;

	for (;;) {
		ssize_t length = read(fd, request, REQUEST);
		uint32_t self;

		if (length < 0) {
			if (errno == ENOENT || errno == EINTR)
				continue;
			return NULL;
		}
		self = (uint32_t)in->nodeid;
		switch (in->opcode) {
		case FUSE_INIT: {
			struct fuse_init_in *theirs = body;
			struct fuse_init_out ours = { .major = 7, .minor = theirs->minor < 38 ? theirs->minor : 38 };

			ours.max_readahead = theirs->max_readahead;
			ours.flags = theirs->flags &
				     (FUSE_ASYNC_READ | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_NO_OPEN_SUPPORT |
				      FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_NO_OPENDIR_SUPPORT);
			ours.max_background = 128;
			ours.congestion_threshold = 96;
			ours.max_write = 4096;
			ours.time_gran = 1;
			ours.max_pages = 256;
			answer(fd, in->unique, 0, &ours, sizeof ours);
			break;
		}
		case FUSE_LOOKUP: {
			struct fuse_entry_out entry;

			fill_entry(&entry, find(self, body));
			answer(fd, in->unique, 0, &entry, sizeof entry);
			break;
		}
		case FUSE_GETATTR: {
			struct fuse_attr_out attr = { .attr_valid = 1ULL << 32 };

			fill_attr(&attr.attr, self);
			answer(fd, in->unique, 0, &attr, sizeof attr);
			break;
		}
		case FUSE_READLINK: {
			ssize_t count = readlink(nodes[self].path, out, ANSWER);

			answer(fd, in->unique, count < 0 ? -errno : 0, out, count < 0 ? 0 : (size_t)count);
			break;
		}
		case FUSE_READ: {
			struct fuse_read_in *read_in = body;
			ssize_t count;

			if (nodes[self].fd < 0)
				nodes[self].fd = open(nodes[self].path, O_RDONLY);
			count = pread(nodes[self].fd, out, read_in->size, (off_t)read_in->offset);
			answer(fd, in->unique, count < 0 ? -errno : 0, out, count < 0 ? 0 : (size_t)count);
			break;
		}
		case FUSE_READDIR:
		case FUSE_READDIRPLUS: {
			struct fuse_read_in *read_in = body;
			size_t size = read_in->size < ANSWER ? read_in->size : ANSWER;

			answer(fd, in->unique, 0, out, list(self, read_in->offset, out, size, in->opcode == FUSE_READDIRPLUS));
			break;
		}
		case FUSE_STATFS: {
			struct fuse_statfs_out stats = { .st = { .bsize = 512, .frsize = 512, .namelen = 255 } };

			answer(fd, in->unique, 0, &stats, sizeof stats);
			break;
		}
		case FUSE_GETXATTR:
			answer(fd, in->unique, -ENODATA, NULL, 0);
			break;
		case FUSE_LISTXATTR: {
			struct fuse_getxattr_out none = { 0 };

			answer(fd, in->unique, 0, &none, ((struct fuse_getxattr_in *)body)->size ? 0 : sizeof none);
			break;
		}
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			break;
		default:
			answer(fd, in->unique, -ENOSYS, NULL, 0);
		}
	}
}

int main(int argc, char **argv)
{
	char options[128];
	pthread_t threads[16];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), count, cloned;

	if (argc != 5 || fd < 0)
		return 2;
	count = atoi(argv[3]);
	cloned = atoi(argv[4]);
	new_node(argv[1], "", 1);
	new_node(argv[1], "", 1);
	load(1);
	snprintf(options, sizeof options, "default_permissions,allow_other,fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (mount("peer", argv[2], "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME, options) < 0) {
		perror("mount");
		return 1;
	}
	for (int i = 0; i < count && i < 16; i++) {
		int own = fd;

		if (cloned && i > 0) {
			uint32_t session = (uint32_t)fd;

			own = open("/dev/fuse", O_RDWR | O_CLOEXEC);
			if (ioctl(own, FUSE_DEV_IOC_CLONE, &session) < 0)
				return 3;
		}
		pthread_create(&threads[i], NULL, serve, (void *)(long)own);
	}
	puts("ready");
	fflush(stdout);
	for (int i = 0; i < count && i < 16; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
