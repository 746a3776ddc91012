// SPDX-License-Identifier: GPL-2.0
/*
 * Registered dma-bufs: registration, data, errors. The data on the drive is
 * made and checked with ordinary memory, and in each direction alone.
 */
#include "dma-buf-io.h"

#include <sys/socket.h>

#define BUF_SIZE	MIB(24)

/* Layouts of buffers, and exporters. */
static const struct io_kind contiguous = { .chunk = 0 };
static const struct io_kind huge = { .chunk = HUGE_SIZE };
static const struct io_kind scattered = { .chunk = 4096 };
static const struct io_kind odd = { .chunk = 3 * 4096 };
static const struct io_kind pageless = {
	.chunk = 4096,
	.flags = DMA_BUF_IO_TEST_PAGELESS | DMA_BUF_IO_TEST_NEED_P2P |
		 DMA_BUF_IO_TEST_NEED_REVOCABLE,
};

static const struct io_kind pageless_huge = {
	.chunk = HUGE_SIZE,
	.flags = DMA_BUF_IO_TEST_PAGELESS,
};

static const struct io_kind move_on_map = {
	.chunk = 4096,
	.flags = DMA_BUF_IO_TEST_MOVE_ON_MAP,
};

static const struct dmabuf_kind kind_heap = { .heap = "system" };
static const struct dmabuf_kind kind_udmabuf = { .memfds = 1 };
static const struct io_kind system_heap = { .kind = &kind_heap };
static const struct io_kind udmabuf = { .kind = &kind_udmabuf };

/*
 * Data
 */
FIXTURE(data) {
	struct drive drive;
	struct dmabuf buf;
	struct dmabuf_ring ring;
	struct transfer t;
	long max_command;
};

FIXTURE_VARIANT(data) {
	const struct io_kind *kind;
};

#define DATA_VARIANT(name) \
	FIXTURE_VARIANT_ADD(data, name) { .kind = &name }

DATA_VARIANT(contiguous);
DATA_VARIANT(huge);
DATA_VARIANT(scattered);
DATA_VARIANT(odd);
DATA_VARIANT(pageless);
DATA_VARIANT(pageless_huge);
DATA_VARIANT(move_on_map);
DATA_VARIANT(system_heap);
DATA_VARIANT(udmabuf);

FIXTURE_SETUP(data)
{
	SETUP_DRIVE(&self->drive);
	SETUP_BUF(&self->buf, variant->kind, BUF_SIZE);
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 4));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 1, self->buf.fd,
					  self->drive.fd));
	self->max_command = drive_max_command(&self->drive);
	ASSERT_GT(self->max_command, 0);
	self->t = (struct transfer) {
		.ring = &self->ring,
		.drive = &self->drive,
		.buf = &self->buf,
		.slot = 1,
	};
}

FIXTURE_TEARDOWN(data)
{
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	close(self->drive.fd);
}

/* Sizes at which something changes in how commands are made. */
static unsigned int edge_sizes(size_t *sizes, size_t block, size_t max_command)
{
	const size_t edges[] = {
		4096, 8192, 12288, KIB(32), KIB(128), KIB(512), MIB(1), MIB(2),
		MIB(2) + 4096, max_command, 2 * max_command,
	};
	unsigned int i, nr = 0;

	for (i = 0; i < ARRAY_SIZE(edges); i++) {
		if (edges[i] + block > BUF_SIZE - MIB(3))
			continue;
		sizes[nr++] = edges[i] - block;
		sizes[nr++] = edges[i];
		sizes[nr++] = edges[i] + block;
	}
	return nr;
}

/*
 * Sizes up to 64 KiB one by one, at every page of a list page and with every
 * offset in a page over the loop.
 */
static size_t small_size(unsigned int i, size_t block)
{
	return (i % (KIB(64) / block) + 1) * block;
}

static size_t small_offset(unsigned int i, size_t block)
{
	return i * 4096 + i * 5 % (4096 / block) * block;
}

TEST_F_TIMEOUT(data, read_small, SLOW_TIMEOUT)
{
	size_t block = self->drive.block;
	unsigned int i;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(8), SEED_DRIVE));
	for (i = 0; i < 520; i++)
		EXPECT_READ(&self->t, small_offset(i, block),
			    small_size(i, block), i * 13 % 8192 * block);
}

TEST_F_TIMEOUT(data, write_small, SLOW_TIMEOUT)
{
	size_t block = self->drive.block;
	unsigned int i;

	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	for (i = 0; i < 520; i++)
		EXPECT_WRITE(&self->t, small_offset(i, block),
			     small_size(i, block), i * 13 % 8192 * block);
}

/* Long transfers that start, and end, at different pages of a list page. */
TEST_F_TIMEOUT(data, read_large, SLOW_TIMEOUT)
{
	size_t block = self->drive.block, sizes[64];
	unsigned int nr, i;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, BUF_SIZE + MIB(1),
			       SEED_DRIVE));
	nr = edge_sizes(sizes, block, self->max_command);
	for (i = 0; i < nr; i++) {
		size_t len = sizes[i];

		EXPECT_READ(&self->t, 0, len, 0);
		EXPECT_READ(&self->t, i * 4096 * 17 % MIB(2) + block, len,
			    i * block);
		/* ends with the first and second page of a list page */
		EXPECT_READ(&self->t, BUF_SIZE - len, len, block);
		EXPECT_READ(&self->t, BUF_SIZE - len - i * 4096, len, 0);
	}
}

TEST_F_TIMEOUT(data, write_large, SLOW_TIMEOUT)
{
	size_t block = self->drive.block, sizes[64];
	unsigned int nr, i;

	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	nr = edge_sizes(sizes, block, self->max_command);
	for (i = 0; i < nr; i++) {
		size_t len = sizes[i];

		EXPECT_WRITE(&self->t, 0, len, 0);
		EXPECT_WRITE(&self->t, i * 4096 * 17 % MIB(2) + block, len,
			     i * block);
		EXPECT_WRITE(&self->t, BUF_SIZE - len, len, block);
	}
}

/* Nothing but the mapping at registration: no map, unmap or bounce per I/O. */
TEST_F_TIMEOUT(data, no_mapping_per_io, SLOW_TIMEOUT)
{
	char device[64], link[PATH_MAX], path[96];
	static const char *const groups[] = { "dma", "iommu" };
	struct iovec iov = { .iov_len = MIB(1) };
	unsigned int i, n;
	long seen = 0;
	ssize_t len;

	snprintf(path, sizeof(path), "/sys/block/%s/device/device",
		 self->drive.name);
	len = readlink(path, link, sizeof(link) - 1);
	if (len < 0)
		SKIP(return, "the drive has no PCI device of its own");
	link[len] = 0;
	snprintf(device, sizeof(device), "%s", strrchr(link, '/') + 1);

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(2), SEED_DRIVE));
	EXPECT_READ(&self->t, 0, MIB(1), 0);

	/* Which of the two an IOMMU's mappings are seen in is up to the driver. */
	for (n = 0; n < 2; n++) {
		ASSERT_EQ(0, trace_start(groups[n]));
		for (i = 0; i < 16; i++)
			EXPECT_EQ(KIB(256),
				  dmabuf_ring_rw(&self->ring,
						 IORING_OP_READ_FIXED,
						 self->drive.fd, 1, i * KIB(4),
						 KIB(256), 0));
		EXPECT_EQ(0, n ? trace_stop("IOMMU", "iova=") :
				 trace_stop(device, "map_"));
	}

	/* Ordinary memory on the same drive shows that the trace works. */
	iov.iov_base = aligned_alloc(4096, iov.iov_len);
	ASSERT_NE(NULL, iov.iov_base);
	memset(iov.iov_base, 0, iov.iov_len);
	for (n = 0; n < 2; n++) {
		ASSERT_EQ(0, trace_start(groups[n]));
		EXPECT_EQ(MIB(1), preadv(self->drive.fd, &iov, 1, 0));
		seen += n ? trace_stop("IOMMU", "iova=") :
			    trace_stop(device, "map_");
	}
	EXPECT_LT(0, seen);
	free(iov.iov_base);
}

static long count_commands(struct transfer *t, size_t offset, size_t len,
			   int *res)
{
	int ret = trace_start("nvme/nvme_setup_cmd");

	if (ret)
		return ret;
	*res = dmabuf_ring_rw(t->ring, IORING_OP_READ_FIXED, t->drive->fd,
			      t->slot, offset, len, 0);
	return trace_stop("nvme_cmd_read", "");
}

/* The longest command is one command, wherever it starts; more is two. */
TEST_F_TIMEOUT(data, one_command, SLOW_TIMEOUT)
{
	size_t max = self->max_command;
	int res = 0;

	if (max + MIB(1) > BUF_SIZE)
		SKIP(return, "commands of up to %zu bytes", max);
	EXPECT_EQ(1, count_commands(&self->t, 0, max, &res));
	EXPECT_EQ((int)max, res);
	EXPECT_EQ(1, count_commands(&self->t, 4096 * 37 + self->drive.block,
				    max, &res));
	EXPECT_EQ((int)max, res);
	EXPECT_EQ(2, count_commands(&self->t, 4096, max + self->drive.block,
				    &res));
	EXPECT_EQ((int)max + (int)self->drive.block, res);
}

/* The same buffer in two slots, in two rings, and for a file not named. */
/*
 * What one mapping of the buffer has read, another one writes. The CPU has no
 * part in it, so nobody but the two keeps them in sync.
 */
TEST_F_TIMEOUT(data, relay, SLOW_TIMEOUT)
{
	const off_t pos = MIB(8);
	struct dmabuf_ring other;
	unsigned int i;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(2), SEED_DRIVE));
	ASSERT_EQ(0, file_fill(self->drive.fd, pos, MIB(2), SEED_OLD));
	ASSERT_EQ(0, dmabuf_ring_init(&other, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(other.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(other.fd, 0, self->buf.fd,
					  self->drive.fd));

	for (i = 0; i < 8; i++) {
		size_t offset = i * KIB(260), from = i * KIB(64);

		ASSERT_EQ(KIB(256), dmabuf_ring_rw(&self->ring,
						   IORING_OP_READ_FIXED,
						   self->drive.fd, 1, offset,
						   KIB(256), from));
		ASSERT_EQ(KIB(256), dmabuf_ring_rw(&other,
						   IORING_OP_WRITE_FIXED,
						   self->drive.fd, 0, offset,
						   KIB(256), pos));
		EXPECT_EQ(KIB(256), file_match_at(self->drive.fd, pos, KIB(256),
						  SEED_DRIVE, from));
	}
	dmabuf_ring_exit(&other);
}

TEST_F_TIMEOUT(data, shared, SLOW_TIMEOUT)
{
	struct dmabuf_ring other;
	int twin;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(2), SEED_DRIVE));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 2, self->buf.fd,
					  self->drive.fd));
	ASSERT_EQ(0, dmabuf_ring_init(&other, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(other.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(other.fd, 0, self->buf.fd,
					  self->drive.fd));

	EXPECT_READ(&self->t, KIB(12), KIB(64), 0);
	self->t.slot = 2;
	EXPECT_READ(&self->t, MIB(1), KIB(64), KIB(64));
	self->t.slot = 0;
	self->t.ring = &other;
	EXPECT_READ(&self->t, MIB(2), KIB(64), KIB(128));
	dmabuf_ring_exit(&other);

	self->t.ring = &self->ring;
	self->t.slot = 1;
	twin = open(getenv("DMABUF_IO_BDEV"), O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, twin);
	EXPECT_EQ(KIB(64), dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					  twin, 1, MIB(4), KIB(64), KIB(192)));
	EXPECT_EQ(KIB(64), dmabuf_match(&self->buf, MIB(4), KIB(64), SEED_DRIVE,
					KIB(192)));
	close(twin);
}

/*
 * Kinds of rings
 */
FIXTURE(ring) {
	struct drive drive;
	struct dmabuf buf;
	struct dmabuf_ring ring;
};

FIXTURE_VARIANT(ring) {
	unsigned int flags;
	unsigned int sqe_flags;
	bool poll;
};

FIXTURE_VARIANT_ADD(ring, plain) { };
FIXTURE_VARIANT_ADD(ring, async) { .sqe_flags = IOSQE_ASYNC };
FIXTURE_VARIANT_ADD(ring, drain) { .sqe_flags = IOSQE_IO_DRAIN };
FIXTURE_VARIANT_ADD(ring, sqpoll) { .flags = IORING_SETUP_SQPOLL };
FIXTURE_VARIANT_ADD(ring, coop) { .flags = IORING_SETUP_COOP_TASKRUN };
FIXTURE_VARIANT_ADD(ring, defer) {
	.flags = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_VARIANT_ADD(ring, iopoll) {
	.flags = IORING_SETUP_IOPOLL, .poll = true,
};

FIXTURE_VARIANT_ADD(ring, hybrid) {
	.flags = IORING_SETUP_IOPOLL | IORING_SETUP_HYBRID_IOPOLL, .poll = true,
};

FIXTURE_VARIANT_ADD(ring, iopoll_sqpoll) {
	.flags = IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL, .poll = true,
};

FIXTURE_SETUP(ring)
{
	SETUP_DRIVE(&self->drive);
	if (variant->poll && read_number("/sys/block/%s/queue/io_poll",
					 self->drive.name) != 1)
		SKIP(return, "no poll queues (nvme.poll_queues=1)");
	SETUP_BUF(&self->buf, &scattered, BUF_SIZE);
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 16, variant->flags));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd,
					  self->drive.fd));
}

FIXTURE_TEARDOWN(ring)
{
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	close(self->drive.fd);
}

#define DEPTH		16
#define DEPTH_SIZE	MIB(1)

/* Sixteen transfers at once, of which no two touch the same memory. */
static int run_depth(struct dmabuf_ring *ring, unsigned int opcode, int fd,
		     unsigned int sqe_flags, const size_t *len)
{
	struct io_uring_cqe cqe;
	unsigned int i;
	int ret;

	for (i = 0; i < DEPTH; i++) {
		struct io_uring_sqe *sqe = dmabuf_ring_sqe(ring);

		if (!sqe)
			return -EBUSY;
		dmabuf_ring_prep(sqe, opcode, fd, 0, i * DEPTH_SIZE + 4096,
				 len[i], i * DEPTH_SIZE);
		sqe->flags = sqe_flags;
		sqe->user_data = i;
	}
	ret = dmabuf_ring_submit(ring);
	if (ret != DEPTH)
		return ret < 0 ? ret : -EIO;
	for (i = 0; i < DEPTH; i++) {
		ret = dmabuf_ring_wait(ring, &cqe);
		if (ret)
			return ret;
		if (cqe.res != (int)len[cqe.user_data])
			return cqe.res < 0 ? cqe.res : -EIO;
	}
	return 0;
}

static void depth_sizes(size_t *len, unsigned int round, size_t block)
{
	unsigned int i;

	for (i = 0; i < DEPTH; i++)
		len[i] = block << (i + round) % 11;
}

TEST_F_TIMEOUT(ring, read, SLOW_TIMEOUT)
{
	unsigned int round, i;
	size_t len[DEPTH];

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, DEPTH * DEPTH_SIZE,
			       SEED_DRIVE));
	for (round = 0; round < 8; round++) {
		depth_sizes(len, round, self->drive.block);
		ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, BUF_SIZE));
		ASSERT_EQ(0, run_depth(&self->ring, IORING_OP_READ_FIXED,
				       self->drive.fd, variant->sqe_flags,
				       len));
		for (i = 0; i < DEPTH; i++) {
			size_t at = i * DEPTH_SIZE;

			ASSERT_EQ((ssize_t)len[i],
				  dmabuf_match(&self->buf, at + 4096, len[i],
					       SEED_DRIVE, at));
			ASSERT_EQ(4096, dmabuf_match_poison(&self->buf, at,
							    4096));
		}
	}
}

TEST_F_TIMEOUT(ring, write, SLOW_TIMEOUT)
{
	unsigned int round, i;
	size_t len[DEPTH];

	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	for (round = 0; round < 4; round++) {
		depth_sizes(len, round, self->drive.block);
		ASSERT_EQ(0, file_fill(self->drive.fd, 0, DEPTH * DEPTH_SIZE,
				       SEED_OLD));
		ASSERT_EQ(0, run_depth(&self->ring, IORING_OP_WRITE_FIXED,
				       self->drive.fd, variant->sqe_flags,
				       len));
		for (i = 0; i < DEPTH; i++) {
			size_t at = i * DEPTH_SIZE;

			ASSERT_EQ((ssize_t)len[i],
				  file_match_at(self->drive.fd, at, len[i],
						SEED_BUF, at + 4096));
			ASSERT_EQ(4096, file_match(self->drive.fd, at + len[i],
						   4096, SEED_OLD));
		}
	}
}

/*
 * Offsets beyond 32 bits. The memory repeats every 3 MiB, which 4 GiB is no
 * multiple of, so that an offset cut to 32 bits meets other memory.
 */
#define LARGE_BACKING	MIB(3)

static const __u64 large_offsets[] = {
	(1ULL << 31) - 4096, 1ULL << 31, (1ULL << 32) - 8192, 1ULL << 32,
	(1ULL << 32) + 512, 5ULL << 30, (6ULL << 30) - MIB(1),
};

TEST(beyond_4g)
{
	struct dma_buf_io_test_create arg = {
		.size = 6ULL << 30,
		.chunk = KIB(64),
		.backing = LARGE_BACKING,
	};
	struct dmabuf_ring ring;
	struct drive drive;
	struct dmabuf buf, window;
	unsigned int i;
	int ret;

	SETUP_DRIVE(&drive);
	ret = exporter_create(&buf, &arg);
	if (ret == -ENOENT)
		SKIP(return, "no test exporter");
	ASSERT_EQ(0, ret);
	/* All the memory there is, to look at. */
	window = buf;
	window.size = LARGE_BACKING;
	ASSERT_EQ(0, dmabuf_ring_init(&ring, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(ring.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(ring.fd, 0, buf.fd, drive.fd));
	ASSERT_EQ(0, file_fill(drive.fd, 0, MIB(2), SEED_DRIVE));

	for (i = 0; i < ARRAY_SIZE(large_offsets); i++) {
		size_t at = large_offsets[i] % LARGE_BACKING;
		size_t len = min_size(KIB(640), LARGE_BACKING - at);

		ASSERT_EQ(0, dmabuf_poison(&window, 0, LARGE_BACKING));
		ASSERT_EQ((int)len, dmabuf_ring_rw(&ring, IORING_OP_READ_FIXED,
						   drive.fd, 0,
						   large_offsets[i], len,
						   i * 4096));
		EXPECT_EQ((ssize_t)len, dmabuf_match(&window, at, len,
						     SEED_DRIVE, i * 4096));
		EXPECT_EQ((ssize_t)at, dmabuf_match_poison(&window, 0, at));
		EXPECT_EQ((ssize_t)(LARGE_BACKING - at - len),
			  dmabuf_match_poison(&window, at + len,
					      LARGE_BACKING - at - len));

		ASSERT_EQ(0, dmabuf_fill(&window, 0, LARGE_BACKING, SEED_BUF,
					 0));
		ASSERT_EQ((int)len, dmabuf_ring_rw(&ring, IORING_OP_WRITE_FIXED,
						   drive.fd, 0,
						   large_offsets[i], len,
						   MIB(4)));
		EXPECT_EQ((ssize_t)len, file_match_at(drive.fd, MIB(4), len,
						      SEED_BUF, at));
	}
	dmabuf_ring_exit(&ring);
	dmabuf_free(&window);
	close(drive.fd);
}

/*
 * Registration
 */
FIXTURE(reg) {
	struct drive drive;
	struct dmabuf buf;
	struct dmabuf_ring ring;
	struct io_uring_regbuf_desc desc;
};

FIXTURE_SETUP(reg)
{
	SETUP_DRIVE(&self->drive);
	SETUP_BUF(&self->buf, &scattered, MIB(1));
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 4));
	self->desc = (struct io_uring_regbuf_desc) {
		.type = IO_REGBUF_TYPE_DMABUF,
		.dmabuf_fd = self->buf.fd,
		.target_fd = self->drive.fd,
	};
}

FIXTURE_TEARDOWN(reg)
{
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	close(self->drive.fd);
}

/* What @change makes of the good descriptor has to be refused with @error. */
#define EXPECT_REFUSED(error, change)					\
do {									\
	struct io_uring_regbuf_desc desc = self->desc;			\
									\
	change;								\
	EXPECT_EQ(-(error), dmabuf_ring_update(self->ring.fd, 0, &desc, 1)) \
		TH_LOG("%s", #change);					\
} while (0)

TEST_F_TIMEOUT(reg, descriptor, SLOW_TIMEOUT)
{
	unsigned int i;

	EXPECT_REFUSED(EINVAL, desc.type = __IO_REGBUF_TYPE_MAX);
	EXPECT_REFUSED(EINVAL, desc.type = ~0U);
	EXPECT_REFUSED(EINVAL, desc.flags = 1);
	EXPECT_REFUSED(EINVAL, desc.flags = 1U << 31);
	EXPECT_REFUSED(EINVAL, desc.size = MIB(1));
	EXPECT_REFUSED(EINVAL, desc.uaddr = 4096);
	/* with the descriptors of a dma-buf */
	EXPECT_REFUSED(EINVAL, desc.type = IO_REGBUF_TYPE_EMPTY);
	EXPECT_REFUSED(EINVAL, desc.type = IO_REGBUF_TYPE_UADDR);
	for (i = 0; i < 6; i++)
		EXPECT_REFUSED(EINVAL, desc.__resv[i] = 1);
	EXPECT_REFUSED(EBADF, desc.dmabuf_fd = -1);
	EXPECT_REFUSED(EBADF, desc.dmabuf_fd = 1000);
	EXPECT_REFUSED(EINVAL, desc.dmabuf_fd = self->drive.fd);
	EXPECT_REFUSED(EBADF, desc.target_fd = 1000);

	/* None of that did anything. */
	EXPECT_EQ(0, wait_detached(self->buf.fd, 1000));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					  self->drive.fd, 0, 0, 4096, 0));
	EXPECT_EQ(1, dmabuf_ring_update(self->ring.fd, 0, &self->desc, 1));
}

TEST_F_TIMEOUT(reg, target, SLOW_TIMEOUT)
{
	struct io_uring_regbuf_desc desc = self->desc;
	int fd, pipes[2];

	/* no O_DIRECT */
	fd = open(getenv("DMABUF_IO_BDEV"), O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	desc.target_fd = fd;
	EXPECT_EQ(-EINVAL, dmabuf_ring_update(self->ring.fd, 0, &desc, 1));
	close(fd);

	fd = memfd_alloc(MIB(1), 0);
	ASSERT_LE(0, fd);
	desc.target_fd = fd;
	EXPECT_EQ(-EOPNOTSUPP, dmabuf_ring_update(self->ring.fd, 0, &desc, 1));
	close(fd);

	ASSERT_EQ(0, pipe(pipes));
	desc.target_fd = pipes[0];
	EXPECT_EQ(-EOPNOTSUPP, dmabuf_ring_update(self->ring.fd, 0, &desc, 1));
	close(pipes[0]);
	close(pipes[1]);

	desc.target_fd = self->buf.fd;
	EXPECT_EQ(-EOPNOTSUPP, dmabuf_ring_update(self->ring.fd, 0, &desc, 1));
	desc.target_fd = self->ring.fd;
	EXPECT_EQ(-EOPNOTSUPP, dmabuf_ring_update(self->ring.fd, 0, &desc, 1));
}

TEST_F_TIMEOUT(reg, request, SLOW_TIMEOUT)
{
	struct dmabuf_ring_update up = {
		.flags = IORING_RSRC_UPDATE_EXTENDED,
		.data = (uintptr_t)&self->desc,
		.nr = 1,
	};
	struct dmabuf_ring bare;
	int fd = self->ring.fd;

	up.flags = IORING_RSRC_UPDATE_EXTENDED | 1U << 2;
	EXPECT_EQ(-EINVAL, dmabuf_ring_ctl(fd, IORING_REGISTER_BUFFERS_UPDATE,
					   &up, sizeof(up)));
	up.flags = 1;
	EXPECT_EQ(-EINVAL, dmabuf_ring_ctl(fd, IORING_REGISTER_BUFFERS_UPDATE,
					   &up, sizeof(up)));
	up.flags = IORING_RSRC_UPDATE_EXTENDED;
	EXPECT_EQ(-EINVAL, dmabuf_ring_ctl(fd, IORING_REGISTER_FILES_UPDATE2,
					   &up, sizeof(up)));
	up.resv2 = 1;
	EXPECT_EQ(-EINVAL, dmabuf_ring_ctl(fd, IORING_REGISTER_BUFFERS_UPDATE,
					   &up, sizeof(up)));
	up.resv2 = 0;
	up.data = 8;
	EXPECT_EQ(-EFAULT, dmabuf_ring_ctl(fd, IORING_REGISTER_BUFFERS_UPDATE,
					   &up, sizeof(up)));
	up.data = (uintptr_t)&self->desc;
	up.offset = 4;
	EXPECT_EQ(-EINVAL, dmabuf_ring_ctl(fd, IORING_REGISTER_BUFFERS_UPDATE,
					   &up, sizeof(up)));
	up.offset = 3;
	EXPECT_EQ(1, dmabuf_ring_ctl(fd, IORING_REGISTER_BUFFERS_UPDATE, &up,
				     sizeof(up)));

	/* no table */
	ASSERT_EQ(0, dmabuf_ring_init(&bare, 4, 0));
	EXPECT_EQ(-ENXIO, dmabuf_ring_update(bare.fd, 0, &self->desc, 1));
	dmabuf_ring_exit(&bare);
}

/* All types in one call, and a bad one in the middle. */
TEST_F_TIMEOUT(reg, several, SLOW_TIMEOUT)
{
	char *mem = aligned_alloc(4096, KIB(64));
	struct io_uring_regbuf_desc descs[4] = {
		self->desc,
		{ .type = IO_REGBUF_TYPE_EMPTY },
		{
			.type = IO_REGBUF_TYPE_UADDR,
			.size = KIB(64),
			.uaddr = (uintptr_t)mem,
		},
		self->desc,
	};

	ASSERT_NE(NULL, mem);
	ASSERT_EQ(4, dmabuf_ring_update(self->ring.fd, 0, descs, 4));
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(1), SEED_DRIVE));
	EXPECT_EQ(KIB(64), dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					  self->drive.fd, 0, 0, KIB(64), 0));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					  self->drive.fd, 1, 0, KIB(64), 0));
	EXPECT_EQ(KIB(64), dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					  self->drive.fd, 2, (uintptr_t)mem,
					  KIB(64), 4096));
	EXPECT_EQ(KIB(64), dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					  self->drive.fd, 3, MIB(1) - KIB(64),
					  KIB(64), 8192));
	EXPECT_EQ(KIB(64), pattern_match(mem, KIB(64), SEED_DRIVE, 4096));
	EXPECT_EQ(KIB(64), dmabuf_match(&self->buf, 0, KIB(64), SEED_DRIVE, 0));
	EXPECT_EQ(KIB(64), dmabuf_match(&self->buf, MIB(1) - KIB(64), KIB(64),
					SEED_DRIVE, 8192));

	/* Those before the bad one are taken. */
	descs[0] = (struct io_uring_regbuf_desc) { .type = IO_REGBUF_TYPE_EMPTY };
	descs[2].type = __IO_REGBUF_TYPE_MAX;
	EXPECT_EQ(2, dmabuf_ring_update(self->ring.fd, 0, descs, 4));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					  self->drive.fd, 0, 0, 4096, 0));
	free(mem);
}

/* Nothing stays attached, whatever way the buffer goes. */
TEST_F_TIMEOUT(reg, detach, SLOW_TIMEOUT)
{
	struct dma_buf_io_test_info info;
	struct iovec none = {};
	struct dmabuf_ring_update up = { .data = (uintptr_t)&none, .nr = 1 };
	int fd = self->buf.fd, ring = self->ring.fd;

	ASSERT_EQ(1, dmabuf_ring_register(ring, 0, fd, self->drive.fd));
	ASSERT_EQ(0, exporter_info(fd, &info));
	EXPECT_EQ(1, info.attached);
	EXPECT_EQ(1, info.mapped);
	EXPECT_EQ(0, info.pinned);
	EXPECT_EQ(1, dmabuf_ring_unregister(ring, 0));
	EXPECT_EQ(0, wait_detached(fd, 5000));

	/* replaced by another one, and by an iovec of nothing */
	ASSERT_EQ(1, dmabuf_ring_register(ring, 0, fd, self->drive.fd));
	ASSERT_EQ(1, dmabuf_ring_register(ring, 0, fd, self->drive.fd));
	EXPECT_EQ(1, dmabuf_ring_ctl(ring, IORING_REGISTER_BUFFERS_UPDATE, &up,
				     sizeof(up)));
	EXPECT_EQ(0, wait_detached(fd, 5000));

	ASSERT_EQ(1, dmabuf_ring_register(ring, 0, fd, self->drive.fd));
	EXPECT_EQ(0, dmabuf_ring_ctl(ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
	EXPECT_EQ(0, wait_detached(fd, 5000));

	ASSERT_EQ(0, dmabuf_ring_table(ring, 1));
	ASSERT_EQ(1, dmabuf_ring_register(ring, 0, fd, self->drive.fd));
	dmabuf_ring_exit(&self->ring);
	EXPECT_EQ(0, wait_detached(fd, 5000));
	ASSERT_EQ(0, exporter_info(fd, &info));
	EXPECT_EQ(0, info.mapped);
	/* Two at a time share what there is. */
	EXPECT_EQ(4, info.attaches);
	EXPECT_EQ(4, info.maps);
}

/*
 * However often a buffer is registered, its exporter waits for one grace period,
 * and not for each of them one after the other.
 */
TEST_F_TIMEOUT(reg, many_slots, SLOW_TIMEOUT)
{
	const unsigned int nr = 1000;
	struct dma_buf_io_test_info info;
	struct dma_buf_io_test_move move;
	struct dmabuf_ring other;
	unsigned int i;

	EXPECT_EQ(0, dmabuf_ring_ctl(self->ring.fd, IORING_UNREGISTER_BUFFERS,
				     NULL, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, nr));
	for (i = 0; i < nr; i++)
		ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, i,
						  self->buf.fd,
						  self->drive.fd));
	ASSERT_EQ(0, dmabuf_ring_init(&other, 4, 0));
	ASSERT_EQ(0, dmabuf_ring_table(other.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(other.fd, 0, self->buf.fd,
					  self->drive.fd));
	ASSERT_EQ(0, exporter_info(self->buf.fd, &info));
	EXPECT_EQ(1, info.attached);
	EXPECT_EQ(1, info.mapped);

	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &move));
	EXPECT_GT(2000000000, move.invalidate_ns);
	EXPECT_EQ(4096, dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
				       self->drive.fd, nr - 1, 0, 4096, 0));

	/* Those that are left keep it. */
	EXPECT_EQ(0, dmabuf_ring_ctl(self->ring.fd, IORING_UNREGISTER_BUFFERS,
				     NULL, 0));
	EXPECT_EQ(4096, dmabuf_ring_rw(&other, IORING_OP_READ_FIXED,
				       self->drive.fd, 0, 0, 4096, 0));
	ASSERT_EQ(0, exporter_info(self->buf.fd, &info));
	EXPECT_EQ(1, info.attaches);
	dmabuf_ring_exit(&other);
	EXPECT_EQ(0, wait_detached(self->buf.fd, 5000));
}

/*
 * Elevators send requests in batches, with one doorbell at the end. It must not
 * get lost if the last one has to wait for its mapping, here in vain: the others
 * would wait for the drive's timeout.
 */
TEST_F_TIMEOUT(reg, last_of_batch, SLOW_TIMEOUT)
{
	struct dma_buf_io_test_move move;
	struct timespec start, end;
	struct io_uring_cqe cqe;
	const unsigned int nr = 4;
	unsigned int i;
	char *mem;

	if (write_text("mq-deadline", "/sys/block/%s/queue/scheduler",
		       self->drive.name))
		SKIP(return, "no mq-deadline");
	mem = aligned_alloc(4096, KIB(64));
	ASSERT_NE(NULL, mem);
	ASSERT_EQ(1, dmabuf_ring_update(self->ring.fd, 0, &self->desc, 1));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE, 0,
				   &move));
	ASSERT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP, 1000,
				   ENODEV));

	for (i = 0; i < nr; i++) {
		struct io_uring_sqe *sqe = dmabuf_ring_sqe(&self->ring);

		ASSERT_NE(NULL, sqe);
		/* Not one after the other, or they would be merged. */
		if (i < nr - 1)
			dmabuf_ring_prep(sqe, IORING_OP_READ, self->drive.fd, 0,
					 (uintptr_t)mem + i * 4096, 4096,
					 i * MIB(1));
		else
			dmabuf_ring_prep(sqe, IORING_OP_READ_FIXED,
					 self->drive.fd, 0, 0, 4096,
					 i * MIB(1));
		sqe->user_data = i;
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	ASSERT_EQ(nr, dmabuf_ring_submit(&self->ring));
	for (i = 0; i < nr; i++) {
		ASSERT_EQ(0, dmabuf_ring_wait(&self->ring, &cqe));
		EXPECT_EQ(cqe.user_data < nr - 1 ? 4096 : -ENODEV, cqe.res);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	EXPECT_GT(20, end.tv_sec - start.tv_sec);

	EXPECT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP, 0,
				   ENOMEM));
	EXPECT_EQ(0, write_text("none", "/sys/block/%s/queue/scheduler",
				self->drive.name));
	free(mem);
}

/*
 * Bounce buffers are for mappings that do not last, and what is in those of one
 * mapping would be copied over what was read with another.
 */
TEST_F_TIMEOUT(reg, bounced, SLOW_TIMEOUT)
{
	char cmdline[4096] = "", allowed = 'N';
	int fd;

	fd = open("/proc/cmdline", O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_LT(0, read(fd, cmdline, sizeof(cmdline) - 1));
	close(fd);
	fd = open("/sys/module/dma_buf_io/parameters/allow_bounce", O_RDONLY);
	if (fd >= 0) {
		EXPECT_EQ(1, read(fd, &allowed, 1));
		close(fd);
	}
	if (!strstr(cmdline, "swiotlb=") || allowed == 'Y')
		SKIP(return, "the drive needs no bounce buffers");
	EXPECT_EQ(-EOPNOTSUPP, dmabuf_ring_register(self->ring.fd, 0,
						    self->buf.fd,
						    self->drive.fd));
	EXPECT_EQ(0, wait_detached(self->buf.fd, 5000));
}

/* What the exporter says comes back, and nothing is left behind. */
TEST_F_TIMEOUT(reg, exporter_refuses, SLOW_TIMEOUT)
{
	struct dma_buf_io_test_create arg = {
		.size = MIB(1), .chunk = 4096,
	};
	struct io_uring_regbuf_desc desc = self->desc;
	static const int errors[] = { ENOMEM, EBUSY, ENODEV, EIO, EOPNOTSUPP };
	/* What is not known to the block layer comes back as EINVAL. */
	static const int io_errors[] = { ENOMEM, EINVAL, ENODEV, EINVAL, EINVAL };
	struct dma_buf_io_test_move move;
	struct dmabuf buf;
	char path[96], link[PATH_MAX];
	unsigned int i;
	ssize_t len;

	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		ASSERT_EQ(0, exporter_fail(self->buf.fd,
					   DMA_BUF_IO_TEST_OP_ATTACH, 1,
					   errors[i]));
		EXPECT_EQ(-errors[i], dmabuf_ring_update(self->ring.fd, 0,
							 &desc, 1));
		ASSERT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP,
					   1, errors[i]));
		EXPECT_EQ(-errors[i], dmabuf_ring_update(self->ring.fd, 0,
							 &desc, 1));
		EXPECT_EQ(0, wait_detached(self->buf.fd, 5000));
	}

	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_REVOKE, 0,
				   &move));
	EXPECT_EQ(-ENODEV, dmabuf_ring_update(self->ring.fd, 0, &desc, 1));
	ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_UNREVOKE, 0,
				   &move));
	EXPECT_EQ(1, dmabuf_ring_update(self->ring.fd, 0, &desc, 1));

	/* each time that it is asked, as I/O must not be tried for ever */
	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		ASSERT_EQ(0, exporter_move(self->buf.fd, DMA_BUF_IO_TEST_MOVE,
					   0, &move));
		ASSERT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP,
					   1000, errors[i]));
		EXPECT_EQ(-io_errors[i],
			  dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					 self->drive.fd, 0, 0, 4096, 0));
		ASSERT_EQ(0, exporter_fail(self->buf.fd, DMA_BUF_IO_TEST_OP_MAP,
					   0, ENOMEM));
		EXPECT_EQ(4096,
			  dmabuf_ring_rw(&self->ring, IORING_OP_READ_FIXED,
					 self->drive.fd, 0, 0, 4096, 0));
	}

	/* a buffer that this device cannot reach */
	snprintf(path, sizeof(path), "/sys/block/%s/device/device",
		 self->drive.name);
	len = readlink(path, link, sizeof(link) - 1);
	if (len > 0) {
		link[len] = 0;
		snprintf(arg.deny, sizeof(arg.deny), "%s",
			 strrchr(link, '/') + 1);
		ASSERT_EQ(0, exporter_create(&buf, &arg));
		EXPECT_EQ(-EBUSY, dmabuf_ring_register(self->ring.fd, 0, buf.fd,
						       self->drive.fd));
		dmabuf_free(&buf);
	}
}

/* A device must not write to a buffer that is not open for writing. */
TEST_F_TIMEOUT(reg, read_only, SLOW_TIMEOUT)
{
	struct dma_buf_io_test_create arg = {
		.size = MIB(1), .chunk = 4096, .flags = DMA_BUF_IO_TEST_RDONLY,
	};
	struct dmabuf buf;

	ASSERT_EQ(0, exporter_create(&buf, &arg));
	EXPECT_EQ(-EACCES, dmabuf_ring_register(self->ring.fd, 0, buf.fd,
						self->drive.fd));
	dmabuf_free(&buf);
}

TEST_F_TIMEOUT(reg, clone, SLOW_TIMEOUT)
{
	struct dmabuf_ring other;
	struct io_uring_clone_buffers arg = { .src_fd = self->ring.fd };

	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd,
					  self->drive.fd));
	ASSERT_EQ(0, dmabuf_ring_init(&other, 4, 0));
	EXPECT_EQ(-EINVAL, dmabuf_ring_ctl(other.fd,
					   IORING_REGISTER_CLONE_BUFFERS, &arg,
					   1));
	dmabuf_ring_exit(&other);
}

/*
 * I/O that is refused. Whatever the error, no byte moves.
 */
FIXTURE(refuse) {
	struct drive drive;
	struct dmabuf buf;
	struct dmabuf_ring ring;
};

FIXTURE_SETUP(refuse)
{
	SETUP_DRIVE(&self->drive);
	SETUP_BUF(&self->buf, &pageless, MIB(4));
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 8, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->buf.fd,
					  self->drive.fd));
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(4), SEED_DRIVE));
	ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, MIB(4)));
}

FIXTURE_TEARDOWN(refuse)
{
	dmabuf_ring_exit(&self->ring);
	dmabuf_free(&self->buf);
	close(self->drive.fd);
}

static int read_from(struct dmabuf_ring *ring, int fd, __u64 offset, __u32 len,
		     __u64 pos)
{
	return dmabuf_ring_rw(ring, IORING_OP_READ_FIXED, fd, 0, offset, len,
			      pos);
}

static int write_to(struct dmabuf_ring *ring, int fd, __u64 offset, __u32 len,
		    __u64 pos)
{
	return dmabuf_ring_rw(ring, IORING_OP_WRITE_FIXED, fd, 0, offset, len,
			      pos);
}

#define EXPECT_UNTOUCHED()						\
	EXPECT_EQ((ssize_t)MIB(4),					\
		  dmabuf_match_poison(&self->buf, 0, MIB(4)))

TEST_F_TIMEOUT(refuse, range, SLOW_TIMEOUT)
{
	struct dmabuf_ring *ring = &self->ring;
	int fd = self->drive.fd;

	EXPECT_EQ(-EFAULT, read_from(ring, fd, MIB(4), 4096, 0));
	EXPECT_EQ(-EFAULT, read_from(ring, fd, MIB(4) - 4096, 8192, 0));
	EXPECT_EQ(-EFAULT, read_from(ring, fd, 1ULL << 32, 4096, 0));
	EXPECT_EQ(-EFAULT, read_from(ring, fd, ~0ULL - 4095, 4096, 0));
	EXPECT_EQ(-EFAULT, read_from(ring, fd, ~0ULL - 4095, 8192, 0));
	EXPECT_EQ(-EFAULT, read_from(ring, fd, 1ULL << 63, 4096, 0));
	EXPECT_EQ(0, read_from(ring, fd, 0, 0, 0));
	EXPECT_UNTOUCHED();
}

TEST_F_TIMEOUT(refuse, alignment, SLOW_TIMEOUT)
{
	struct dmabuf_ring *ring = &self->ring;
	unsigned int block = self->drive.block;
	int fd = self->drive.fd;

	EXPECT_EQ(-EINVAL, read_from(ring, fd, 0, block - 1, 0));
	EXPECT_EQ(-EINVAL, read_from(ring, fd, 0, block, block / 2));
	EXPECT_EQ(-EINVAL, read_from(ring, fd, 1, block, 0));
	EXPECT_EQ(-EINVAL, read_from(ring, fd, 2, block, 0));
	EXPECT_EQ(-EINVAL, write_to(ring, fd, 1, block, 0));
	EXPECT_UNTOUCHED();
	EXPECT_EQ((ssize_t)MIB(4), file_match(fd, 0, MIB(4), SEED_DRIVE));

	/* The memory alignment of the device is that of its DMA. */
	EXPECT_EQ((int)block, read_from(ring, fd, 4, block, 0));
	EXPECT_EQ((ssize_t)block, dmabuf_match(&self->buf, 4, block,
					       SEED_DRIVE, 0));
}

TEST_F_TIMEOUT(refuse, end_of_device, SLOW_TIMEOUT)
{
	struct dmabuf_ring *ring = &self->ring;
	unsigned int block = self->drive.block;
	__u64 size = self->drive.size;
	int fd = self->drive.fd;

	EXPECT_EQ(0, read_from(ring, fd, 0, KIB(64), size));
	EXPECT_UNTOUCHED();
	EXPECT_EQ(-ENOSPC, write_to(ring, fd, 0, KIB(64), size));
	EXPECT_EQ((int)block, read_from(ring, fd, 0, KIB(64), size - block));
	EXPECT_EQ(KIB(64), dmabuf_match_poison(&self->buf, block, KIB(64)));
}

TEST_F_TIMEOUT(refuse, files, SLOW_TIMEOUT)
{
	struct dmabuf_ring *ring = &self->ring;
	int fd;

	fd = memfd_alloc(MIB(1), 0);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EOPNOTSUPP, read_from(ring, fd, 0, 4096, 0));
	EXPECT_EQ(-EOPNOTSUPP, write_to(ring, fd, 0, 4096, 0));
	close(fd);

	/* no O_DIRECT: never through the page cache */
	fd = open(getenv("DMABUF_IO_BDEV"), O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, read_from(ring, fd, 0, 4096, 0));
	EXPECT_EQ(-EINVAL, write_to(ring, fd, 0, 4096, 0));
	close(fd);

	/* the same, found out late */
	fd = open(getenv("DMABUF_IO_BDEV"), O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1, dmabuf_ring_register(ring->fd, 0, self->buf.fd, fd));
	ASSERT_EQ(0, fcntl(fd, F_SETFL, 0));
	EXPECT_EQ(-EINVAL, read_from(ring, fd, 0, 4096, 0));
	EXPECT_EQ(-EINVAL, write_to(ring, fd, 0, 4096, 0));
	ASSERT_EQ(0, fcntl(fd, F_SETFL, O_DIRECT));
	EXPECT_UNTOUCHED();
	EXPECT_EQ(4096, read_from(ring, fd, 0, 4096, 0));
	close(fd);

	fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EOPNOTSUPP, read_from(ring, fd, 0, 4096, 0));
	close(fd);
}

static int vectored(struct dmabuf_ring *ring, unsigned int opcode, int fd,
		    const struct iovec *iov, unsigned int nr)
{
	return dmabuf_ring_rw(ring, opcode, fd, 0, (uintptr_t)iov, nr, 0);
}

/* Vectors are for buffers that begin somewhere else than where they end. */
TEST_F_TIMEOUT(refuse, vectors, SLOW_TIMEOUT)
{
	struct dmabuf_ring *ring = &self->ring;
	struct iovec iov[2] = {
		{ .iov_base = (void *)8192, .iov_len = 4096 },
		{ .iov_base = (void *)12288, .iov_len = 8192 },
	};
	int fd = self->drive.fd;

	EXPECT_EQ(12288, vectored(ring, IORING_OP_READV_FIXED, fd, iov, 2));
	EXPECT_EQ(12288, dmabuf_match(&self->buf, 8192, 12288, SEED_DRIVE, 0));
	EXPECT_EQ(8192, dmabuf_match_poison(&self->buf, 0, 8192));
	EXPECT_EQ(4096, dmabuf_match_poison(&self->buf, 20480, 4096));
	ASSERT_EQ(0, dmabuf_poison(&self->buf, 0, MIB(4)));

	iov[1].iov_base = (void *)16384;
	EXPECT_EQ(-EOPNOTSUPP, vectored(ring, IORING_OP_READV_FIXED, fd, iov,
					2));
	EXPECT_EQ(-EOPNOTSUPP, vectored(ring, IORING_OP_WRITEV_FIXED, fd, iov,
					2));
	iov[1].iov_base = (void *)4096;
	EXPECT_EQ(-EOPNOTSUPP, vectored(ring, IORING_OP_READV_FIXED, fd, iov,
					2));
	EXPECT_UNTOUCHED();
	EXPECT_EQ((ssize_t)MIB(4), file_match(fd, 0, MIB(4), SEED_DRIVE));
}

/* Opcodes that read or write the memory with the CPU, or want its pages. */
TEST_F_TIMEOUT(refuse, opcodes, SLOW_TIMEOUT)
{
	struct dmabuf_ring *ring = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	int pair[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0,
				pair));
	EXPECT_EQ(-EOPNOTSUPP, read_from(ring, pair[0], 0, 4096, 0));
	EXPECT_EQ(-EOPNOTSUPP, write_to(ring, pair[0], 0, 4096, 0));
	close(pair[0]);
	close(pair[1]);

	pair[0] = socket(AF_INET, SOCK_DGRAM, 0);
	ASSERT_LE(0, pair[0]);
	sqe = dmabuf_ring_sqe(ring);
	ASSERT_NE(NULL, sqe);
	dmabuf_ring_prep(sqe, IORING_OP_SEND_ZC, pair[0], 0, 0, 4096, 0);
	sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
	ASSERT_EQ(1, dmabuf_ring_submit(ring));
	ASSERT_EQ(0, dmabuf_ring_wait(ring, &cqe));
	EXPECT_EQ(-EOPNOTSUPP, cqe.res);
	/* The notification that there is nothing to wait for. */
	if (cqe.flags & IORING_CQE_F_MORE)
		ASSERT_EQ(0, dmabuf_ring_wait(ring, &cqe));
	close(pair[0]);
	EXPECT_UNTOUCHED();
}

TEST_F_TIMEOUT(refuse, virtual_devices, SLOW_TIMEOUT)
{
	struct dmabuf_ring *ring = &self->ring;
	int fd = open("/dev/ram0", O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0)
		SKIP(return, "no /dev/ram0");
	EXPECT_EQ(-EOPNOTSUPP, dmabuf_ring_register(ring->fd, 0, self->buf.fd,
						    fd));
	EXPECT_EQ(-EOPNOTSUPP, read_from(ring, fd, 0, 4096, 0));
	EXPECT_UNTOUCHED();
	close(fd);
}

TEST_HARNESS_MAIN
