/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of registered dma-bufs share: the drive, the buffers, and ways
 * to see what the kernel does.
 *
 * Environment:
 * DMABUF_IO_BDEV	NVMe block device to test, which LOSES ITS DATA
 */
#ifndef DMA_BUF_IO_H
#define DMA_BUF_IO_H

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <time.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <linux/fs.h>

#include "kselftest_harness.h"
#include "dmabuf-util.h"
#include "dmabuf-ring.h"
#include "../../../../drivers/dma-buf/dma-buf-io-test-uapi.h"

/* Part of the drive that tests write to. */
#define AREA_SIZE	MIB(64)
/* What is around the destination of a transfer, and must stay. */
#define GUARD		KIB(8)
#define POISON		0x5a

/* On slow machines with all debugging on. */
#define SLOW_TIMEOUT	600

enum {
	SEED_DRIVE = 11,
	SEED_BUF,
	SEED_OLD,
};

/*
 * Time
 */

static inline __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static inline void sleep_ms(unsigned int ms)
{
	poll(NULL, 0, ms);
}

/* Numbers that are the same in each run. */
static inline __u32 next_random(__u64 *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return *state >> 33;
}

/*
 * The drive
 */

struct drive {
	int fd;			/* O_DIRECT */
	char name[32];		/* nvme0n1 */
	__u64 size;
	unsigned int block;	/* logical block size */
	const char *skip;	/* why it is not to be tested */
};

/* Sets drive->skip and returns 1 if there is nothing to test. */
static inline int drive_open(struct drive *drive)
{
	const char *path = getenv("DMABUF_IO_BDEV");
	int block;

	*drive = (struct drive){ .fd = -1 };
	if (!path || !*path)
		drive->skip = "DMABUF_IO_BDEV names no drive";
	else if (!dmabuf_ring_known())
		drive->skip = "the kernel has no registered dma-bufs";
	if (drive->skip)
		return 1;
	snprintf(drive->name, sizeof(drive->name), "%s",
		 strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
	drive->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (drive->fd < 0 || ioctl(drive->fd, BLKGETSIZE64, &drive->size) ||
	    ioctl(drive->fd, BLKSSZGET, &block))
		return -errno;
	drive->block = block;
	return drive->size < 2 * AREA_SIZE ? -ENOSPC : 0;
}

/* Open the drive, or skip the test. */
#define SETUP_DRIVE(drive)						\
do {									\
	int _ret = drive_open(drive);					\
									\
	if (_ret == 1)							\
		SKIP(return, "%s", (drive)->skip);			\
	ASSERT_EQ(0, _ret);						\
} while (0)

/* A file of sysfs or the like as a number; a negative errno on failure. */
__attribute__((format(printf, 1, 2)))
static inline long read_number(const char *format, ...)
{
	char path[PATH_MAX], text[32] = "";
	va_list args;
	ssize_t len;
	int fd;

	va_start(args, format);
	vsnprintf(path, sizeof(path), format, args);
	va_end(args);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	return len < 0 ? -EIO : strtol(text, NULL, 0);
}

__attribute__((format(printf, 2, 3)))
static inline int write_text(const char *text, const char *format, ...)
{
	char path[PATH_MAX];
	va_list args;
	int fd, ret;

	va_start(args, format);
	vsnprintf(path, sizeof(path), format, args);
	va_end(args);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* The longest command for a registered dma-buf, in bytes. */
static inline long drive_max_command(const struct drive *drive)
{
	long kb = read_number("/sys/block/%s/queue/max_hw_dmabuf_sectors_kb",
			      drive->name);

	return kb < 0 ? kb : kb * 1024;
}

/*
 * Buffers
 */

struct io_kind {
	size_t chunk;			/* of the test exporter, or: */
	const struct dmabuf_kind *kind;
	__u32 flags;			/* DMA_BUF_IO_TEST_* */
};

static inline int exporter_open(void)
{
	int fd = open("/dev/dma_buf_io_test", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static inline int exporter_create(struct dmabuf *buf,
				  struct dma_buf_io_test_create *arg)
{
	int dev = exporter_open(), ret;

	*buf = (struct dmabuf){
		.fd = -1, .size = arg->size, .step = "test exporter",
	};
	if (dev < 0)
		return dev;
	ret = ioctl(dev, DMA_BUF_IO_TEST_CREATE, arg) ? -errno : 0;
	close(dev);
	if (!ret)
		buf->fd = arg->fd;
	return ret;
}

static inline int io_buf_alloc(struct dmabuf *buf, const struct io_kind *kind,
			       size_t size)
{
	struct dma_buf_io_test_create arg = {
		.size = size,
		.chunk = kind->chunk,
		.flags = kind->flags,
	};

	if (kind->kind)
		return dmabuf_alloc(buf, kind->kind, size);
	return exporter_create(buf, &arg);
}

/* Make a buffer, or skip the test where there is no such exporter. */
#define SETUP_BUF(buf, kind, size)					\
do {									\
	int _ret = io_buf_alloc(buf, kind, size);			\
									\
	if (_ret == -ENOENT || _ret == -ENODEV)				\
		SKIP(return, "no %s", (buf)->step);			\
	ASSERT_EQ(0, _ret) TH_LOG("%s", (buf)->step);			\
} while (0)

/* What the exporter is asked to do about a buffer. */
static inline int exporter_move(int fd, unsigned long request,
				unsigned int delay_ms,
				struct dma_buf_io_test_move *arg)
{
	int dev = exporter_open(), ret;

	if (dev < 0)
		return dev;
	/* Completions that the ring has for us interrupt waits, as signals do. */
	do {
		*arg = (struct dma_buf_io_test_move){
			.fd = fd,
			.delay_ms = delay_ms,
		};
		ret = ioctl(dev, request, arg) ? -errno : 0;
	} while (ret == -EINTR);
	close(dev);
	return ret;
}

static inline int exporter_fail(int fd, unsigned int op, unsigned int count,
				int error)
{
	struct dma_buf_io_test_fail arg = {
		.fd = fd, .op = op, .count = count, .error = error,
	};
	int dev = exporter_open(), ret;

	if (dev < 0)
		return dev;
	ret = ioctl(dev, DMA_BUF_IO_TEST_FAIL, &arg) ? -errno : 0;
	close(dev);
	return ret;
}

static inline int exporter_info(int fd, struct dma_buf_io_test_info *arg)
{
	int dev = exporter_open(), ret;

	if (dev < 0)
		return dev;
	*arg = (struct dma_buf_io_test_info){ .fd = fd };
	ret = ioctl(dev, DMA_BUF_IO_TEST_INFO, arg) ? -errno : 0;
	close(dev);
	return ret;
}

/* Detaching is asynchronous. Returns the attachments left after @ms. */
static inline int wait_detached(int fd, unsigned int ms)
{
	struct dma_buf_io_test_info info;
	int ret;

	for (;; ms -= 10) {
		ret = exporter_info(fd, &info);
		if (ret)
			return ret;
		if (!info.attached || ms < 10)
			return info.attached;
		sleep_ms(10);
	}
}

/* Fill [pos, pos + len) with one byte. */
static inline int dmabuf_poison(struct dmabuf *buf, size_t pos, size_t len)
{
	int ret = dmabuf_map(buf);

	if (!ret)
		ret = dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
	if (ret)
		return ret;
	memset(buf->map + pos, POISON, len);
	return dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
}

/* The number of leading bytes of [pos, pos + len) that are poison. */
static inline ssize_t dmabuf_match_poison(struct dmabuf *buf, size_t pos,
					  size_t len)
{
	ssize_t good;
	int ret = dmabuf_map(buf);

	if (!ret)
		ret = dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	if (ret)
		return ret;
	good = byte_match(buf->map + pos, len, POISON);
	ret = dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	return ret ? ret : good;
}

/*
 * One transfer, with a check of all bytes in it and of those around it. The
 * drive holds SEED_DRIVE for a read, the buffer SEED_BUF for a write. Returns
 * NULL or what is wrong; the result of the transfer is in @res.
 */
struct transfer {
	struct dmabuf_ring *ring;
	const struct drive *drive;
	struct dmabuf *buf;
	unsigned int slot;
	int res;
};

static inline size_t guard_before(size_t offset)
{
	return min_size(offset, GUARD);
}

static inline size_t guard_after(size_t offset, size_t len, size_t size)
{
	return min_size(size - offset - len, GUARD);
}

static inline const char *check_read(struct transfer *t, size_t offset,
				     size_t len, __u64 pos)
{
	size_t before = guard_before(offset);
	size_t after = guard_after(offset, len, t->buf->size);

	if (dmabuf_poison(t->buf, offset - before, before + len + after))
		return "poisoning the buffer";
	t->res = dmabuf_ring_rw(t->ring, IORING_OP_READ_FIXED, t->drive->fd,
				t->slot, offset, len, pos);
	if (t->res != (int)len)
		return "the result";
	if (dmabuf_match(t->buf, offset, len, SEED_DRIVE, pos) != (ssize_t)len)
		return "the data";
	if (dmabuf_match_poison(t->buf, offset - before, before) !=
	    (ssize_t)before)
		return "the bytes before";
	if (dmabuf_match_poison(t->buf, offset + len, after) != (ssize_t)after)
		return "the bytes behind";
	return NULL;
}

static inline const char *check_write(struct transfer *t, size_t offset,
				      size_t len, __u64 pos)
{
	size_t block = t->drive->block;
	size_t before = pos ? block : 0;

	if (file_fill(t->drive->fd, pos - before, before + len + block,
		      SEED_OLD))
		return "preparing the drive";
	t->res = dmabuf_ring_rw(t->ring, IORING_OP_WRITE_FIXED, t->drive->fd,
				t->slot, offset, len, pos);
	if (t->res != (int)len)
		return "the result";
	if (file_match_at(t->drive->fd, pos, len, SEED_BUF, offset) !=
	    (ssize_t)len)
		return "the data";
	if (file_match(t->drive->fd, pos - before, before, SEED_OLD) !=
	    (ssize_t)before)
		return "the block before";
	if (file_match(t->drive->fd, pos + len, block, SEED_OLD) !=
	    (ssize_t)block)
		return "the block behind";
	return NULL;
}

#define EXPECT_READ(t, offset, len, pos)				\
do {									\
	size_t _off = (offset), _len = (len);				\
	__u64 _pos = (pos);						\
	const char *_wrong = check_read(t, _off, _len, _pos);		\
									\
	ASSERT_EQ(NULL, _wrong)						\
		TH_LOG("read of %zu to %#zx from %#llx: %s, res %d",	\
		       _len, _off, (unsigned long long)_pos, _wrong,	\
		       (t)->res);					\
} while (0)

#define EXPECT_WRITE(t, offset, len, pos)				\
do {									\
	size_t _off = (offset), _len = (len);				\
	__u64 _pos = (pos);						\
	const char *_wrong = check_write(t, _off, _len, _pos);		\
									\
	ASSERT_EQ(NULL, _wrong)						\
		TH_LOG("write of %zu from %#zx to %#llx: %s, res %d",	\
		       _len, _off, (unsigned long long)_pos, _wrong,	\
		       (t)->res);					\
} while (0)

/*
 * Tracing
 */
#define TRACING		"/sys/kernel/tracing"

/* Record @event, one like "nvme/nvme_setup_cmd" or a group like "dma". */
static inline int trace_start(const char *event)
{
	int ret = write_text("0", TRACING "/tracing_on");

	if (!ret)
		ret = write_text("8192", TRACING "/buffer_size_kb");
	if (!ret)
		ret = write_text("0", TRACING "/events/enable");
	if (!ret)
		ret = write_text("1", TRACING "/events/%s/enable", event);
	if (!ret) {
		/* Truncating empties it. */
		int fd = open(TRACING "/trace", O_WRONLY | O_TRUNC | O_CLOEXEC);

		if (fd < 0)
			return -errno;
		close(fd);
		ret = write_text("1", TRACING "/tracing_on");
	}
	return ret;
}

/* The number of records that have both texts in them. */
static inline long trace_stop(const char *one, const char *two)
{
	char line[1024];
	long nr = 0;
	FILE *file;

	write_text("0", TRACING "/tracing_on");
	file = fopen(TRACING "/trace", "re");
	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file))
		if (line[0] != '#' && strstr(line, one) && strstr(line, two))
			nr++;
	fclose(file);
	write_text("0", TRACING "/events/enable");
	return nr;
}

#endif /* DMA_BUF_IO_H */
