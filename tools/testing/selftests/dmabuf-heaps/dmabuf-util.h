/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the dma-buf file I/O tests and benchmarks share: buffers of every kind,
 * CPU access to them, a pattern that tells where each byte came from, and the
 * state of a file's page cache. Functions return a negative errno on failure.
 */
#ifndef DMABUF_UTIL_H
#define DMABUF_UTIL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <linux/udmabuf.h>
#include <drm/drm.h>

#define KIB(n)		((size_t)(n) << 10)
#define MIB(n)		((size_t)(n) << 20)
#define HUGE_SIZE	MIB(2)

/* Headers of the C library may be older than the kernel's. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif
#ifndef __NR_cachestat
#define __NR_cachestat	451
#endif

static inline size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/*
 * Pattern: the 64-bit word at each multiple of 8 is a hash of the seed and of
 * its own offset, so that data in a wrong place, or of another seed, shows.
 */
static inline __u64 pattern_word(__u64 seed, __u64 offset)
{
	__u64 x = (seed * 0x9e3779b97f4a7c15 ^ offset) * 0xbf58476d1ce4e5b9;

	x = (x ^ x >> 32) * 0x94d049bb133111eb;
	return x ^ x >> 29;
}

/* Write the bytes of [offset, offset + len) of the pattern to @mem. */
static inline void pattern_fill(void *mem, size_t len, __u64 seed,
				__u64 offset)
{
	char *p = mem;

	while (len) {
		__u64 word = pattern_word(seed, offset & ~7ULL);
		unsigned int skip = offset & 7;
		size_t n = min_size(len, 8 - skip);

		if (n == 8)
			memcpy(p, &word, 8);
		else
			memcpy(p, (char *)&word + skip, n);
		p += n;
		offset += n;
		len -= n;
	}
}

/* The number of leading bytes of @mem that are right; @len if all are. */
static inline size_t pattern_match(const void *mem, size_t len, __u64 seed,
				   __u64 offset)
{
	const char *p = mem;
	size_t done = 0;

	while (done < len) {
		__u64 word = pattern_word(seed, offset & ~7ULL), seen;
		unsigned int skip = offset & 7;
		size_t n = min_size(len - done, 8 - skip);

		if (n == 8) {
			memcpy(&seen, p + done, 8);
			if (seen == word) {
				done += 8;
				offset += 8;
				continue;
			}
		}
		for (; n; n--, done++, offset++)
			if (p[done] != ((char *)&word)[offset & 7])
				return done;
	}
	return len;
}

/* The number of leading bytes of @mem that have the value @byte. */
static inline size_t byte_match(const void *mem, size_t len, unsigned char byte)
{
	const unsigned char *p = mem;

	if (!len || *p != byte)
		return 0;
	/* Most often all is well: the memory equals itself moved by one. */
	if (!memcmp(p, p + 1, len - 1))
		return len;
	for (len = 1; p[len] == byte; len++)
		;
	return len;
}

/*
 * Files
 */
#define FILE_STEP	MIB(1)

/* pwrite() the bytes of [offset, offset + len) of the pattern to @pos. */
static inline int file_fill_at(int fd, off_t pos, size_t len, __u64 seed,
			       __u64 offset)
{
	void *mem = aligned_alloc(KIB(64), FILE_STEP);
	int ret = 0;

	if (!mem)
		return -ENOMEM;
	while (len && !ret) {
		size_t n = min_size(len, FILE_STEP);
		ssize_t done;

		pattern_fill(mem, n, seed, offset);
		done = pwrite(fd, mem, n, pos);
		if (done <= 0) {
			ret = done ? -errno : -ENOSPC;
			break;
		}
		pos += done;
		offset += done;
		len -= done;
	}
	free(mem);
	return ret;
}

/* As above for a file that holds the pattern in its place. */
static inline int file_fill(int fd, off_t pos, size_t len, __u64 seed)
{
	return file_fill_at(fd, pos, len, seed, pos);
}

/*
 * pread() [pos, pos + len) and compare it with the pattern from @offset on.
 * Returns the number of leading bytes that are there and right.
 */
static inline ssize_t file_match_at(int fd, off_t pos, size_t len,
				    __u64 seed, __u64 offset)
{
	void *mem = aligned_alloc(KIB(64), FILE_STEP);
	size_t done = 0;

	if (!mem)
		return -ENOMEM;
	while (done < len) {
		ssize_t n = pread(fd, mem, min_size(len - done, FILE_STEP),
				  pos + done);
		size_t good;

		if (n < 0) {
			ssize_t err = -errno;

			free(mem);
			return err;
		}
		good = pattern_match(mem, n, seed, offset + done);
		done += good;
		if (!n || good < (size_t)n)
			break;
	}
	free(mem);
	return done;
}

static inline ssize_t file_match(int fd, off_t pos, size_t len, __u64 seed)
{
	return file_match_at(fd, pos, len, seed, pos);
}

/* Pages of [pos, pos + len) in the page cache; a @len of 0 means to the end. */
static inline long file_cached_pages(int fd, off_t pos, size_t len)
{
	struct cachestat_range range = { .off = pos, .len = len };
	struct cachestat stat;

	if (syscall(__NR_cachestat, fd, &range, &stat, 0))
		return -errno;
	return stat.nr_cache;
}

/* Write back and drop the page cache of a file. -EBUSY if some of it stays. */
static inline int file_make_cold(int fd)
{
	unsigned int tries;
	long pages = 0;
	int ret;

	/* Pages are kept while dirty, and for a moment after writeback. */
	for (tries = 0; tries < 100; tries++) {
		if (fsync(fd))
			return -errno;
		ret = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		if (ret)
			return -ret;
		pages = file_cached_pages(fd, 0, 0);
		if (pages <= 0)
			return pages;
		usleep(10000);
	}
	return -EBUSY;
}

/* What O_DIRECT asks of this file. */
struct dio_align {
	unsigned int mem;	/* memory address */
	unsigned int pos;	/* file position and length */
	unsigned int read_pos;	/* the same when reading, if that is less */
	bool reported;		/* by the file system; else these are guesses */
};

/* -EOPNOTSUPP if the file system says that it has no direct I/O here. */
static inline int file_dio_align(int fd, struct dio_align *align)
{
	struct statx st;

	if (statx(fd, "", AT_EMPTY_PATH,
		  STATX_BASIC_STATS | STATX_DIOALIGN | STATX_DIO_READ_ALIGN,
		  &st))
		return -errno;
	align->reported = st.stx_mask & STATX_DIOALIGN;
	if (!align->reported) {
		align->mem = sysconf(_SC_PAGESIZE);
		align->pos = align->mem;
		align->read_pos = align->mem;
		return 0;
	}
	align->mem = st.stx_dio_mem_align;
	align->pos = st.stx_dio_offset_align;
	align->read_pos = align->pos;
	if (st.stx_mask & STATX_DIO_READ_ALIGN && st.stx_dio_read_offset_align)
		align->read_pos = st.stx_dio_read_offset_align;
	return align->pos ? 0 : -EOPNOTSUPP;
}

/*
 * Buffers
 */

/* Access bits of @fd_flags (O_RDONLY, O_RDWR, ...) are those of the new fd. */
static inline int heap_alloc(const char *heap, size_t size,
			     unsigned int fd_flags)
{
	struct dma_heap_allocation_data data = {
		.len = size,
		.fd_flags = fd_flags,
	};
	char path[64];
	int fd, ret;

	snprintf(path, sizeof(path), "/dev/dma_heap/%s", heap);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = ioctl(fd, DMA_HEAP_IOCTL_ALLOC, &data) ? -errno : (int)data.fd;
	close(fd);
	return ret;
}

/* A memfd that udmabuf accepts. @flags: MFD_HUGETLB | MFD_HUGE_2MB or 0. */
static inline int memfd_alloc(size_t size, unsigned int flags)
{
	int fd = memfd_create("dmabuf-test", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
	int ret;

	if (fd < 0)
		return -errno;
	if (!ftruncate(fd, size) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		return fd;
	ret = -errno;
	close(fd);
	return ret;
}

/*
 * Back all of a memfd, whose size is a multiple of HUGE_SIZE, by huge pages
 * whatever the system's setting for shmem is.
 */
static inline int memfd_collapse(int memfd, size_t size)
{
	char *area, *mem;
	int ret = 0;

	area = mmap(NULL, size + HUGE_SIZE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return -errno;
	mem = area + (-(uintptr_t)area & (HUGE_SIZE - 1));
	if (mmap(mem, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 memfd, 0) == MAP_FAILED ||
	    madvise(mem, size, MADV_POPULATE_WRITE) ||
	    madvise(mem, size, MADV_COLLAPSE))
		ret = -errno;
	munmap(area, size + HUGE_SIZE);
	return ret;
}

static inline int udmabuf_alloc(const struct udmabuf_create_item *items,
				unsigned int nr)
{
	struct udmabuf_create_list *list;
	size_t bytes = nr * sizeof(*items);
	int dev, ret;

	dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -errno;
	list = malloc(sizeof(*list) + bytes);
	if (!list) {
		close(dev);
		return -ENOMEM;
	}
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = nr;
	memcpy(list->list, items, bytes);
	ret = ioctl(dev, UDMABUF_CREATE_LIST, list);
	if (ret < 0)
		ret = -errno;
	free(list);
	close(dev);
	return ret;
}

/* How a buffer is made: by a heap, or else by udmabuf. */
struct dmabuf_kind {
	const char *heap;
	unsigned int memfd_flags;	/* see memfd_alloc() */
	bool thp;			/* collapse the memfds */
	bool shuffle;			/* pages out of order, up to 4 MiB */
	unsigned int memfds;		/* number of memfds in a row, 0 is 1 */
	size_t skip;			/* start this far into each memfd */
};

#define DMABUF_MAX_MEMFDS 4

struct dmabuf {
	int fd;
	size_t size;
	unsigned int nr_memfds;
	int memfd[DMABUF_MAX_MEMFDS];
	char *map;			/* by dmabuf_map() */
	const char *step;		/* what failed in dmabuf_alloc() */
};

static inline void dmabuf_unmap(struct dmabuf *buf)
{
	if (buf->map)
		munmap(buf->map, buf->size);
	buf->map = NULL;
}

static inline void dmabuf_free(struct dmabuf *buf)
{
	dmabuf_unmap(buf);
	while (buf->nr_memfds)
		close(buf->memfd[--buf->nr_memfds]);
	if (buf->fd >= 0)
		close(buf->fd);
	buf->fd = -1;
}

/*
 * A udmabuf of the pages of one memfd in an order that leaves no two of them
 * side by side: page i of the buffer is page i * 7 % n of the memfd.
 */
static inline int udmabuf_alloc_shuffled(int memfd, size_t size)
{
	size_t page = sysconf(_SC_PAGESIZE), nr = size / page, i;
	struct udmabuf_create_item *items;
	int ret;

	if (!(nr % 7))
		return -EINVAL;
	items = calloc(nr, sizeof(*items));
	if (!items)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		items[i].memfd = memfd;
		items[i].offset = i * 7 % nr * page;
		items[i].size = page;
	}
	ret = udmabuf_alloc(items, nr);
	free(items);
	return ret;
}

/* The size of a buffer with n memfds must be a multiple of n pages. */
static inline int dmabuf_alloc_memfds(struct dmabuf *buf,
				      const struct dmabuf_kind *kind)
{
	struct udmabuf_create_item items[DMABUF_MAX_MEMFDS] = {};
	unsigned int nr = kind->memfds ? kind->memfds : 1, i;
	size_t part = buf->size / nr;
	size_t size = kind->skip + part;
	int ret;

	/* Whole huge pages, so that the end lies inside of one as well. */
	if (kind->thp || kind->memfd_flags & MFD_HUGETLB)
		size = (size + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1);

	for (i = 0; i < nr; i++) {
		buf->step = kind->memfd_flags & MFD_HUGETLB ?
			    "hugetlb memfd" : "memfd";
		ret = memfd_alloc(size, kind->memfd_flags);
		if (ret < 0)
			return ret;
		buf->memfd[buf->nr_memfds++] = ret;
		items[i].memfd = ret;
		items[i].offset = kind->skip;
		items[i].size = part;
		if (!kind->thp)
			continue;
		buf->step = "MADV_COLLAPSE of a memfd";
		ret = memfd_collapse(buf->memfd[i], size);
		if (ret)
			return ret;
	}
	buf->step = "udmabuf";
	if (kind->shuffle)
		return udmabuf_alloc_shuffled(buf->memfd[0], size);
	return udmabuf_alloc(items, nr);
}

/* On failure buf->step says what failed. */
static inline int dmabuf_alloc(struct dmabuf *buf,
			       const struct dmabuf_kind *kind, size_t size)
{
	int ret;

	*buf = (struct dmabuf){ .fd = -1, .size = size };
	if (kind->heap) {
		buf->step = kind->heap;
		ret = heap_alloc(kind->heap, size, O_RDWR | O_CLOEXEC);
	} else {
		ret = dmabuf_alloc_memfds(buf, kind);
	}
	if (ret < 0) {
		dmabuf_free(buf);
		return ret;
	}
	buf->fd = ret;
	return 0;
}

static inline int dmabuf_map(struct dmabuf *buf)
{
	char *map;

	if (buf->map)
		return 0;
	map = mmap(NULL, buf->size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   buf->fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	buf->map = map;
	return 0;
}

/* @flags: DMA_BUF_SYNC_START or _END, and _READ, _WRITE or _RW. */
static inline int dmabuf_sync(int fd, __u64 flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	while (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	return 0;
}

/* Write the pattern from @offset on to [pos, pos + len) of the buffer. */
static inline int dmabuf_fill(struct dmabuf *buf, size_t pos, size_t len,
			      __u64 seed, __u64 offset)
{
	int ret = dmabuf_map(buf);

	if (!ret)
		ret = dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
	if (ret)
		return ret;
	pattern_fill(buf->map + pos, len, seed, offset);
	return dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
}

/* The number of leading bytes of [pos, pos + len) that are right. */
static inline ssize_t dmabuf_match(struct dmabuf *buf, size_t pos, size_t len,
				   __u64 seed, __u64 offset)
{
	ssize_t good;
	int ret = dmabuf_map(buf);

	if (!ret)
		ret = dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	if (ret)
		return ret;
	good = pattern_match(buf->map + pos, len, seed, offset);
	ret = dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	return ret ? ret : good;
}

/* copy_file_range() with explicit offsets; a negative errno on failure. */
static inline ssize_t copy_range(int in, off_t in_pos, int out, off_t out_pos,
				 size_t len)
{
	ssize_t ret = copy_file_range(in, &in_pos, out, &out_pos, len, 0);

	return ret < 0 ? -errno : ret;
}

/* The same until all is copied. Returns less than @len at the end of a side. */
static inline ssize_t copy_all(int in, off_t in_pos, int out, off_t out_pos,
			       size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t ret = copy_range(in, in_pos + done, out, out_pos + done,
					 len - done);

		if (ret < 0)
			return ret;
		if (!ret)
			break;
		done += ret;
	}
	return done;
}

/*
 * vgem, the importer and exporter without hardware
 */
static inline int vgem_open(void)
{
	unsigned int i;

	for (i = 0; i < 16; i++) {
		char path[32], name[8] = "";
		struct drm_version version = {
			.name_len = sizeof(name) - 1,
			.name = name,
		};
		int fd;

		snprintf(path, sizeof(path), "/dev/dri/card%u", i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (!ioctl(fd, DRM_IOCTL_VERSION, &version) &&
		    !strcmp(name, "vgem"))
			return fd;
		close(fd);
	}
	return -ENODEV;
}

/* Attach to a dma-buf until vgem_release() or the end of @vgem. */
static inline int vgem_import(int vgem, int fd, __u32 *handle)
{
	struct drm_prime_handle prime = { .fd = fd };
	int ret = ioctl(vgem, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime);

	*handle = prime.handle;
	return ret ? -errno : 0;
}

static inline int vgem_release(int vgem, __u32 handle)
{
	struct drm_gem_close args = { .handle = handle };

	return ioctl(vgem, DRM_IOCTL_GEM_CLOSE, &args) ? -errno : 0;
}

#endif /* DMABUF_UTIL_H */
