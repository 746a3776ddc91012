// SPDX-License-Identifier: GPL-2.0
/*
 * Registered dma-bufs whose exporter moves them or takes them away, whose owner
 * goes away, or whose drive does, in the middle of I/O. The exporter waits for
 * commands that the drive has, and for nothing else.
 */
#include "dma-buf-io.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define BUF_SIZE	MIB(16)
#define DEPTH		16
#define SLICE		MIB(1)
/* Nothing but a stuck drive takes this long. */
#define BOUND_NS	3000000000ULL

static const struct io_kind kind_scattered = { .chunk = 4096 };
static const struct io_kind kind_huge = { .chunk = HUGE_SIZE };
static const struct io_kind kind_pageless = {
	.chunk = 4096,
	.flags = DMA_BUF_IO_TEST_PAGELESS | DMA_BUF_IO_TEST_NEED_REVOCABLE,
};

/*
 * A queue of reads and writes that never runs dry. Slot i of it has slice i of
 * the buffer for itself, which is poisoned before each read and checked after.
 */
struct load {
	struct dmabuf_ring *ring;
	struct drive *drive;
	struct dmabuf *buf;
	unsigned int flight;
	bool reads_only;
	__u64 random;
	struct {
		size_t offset, len;
		__u64 pos;
		bool write;
	} io[DEPTH];
	unsigned long good, failed;
};

/* The drive has the pattern of reads in the first part, and gets writes behind. */
#define READ_AREA	MIB(16)

static int load_submit(struct load *load, unsigned int i)
{
	struct io_uring_sqe *sqe = dmabuf_ring_sqe(load->ring);
	size_t block = load->drive->block;
	__u32 random = next_random(&load->random);
	int ret;

	if (!sqe)
		return -EBUSY;
	load->io[i].write = !load->reads_only && !(random % 4);
	load->io[i].len = block << random / 4 % 11;
	load->io[i].offset = i * SLICE +
		next_random(&load->random) % ((SLICE - load->io[i].len) /
					      block + 1) * block;
	load->io[i].pos = next_random(&load->random) %
		((SLICE - load->io[i].len) / block + 1) * block + i * SLICE;
	if (load->io[i].write) {
		load->io[i].pos += READ_AREA;
		ret = dmabuf_fill(load->buf, i * SLICE, SLICE, SEED_BUF,
				  load->random);
	} else {
		ret = dmabuf_poison(load->buf, i * SLICE, SLICE);
	}
	if (ret)
		return ret;
	dmabuf_ring_prep(sqe, load->io[i].write ? IORING_OP_WRITE_FIXED :
						  IORING_OP_READ_FIXED,
			 load->drive->fd, 0, load->io[i].offset,
			 load->io[i].len, load->io[i].pos);
	sqe->user_data = i;
	ret = dmabuf_ring_submit(load->ring);
	if (ret == 1)
		load->flight++;
	return ret < 0 ? ret : 0;
}

/* All of the slice is as it must be after a transfer that worked. */
static const char *load_check(struct load *load, unsigned int i)
{
	size_t start = i * SLICE, offset = load->io[i].offset;
	size_t len = load->io[i].len, before = offset - start;
	size_t after = SLICE - before - len;
	char *mem;

	if (load->io[i].write) {
		ssize_t good = -ENOMEM;

		mem = aligned_alloc(4096, SLICE);
		if (mem && pread(load->drive->fd, mem, len,
				 load->io[i].pos) == (ssize_t)len) {
			good = dmabuf_map(load->buf);
			if (!good)
				good = memcmp(mem, load->buf->map + offset,
					      len) ? -EIO : 0;
		}
		free(mem);
		return good ? "written data" : NULL;
	}
	if (dmabuf_match(load->buf, offset, len, SEED_DRIVE,
			 load->io[i].pos) != (ssize_t)len)
		return "read data";
	if (dmabuf_match_poison(load->buf, start, before) != (ssize_t)before ||
	    dmabuf_match_poison(load->buf, offset + len, after) !=
	    (ssize_t)after)
		return "bytes around the data";
	return NULL;
}

static bool is_gone(int res)
{
	return res == -ENODEV;
}

/*
 * Keep the load up for @ms. @may_fail says which results besides success there
 * may be; data is checked after success only.
 */
static const char *load_run(struct load *load, unsigned int ms,
			    bool (*may_fail)(int res))
{
	__u64 end = now_ns() + ms * 1000000ULL;
	struct io_uring_cqe cqe;
	const char *wrong = NULL;
	unsigned int i;

	for (i = 0; i < DEPTH && !wrong; i++)
		if (load_submit(load, i))
			wrong = "submitting";
	while (load->flight) {
		if (dmabuf_ring_wait(load->ring, &cqe))
			return "waiting";
		load->flight--;
		i = cqe.user_data;
		if (cqe.res == (int)load->io[i].len) {
			load->good++;
			if (!wrong)
				wrong = load_check(load, i);
		} else if (may_fail && may_fail(cqe.res)) {
			load->failed++;
		} else if (!wrong) {
			errno = cqe.res < 0 ? -cqe.res : EIO;
			wrong = "a result";
		}
		if (!wrong && now_ns() < end && load_submit(load, i))
			wrong = "submitting";
	}
	return wrong;
}

#define EXPECT_LOAD(load, ms, may_fail)					\
do {									\
	const char *_wrong = load_run(load, ms, may_fail);		\
									\
	ASSERT_EQ(NULL, _wrong)						\
		TH_LOG("%s: %s; after %lu good, %lu failed", _wrong,	\
		       strerror(errno), (load)->good, (load)->failed);	\
} while (0)

/*
 * Something that goes on at the same time.
 */
struct storm {
	pthread_t thread;
	atomic_bool stop;
	int fd;
	unsigned int pause_ms;
	unsigned long request[2];	/* one after the other */
	unsigned int delay_ms;
	int error;
	unsigned long rounds;
	unsigned int maps_left;
	__u64 invalidate_ns, unmap_ns;	/* the longest */
};

static void *storm_main(void *arg)
{
	struct dma_buf_io_test_move move;
	struct storm *storm = arg;

	while (!storm->stop && !storm->error) {
		storm->error = exporter_move(storm->fd,
					     storm->request[storm->rounds & 1],
					     storm->delay_ms, &move);
		storm->rounds++;
		storm->maps_left |= move.maps_left;
		if (move.invalidate_ns > storm->invalidate_ns)
			storm->invalidate_ns = move.invalidate_ns;
		if (move.unmap_ns > storm->unmap_ns)
			storm->unmap_ns = move.unmap_ns;
		sleep_ms(storm->pause_ms);
	}
	return NULL;
}

static int storm_start(struct storm *storm, struct dmabuf *buf,
		       unsigned long one, unsigned long two,
		       unsigned int pause_ms)
{
	*storm = (struct storm) {
		.fd = buf->fd,
		.pause_ms = pause_ms,
		.request = { one, two },
	};
	return -pthread_create(&storm->thread, NULL, storm_main, storm);
}

static void storm_stop(struct storm *storm)
{
	storm->stop = true;
	pthread_join(storm->thread, NULL);
}

/* Nothing is mapped when invalidating returns, and it does not take long. */
#define EXPECT_STORM(storm)						\
do {									\
	EXPECT_EQ(0, (storm)->error);					\
	EXPECT_EQ(0, (storm)->maps_left);				\
	EXPECT_GT(BOUND_NS, (storm)->unmap_ns);				\
	TH_LOG("%lu times, longest invalidation %llu us",		\
	       (storm)->rounds, (storm)->invalidate_ns / 1000);		\
} while (0)

#define EXPECT_BOUNDED(move)						\
do {									\
	EXPECT_EQ(0, (move)->maps_left);				\
	EXPECT_GT(BOUND_NS, (move)->unmap_ns);				\
	TH_LOG("invalidation took %llu us",				\
	       (move)->invalidate_ns / 1000);				\
} while (0)

FIXTURE(move) {
	struct drive drive;
	struct dmabuf buf;
	struct dmabuf_ring ring;
	struct load load;
	struct transfer t;
	struct storm storm;
	struct dma_buf_io_test_move move;
};

FIXTURE_VARIANT(move) {
	const struct io_kind *kind;
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(move, scattered) {
	.kind = &kind_scattered,
};

FIXTURE_VARIANT_ADD(move, huge) {
	.kind = &kind_huge,
};

FIXTURE_VARIANT_ADD(move, pageless) {
	.kind = &kind_pageless,
};

FIXTURE_VARIANT_ADD(move, defer) {
	.kind = &kind_scattered,
	.flags = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_VARIANT_ADD(move, sqpoll) {
	.kind = &kind_scattered,
	.flags = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(move, iopoll) {
	.kind = &kind_scattered,
	.flags = IORING_SETUP_IOPOLL,
};

FIXTURE_SETUP(move)
{
	int ret = drive_open(&self->drive);

	if (ret == 1)
		SKIP(return, "%s", self->drive.skip);
	ASSERT_EQ(0, ret);
	if (variant->flags & IORING_SETUP_IOPOLL &&
	    read_number("/sys/block/%s/queue/io_poll", self->drive.name) != 1)
		SKIP(return, "no poll queues (nvme.poll_queues=1)");
	ret = io_buf_alloc(&self->buf, variant->kind, BUF_SIZE);
	if (ret == -ENOENT)
		SKIP(return, "no test exporter");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 2 * DEPTH, variant->flags));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd,
					  self->drive.fd));
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, READ_AREA, SEED_DRIVE));
	self->load = (struct load) {
		.ring = &self->ring,
		.drive = &self->drive,
		.buf = &self->buf,
		.random = 42,
	};
	self->t = (struct transfer) {
		.ring = &self->ring,
		.drive = &self->drive,
		.buf = &self->buf,
	};
}

/*
 * By default the drive is removed by sysfs. With DMABUF_IO_UNPLUG set, whoever
 * reads the output is asked to unplug it and to plug it in again.
 */
static bool unplug_by_hand(void)
{
	return !!getenv("DMABUF_IO_UNPLUG");
}

/* Find a drive again that was removed. It has its name when nobody has it. */
static int drive_rescan(struct drive *drive)
{
	unsigned int i;

	if (unplug_by_hand())
		fputs("# plug the drive in\n", stderr);
	else if (write_text("1", "/sys/bus/pci/rescan"))
		return -errno;
	for (i = 0; i < 200; i++) {
		drive->fd = open(getenv("DMABUF_IO_BDEV"),
				 O_RDWR | O_DIRECT | O_CLOEXEC);
		if (drive->fd >= 0)
			return 0;
		sleep_ms(100);
	}
	return -errno;
}

FIXTURE_TEARDOWN(move)
{
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	close(self->drive.fd);
	/* whatever became of the test */
	if (!self->drive.skip && access(getenv("DMABUF_IO_BDEV"), F_OK)) {
		sleep_ms(500);
		if (!drive_rescan(&self->drive))
			close(self->drive.fd);
	}
}

TEST_F_TIMEOUT(move, once, SLOW_TIMEOUT)
{
	struct dma_buf_io_test_info info;

	EXPECT_READ(&self->t, MIB(2), MIB(1), 0);
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	EXPECT_EQ(1, self->move.maps);
	EXPECT_BOUNDED(&self->move);
	EXPECT_EQ(MIB(1), dmabuf_match(&self->buf, MIB(2), MIB(1), SEED_DRIVE,
				       0));
	EXPECT_READ(&self->t, MIB(3), MIB(1), 4096);
	ASSERT_EQ(0, exporter_info(self->buf.fd, &info));
	EXPECT_EQ(1, info.attaches);
	EXPECT_EQ(1, info.mapped);
	EXPECT_EQ(2, info.maps);

	/* Without I/O nobody maps it again. */
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	EXPECT_EQ(0, self->move.maps);
	ASSERT_EQ(0, exporter_info(self->buf.fd, &info));
	EXPECT_EQ(2, info.maps);
}

/* The data of a move arrives late: neither read nor write may be before it. */
TEST_F_TIMEOUT(move, late_data, SLOW_TIMEOUT)
{
	__u64 start;

	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, MIB(2), SEED_BUF, 0));
	start = now_ns();
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 500,
				   &self->move));
	ASSERT_EQ(MIB(1), dmabuf_ring_rw(&self->ring, IORING_OP_WRITE_FIXED,
					 self->drive.fd, 0, 0, MIB(1),
					 READ_AREA));
	EXPECT_LE(start + 500000000, now_ns());
	EXPECT_EQ(MIB(1), file_match_at(self->drive.fd, READ_AREA, MIB(1),
					SEED_BUF, 0));

	start = now_ns();
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 500,
				   &self->move));
	ASSERT_EQ(MIB(1), dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					 self->drive.fd, 0, 0, MIB(1), 0));
	EXPECT_LE(start + 500000000, now_ns());
	EXPECT_EQ(MIB(1), dmabuf_match(&self->buf, 0, MIB(1), SEED_DRIVE, 0));
	EXPECT_EQ(MIB(1), dmabuf_match(&self->buf, MIB(1), MIB(1), SEED_BUF,
				       MIB(1)));
}

TEST_F_TIMEOUT(move, storm, SLOW_TIMEOUT)
{
	ASSERT_EQ(0, storm_start(&self->storm, &self->buf, DMA_BUF_IO_TEST_MOVE,
				 DMA_BUF_IO_TEST_MOVE, 1));
	EXPECT_LOAD(&self->load, 5000, NULL);
	storm_stop(&self->storm);
	EXPECT_STORM(&self->storm);
	EXPECT_LT(10, self->storm.rounds);
	EXPECT_LT(10, self->load.good);
}

TEST_F_TIMEOUT(move, revoke, SLOW_TIMEOUT)
{
	int res;

	EXPECT_READ(&self->t, 0, KIB(64), 0);
	ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, MIB(1)));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_REVOKE, 0,
				   &self->move));
	EXPECT_EQ(1, self->move.maps);
	EXPECT_BOUNDED(&self->move);
	res = dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED, self->drive.fd,
			     0, 0, KIB(64), 0);
	EXPECT_TRUE(is_gone(res)) TH_LOG("%d", res);
	res = dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED, self->drive.fd,
			     0, 0, KIB(64), 0);
	EXPECT_TRUE(is_gone(res)) TH_LOG("%d", res);
	EXPECT_EQ(MIB(1), dmabuf_match_poison(&self->buf, 0, MIB(1)));

	/* Nobody else is affected. */
	EXPECT_EQ(MIB(1), file_match(self->drive.fd, 0, MIB(1), SEED_DRIVE));

	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_UNREVOKE, 0,
				   &self->move));
	EXPECT_READ(&self->t, 0, KIB(64), 4096);
}

TEST_F_TIMEOUT(move, revoke_storm, SLOW_TIMEOUT)
{
	unsigned int i;

	ASSERT_EQ(0, storm_start(&self->storm, &self->buf,
				 DMA_BUF_IO_TEST_REVOKE,
				 DMA_BUF_IO_TEST_UNREVOKE, 5));
	for (i = 0; i < 10; i++) {
		EXPECT_LOAD(&self->load, 1000, is_gone);
		if (i > 2 && self->load.good && self->load.failed)
			break;
	}
	storm_stop(&self->storm);
	EXPECT_STORM(&self->storm);
	EXPECT_LT(0, self->load.good);
	EXPECT_LT(0, self->load.failed);

	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_UNREVOKE, 0,
				   &self->move));
	EXPECT_READ(&self->t, 0, MIB(1), 0);
}

/* Mapping fails once: at worst that I/O. Then for good: no hang. */
TEST_F_TIMEOUT(move, map_fails, SLOW_TIMEOUT)
{
	int res;

	ASSERT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP, 1,
				   ENOMEM));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	res = dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED, self->drive.fd,
			     0, 0, KIB(64), 0);
	EXPECT_TRUE(res == KIB(64) || res == -ENOMEM || res == -EINVAL)
		TH_LOG("%d", res);
	EXPECT_READ(&self->t, 0, KIB(64), 0);

	ASSERT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP, ~0U,
				   ENOMEM));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, KIB(64)));
	res = dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED, self->drive.fd,
			     0, 0, KIB(64), 0);
	EXPECT_TRUE(res == -ENOMEM || res == -EINVAL) TH_LOG("%d", res);
	EXPECT_EQ(KIB(64), dmabuf_match_poison(&self->buf, 0, KIB(64)));
	ASSERT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP, 0,
				   ENOMEM));
	EXPECT_READ(&self->t, 0, KIB(64), 0);
}

static int read_nowait(struct dmabuf_ring *ring, int fd, size_t len)
{
	struct io_uring_sqe *sqe = dmabuf_ring_sqe(ring);
	struct io_uring_cqe cqe;

	if (!sqe)
		return -EBUSY;
	dmabuf_ring_prep(sqe, IORING_OP_READ_FIXED, fd, 0, 0, len, 0);
	sqe->rw_flags = RWF_NOWAIT;
	if (dmabuf_ring_submit(ring) != 1 || dmabuf_ring_wait(ring, &cqe))
		return -EIO;
	return cqe.res;
}

TEST_F_TIMEOUT(move, nowait, SLOW_TIMEOUT)
{
	EXPECT_EQ(4096, read_nowait(&self->ring, self->drive.fd, 4096));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	EXPECT_EQ(-EAGAIN, read_nowait(&self->ring, self->drive.fd, 4096));
	EXPECT_READ(&self->t, 0, 4096, 0);
	EXPECT_EQ(4096, read_nowait(&self->ring, self->drive.fd, 4096));
}

/* Fill the queue of the drive, without taking a completion. */
/* A polling thread takes the SQEs after the call; what it took is in flight. */
static int submit_and_issue(struct dmabuf_ring *ring)
{
	int ret = dmabuf_ring_submit(ring);

	while (__atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE) !=
	       *ring->sq_tail)
		sleep_ms(1);
	return ret;
}

static int submit_reads(struct dmabuf_ring *ring, int fd, size_t len)
{
	unsigned int i;

	for (i = 0; i < DEPTH; i++) {
		struct io_uring_sqe *sqe = dmabuf_ring_sqe(ring);

		if (!sqe)
			return -EBUSY;
		dmabuf_ring_prep(sqe, IORING_OP_READ_FIXED, fd, 0, i * SLICE,
				 len, i * SLICE);
	}
	return submit_and_issue(ring);
}

static int reap_reads(struct dmabuf_ring *ring, size_t len)
{
	struct io_uring_cqe cqe;
	unsigned int i;

	for (i = 0; i < DEPTH; i++) {
		int ret = dmabuf_ring_wait(ring, &cqe);

		if (ret)
			return ret;
		if (cqe.res != (int)len)
			return cqe.res < 0 ? cqe.res : -EIO;
	}
	return 0;
}

static bool slices_match(struct dmabuf *buf, size_t len)
{
	unsigned int i;

	for (i = 0; i < DEPTH; i++)
		if (dmabuf_match(buf, i * SLICE, len, SEED_DRIVE, i * SLICE) !=
		    (ssize_t)len)
			return false;
	return true;
}

/*
 * Who submitted does not come back for a while: nobody runs task work, nobody
 * polls. The exporter does not wait for that.
 */
TEST_F_TIMEOUT(move, nobody_reaps, SLOW_TIMEOUT)
{
	unsigned int i;

	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, BUF_SIZE));
		ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd,
					      SLICE));
		ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE,
					   0, &self->move));
		EXPECT_BOUNDED(&self->move);
		ASSERT_EQ(0, reap_reads(&self->ring, SLICE));
		ASSERT_TRUE(slices_match(&self->buf, SLICE));
	}
}

/* A cgroup lets through one read in several seconds. */
#define CGROUP	"/sys/fs/cgroup/dmabuf-io-stress"

TEST_F_TIMEOUT(move, throttled, SLOW_TIMEOUT)
{
	char limit[64], pid[16];
	struct stat st;
	__u64 start;

	ASSERT_EQ(0, fstat(self->drive.fd, &st));
	if (write_text("+io", "/sys/fs/cgroup/cgroup.subtree_control") ||
	    (mkdir(CGROUP, 0755) && errno != EEXIST))
		SKIP(return, "no io controller");
	snprintf(limit, sizeof(limit), "%u:%u rbps=%u", major(st.st_rdev),
		 minor(st.st_rdev), 4 * 1024 * 1024);
	if (write_text(limit, CGROUP "/io.max"))
		SKIP(return, "no io.max");
	snprintf(pid, sizeof(pid), "%d", getpid());
	ASSERT_EQ(0, write_text(pid, CGROUP "/cgroup.procs"));

	ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, BUF_SIZE));
	start = now_ns();
	ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd, SLICE));
	sleep_ms(100);
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	EXPECT_BOUNDED(&self->move);
	ASSERT_EQ(0, reap_reads(&self->ring, SLICE));
	/* else it was not throttled, and this showed nothing */
	EXPECT_LT(start + 2000000000, now_ns());
	EXPECT_TRUE(slices_match(&self->buf, SLICE));

	snprintf(limit, sizeof(limit), "%u:%u rbps=max", major(st.st_rdev),
		 minor(st.st_rdev));
	EXPECT_EQ(0, write_text(limit, CGROUP "/io.max"));
	EXPECT_EQ(0, write_text(pid, "/sys/fs/cgroup/cgroup.procs"));
	rmdir(CGROUP);
}

/*
 * A change of the queue's settings waits for a command that takes seconds, and
 * what comes later waits at the queue's door. It has no mapping yet. The drive
 * has nothing but zeroes, and takes at least two seconds for each command.
 */
struct freezer {
	const char *name;
	int fd;
	int error;
	__u64 took_ns;
};

static void *slow_read_main(void *arg)
{
	struct freezer *freezer = arg;
	void *mem = aligned_alloc(4096, 4096);

	if (!mem || pread(freezer->fd, mem, 4096, 0) != 4096)
		freezer->error = -EIO;
	free(mem);
	return NULL;
}

static void *freezer_main(void *arg)
{
	struct freezer *freezer = arg;
	__u64 start = now_ns();
	char text[16];
	long nr;

	nr = read_number("/sys/block/%s/queue/nr_requests", freezer->name);
	snprintf(text, sizeof(text), "%ld", nr - 1);
	freezer->error = nr < 0 ? nr :
		write_text(text, "/sys/block/%s/queue/nr_requests",
			   freezer->name);
	freezer->took_ns = now_ns() - start;
	return NULL;
}

TEST_F_TIMEOUT(move, frozen, SLOW_TIMEOUT)
{
	const char *path = getenv("DMABUF_IO_SLOW_BDEV");
	struct freezer reader = {}, freezer = {};
	pthread_t read_thread, freeze_thread;
	struct io_uring_cqe cqe;
	struct io_uring_sqe *sqe;
	char *mem;
	int fd;

	if (!path || !*path)
		SKIP(return, "DMABUF_IO_SLOW_BDEV names no drive");
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, fd);
	reader.fd = fd;
	freezer.name = strrchr(path, '/') + 1;
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd, fd));
	ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, MIB(1)));

	ASSERT_EQ(0, pthread_create(&read_thread, NULL, slow_read_main, &reader));
	sleep_ms(100);
	ASSERT_EQ(0, pthread_create(&freeze_thread, NULL, freezer_main, &freezer));
	sleep_ms(100);
	sqe = dmabuf_ring_sqe(&self->ring);
	ASSERT_NE(NULL, sqe);
	dmabuf_ring_prep(sqe, IORING_OP_READ_FIXED, fd, 0, 0, 65536, 0);
	ASSERT_EQ(1, submit_and_issue(&self->ring));
	sleep_ms(100);
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &self->move));
	EXPECT_EQ(0, self->move.maps_left);
	EXPECT_GT(1000000000ULL, self->move.unmap_ns);

	pthread_join(read_thread, NULL);
	pthread_join(freeze_thread, NULL);
	EXPECT_EQ(0, reader.error);
	EXPECT_EQ(0, freezer.error);
	/* else it was not frozen, and this showed nothing */
	EXPECT_LT(1500000000ULL, freezer.took_ns);
	ASSERT_EQ(0, dmabuf_ring_wait(&self->ring, &cqe));
	EXPECT_EQ(65536, cqe.res);
	ASSERT_EQ(0, dmabuf_map(&self->buf));
	mem = calloc(1, 65536);
	ASSERT_NE(NULL, mem);
	EXPECT_EQ(0, memcmp(mem, self->buf.map, 65536));
	EXPECT_EQ(MIB(1) - 65536, dmabuf_match_poison(&self->buf, 65536,
						      MIB(1) - 65536));
	free(mem);
	close(fd);
}

/*
 * Owners that go away
 */
TEST_F_TIMEOUT(move, unregister_in_flight, SLOW_TIMEOUT)
{
	unsigned int i;

	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, BUF_SIZE));
		ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd,
					      SLICE));
		ASSERT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
		ASSERT_EQ(0, reap_reads(&self->ring, SLICE));
		ASSERT_TRUE(slices_match(&self->buf, SLICE));
		ASSERT_EQ(0, wait_detached(self->buf.fd, 5000));
		ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0,
						  self->buf.fd,
						  self->drive.fd));
	}
}

/* The same with a move, which may find the buffer half gone. */
TEST_F_TIMEOUT(move, unregister_storm, SLOW_TIMEOUT)
{
	unsigned int i;

	ASSERT_EQ(0, storm_start(&self->storm, &self->buf, DMA_BUF_IO_TEST_MOVE,
				 DMA_BUF_IO_TEST_MOVE, 1));
	for (i = 0; i < 50; i++) {
		ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd,
					      KIB(64)));
		ASSERT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
		ASSERT_EQ(0, reap_reads(&self->ring, KIB(64)));
		ASSERT_TRUE(slices_match(&self->buf, KIB(64)));
		ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0,
						  self->buf.fd,
						  self->drive.fd));
	}
	storm_stop(&self->storm);
	EXPECT_STORM(&self->storm);
}

TEST_F_TIMEOUT(move, ring_exit_in_flight, SLOW_TIMEOUT)
{
	struct dma_buf_io_test_info info;
	unsigned int i;

	for (i = 0; i < 10; i++) {
		ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd,
					      SLICE));
		dmabuf_ring_exit(&self->ring);
		ASSERT_EQ(0, wait_detached(self->buf.fd, 10000));
		ASSERT_EQ(0, exporter_info(self->buf.fd, &info));
		ASSERT_EQ(0, info.mapped);
		/* No command is left that could write. */
		ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, BUF_SIZE));
		sleep_ms(20);
		ASSERT_EQ((ssize_t)BUF_SIZE,
			  dmabuf_match_poison(&self->buf, 0, BUF_SIZE));

		ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 2 * DEPTH,
					      variant->flags));
		ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
		ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0,
						  self->buf.fd,
						  self->drive.fd));
	}
}

/* A process is killed with everything it has. */
TEST_F_TIMEOUT(move, killed_in_flight, SLOW_TIMEOUT)
{
	struct dmabuf_ring ring;
	unsigned int i;
	pid_t pid;

	EXPECT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
	for (i = 0; i < 10; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			if (dmabuf_ring_init(&ring, 2 * DEPTH,
					     variant->flags) ||
			    dmabuf_ring_table(ring.fd, 1) ||
			    dmabuf_ring_register(ring.fd, 0, self->buf.fd,
						 self->drive.fd) != 1)
				_exit(1);
			for (;;)
				if (submit_reads(&ring, self->drive.fd, SLICE) !=
				    DEPTH || reap_reads(&ring, SLICE))
					_exit(1);
		}
		sleep_ms(150 + 7 * i);
		/* It must still be at it. */
		ASSERT_EQ(0, waitpid(pid, NULL, WNOHANG));
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
		ASSERT_EQ(0, wait_detached(self->buf.fd, 10000));
	}
}

/* The ring keeps the buffer when nobody else does. */
TEST_F_TIMEOUT(move, buffer_closed, SLOW_TIMEOUT)
{
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	dmabuf_free(&self->buf);
	ASSERT_EQ(0, file_fill(self->drive.fd, READ_AREA, MIB(1), SEED_OLD));
	EXPECT_EQ(MIB(1), dmabuf_ring_rw(&self->ring, IORING_OP_WRITE_FIXED,
					 self->drive.fd, 0, MIB(1), MIB(1),
					 READ_AREA));
	EXPECT_EQ(MIB(1), file_match_at(self->drive.fd, READ_AREA, MIB(1),
					SEED_BUF, MIB(1)));
	EXPECT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
}

/*
 * Drives that go away
 */
struct resetter {
	pthread_t thread;
	atomic_bool stop;
	char name[32];
	int error;
	unsigned int rounds;
};

static void *resetter_main(void *arg)
{
	struct resetter *resetter = arg;

	while (!resetter->stop && !resetter->error) {
		resetter->error =
			write_text("1", "/sys/block/%s/device/reset_controller",
				   resetter->name);
		resetter->rounds++;
		sleep_ms(200);
	}
	return NULL;
}

/* Commands that a reset cancels are sent again, to where the buffer is then. */
TEST_F_TIMEOUT(move, reset, SLOW_TIMEOUT)
{
	struct resetter resetter = {};

	snprintf(resetter.name, sizeof(resetter.name), "%s", self->drive.name);
	if (write_text("1", "/sys/block/%s/device/reset_controller",
		       self->drive.name))
		SKIP(return, "the drive's controller cannot be reset");
	ASSERT_EQ(0, pthread_create(&resetter.thread, NULL, resetter_main,
				    &resetter));
	ASSERT_EQ(0, storm_start(&self->storm, &self->buf, DMA_BUF_IO_TEST_MOVE,
				 DMA_BUF_IO_TEST_MOVE, 20));
	EXPECT_LOAD(&self->load, 5000, NULL);
	storm_stop(&self->storm);
	resetter.stop = true;
	pthread_join(resetter.thread, NULL);
	EXPECT_EQ(0, resetter.error);
	EXPECT_LT(2, resetter.rounds);
	EXPECT_EQ(0, self->storm.error);
	EXPECT_EQ(0, self->storm.maps_left);
	EXPECT_READ(&self->t, 0, MIB(1), 0);
}

/* A drive that is gone has no size, so that all is beyond its end. */
static bool may_vanish(int res)
{
	return res <= 0;
}

static void *remover_main(void *arg)
{
	const char *name = arg;
	long ret;

	sleep_ms(500);
	if (unplug_by_hand()) {
		fputs("# unplug the drive\n", stderr);
		return NULL;
	}
	ret = write_text("1", "/sys/block/%s/device/device/remove", name);
	return (void *)ret;
}

/*
 * The drive is removed, the buffer is let go of, and the drive that is found
 * afterwards works with the same buffer.
 */
TEST_F_TIMEOUT(move, remove, SLOW_TIMEOUT)
{
	char path[PATH_MAX];
	const char *wrong;
	pthread_t thread;
	void *error;

	snprintf(path, sizeof(path), "/sys/block/%s/device/device/remove",
		 self->drive.name);
	if (access(path, W_OK))
		SKIP(return, "the drive has no PCI device of its own");
	ASSERT_EQ(0, pthread_create(&thread, NULL, remover_main,
				    self->drive.name));
	/* What was written could not be read back to check it. */
	self->load.reads_only = true;
	/* A hotplug port waits 5 s for somebody to change their mind. */
	wrong = load_run(&self->load, unplug_by_hand() ? 12000 : 3000,
			 may_vanish);
	pthread_join(thread, &error);
	ASSERT_EQ(NULL, wrong) TH_LOG("%s", wrong);
	ASSERT_EQ(NULL, error);
	EXPECT_LT(0, self->load.good);
	EXPECT_LT(0, self->load.failed);
	EXPECT_EQ(0, wait_detached(self->buf.fd, 10000));
	EXPECT_GE(0, dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
				    self->drive.fd, 0, 0, 4096, 0));
	close(self->drive.fd);

	/* Rings close files late, and the name is free only then. */
	dmabuf_ring_exit(&self->ring);
	sleep_ms(500);
	ASSERT_EQ(0, drive_rescan(&self->drive));
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 2 * DEPTH, variant->flags));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd,
					  self->drive.fd));
	EXPECT_READ(&self->t, 0, MIB(1), 0);
}

TEST_HARNESS_MAIN
