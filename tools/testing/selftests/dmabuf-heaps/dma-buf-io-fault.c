// SPDX-License-Identifier: GPL-2.0
/*
 * File I/O with dma-bufs when memory runs out, and when the drive fails.
 *
 * Every allocation that a call reaches is made to fail, one in each round, until
 * a round in which there was none left to fail. Whatever fails has to say so by
 * a documented errno, leave nothing behind, and work when it is tried again.
 *
 * Environment:
 * DMABUF_IO_BDEV	NVMe block device to test, which LOSES ITS DATA
 * TMPDIR		directory for files (/tmp)
 */
#include "dma-buf-io.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define DEBUGFS		"/sys/kernel/debug"
#define BUF_SIZE	KIB(512)
#define BUF_POS		KIB(64)
#define FILE_POS	MIB(1)
/* The end is within a block. */
#define COPY_LEN	(KIB(32) + 100)
#define IO_LEN		KIB(64)
/* Far more than there are allocations in anything here. */
#define MAX_ROUNDS	1000
/* Tasks of which one may be the one that allocates. */
#define MAX_TASKS	64

static const struct io_kind huge = { .chunk = HUGE_SIZE };
/* So large that the driver has more than one piece of memory for its lists. */
static const struct io_kind lists = { .chunk = HUGE_SIZE };
static const struct io_kind scattered = { .chunk = 4096 };
/* More pieces than a page of a scatterlist has. */
static const struct io_kind chained = { .chunk = 4096 };
static const struct io_kind pageless = {
	.chunk = 4096,
	.flags = DMA_BUF_IO_TEST_PAGELESS,
};

static const struct io_kind move_on_map = {
	.chunk = 4096,
	.flags = DMA_BUF_IO_TEST_MOVE_ON_MAP,
};

static const struct dmabuf_kind kind_heap = { .heap = "system" };
static const struct dmabuf_kind kind_udmabuf = { .shuffle = true };
static const struct io_kind system_heap = { .kind = &kind_heap };
static const struct io_kind udmabuf = { .kind = &kind_udmabuf };

static size_t kind_size(const struct io_kind *kind)
{
	if (kind == &lists)
		return MIB(32);
	if (kind == &chained)
		return MIB(1);
	return kind->chunk > BUF_SIZE ? kind->chunk : BUF_SIZE;
}

/*
 * Faults
 */

/* By default only allocations that cannot wait fail, and only large ones. */
static const struct {
	const char *name;
	const char *value;
} knobs[] = {
	{ "failslab/ignore-gfp-wait", "N" },
	{ "failslab/verbose", "0" },
	{ "fail_page_alloc/ignore-gfp-wait", "N" },
	{ "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ "fail_page_alloc/min-order", "0" },
	{ "fail_page_alloc/verbose", "0" },
	/* For those that fail at random, which are put back in reverse order. */
	{ "failslab/task-filter", "Y" },
	{ "failslab/times", "-1" },
	{ "fail_page_alloc/task-filter", "Y" },
	{ "fail_page_alloc/times", "-1" },
	{ "failslab/probability", "0" },
	{ "fail_page_alloc/probability", "0" },
};

#define NR_KNOBS	ARRAY_SIZE(knobs)

enum who {
	CALLER,		/* this thread */
	WORKERS,	/* threads of its ring */
	KERNEL,		/* threads of the kernel's workqueues */
};

struct faults {
	char old[NR_KNOBS][16];
	unsigned int nr_old;
	int task[MAX_TASKS];
	unsigned int nr_tasks;
	unsigned int injected, failed;	/* rounds, for the log */
};

static int read_text(char *text, size_t size, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len;

	if (fd < 0)
		return -errno;
	len = read(fd, text, size - 1);
	close(fd);
	if (len < 0)
		return -EIO;
	text[len] = 0;
	text[strcspn(text, "\n")] = 0;
	return 0;
}

/*
 * The debugging of the DMA API switches itself off for good when it gets no
 * memory, and would find nothing from then on. So its own allocations are not
 * made to fail, if the kernel can tell them.
 */
static struct {
	char start[24], end[24];
} dma_debug;

/* Once, as it takes long. */
__attribute__((constructor))
static void find_dma_debug(void)
{
	unsigned long long addr, start = 0, end = 0;
	FILE *file = fopen("/proc/kallsyms", "re");
	char line[256], name[128];
	bool within = false;

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%llx %*[tT] %127s", &addr, name) != 2)
			continue;
		/* In the order of their addresses. */
		if (!strncmp(name, "debug_dma_", 10)) {
			start = start ? start : addr;
			within = true;
		} else if (within) {
			end = addr;
			within = false;
		}
	}
	if (file)
		fclose(file);
	if (!end)
		return;
	snprintf(dma_debug.start, sizeof(dma_debug.start), "%#llx", start);
	snprintf(dma_debug.end, sizeof(dma_debug.end), "%#llx", end);
}

static void faults_spare(const char *start, const char *end)
{
	static const char *const dirs[] = { "failslab", "fail_page_alloc" };
	unsigned int i;

	for (i = 0; *start && i < ARRAY_SIZE(dirs); i++) {
		write_text(start, DEBUGFS "/%s/reject-start", dirs[i]);
		write_text(end, DEBUGFS "/%s/reject-end", dirs[i]);
	}
}

static void faults_restore(struct faults *faults)
{
	if (faults->nr_old)
		faults_spare("0", "0");
	while (faults->nr_old) {
		unsigned int i = --faults->nr_old;

		write_text(faults->old[i], DEBUGFS "/%s", knobs[i].name);
	}
}

static int faults_setup(struct faults *faults)
{
	char path[PATH_MAX];
	unsigned int i;
	int ret;

	*faults = (struct faults){};
	if (access("/proc/thread-self/fail-nth", W_OK))
		return -errno;
	for (i = 0; i < NR_KNOBS; i++) {
		snprintf(path, sizeof(path), DEBUGFS "/%s", knobs[i].name);
		ret = read_text(faults->old[i], sizeof(faults->old[i]), path);
		if (!ret)
			ret = write_text(knobs[i].value, "%s", path);
		if (ret) {
			faults_restore(faults);
			return ret;
		}
		faults->nr_old++;
	}
	faults_spare(dma_debug.start, dma_debug.end);
	return 0;
}

#define SETUP_FAULTS(faults)						\
do {									\
	int _ret = faults_setup(faults);				\
									\
	if (_ret)							\
		SKIP(return, "no fault injection: %s", strerror(-_ret)); \
} while (0)

/* Add the tasks in @dir whose names start with @name. */
static void faults_find(struct faults *faults, const char *dir, const char *name)
{
	struct dirent *entry;
	char path[PATH_MAX], comm[32];
	DIR *tasks = opendir(dir);

	while (tasks && (entry = readdir(tasks)) && faults->nr_tasks < MAX_TASKS) {
		int fd;

		if (!isdigit(entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "%s/%s/comm", dir, entry->d_name);
		if (read_text(comm, sizeof(comm), path) ||
		    strncmp(comm, name, strlen(name)))
			continue;
		snprintf(path, sizeof(path), "%s/%s/fail-nth", dir, entry->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0)
			faults->task[faults->nr_tasks++] = fd;
	}
	if (tasks)
		closedir(tasks);
}

/* The @nth allocation of each of these tasks is going to fail. */
static int faults_start(struct faults *faults, enum who who, unsigned int nth)
{
	char text[16];
	unsigned int i;
	int fd;

	faults->nr_tasks = 0;
	switch (who) {
	case CALLER:
		fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
		if (fd >= 0)
			faults->task[faults->nr_tasks++] = fd;
		break;
	case WORKERS:
		faults_find(faults, "/proc/self/task", "iou-wrk");
		break;
	case KERNEL:
		faults_find(faults, "/proc", "kworker/u");
		break;
	}
	if (!faults->nr_tasks)
		return -ENOENT;
	snprintf(text, sizeof(text), "%u", nth);
	for (i = 0; i < faults->nr_tasks; i++)
		if (pwrite(faults->task[i], text, strlen(text), 0) < 0 &&
		    errno != ESRCH)
			return -errno;
	return 0;
}

/* Whether one has failed. */
static bool faults_stop(struct faults *faults)
{
	bool injected = false;
	unsigned int i;

	for (i = 0; i < faults->nr_tasks; i++) {
		char left[16] = "1";

		/* A task that is gone has no allocations left to fail. */
		if (pread(faults->task[i], left, sizeof(left) - 1, 0) > 0 &&
		    !strtoul(left, NULL, 10))
			injected = true;
		if (pwrite(faults->task[i], "0", 1, 0) < 0 && errno != ESRCH)
			abort();
		close(faults->task[i]);
	}
	faults->nr_tasks = 0;
	faults->injected += injected;
	return injected;
}

/* A test in which nothing could fail would have shown nothing. */
#define EXPECT_SWEPT(faults, round)					\
do {									\
	EXPECT_LT(0, (faults)->injected);				\
	EXPECT_GT(MAX_ROUNDS, (round));					\
	TH_LOG("%u allocations failed, of these %u the call",		\
	       (faults)->injected, (faults)->failed);			\
} while (0)

/*
 * What is left of a buffer: 0, or what there is too much.
 */
static unsigned int listed(int fd)
{
	char line[256], key[32];
	unsigned int nr = 0;
	struct stat st;
	FILE *file;

	if (fstat(fd, &st))
		return 1;
	snprintf(key, sizeof(key), "ino=%llu ", (unsigned long long)st.st_ino);
	file = fopen(DEBUGFS "/dma_buf/io", "re");
	if (!file)
		return 1;
	while (fgets(line, sizeof(line), file))
		nr += !strncmp(line, key, strlen(key));
	fclose(file);
	return nr;
}

static const char *left_over(const struct io_kind *kind, int fd)
{
	struct dma_buf_io_test_info info;
	unsigned int ms;

	for (ms = 0; listed(fd); ms += 10) {
		if (ms >= 5000)
			return "registration";
		sleep_ms(10);
	}
	if (kind->kind)
		return NULL;
	if (wait_detached(fd, 5000))
		return "attachment";
	if (exporter_info(fd, &info))
		return "no information";
	if (info.mapped)
		return "mapping";
	if (info.pinned)
		return "pin";
	return NULL;
}

#define EXPECT_NOTHING_LEFT(kind, fd)					\
do {									\
	const char *_left = left_over(kind, fd);			\
									\
	ASSERT_EQ(NULL, _left) TH_LOG("%s left", _left);		\
} while (0)

/*
 * Copies
 */
enum peer { PEER_DRIVE, PEER_FILE, PEER_MEMFD };

FIXTURE(copy) {
	struct faults faults;
	struct dmabuf buf;
	int fd;		/* end of the copies */
	int plain;	/* the same file through the page cache */
};

FIXTURE_VARIANT(copy) {
	const struct io_kind *kind;
	enum peer peer;
	int flags;
};

FIXTURE_VARIANT_ADD(copy, system_heap_drive) {
	.kind = &system_heap, .peer = PEER_DRIVE, .flags = O_DIRECT,
};

FIXTURE_VARIANT_ADD(copy, system_heap_drive_cached) {
	.kind = &system_heap, .peer = PEER_DRIVE,
};

FIXTURE_VARIANT_ADD(copy, system_heap_file) {
	.kind = &system_heap, .peer = PEER_FILE, .flags = O_DIRECT,
};

FIXTURE_VARIANT_ADD(copy, system_heap_file_cached) {
	.kind = &system_heap, .peer = PEER_FILE,
};

FIXTURE_VARIANT_ADD(copy, system_heap_memfd) {
	.kind = &system_heap, .peer = PEER_MEMFD,
};

FIXTURE_VARIANT_ADD(copy, udmabuf_drive) {
	.kind = &udmabuf, .peer = PEER_DRIVE, .flags = O_DIRECT,
};

FIXTURE_VARIANT_ADD(copy, udmabuf_memfd) {
	.kind = &udmabuf, .peer = PEER_MEMFD,
};

static int copy_open(enum peer peer, int flags, int *fd, int *plain)
{
	const char *dir = getenv("TMPDIR"), *bdev = getenv("DMABUF_IO_BDEV");
	char path[PATH_MAX];

	switch (peer) {
	case PEER_DRIVE:
		if (!bdev || !*bdev)
			return -ENODEV;
		*plain = open(bdev, O_RDWR | O_CLOEXEC);
		break;
	case PEER_FILE:
		snprintf(path, sizeof(path), "%s/dma-buf-io.XXXXXX",
			 dir && *dir ? dir : "/tmp");
		*plain = mkostemp(path, O_CLOEXEC);
		if (*plain >= 0)
			unlink(path);
		break;
	case PEER_MEMFD:
		*plain = memfd_create("dma-buf-io", MFD_CLOEXEC);
		break;
	}
	if (*plain < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", *plain);
	*fd = open(path, O_RDWR | O_CLOEXEC | flags);
	return *fd < 0 ? -errno : 0;
}

FIXTURE_SETUP(copy)
{
	int ret;

	self->buf.fd = -1;
	self->fd = -1;
	self->plain = -1;
	SETUP_FAULTS(&self->faults);
	ret = copy_open(variant->peer, variant->flags, &self->fd, &self->plain);
	if (ret == -ENODEV)
		SKIP(return, "DMABUF_IO_BDEV names no drive");
	if (ret == -EINVAL)
		SKIP(return, "no O_DIRECT here");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, file_fill(self->plain, 0, MIB(2), SEED_DRIVE));
	ret = io_buf_alloc(&self->buf, variant->kind, BUF_SIZE);
	if (ret)
		SKIP(return, "%s: %s", self->buf.step, strerror(-ret));
	ret = copy_range(self->plain, 0, self->buf.fd, 0, 4096);
	if (ret == -EINVAL)
		SKIP(return, "no copy_file_range() for dma-bufs");
	ASSERT_EQ(4096, ret);
	dmabuf_free(&self->buf);
}

FIXTURE_TEARDOWN(copy)
{
	faults_restore(&self->faults);
	dmabuf_free(&self->buf);
	close(self->fd);
	close(self->plain);
}

/* Nothing of the file is in the page cache, if it can be elsewhere. */
static int copy_cool(enum peer peer, int plain)
{
	return peer == PEER_MEMFD ? 0 : file_make_cold(plain);
}

/* Out of memory is all that can be the matter. */
static bool copy_may(ssize_t ret)
{
	return ret == -ENOMEM || (ret > 0 && ret <= (ssize_t)COPY_LEN);
}

/* After an error the whole range is undefined; after a part the rest is due. */
static ssize_t copy_rest(int in, off_t in_pos, int out, off_t out_pos, ssize_t done)
{
	ssize_t ret;

	if (done < 0)
		done = 0;
	ret = copy_all(in, in_pos + done, out, out_pos + done, COPY_LEN - done);
	return ret < 0 ? ret : ret + done;
}

TEST_F_TIMEOUT(copy, fill, SLOW_TIMEOUT)
{
	size_t end = BUF_POS + COPY_LEN;
	bool injected = true;
	unsigned int n;
	ssize_t ret;

	for (n = 1; injected && n < MAX_ROUNDS; n++) {
		/* What is set up by the first copy belongs to it. */
		ASSERT_EQ(0, io_buf_alloc(&self->buf, variant->kind, BUF_SIZE));
		ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, end + GUARD));
		ASSERT_EQ(0, copy_cool(variant->peer, self->plain));

		ASSERT_EQ(0, faults_start(&self->faults, CALLER, n));
		ret = copy_range(self->fd, FILE_POS, self->buf.fd, BUF_POS, COPY_LEN);
		injected = faults_stop(&self->faults);
		self->faults.failed += ret < 0;
		EXPECT_TRUE(copy_may(ret)) TH_LOG("round %u: %zd", n, ret);
		if (ret > 0) {
			EXPECT_EQ(ret, dmabuf_match(&self->buf, BUF_POS, ret,
						    SEED_DRIVE, FILE_POS));
		}

		EXPECT_EQ(COPY_LEN, copy_rest(self->fd, FILE_POS, self->buf.fd,
					      BUF_POS, ret));
		EXPECT_EQ(COPY_LEN, dmabuf_match(&self->buf, BUF_POS, COPY_LEN,
						 SEED_DRIVE, FILE_POS));
		EXPECT_EQ(BUF_POS, dmabuf_match_poison(&self->buf, 0, BUF_POS));
		EXPECT_EQ(GUARD, dmabuf_match_poison(&self->buf, end, GUARD));
		dmabuf_free(&self->buf);
	}
	EXPECT_SWEPT(&self->faults, n);
}

TEST_F_TIMEOUT(copy, drain, SLOW_TIMEOUT)
{
	size_t end = FILE_POS + COPY_LEN;
	bool injected = true;
	unsigned int n;
	ssize_t ret;

	for (n = 1; injected && n < MAX_ROUNDS; n++) {
		ASSERT_EQ(0, io_buf_alloc(&self->buf, variant->kind, BUF_SIZE));
		ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, KIB(256), SEED_BUF, 0));
		ASSERT_EQ(0, file_fill(self->plain, FILE_POS - GUARD,
				       COPY_LEN + 2 * GUARD, SEED_OLD));
		ASSERT_EQ(0, copy_cool(variant->peer, self->plain));

		ASSERT_EQ(0, faults_start(&self->faults, CALLER, n));
		ret = copy_range(self->buf.fd, BUF_POS, self->fd, FILE_POS, COPY_LEN);
		injected = faults_stop(&self->faults);
		self->faults.failed += ret < 0;
		EXPECT_TRUE(copy_may(ret)) TH_LOG("round %u: %zd", n, ret);
		if (ret > 0) {
			EXPECT_EQ(ret, file_match_at(self->plain, FILE_POS, ret,
						     SEED_BUF, BUF_POS));
		}

		EXPECT_EQ(COPY_LEN, copy_rest(self->buf.fd, BUF_POS, self->fd,
					      FILE_POS, ret));
		ASSERT_EQ(0, copy_cool(variant->peer, self->plain));
		EXPECT_EQ(COPY_LEN, file_match_at(self->plain, FILE_POS, COPY_LEN,
						  SEED_BUF, BUF_POS));
		EXPECT_EQ(GUARD, file_match(self->plain, FILE_POS - GUARD, GUARD,
					    SEED_OLD));
		EXPECT_EQ(GUARD, file_match(self->plain, end, GUARD, SEED_OLD));
		dmabuf_free(&self->buf);
	}
	EXPECT_SWEPT(&self->faults, n);
}

/*
 * Registered buffers
 */
FIXTURE(reg) {
	struct faults faults;
	struct drive drive;
	struct dmabuf buf;
	struct dmabuf_ring ring;
	struct transfer t;
};

FIXTURE_VARIANT(reg) {
	const struct io_kind *kind;
};

#define REG_VARIANT(name) \
	FIXTURE_VARIANT_ADD(reg, name) { .kind = &name }

REG_VARIANT(huge);
REG_VARIANT(lists);
REG_VARIANT(chained);
REG_VARIANT(pageless);
REG_VARIANT(move_on_map);
REG_VARIANT(system_heap);
REG_VARIANT(udmabuf);

FIXTURE_SETUP(reg)
{
	self->ring.fd = -1;
	self->buf.fd = -1;
	SETUP_FAULTS(&self->faults);
	SETUP_DRIVE(&self->drive);
	SETUP_BUF(&self->buf, variant->kind, kind_size(variant->kind));
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 2));
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(2), SEED_DRIVE));
	self->t = (struct transfer) {
		.ring = &self->ring,
		.drive = &self->drive,
		.buf = &self->buf,
		.slot = 1,
	};
}

FIXTURE_TEARDOWN(reg)
{
	faults_restore(&self->faults);
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	close(self->drive.fd);
}

TEST_F_TIMEOUT(reg, registration, SLOW_TIMEOUT)
{
	int ring = self->ring.fd, fd = self->buf.fd, ret;
	bool injected = true;
	unsigned int n;

	for (n = 1; injected && n < MAX_ROUNDS; n++) {
		ASSERT_EQ(0, faults_start(&self->faults, CALLER, n));
		ret = dmabuf_ring_register(ring, 1, fd, self->drive.fd);
		injected = faults_stop(&self->faults);
		if (ret != 1) {
			self->faults.failed++;
			EXPECT_TRUE(injected);
			EXPECT_EQ(-ENOMEM, ret) TH_LOG("round %u", n);
			EXPECT_NOTHING_LEFT(variant->kind, fd);
			ASSERT_EQ(1, dmabuf_ring_register(ring, 1, fd,
							  self->drive.fd));
		}
		/* Also when it got along without what could not be had. */
		EXPECT_READ(&self->t, n % 8 * 4096, IO_LEN, n % 8 * 4096);
		ASSERT_EQ(1, dmabuf_ring_unregister(ring, 1));
		EXPECT_NOTHING_LEFT(variant->kind, fd);
	}
	EXPECT_SWEPT(&self->faults, n);
	EXPECT_LT(0, self->faults.failed);
}

/*
 * I/O on them
 */
FIXTURE(io) {
	struct faults faults;
	struct drive drive;
	struct dmabuf buf;
	struct dmabuf_ring ring;
};

FIXTURE_VARIANT(io) {
	const struct io_kind *kind;
	unsigned int sqe_flags;
	enum who who;
	bool move;	/* the exporter has taken the memory back before */
};

FIXTURE_VARIANT_ADD(io, plain) { .kind = &scattered };
FIXTURE_VARIANT_ADD(io, async) {
	.kind = &scattered, .sqe_flags = IOSQE_ASYNC, .who = WORKERS,
};

/* It is a worker of the kernel that maps the buffer again. */
FIXTURE_VARIANT_ADD(io, moved_scattered) { .kind = &scattered, .move = true };

FIXTURE_VARIANT_ADD(io, moved_scattered_worker) {
	.kind = &scattered, .move = true, .who = KERNEL,
};

FIXTURE_VARIANT_ADD(io, moved_huge) { .kind = &huge, .move = true };

FIXTURE_VARIANT_ADD(io, moved_huge_worker) {
	.kind = &huge, .move = true, .who = KERNEL,
};

FIXTURE_VARIANT_ADD(io, moved_pageless) { .kind = &pageless, .move = true };

FIXTURE_VARIANT_ADD(io, moved_pageless_worker) {
	.kind = &pageless, .move = true, .who = KERNEL,
};

FIXTURE_SETUP(io)
{
	self->ring.fd = -1;
	self->buf.fd = -1;
	SETUP_FAULTS(&self->faults);
	SETUP_DRIVE(&self->drive);
	SETUP_BUF(&self->buf, variant->kind, kind_size(variant->kind));
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd,
					  self->drive.fd));
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(2), SEED_DRIVE));
}

FIXTURE_TEARDOWN(io)
{
	faults_restore(&self->faults);
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	close(self->drive.fd);
}

/*
 * One request, with the nth allocation failing if that is not 0. Returns what
 * its completion says. A system call that could not take the request left it in
 * the ring, and is repeated without faults.
 */
static int io_rw(struct dmabuf_ring *ring, unsigned int opcode, int fd,
		 unsigned int sqe_flags, struct faults *faults, enum who who,
		 unsigned int nth, bool *injected)
{
	struct io_uring_sqe *sqe = dmabuf_ring_sqe(ring);
	struct io_uring_cqe cqe;
	int ret;

	if (!sqe)
		return -EBUSY;
	dmabuf_ring_prep(sqe, opcode, fd, 0, BUF_POS, IO_LEN, FILE_POS);
	sqe->flags = sqe_flags;
	if (nth) {
		ret = faults_start(faults, who, nth);
		if (ret)
			return ret;
	}
	ret = dmabuf_ring_submit(ring);
	if (ret == 1)
		ret = dmabuf_ring_wait(ring, &cqe);
	if (nth)
		*injected = faults_stop(faults);
	if (!ret)
		return cqe.res;
	if (ret == -EAGAIN || ret == -ENOMEM) {
		if (dmabuf_ring_enter(ring, 1, 0, 0) < 0)
			return -EIO;
		ret = dmabuf_ring_wait(ring, &cqe);
	}
	return ret ? -EIO : cqe.res;
}

static bool io_may(int res, bool moved)
{
	return res == -ENOMEM || (moved && res == -EINVAL);
}

static void io_sweep(struct __test_metadata *_metadata,
		     FIXTURE_DATA(io) * self, const FIXTURE_VARIANT(io) * variant,
		     bool write)
{
	unsigned int op = write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
	size_t end = BUF_POS + IO_LEN;
	struct dma_buf_io_test_info info;
	struct dma_buf_io_test_move move;
	bool injected = true;
	unsigned int n;
	int res;

	for (n = 1; injected && n < MAX_ROUNDS; n++) {
		/* There has to be a thread that can be told to fail. */
		if (variant->who == WORKERS) {
			ASSERT_EQ(IO_LEN, io_rw(&self->ring, IORING_OP_READ_FIXED,
						self->drive.fd, IOSQE_ASYNC, NULL,
						CALLER, 0, NULL));
		}
		if (write) {
			ASSERT_EQ(0, file_fill(self->drive.fd, FILE_POS - GUARD,
					       IO_LEN + 2 * GUARD, SEED_OLD));
		}
		ASSERT_EQ(0, write ? dmabuf_fill(&self->buf, 0, KIB(256), SEED_BUF, 0) :
				     dmabuf_poison(&self->buf, 0, end + GUARD));
		if (variant->move) {
			ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE,
						   0, &move));
		}

		res = io_rw(&self->ring, op, self->drive.fd, variant->sqe_flags,
			    &self->faults, variant->who, n, &injected);
		if (res != (int)IO_LEN) {
			self->faults.failed++;
			EXPECT_TRUE(injected);
			EXPECT_TRUE(io_may(res, variant->move))
				TH_LOG("round %u: %d", n, res);
			/* An error without any data transferred, as documented. */
			if (!write) {
				EXPECT_EQ(end + GUARD,
					  dmabuf_match_poison(&self->buf, 0, end + GUARD));
			}
			ASSERT_EQ(IO_LEN, io_rw(&self->ring, op, self->drive.fd, 0,
						NULL, CALLER, 0, NULL));
		}
		if (!write) {
			EXPECT_EQ(IO_LEN, dmabuf_match(&self->buf, BUF_POS, IO_LEN,
						       SEED_DRIVE, FILE_POS));
			EXPECT_EQ(BUF_POS, dmabuf_match_poison(&self->buf, 0, BUF_POS));
			EXPECT_EQ(GUARD, dmabuf_match_poison(&self->buf, end, GUARD));
			continue;
		}
		EXPECT_EQ(IO_LEN, file_match_at(self->drive.fd, FILE_POS, IO_LEN,
						SEED_BUF, BUF_POS));
		EXPECT_EQ(GUARD, file_match(self->drive.fd, FILE_POS - GUARD, GUARD,
					    SEED_OLD));
		EXPECT_EQ(GUARD, file_match(self->drive.fd, FILE_POS + IO_LEN, GUARD,
					    SEED_OLD));
	}
	EXPECT_GT(MAX_ROUNDS, n);
	/* For what is mapped there may be no need to allocate anything. */
	EXPECT_TRUE(self->faults.injected || !variant->move);
	TH_LOG("%u allocations failed, of these %u the call",
	       self->faults.injected, self->faults.failed);

	ASSERT_EQ(0, exporter_info(self->buf.fd, &info));
	EXPECT_EQ(1, info.attached);
	EXPECT_EQ(1, info.mapped);
	ASSERT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
	EXPECT_NOTHING_LEFT(variant->kind, self->buf.fd);
}

TEST_F_TIMEOUT(io, read, SLOW_TIMEOUT)
{
	io_sweep(_metadata, self, variant, false);
}

TEST_F_TIMEOUT(io, write, SLOW_TIMEOUT)
{
	io_sweep(_metadata, self, variant, true);
}

/*
 * Errors of the drive
 */
#define RETRIES "/sys/module/nvme_core/parameters/max_retries"

/* Completions get lost, and the driver soon has enough of it. */
static int lose_setup(const char *name, char timeout[16], char retries[16])
{
	char path[PATH_MAX];
	int ret;

	snprintf(path, sizeof(path), "/sys/block/%s/io-timeout-fail", name);
	ret = write_text("1", "%s", path);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "/sys/block/%s/queue/io_timeout", name);
	ret = read_text(timeout, 16, path);
	if (!ret)
		ret = write_text("1000", "%s", path);
	if (!ret)
		ret = read_text(retries, 16, RETRIES);
	if (!ret)
		ret = write_text("0", RETRIES);
	if (!ret)
		ret = write_text("0", DEBUGFS "/fail_io_timeout/verbose");
	return ret;
}

static void lose_restore(const char *name, const char *timeout,
			 const char *retries)
{
	write_text("0", DEBUGFS "/fail_io_timeout/probability");
	write_text("0", "/sys/block/%s/io-timeout-fail", name);
	if (timeout[0])
		write_text(timeout, "/sys/block/%s/queue/io_timeout", name);
	if (retries[0])
		write_text(retries, RETRIES);
}

/* The next one. */
static int lose_one(void)
{
	int ret = write_text("1", DEBUGFS "/fail_io_timeout/times");

	return ret ? ret : write_text("100", DEBUGFS "/fail_io_timeout/probability");
}

FIXTURE(drive) {
	struct drive drive;
	struct dmabuf buf;	/* registered */
	struct dmabuf heap;	/* copied to and from */
	struct dmabuf_ring ring;
	char knobs[64];
	struct faults faults;
	char timeout[16], retries[16];	/* if they were changed */
};

FIXTURE_SETUP(drive)
{
	self->ring.fd = -1;
	self->buf.fd = -1;
	self->heap.fd = -1;
	SETUP_DRIVE(&self->drive);
	snprintf(self->knobs, sizeof(self->knobs), DEBUGFS "/%s/fault_inject",
		 self->drive.name);
	SETUP_BUF(&self->buf, &scattered, BUF_SIZE);
	SETUP_BUF(&self->heap, &system_heap, BUF_SIZE);
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
}

FIXTURE_TEARDOWN(drive)
{
	faults_restore(&self->faults);
	write_text("0", "%s/probability", self->knobs);
	lose_restore(self->drive.name, self->timeout, self->retries);
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	dmabuf_free(&self->heap);
	close(self->drive.fd);
}

/*
 * A buffer is let go of. That can't be refused for long.
 */
static int remove_by_slot(struct dmabuf_ring *ring)
{
	int ret = dmabuf_ring_unregister(ring->fd, 1);

	return ret == 1 ? 0 : ret;
}

static int remove_by_table(struct dmabuf_ring *ring)
{
	return dmabuf_ring_ctl(ring->fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
}

static int remove_by_exit(struct dmabuf_ring *ring)
{
	dmabuf_ring_exit(ring);
	return 0;
}

static int (*const removals[])(struct dmabuf_ring *ring) = {
	remove_by_slot, remove_by_table, remove_by_exit,
};

/* Other threads of the kernel have something to allocate at any time. */
#define KERNEL_ROUNDS	4

TEST_F_TIMEOUT(drive, removal, SLOW_TIMEOUT)
{
	unsigned int n, i, rounds = 0;
	struct transfer t = {
		.ring = &self->ring, .drive = &self->drive, .buf = &self->buf,
		.slot = 1,
	};
	int fd = self->buf.fd, ret;
	enum who who;
	bool injected;

	SETUP_FAULTS(&self->faults);
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(1), SEED_DRIVE));
	dmabuf_ring_exit(&self->ring);
	for (i = 0; i < 6; i++) {
		who = i < 3 ? CALLER : KERNEL;
		injected = true;
		for (n = 1; n < MAX_ROUNDS; n++, rounds++) {
			if (who == CALLER ? !injected : n > KERNEL_ROUNDS)
				break;
			ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 8, 0));
			ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 2));
			ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 1, fd,
							  self->drive.fd));
			EXPECT_READ(&t, 4096, IO_LEN, 0);

			ASSERT_EQ(0, faults_start(&self->faults, who, n));
			ret = removals[i % 3](&self->ring);
			if (who == KERNEL && !ret)
				sleep_ms(20);
			injected = faults_stop(&self->faults);
			if (ret) {
				self->faults.failed++;
				EXPECT_TRUE(injected);
				EXPECT_EQ(-ENOMEM, ret);
				EXPECT_EQ(0, removals[i % 3](&self->ring));
			}
			EXPECT_NOTHING_LEFT(&scattered, fd);
			dmabuf_ring_exit(&self->ring);
		}
		EXPECT_GT(MAX_ROUNDS, n);
	}
	TH_LOG("%u rounds, in %u an allocation failed", rounds,
	       self->faults.injected);
}

/*
 * The threads of the ring get no memory at all, so that there is no second try
 * which could help.
 */
static int starve(bool on)
{
	const char *percent = on ? "100" : "0";
	int ret = write_text(percent, DEBUGFS "/failslab/probability");

	return ret ? ret : write_text(percent, DEBUGFS "/fail_page_alloc/probability");
}

/* Tasks in @dir whose names start with @name. Returns their number. */
static int mark(const char *dir, const char *name, const char *value)
{
	struct dirent *entry;
	char path[PATH_MAX], comm[32];
	DIR *tasks = opendir(dir);
	int nr = 0;

	while (tasks && (entry = readdir(tasks))) {
		snprintf(path, sizeof(path), "%s/%s/comm", dir, entry->d_name);
		if (read_text(comm, sizeof(comm), path) ||
		    strncmp(comm, name, strlen(name)))
			continue;
		nr += !write_text(value, "%s/%s/make-it-fail", dir, entry->d_name);
	}
	if (tasks)
		closedir(tasks);
	return nr;
}

/*
 * If the ring's own threads can't map the buffer it is tried once more by those
 * of the kernel, of which there may be new ones at any time.
 */
TEST_F_TIMEOUT(drive, starved, SLOW_TIMEOUT)
{
	struct dma_buf_io_test_move move;
	int fd = self->drive.fd, res;
	unsigned int i, failed = 0;

	SETUP_FAULTS(&self->faults);
	ASSERT_EQ(0, file_fill(fd, 0, MIB(2), SEED_DRIVE));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd, fd));
	for (i = 0; i < 10; i++) {
		size_t same = BUF_POS;

		ASSERT_EQ(IO_LEN, io_rw(&self->ring, IORING_OP_READ_FIXED, fd,
					IOSQE_ASYNC, NULL, CALLER, 0, NULL));
		ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, BUF_SIZE));
		ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
					   &move));
		ASSERT_LT(0, mark("/proc/self/task", "iou-wrk", "1"));
		ASSERT_LT(0, mark("/proc", "kworker/", "1"));
		ASSERT_EQ(0, starve(true));
		res = io_rw(&self->ring, IORING_OP_READ_FIXED, fd, 0, NULL, CALLER,
			    0, NULL);
		ASSERT_EQ(0, starve(false));
		mark("/proc/self/task", "iou-wrk", "0");
		mark("/proc", "kworker/", "0");
		if (res != (int)IO_LEN) {
			failed++;
			same = BUF_SIZE;
			EXPECT_TRUE(io_may(res, true)) TH_LOG("%d", res);
		}
		EXPECT_EQ(same, dmabuf_match_poison(&self->buf, 0, same));

		EXPECT_EQ(IO_LEN, io_rw(&self->ring, IORING_OP_READ_FIXED, fd, 0,
					NULL, CALLER, 0, NULL));
		EXPECT_EQ(IO_LEN, dmabuf_match(&self->buf, BUF_POS, IO_LEN,
					       SEED_DRIVE, FILE_POS));
	}
	EXPECT_LT(0, failed);
	TH_LOG("%u of %u failed", failed, i);
	ASSERT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
	EXPECT_NOTHING_LEFT(&scattered, self->buf.fd);
}

/*
 * Nearly no memory is left, and at times none
 */
#define SCARCE_TOTAL	4096	/* MiB */
#define SCARCE_LEFT	MIB(64)
#define SCARCE_KILLS	3
/* Without that many processes killed for their memory it takes longer. */
#define SCARCE_MS	60000

/* In MiB; a negative errno on failure. */
static long mem_mib(const char *key)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128], name[64];
	long kb, ret = -ENOENT;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%63[^:]: %ld kB", name, &kb) == 2 &&
		    !strcmp(name, key))
			ret = kb / 1024;
	if (file)
		fclose(file);
	return ret;
}

/* Take memory until no more than @left is there for others, and keep it. */
static void hog(size_t left, int ready)
{
	for (;;) {
		long mib = mem_mib("MemAvailable") - (long)(left / MIB(1));
		size_t len = mib > 64 ? MIB(32) : MIB(1);
		char *mem;

		if (mib <= 0 && left)
			break;
		mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mem == MAP_FAILED)
			break;
		madvise(mem, len, MADV_HUGEPAGE);
		madvise(mem, len, MADV_POPULATE_WRITE);
	}
	if (write(ready, "", 1) < 0)
		_exit(1);
	for (;;)
		pause();
}

/* @score: of this process when the kernel looks for one to kill. */
static pid_t hog_start(size_t left, const char *score)
{
	int ready[2];
	pid_t child;
	char byte;

	if (pipe2(ready, O_CLOEXEC))
		return -errno;
	child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (write_text(score, "/proc/self/oom_score_adj"))
			_exit(1);
		hog(left, ready[1]);
	}
	close(ready[1]);
	/* The one without a limit never gets there. */
	if (child > 0 && left && read(ready[0], &byte, 1) != 1) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		child = -ECHILD;
	}
	close(ready[0]);
	return child < 0 ? -ENOMEM : child;
}

static void hog_end(pid_t *child)
{
	if (*child <= 0)
		return;
	kill(*child, SIGKILL);
	waitpid(*child, NULL, 0);
	*child = 0;
}

/* What is done with buffers, once. Returns how often there was no memory. */
static unsigned int scarce_round(struct __test_metadata *_metadata,
				 FIXTURE_DATA(drive) * self)
{
	struct dma_buf_io_test_move move;
	int fd = self->drive.fd, ring = self->ring.fd, ret;
	struct dmabuf buf;
	unsigned int failed = 0;
	ssize_t len;

	ret = io_buf_alloc(&buf, &system_heap, BUF_SIZE);
	if (ret) {
		EXPECT_EQ(-ENOMEM, ret);
		return 1;
	}
	len = copy_range(fd, FILE_POS, buf.fd, BUF_POS, COPY_LEN);
	failed += len < 0;
	EXPECT_TRUE(copy_may(len)) TH_LOG("fill: %zd", len);
	if (len > 0) {
		EXPECT_EQ(len, dmabuf_match(&buf, BUF_POS, len, SEED_DRIVE, FILE_POS));
		len = copy_range(buf.fd, BUF_POS, fd, MIB(4), COPY_LEN);
		failed += len < 0;
		EXPECT_TRUE(copy_may(len)) TH_LOG("drain: %zd", len);
	}
	dmabuf_free(&buf);

	ret = dmabuf_ring_register(ring, 0, self->buf.fd, fd);
	if (ret != 1) {
		EXPECT_EQ(-ENOMEM, ret);
		return failed + 1;
	}
	ret = exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0, &move);
	if (ret) {
		EXPECT_EQ(-ENOMEM, ret);
		failed++;
	}
	ASSERT_EQ(0, dmabuf_poison(&self->buf, BUF_POS, IO_LEN));
	ret = io_rw(&self->ring, IORING_OP_READ_FIXED, fd, 0, NULL, CALLER, 0, NULL);
	if (ret == (int)IO_LEN) {
		EXPECT_EQ(IO_LEN, dmabuf_match(&self->buf, BUF_POS, IO_LEN,
					       SEED_DRIVE, FILE_POS));
	} else {
		EXPECT_TRUE(io_may(ret, true)) TH_LOG("read: %d", ret);
		failed++;
	}
	EXPECT_EQ(1, dmabuf_ring_unregister(ring, 0));
	return failed;
}

TEST_F_TIMEOUT(drive, scarce, SLOW_TIMEOUT)
{
	unsigned int rounds, kills = 0, failed = 0;
	__u64 end = now_ns() + SCARCE_MS * 1000000ULL;
	pid_t stays, grows = 0;
	int status;

	/* A machine that is there for more than tests may have more. */
	if (mem_mib("MemTotal") > SCARCE_TOTAL)
		SKIP(return, "more than %d MiB of memory", SCARCE_TOTAL);
	if (write_text("-1000", "/proc/self/oom_score_adj"))
		SKIP(return, "not root");
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(2), SEED_DRIVE));
	stays = hog_start(SCARCE_LEFT, "-1000");
	ASSERT_LT(0, stays);
	for (rounds = 0; kills < SCARCE_KILLS && now_ns() < end; rounds++) {
		if (grows <= 0)
			grows = hog_start(0, "1000");
		failed += scarce_round(_metadata, self);
		if (grows > 0 && waitpid(grows, &status, WNOHANG) == grows) {
			kills += WIFSIGNALED(status);
			grows = 0;
		}
	}
	hog_end(&grows);
	hog_end(&stays);
	EXPECT_EQ(SCARCE_KILLS, kills);
	TH_LOG("%u rounds, %u times without memory", rounds, failed);

	/* And all is well afterwards. */
	EXPECT_EQ(0, scarce_round(_metadata, self));
	EXPECT_NOTHING_LEFT(&scattered, self->buf.fd);
}

/* The next @times commands end with this status. */
static int drive_fail(const char *knobs, unsigned int status, const char *times,
		      bool retry)
{
	char text[16];
	int ret;

	snprintf(text, sizeof(text), "%#x", status);
	ret = write_text(text, "%s/status", knobs);
	if (!ret)
		ret = write_text(retry ? "N" : "Y", "%s/dont_retry", knobs);
	if (!ret)
		ret = write_text("0", "%s/verbose", knobs);
	if (!ret)
		ret = write_text(times, "%s/times", knobs);
	if (!ret)
		ret = write_text("100", "%s/probability", knobs);
	return ret;
}

static int drive_pread(int fd)
{
	void *mem = aligned_alloc(4096, 4096);
	int ret;

	if (!mem)
		return -ENOMEM;
	ret = pread(fd, mem, 4096, FILE_POS) < 0 ? -errno : 0;
	free(mem);
	return ret;
}

/* A command ends with an error: as it does with any other memory. */
TEST_F_TIMEOUT(drive, status, SLOW_TIMEOUT)
{
	/* internal error, unrecovered read error, write fault */
	static const unsigned int status[] = { 0x6, 0x281, 0x280 };
	size_t end = BUF_POS + IO_LEN;
	int fd = self->drive.fd, error;
	unsigned int i;

	if (drive_fail(self->knobs, 0x6, "0", false))
		SKIP(return, "no %s", self->knobs);
	ASSERT_EQ(0, file_fill(fd, 0, MIB(2), SEED_DRIVE));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd, fd));
	for (i = 0; i < ARRAY_SIZE(status); i++) {
		ASSERT_EQ(0, drive_fail(self->knobs, status[i], "1", false));
		error = drive_pread(fd);
		ASSERT_GT(0, error);

		ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, end + GUARD));
		ASSERT_EQ(0, drive_fail(self->knobs, status[i], "1", false));
		EXPECT_EQ(error, io_rw(&self->ring, IORING_OP_READ_FIXED, fd, 0,
				       NULL, CALLER, 0, NULL));
		EXPECT_EQ(BUF_POS, dmabuf_match_poison(&self->buf, 0, BUF_POS));
		EXPECT_EQ(GUARD, dmabuf_match_poison(&self->buf, end, GUARD));
		ASSERT_EQ(0, drive_fail(self->knobs, status[i], "1", false));
		EXPECT_EQ(error, io_rw(&self->ring, IORING_OP_WRITE_FIXED, fd, 0,
				       NULL, CALLER, 0, NULL));

		ASSERT_EQ(0, dmabuf_poison(&self->heap, 0, end + GUARD));
		ASSERT_EQ(0, drive_fail(self->knobs, status[i], "1", false));
		EXPECT_EQ(error, copy_range(fd, FILE_POS, self->heap.fd, BUF_POS,
					    IO_LEN));
		EXPECT_EQ(BUF_POS, dmabuf_match_poison(&self->heap, 0, BUF_POS));
		EXPECT_EQ(GUARD, dmabuf_match_poison(&self->heap, end, GUARD));
		ASSERT_EQ(0, drive_fail(self->knobs, status[i], "1", false));
		EXPECT_EQ(error, copy_range(self->heap.fd, BUF_POS, fd, FILE_POS,
					    IO_LEN));

		/* And all is well afterwards. */
		ASSERT_EQ(0, file_fill(fd, 0, MIB(2), SEED_DRIVE));
		EXPECT_EQ(IO_LEN, io_rw(&self->ring, IORING_OP_READ_FIXED, fd, 0,
					NULL, CALLER, 0, NULL));
		EXPECT_EQ(IO_LEN, dmabuf_match(&self->buf, BUF_POS, IO_LEN,
					       SEED_DRIVE, FILE_POS));
		EXPECT_EQ(IO_LEN, copy_range(fd, FILE_POS, self->heap.fd, BUF_POS,
					     IO_LEN));
		EXPECT_EQ(IO_LEN, dmabuf_match(&self->heap, BUF_POS, IO_LEN,
					       SEED_DRIVE, FILE_POS));
	}
}

/* The driver sends a command again, with the same memory. */
TEST_F_TIMEOUT(drive, retry, SLOW_TIMEOUT)
{
	struct transfer t = {
		.ring = &self->ring, .drive = &self->drive, .buf = &self->buf,
	};
	struct dma_buf_io_test_info info;
	int fd = self->drive.fd;

	if (drive_fail(self->knobs, 0x6, "0", true))
		SKIP(return, "no %s", self->knobs);
	ASSERT_EQ(0, file_fill(fd, 0, MIB(2), SEED_DRIVE));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd, fd));
	ASSERT_EQ(0, drive_fail(self->knobs, 0x6, "3", true));
	EXPECT_READ(&t, BUF_POS, IO_LEN, FILE_POS);
	EXPECT_EQ(0, read_number("%s/times", self->knobs));
	ASSERT_EQ(0, drive_fail(self->knobs, 0x6, "3", true));
	EXPECT_EQ(IO_LEN, copy_range(fd, FILE_POS, self->heap.fd, BUF_POS, IO_LEN));
	EXPECT_EQ(0, read_number("%s/times", self->knobs));
	EXPECT_EQ(IO_LEN, dmabuf_match(&self->heap, BUF_POS, IO_LEN, SEED_DRIVE,
				       FILE_POS));
	ASSERT_EQ(0, exporter_info(self->buf.fd, &info));
	EXPECT_EQ(1, info.maps);
}

/*
 * A drive that does not answer in time: the driver resets it. The exporter does
 * not have to wait any longer than for that.
 */
TEST_F_TIMEOUT(drive, timeout, SLOW_TIMEOUT)
{
	struct transfer t = {
		.ring = &self->ring, .drive = &self->drive, .buf = &self->buf,
	};
	size_t end = BUF_POS + IO_LEN;
	struct dma_buf_io_test_move move;
	int fd = self->drive.fd, ret;
	struct io_uring_cqe cqe;
	struct io_uring_sqe *sqe;

	ASSERT_EQ(0, file_fill(fd, 0, MIB(2), SEED_DRIVE));
	ret = lose_setup(self->drive.name, self->timeout, self->retries);
	if (ret)
		SKIP(return, "no fail_io_timeout: %s", strerror(-ret));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd, fd));
	ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, end + GUARD));
	ASSERT_EQ(0, dmabuf_poison(&self->heap, 0, end + GUARD));

	ASSERT_EQ(0, lose_one());
	sqe = dmabuf_ring_sqe(&self->ring);
	ASSERT_NE(NULL, sqe);
	dmabuf_ring_prep(sqe, IORING_OP_READ_FIXED, fd, 0, BUF_POS, IO_LEN, FILE_POS);
	ASSERT_EQ(1, dmabuf_ring_submit(&self->ring));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0, &move));
	EXPECT_EQ(1, move.maps);
	EXPECT_EQ(0, move.maps_left);
	/* else there was nothing to wait for, and this showed nothing */
	EXPECT_LT(500000000ULL, move.unmap_ns);
	EXPECT_GT(30000000000ULL, move.unmap_ns);
	ASSERT_EQ(0, dmabuf_ring_wait(&self->ring, &cqe));
	EXPECT_EQ(-EIO, cqe.res);
	EXPECT_EQ(BUF_POS, dmabuf_match_poison(&self->buf, 0, BUF_POS));
	EXPECT_EQ(GUARD, dmabuf_match_poison(&self->buf, end, GUARD));

	ASSERT_EQ(0, lose_one());
	EXPECT_EQ(-EIO, copy_range(fd, FILE_POS, self->heap.fd, BUF_POS, IO_LEN));
	EXPECT_EQ(BUF_POS, dmabuf_match_poison(&self->heap, 0, BUF_POS));
	EXPECT_EQ(GUARD, dmabuf_match_poison(&self->heap, end, GUARD));

	/* With a retry nobody is told of it. */
	lose_restore(self->drive.name, self->timeout, self->retries);
	ASSERT_EQ(0, lose_setup(self->drive.name, self->timeout, self->retries));
	ASSERT_EQ(0, write_text(self->retries, RETRIES));
	ASSERT_EQ(0, lose_one());
	EXPECT_READ(&t, BUF_POS, IO_LEN, FILE_POS);

	lose_restore(self->drive.name, self->timeout, self->retries);
	EXPECT_READ(&t, BUF_POS, IO_LEN, FILE_POS);
	EXPECT_EQ(IO_LEN, copy_range(fd, FILE_POS, self->heap.fd, BUF_POS, IO_LEN));
	EXPECT_EQ(IO_LEN, dmabuf_match(&self->heap, BUF_POS, IO_LEN, SEED_DRIVE,
				       FILE_POS));
	ASSERT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
	EXPECT_NOTHING_LEFT(&scattered, self->buf.fd);
}

TEST_HARNESS_MAIN
