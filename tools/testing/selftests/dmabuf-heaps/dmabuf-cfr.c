// SPDX-License-Identifier: GPL-2.0
/*
 * copy_file_range() between a file and a dma-buf: is every byte where it
 * belongs, and only there? Each direction is checked alone, against mmap() of
 * the buffer and pread() and pwrite() of the file, with another pattern in the
 * destination before the copy.
 */
#include "dmabuf-cfr.h"

#include <sys/time.h>

#include <linux/fiemap.h>
#include <linux/fs.h>

static __u64 random_state = 0x2545f4914f6cdd1d;

/* The same numbers in each run. */
static size_t random_below(size_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 16) % limit;
}

static size_t round_to(size_t n, size_t align)
{
	return n - n % align;
}

FIXTURE(copy)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_VARIANT(copy)
{
	const struct dmabuf_kind *kind;
	enum peer_type peer;
	bool direct;
};

FIXTURE_VARIANT_ADD(copy, system_file) { &system_heap, PEER_FILE, false };
FIXTURE_VARIANT_ADD(copy, system_direct) { &system_heap, PEER_FILE, true };
FIXTURE_VARIANT_ADD(copy, cma_direct) { &cma_heap, PEER_FILE, true };
FIXTURE_VARIANT_ADD(copy, shuffled_file) { &udmabuf_shuffled, PEER_FILE, false };
FIXTURE_VARIANT_ADD(copy, shuffled_direct) { &udmabuf_shuffled, PEER_FILE, true };
FIXTURE_VARIANT_ADD(copy, list_direct) { &udmabuf_list, PEER_FILE, true };
FIXTURE_VARIANT_ADD(copy, thp_file) { &udmabuf_thp, PEER_FILE, false };
FIXTURE_VARIANT_ADD(copy, thp_direct) { &udmabuf_thp, PEER_FILE, true };
FIXTURE_VARIANT_ADD(copy, hugetlb_direct) { &udmabuf_hugetlb, PEER_FILE, true };
FIXTURE_VARIANT_ADD(copy, system_overlay) { &system_heap, PEER_OVERLAY, false };
FIXTURE_VARIANT_ADD(copy, system_overlay_direct) { &system_heap, PEER_OVERLAY, true };
FIXTURE_VARIANT_ADD(copy, system_tmpfs) { &system_heap, PEER_TMPFS, false };
FIXTURE_VARIANT_ADD(copy, system_tmpfs_direct) { &system_heap, PEER_TMPFS, true };
FIXTURE_VARIANT_ADD(copy, system_bdev) { &system_heap, PEER_BDEV, false };
FIXTURE_VARIANT_ADD(copy, system_bdev_direct) { &system_heap, PEER_BDEV, true };
FIXTURE_VARIANT_ADD(copy, shuffled_bdev_direct) { &udmabuf_shuffled, PEER_BDEV, true };
FIXTURE_VARIANT_ADD(copy, system_loop_direct) { &system_heap, PEER_LOOP, true };
FIXTURE_VARIANT_ADD(copy, system_dm_direct) { &system_heap, PEER_DM, true };

FIXTURE_SETUP(copy)
{
	open_ends(_metadata, &self->buf, variant->kind, &self->peer,
		  variant->peer, variant->direct);
}

FIXTURE_TEARDOWN(copy)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

/* Fill: the destination is the buffer. */
static void prepare_fill(struct __test_metadata *_metadata, struct dmabuf *buf,
			 struct peer *peer, size_t file_size)
{
	ASSERT_EQ(0, dmabuf_fill(buf, 0, BUF_SIZE, SEED_POISON, 0));
	ASSERT_EQ(0, peer_fill(peer, file_size, SEED_FILE));
}

/* [pos, pos + len) of the buffer is from @file_pos, the rest as it was. */
static void check_fill(struct __test_metadata *_metadata, struct dmabuf *buf,
		       size_t pos, size_t len, off_t file_pos)
{
	size_t end = pos + len;

	ASSERT_EQ(pos, dmabuf_match(buf, 0, pos, SEED_POISON, 0));
	ASSERT_EQ(len, dmabuf_match(buf, pos, len, SEED_FILE, file_pos));
	ASSERT_EQ(BUF_SIZE - end,
		  dmabuf_match(buf, end, BUF_SIZE - end, SEED_POISON, end));
}

/* Drain: the destination is the file. */
static void prepare_drain(struct __test_metadata *_metadata, struct dmabuf *buf,
			  struct peer *peer, size_t file_size)
{
	ASSERT_EQ(0, dmabuf_fill(buf, 0, BUF_SIZE, SEED_BUF, 0));
	ASSERT_EQ(0, peer_fill(peer, file_size, SEED_POISON));
}

/* [pos, pos + len) of the file is from @buf_pos, the rest as it was. */
static void check_drain(struct __test_metadata *_metadata, struct dmabuf *buf,
			struct peer *peer, size_t file_size,
			off_t pos, size_t len, size_t buf_pos)
{
	size_t end = pos + len, rest = file_size - end;
	struct stat st;

	if (!peer_is_bdev(peer)) {
		ASSERT_EQ(0, fstat(peer->plain, &st));
		ASSERT_EQ(file_size, st.st_size);
	}
	ASSERT_EQ(pos, peer_match(peer, 0, pos, SEED_POISON, 0));
	ASSERT_EQ(len, peer_match(peer, pos, len, SEED_BUF, buf_pos));
	ASSERT_EQ(rest, peer_match(peer, end, rest, SEED_POISON, end));
	/* A source stays what it is. */
	ASSERT_EQ(BUF_SIZE, dmabuf_match(buf, 0, BUF_SIZE, SEED_BUF, 0));
}

TEST_F(copy, fill_whole)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	long cached;

	prepare_fill(_metadata, buf, peer, FILE_SIZE);
	ASSERT_EQ(BUF_SIZE, copy_all(peer->fd, KIB(64), buf->fd, 0, BUF_SIZE));
	cached = file_cached_pages(peer->plain, 0, 0);
	check_fill(_metadata, buf, 0, BUF_SIZE, KIB(64));
	ASSERT_EQ(FILE_SIZE, peer_match(peer, 0, FILE_SIZE, SEED_FILE, 0));

	if (variant->direct && variant->peer != PEER_TMPFS)
		EXPECT_EQ(0, cached);
}

TEST_F(copy, drain_whole)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;

	prepare_drain(_metadata, buf, peer, FILE_SIZE);
	ASSERT_EQ(BUF_SIZE, copy_all(buf->fd, 0, peer->fd, KIB(64), BUF_SIZE));
	check_drain(_metadata, buf, peer, FILE_SIZE, KIB(64), BUF_SIZE, 0);
}

/*
 * Many copies into one destination, which is then compared with a model of it
 * in ordinary memory.
 */
struct range {
	size_t buf_pos;
	size_t file_pos;
	size_t len;
};

static char *new_model(struct __test_metadata *_metadata, size_t size)
{
	char *model = malloc(size);

	ASSERT_NE(NULL, model);
	pattern_fill(model, size, SEED_POISON, 0);
	return model;
}

static void fill_range(struct __test_metadata *_metadata, struct dmabuf *buf,
		       struct peer *peer, char *model, struct range r)
{
	ASSERT_EQ(r.len, copy_all(peer->fd, r.file_pos, buf->fd, r.buf_pos, r.len)) {
		TH_LOG("file %zu, buffer %zu", r.file_pos, r.buf_pos);
	}
	pattern_fill(model + r.buf_pos, r.len, SEED_FILE, r.file_pos);
}

static void drain_range(struct __test_metadata *_metadata, struct dmabuf *buf,
			struct peer *peer, char *model, struct range r)
{
	ASSERT_EQ(r.len, copy_all(buf->fd, r.buf_pos, peer->fd, r.file_pos, r.len)) {
		TH_LOG("buffer %zu, file %zu", r.buf_pos, r.file_pos);
	}
	pattern_fill(model + r.file_pos, r.len, SEED_BUF, r.buf_pos);
}

static size_t same_bytes(const char *a, const char *b, size_t size)
{
	size_t i = 0;

	if (!memcmp(a, b, size))
		return size;
	while (a[i] == b[i])
		i++;
	return i;
}

/* Frees the model. */
static void check_buf(struct __test_metadata *_metadata, struct dmabuf *buf,
		      char *model)
{
	ASSERT_EQ(0, dmabuf_map(buf));
	ASSERT_EQ(0, dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ));
	ASSERT_EQ(BUF_SIZE, same_bytes(buf->map, model, BUF_SIZE));
	ASSERT_EQ(0, dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ));
	free(model);
}

/* Frees the model. */
static void check_file(struct __test_metadata *_metadata, struct peer *peer,
		       char *model, size_t size)
{
	char *seen = malloc(size);

	ASSERT_NE(NULL, seen);
	if (peer->type != PEER_TMPFS)
		ASSERT_EQ(0, file_make_cold(peer->plain));
	ASSERT_EQ(size, pread(peer->plain, seen, size, 0));
	ASSERT_EQ(size, same_bytes(seen, model, size));
	free(seen);
	free(model);
}

/*
 * Through an overlay a file that was opened O_DIRECT writes whole blocks only,
 * as with write(2).
 */
static bool whole_blocks_only(const struct peer *peer)
{
	return peer->type == PEER_OVERLAY && peer->align.pos > 1;
}

/* A random range whose start obeys the rules of O_DIRECT. */
static struct range random_range(const struct peer *peer, size_t file_align)
{
	struct range r = {
		.buf_pos = round_to(random_below(BUF_SIZE), peer->align.mem),
		.file_pos = round_to(random_below(FILE_SIZE), file_align),
		/* As many of some bytes as of some hundred KiB. */
		.len = 1 + random_below(2 << random_below(19)),
	};

	r.len = min_size(r.len, BUF_SIZE - r.buf_pos);
	r.len = min_size(r.len, FILE_SIZE - r.file_pos);
	return r;
}

#define RANDOM_COPIES	200

TEST_F_TIMEOUT(copy, fill_random, SLOW_TIMEOUT)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	char *model = new_model(_metadata, BUF_SIZE);
	unsigned int i;

	prepare_fill(_metadata, buf, peer, FILE_SIZE);
	for (i = 0; i < RANDOM_COPIES; i++)
		fill_range(_metadata, buf, peer, model,
			   random_range(peer, peer->align.read_pos));
	check_buf(_metadata, buf, model);
}

TEST_F_TIMEOUT(copy, drain_random, SLOW_TIMEOUT)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	char *model = new_model(_metadata, FILE_SIZE);
	unsigned int i;

	prepare_drain(_metadata, buf, peer, FILE_SIZE);
	for (i = 0; i < RANDOM_COPIES; i++) {
		struct range r = random_range(peer, peer->align.pos);

		if (whole_blocks_only(peer))
			r.len = round_to(r.len, peer->align.pos);
		drain_range(_metadata, buf, peer, model, r);
	}
	check_file(_metadata, peer, model, FILE_SIZE);
}

/* Around blocks, pages, and the largest block of O_DIRECT. */
static const size_t odd_lengths[] = {
	1, 511, 512, 513, 4095, 4097, KIB(8) + 1, KIB(64) - 1, KIB(64) + 1,
	KIB(128) - 512, KIB(128) + 4099,
};

#define ODD_STRIDE	KIB(192)

static struct range odd_range(unsigned int i)
{
	return (struct range){
		.buf_pos = i * ODD_STRIDE + KIB(4),
		.file_pos = i * ODD_STRIDE + KIB(8),
		.len = odd_lengths[i],
	};
}

static struct range odd_drain(const struct peer *peer, unsigned int i)
{
	struct range r = odd_range(i);

	if (whole_blocks_only(peer))
		r.len = round_to(r.len + peer->align.pos - 1, peer->align.pos);
	return r;
}

/* What follows in the buffer stays, though O_DIRECT reads whole blocks. */
TEST_F(copy, fill_odd_length)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	char *model = new_model(_metadata, BUF_SIZE);
	unsigned int i;

	prepare_fill(_metadata, buf, peer, FILE_SIZE);
	for (i = 0; i < ARRAY_SIZE(odd_lengths); i++)
		fill_range(_metadata, buf, peer, model, odd_range(i));
	check_buf(_metadata, buf, model);
}

/* What follows in the file stays, though O_DIRECT writes whole blocks. */
TEST_F(copy, drain_odd_length)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	char *model = new_model(_metadata, FILE_SIZE);
	unsigned int i;

	prepare_drain(_metadata, buf, peer, FILE_SIZE);
	for (i = 0; i < ARRAY_SIZE(odd_lengths); i++)
		drain_range(_metadata, buf, peer, model, odd_drain(peer, i));
	check_file(_metadata, peer, model, FILE_SIZE);
}

/* The buffer ends first: all that fits, then no space. */
TEST_F(copy, fill_beyond_end_of_buffer)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	size_t pos = BUF_SIZE - KIB(20);

	prepare_fill(_metadata, buf, peer, MIB(1));
	ASSERT_EQ(KIB(20), copy_range(peer->fd, 0, buf->fd, pos, MIB(1)));
	ASSERT_EQ(-ENOSPC, copy_range(peer->fd, KIB(20), buf->fd, BUF_SIZE, KIB(4)));
	ASSERT_EQ(-ENOSPC, copy_range(peer->fd, 0, buf->fd, BUF_SIZE + 1, 1));
	check_fill(_metadata, buf, pos, KIB(20), 0);
}

/* The buffer ends first: all there is, then the end. */
TEST_F(copy, drain_to_end_of_buffer)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	size_t pos = BUF_SIZE - KIB(20);

	prepare_drain(_metadata, buf, peer, MIB(1));
	ASSERT_EQ(KIB(20), copy_range(buf->fd, pos, peer->fd, KIB(4), SIZE_MAX / 2));
	ASSERT_EQ(0, copy_range(buf->fd, BUF_SIZE, peer->fd, KIB(24), MIB(1)));
	ASSERT_EQ(0, copy_range(buf->fd, BUF_SIZE + 1, peer->fd, KIB(24), 1));
	check_drain(_metadata, buf, peer, MIB(1), KIB(4), KIB(20), pos);
}

/* The page cache has newer data than the disk. */
TEST_F(copy, fill_dirty_file)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;

	prepare_fill(_metadata, buf, peer, MIB(1));
	ASSERT_EQ(0, file_fill_at(peer->plain, KIB(16), KIB(64), SEED_FILE, MIB(2)));
	ASSERT_EQ(KIB(64), copy_all(peer->fd, KIB(16), buf->fd, 0, KIB(64)));
	check_fill(_metadata, buf, 0, KIB(64), MIB(2));
}

/* The page cache has what was there before. */
TEST_F(copy, drain_cached_file)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;

	prepare_drain(_metadata, buf, peer, MIB(1));
	ASSERT_EQ(MIB(1), file_match(peer->plain, 0, MIB(1), SEED_POISON));
	ASSERT_EQ(KIB(64), copy_all(buf->fd, 0, peer->fd, KIB(16), KIB(64)));
	ASSERT_EQ(KIB(64), file_match_at(peer->plain, KIB(16), KIB(64), SEED_BUF, 0));
	check_drain(_metadata, buf, peer, MIB(1), KIB(16), KIB(64), 0);
}

/* The end of a regular file, which need not be that of a block. */
FIXTURE(end_of_file)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_VARIANT(end_of_file)
{
	enum peer_type peer;
	bool direct;
};

FIXTURE_VARIANT_ADD(end_of_file, file) { PEER_FILE, false };
FIXTURE_VARIANT_ADD(end_of_file, direct) { PEER_FILE, true };
FIXTURE_VARIANT_ADD(end_of_file, overlay) { PEER_OVERLAY, false };
FIXTURE_VARIANT_ADD(end_of_file, overlay_direct) { PEER_OVERLAY, true };
FIXTURE_VARIANT_ADD(end_of_file, tmpfs) { PEER_TMPFS, false };
FIXTURE_VARIANT_ADD(end_of_file, tmpfs_direct) { PEER_TMPFS, true };

FIXTURE_SETUP(end_of_file)
{
	open_ends(_metadata, &self->buf, &system_heap, &self->peer,
		  variant->peer, variant->direct);
}

FIXTURE_TEARDOWN(end_of_file)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

/* A file is read to its very end and not beyond. */
TEST_F(end_of_file, fill)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	char *model = new_model(_metadata, BUF_SIZE);
	unsigned int i;

	prepare_fill(_metadata, buf, peer, FILE_SIZE);
	for (i = ARRAY_SIZE(odd_lengths); i--;) {
		struct range r = odd_range(i);
		off_t end = r.file_pos + r.len;

		ASSERT_EQ(0, ftruncate(peer->plain, end));
		ASSERT_EQ(r.len, copy_all(peer->fd, r.file_pos, buf->fd,
					  r.buf_pos, KIB(180)));
		ASSERT_EQ(0, copy_range(peer->fd, end, buf->fd, r.buf_pos, KIB(4)));
		ASSERT_EQ(0, copy_range(peer->fd, end + 1, buf->fd, r.buf_pos, 1));
		pattern_fill(model + r.buf_pos, r.len, SEED_FILE, r.file_pos);
	}
	check_buf(_metadata, buf, model);
}

/* A file that grows ends with the last byte copied. */
TEST_F(end_of_file, drain)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	char *model = calloc(1, FILE_SIZE);
	struct stat st;
	unsigned int i;

	ASSERT_NE(NULL, model);
	prepare_drain(_metadata, buf, peer, 0);
	for (i = 0; i < ARRAY_SIZE(odd_lengths); i++) {
		struct range r = odd_drain(peer, i);

		drain_range(_metadata, buf, peer, model, r);
		ASSERT_EQ(0, fstat(peer->plain, &st));
		ASSERT_EQ(r.file_pos + r.len, st.st_size);
	}
	check_file(_metadata, peer, model, st.st_size);
}

/* Files that are not simply one piece of written blocks. */
FIXTURE(layout)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_VARIANT(layout)
{
	bool direct;
};

FIXTURE_VARIANT_ADD(layout, buffered) { .direct = false };
FIXTURE_VARIANT_ADD(layout, direct) { .direct = true };

FIXTURE_SETUP(layout)
{
	if (!open_ends(_metadata, &self->buf, &udmabuf_shuffled, &self->peer,
		       PEER_FILE, variant->direct))
		return;
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_POISON, 0));
}

FIXTURE_TEARDOWN(layout)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

#define CHUNK		KIB(16)
#define NR_CHUNKS	(BUF_SIZE / CHUNK)

/* Chunks of the file are in turn written, as they were, and so on. */
static void check_every_other(struct __test_metadata *_metadata,
			      struct dmabuf *buf, struct peer *peer)
{
	unsigned int i;

	ASSERT_EQ(0, file_make_cold(peer->plain));
	ASSERT_EQ(BUF_SIZE, copy_all(peer->fd, 0, buf->fd, 0, BUF_SIZE));
	ASSERT_EQ(0, dmabuf_map(buf));
	ASSERT_EQ(0, dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ));
	for (i = 0; i < NR_CHUNKS; i++) {
		const char *chunk = buf->map + i * CHUNK;

		ASSERT_EQ(CHUNK, i % 2 ? byte_match(chunk, CHUNK, 0) :
			  pattern_match(chunk, CHUNK, SEED_FILE, i * CHUNK)) {
			TH_LOG("chunk %u", i);
		}
	}
	ASSERT_EQ(0, dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ));
}

static void write_every_other(struct __test_metadata *_metadata,
			      struct peer *peer)
{
	unsigned int i;

	for (i = 0; i < NR_CHUNKS; i += 2)
		ASSERT_EQ(0, file_fill(peer->plain, i * CHUNK, CHUNK, SEED_FILE));
}

TEST_F(layout, fill_from_hole)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;

	ASSERT_EQ(0, ftruncate(peer->plain, BUF_SIZE));
	write_every_other(_metadata, peer);
	check_every_other(_metadata, buf, peer);
}

TEST_F(layout, fill_from_unwritten)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;

	if (fallocate(peer->plain, 0, 0, BUF_SIZE))
		SKIP(return, "fallocate: %s", strerror(errno));
	write_every_other(_metadata, peer);
	check_every_other(_metadata, buf, peer);
}

/* Cut every other chunk out of a file. */
static int fragment_by_collapse(int fd)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < NR_CHUNKS && !ret; i++)
		ret = file_fill_at(fd, 2 * i * CHUNK, 2 * CHUNK, SEED_FILE,
				   i * CHUNK);
	if (ret || fsync(fd))
		return -EIO;
	/* The last one is at the end, which is not for this to cut off. */
	while (--i)
		if (fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, (2 * i - 1) * CHUNK,
			      CHUNK))
			return -errno;
	return 0;
}

/* Write the chunks out of order, for file systems that write where they are. */
static int fragment_by_order(int fd)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < NR_CHUNKS && !ret; i++) {
		size_t pos = i * 7 % NR_CHUNKS * CHUNK;

		ret = file_fill(fd, pos, CHUNK, SEED_FILE);
		if (!ret && fdatasync(fd))
			ret = -errno;
	}
	return ret;
}

static unsigned int count_extents(int fd)
{
	struct fiemap map = {
		.fm_length = FIEMAP_MAX_OFFSET,
		.fm_flags = FIEMAP_FLAG_SYNC,
	};

	return ioctl(fd, FS_IOC_FIEMAP, &map) ? 0 : map.fm_mapped_extents;
}

TEST_F_TIMEOUT(layout, fill_from_fragments, SLOW_TIMEOUT)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;

	ASSERT_EQ(0, fragment_by_order(peer->plain));
	if (count_extents(peer->plain) < NR_CHUNKS / 2) {
		ASSERT_EQ(0, ftruncate(peer->plain, 0));
		fragment_by_collapse(peer->plain);
	}
	if (count_extents(peer->plain) < NR_CHUNKS / 2)
		SKIP(return, "the file has only %u extents", count_extents(peer->plain));
	ASSERT_EQ(0, file_make_cold(peer->plain));
	ASSERT_EQ(BUF_SIZE, copy_all(peer->fd, 0, buf->fd, 0, BUF_SIZE));
	ASSERT_EQ(BUF_SIZE, dmabuf_match(buf, 0, BUF_SIZE, SEED_FILE, 0));
}

/* One drain that writes to blocks, to holes, and to unwritten blocks. */
TEST_F(layout, drain_to_holes)
{
	struct dmabuf *buf = &self->buf;
	struct peer *peer = &self->peer;
	unsigned int i;

	ASSERT_EQ(0, dmabuf_fill(buf, 0, BUF_SIZE, SEED_BUF, 0));
	ASSERT_EQ(0, ftruncate(peer->plain, BUF_SIZE));
	write_every_other(_metadata, peer);
	for (i = 1; i < NR_CHUNKS; i += 4)
		fallocate(peer->plain, 0, i * CHUNK, CHUNK);
	ASSERT_EQ(0, file_make_cold(peer->plain));
	ASSERT_EQ(BUF_SIZE - CHUNK,
		  copy_all(buf->fd, 0, peer->fd, 0, BUF_SIZE - CHUNK));
	ASSERT_EQ(BUF_SIZE - CHUNK,
		  peer_match(peer, 0, BUF_SIZE - CHUNK, SEED_BUF, 0));
}

/* The file position of a dma-buf. */
FIXTURE(position)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_SETUP(position)
{
	if (!open_ends(_metadata, &self->buf, &system_heap, &self->peer,
		       PEER_FILE, false))
		return;
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	ASSERT_EQ(0, file_fill(self->peer.fd, 0, FILE_SIZE, SEED_FILE));
}

FIXTURE_TEARDOWN(position)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

TEST_F(position, fill_moves_both)
{
	int fd = self->peer.fd, buf = self->buf.fd;

	ASSERT_EQ(100, lseek(fd, 100, SEEK_SET));
	ASSERT_EQ(4000, copy_file_range(fd, NULL, buf, NULL, 4000, 0));
	ASSERT_EQ(4100, lseek(fd, 0, SEEK_CUR));
	ASSERT_EQ(300, copy_file_range(fd, NULL, buf, NULL, 300, 0));
	ASSERT_EQ(4300, dmabuf_match(&self->buf, 0, 4300, SEED_FILE, 100));
	ASSERT_EQ(BUF_SIZE - 4300,
		  dmabuf_match(&self->buf, 4300, BUF_SIZE - 4300, SEED_BUF, 4300));
}

TEST_F(position, drain_moves_both)
{
	int fd = self->peer.fd, buf = self->buf.fd;

	ASSERT_EQ(100, lseek(fd, 100, SEEK_SET));
	ASSERT_EQ(4000, copy_file_range(buf, NULL, fd, NULL, 4000, 0));
	ASSERT_EQ(4100, lseek(fd, 0, SEEK_CUR));
	ASSERT_EQ(300, copy_file_range(buf, NULL, fd, NULL, 300, 0));
	ASSERT_EQ(100, file_match(fd, 0, 100, SEED_FILE));
	ASSERT_EQ(4300, file_match_at(fd, 100, 4300, SEED_BUF, 0));
	ASSERT_EQ(FILE_SIZE - 4400, file_match(fd, 4400, FILE_SIZE - 4400, SEED_FILE));
}

TEST_F(position, explicit_offsets_leave_it)
{
	off_t in = 80, out = 16;

	ASSERT_EQ(10, copy_file_range(self->buf.fd, NULL, self->peer.fd, NULL, 10, 0));
	ASSERT_EQ(24, copy_file_range(self->peer.fd, &in, self->buf.fd, &out, 24, 0));
	ASSERT_EQ(80 + 24, in);
	ASSERT_EQ(16 + 24, out);
	/* The buffer's position is still 10. */
	ASSERT_EQ(10, copy_file_range(self->buf.fd, NULL, self->peer.fd, NULL, 10, 0));
	ASSERT_EQ(6, file_match_at(self->peer.fd, 10, 6, SEED_BUF, 10));
	ASSERT_EQ(4, file_match_at(self->peer.fd, 16, 4, SEED_FILE, 80));
	ASSERT_EQ(20, lseek(self->peer.fd, 0, SEEK_CUR));
}

TEST_F(position, lseek_to_start_and_end_only)
{
	int fd = self->peer.fd, buf = self->buf.fd;

	ASSERT_EQ(BUF_SIZE, lseek(buf, 0, SEEK_END));
	ASSERT_EQ(0, copy_file_range(buf, NULL, fd, NULL, 1, 0));
	ASSERT_EQ(-1, copy_file_range(fd, NULL, buf, NULL, 1, 0));
	ASSERT_EQ(ENOSPC, errno);

	ASSERT_EQ(0, lseek(buf, 0, SEEK_SET));
	ASSERT_EQ(8, copy_file_range(buf, NULL, fd, NULL, 8, 0));
	ASSERT_EQ(8, file_match_at(fd, 0, 8, SEED_BUF, 0));

	ASSERT_EQ(-1, lseek(buf, 8, SEEK_SET));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(-1, lseek(buf, -8, SEEK_END));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(-1, lseek(buf, 0, SEEK_CUR));
	ASSERT_EQ(EINVAL, errno);
	/* None of them moved it. */
	ASSERT_EQ(8, copy_file_range(buf, NULL, fd, NULL, 8, 0));
	ASSERT_EQ(16, file_match_at(fd, 0, 16, SEED_BUF, 0));
}

/* The position belongs to the open file, which a child shares. */
TEST_F(position, shared_with_child)
{
	int fd = self->peer.fd, buf = self->buf.fd, status;
	pid_t child;

	child = fork();
	if (!child)
		_exit(copy_file_range(buf, NULL, fd, NULL, KIB(8), 0) != KIB(8));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
	ASSERT_EQ(KIB(8), copy_file_range(buf, NULL, fd, NULL, KIB(8), 0));
	ASSERT_EQ(KIB(16), file_match_at(fd, 0, KIB(16), SEED_BUF, 0));
}

/*
 * A buffer of more than 4 GiB that repeats a memfd, so that little memory is
 * needed: a byte of the memfd is at many places of the buffer. It is another
 * byte if 32 bits of the offset get lost.
 */
#define BIG_PIECE	MIB(10)
#define BIG_PIECES	416
#define BIG_SIZE	((off_t)BIG_PIECE * BIG_PIECES)

FIXTURE(big)
{
	int memfd;
	int buf;
	struct peer peer;
};

FIXTURE_SETUP(big)
{
	struct udmabuf_create_item items[BIG_PIECES] = {};
	unsigned int i;
	int ret;

	self->memfd = memfd_alloc(BIG_PIECE, 0);
	ASSERT_LE(0, self->memfd);
	/* Huge pages, if there are any, are pinned faster. */
	memfd_collapse(self->memfd, BIG_PIECE);
	for (i = 0; i < BIG_PIECES; i++) {
		items[i].memfd = self->memfd;
		items[i].size = BIG_PIECE;
	}
	self->buf = udmabuf_alloc(items, BIG_PIECES);
	if (self->buf < 0)
		SKIP(return, "udmabuf of more than 4 GiB: %s", strerror(-self->buf));
	ret = peer_open(&self->peer, PEER_FILE, true);
	if (ret)
		SKIP(return, "%s: %s", self->peer.step, strerror(-ret));
}

FIXTURE_TEARDOWN(big)
{
	peer_close(&self->peer);
	close(self->buf);
	close(self->memfd);
}

/* Where a 32-bit number with or without a sign ends. */
static const off_t big_offsets[] = {
	((off_t)1 << 31) - KIB(64), (off_t)1 << 31,
	((off_t)1 << 32) - KIB(64), (off_t)1 << 32, BIG_SIZE - KIB(128),
};

#define BIG_COPY	KIB(128)

/* [pos, pos + BIG_COPY) of the buffer, which may be in two pieces. */
static void match_big(struct __test_metadata *_metadata, int memfd, off_t pos,
		      __u64 seed, off_t offset)
{
	size_t half = BIG_COPY / 2;

	ASSERT_EQ(half, file_match_at(memfd, pos % BIG_PIECE, half, seed, offset));
	pos += half;
	offset += half;
	ASSERT_EQ(half, file_match_at(memfd, pos % BIG_PIECE, half, seed, offset));
}

static void fill_big(struct __test_metadata *_metadata, int file, int buf,
		     int memfd)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(big_offsets); i++) {
		off_t pos = big_offsets[i], from = i * BIG_COPY;
		size_t second = (pos + BIG_COPY / 2) % BIG_PIECE;

		ASSERT_EQ(0, file_fill(memfd, 0, BIG_PIECE, SEED_POISON));
		ASSERT_EQ(BIG_COPY, copy_all(file, from, buf, pos, BIG_COPY));
		match_big(_metadata, memfd, pos, SEED_FILE, from);
		/* And nothing else: once more poisoned there, it is all poison. */
		ASSERT_EQ(0, file_fill(memfd, pos % BIG_PIECE, BIG_COPY / 2, SEED_POISON));
		ASSERT_EQ(0, file_fill(memfd, second, BIG_COPY / 2, SEED_POISON));
		ASSERT_EQ(BIG_PIECE, file_match(memfd, 0, BIG_PIECE, SEED_POISON));
	}
}

TEST_F_TIMEOUT(big, fill, SLOW_TIMEOUT)
{
	ASSERT_EQ(0, peer_fill(&self->peer, FILE_SIZE, SEED_FILE));
	fill_big(_metadata, self->peer.fd, self->buf, self->memfd);
	fill_big(_metadata, self->peer.plain, self->buf, self->memfd);
}

static void drain_big(struct __test_metadata *_metadata, int file, int buf,
		      struct peer *peer)
{
	unsigned int i;

	ASSERT_EQ(0, peer_fill(peer, FILE_SIZE, SEED_POISON));
	for (i = 0; i < ARRAY_SIZE(big_offsets); i++) {
		off_t pos = big_offsets[i], to = i * BIG_COPY;
		size_t half = BIG_COPY / 2;

		ASSERT_EQ(BIG_COPY, copy_all(buf, pos, file, to, BIG_COPY));
		ASSERT_EQ(half, peer_match(peer, to, half, SEED_BUF, pos % BIG_PIECE));
		ASSERT_EQ(half, peer_match(peer, to + half, half, SEED_BUF,
					   (pos + half) % BIG_PIECE));
	}
}

TEST_F_TIMEOUT(big, drain, SLOW_TIMEOUT)
{
	ASSERT_EQ(0, file_fill(self->memfd, 0, BIG_PIECE, SEED_BUF));
	drain_big(_metadata, self->peer.fd, self->buf, &self->peer);
	drain_big(_metadata, self->peer.plain, self->buf, &self->peer);
}

/* File positions that need more than 32 bits. */
TEST_F_TIMEOUT(big, file_offsets, SLOW_TIMEOUT)
{
	off_t pos = ((off_t)5 << 30) + KIB(4);
	struct peer *peer = &self->peer;

	ASSERT_EQ(0, file_fill(self->memfd, 0, BIG_PIECE, SEED_BUF));
	ASSERT_EQ(KIB(64), copy_all(self->buf, 0, peer->fd, pos, KIB(64)));
	ASSERT_EQ(KIB(64), peer_match(peer, pos, KIB(64), SEED_BUF, 0));
	ASSERT_EQ(0, file_fill(peer->plain, pos, KIB(64), SEED_FILE));
	ASSERT_EQ(KIB(64), copy_all(peer->fd, pos, self->buf, MIB(4), KIB(64)));
	ASSERT_EQ(KIB(64), file_match_at(self->memfd, MIB(4), KIB(64), SEED_FILE, pos));
	ASSERT_EQ(MIB(4), file_match(self->memfd, 0, MIB(4), SEED_BUF));
}

/* The longest copy, which reads a hole and so needs neither disk nor cache. */
TEST_F_TIMEOUT(big, short_at_2_gib, SLOW_TIMEOUT)
{
	ssize_t ret;

	ASSERT_EQ(0, ftruncate(self->peer.plain, BIG_SIZE));
	ret = copy_range(self->peer.fd, 0, self->buf, 0, SIZE_MAX / 2);
	/* As much as read(2) does at most, which is not quite 2 GiB. */
	ASSERT_LT(MIB(2040), ret);
	ASSERT_GT((off_t)1 << 31, ret);
	/* The next copy starts where O_DIRECT can start. */
	ASSERT_EQ(0, ret % (ssize_t)MIB(2));
}

static void on_signal(int sig __always_unused)
{
}

/* A signal ends a long copy between two pieces of it; no byte is lost. */
TEST_F_TIMEOUT(big, short_on_signal, SLOW_TIMEOUT)
{
	struct itimerval often = { { 0, 1000 }, { 0, 1000 } };
	struct itimerval never = {};
	ssize_t ret;

	ASSERT_EQ(0, ftruncate(self->peer.plain, BIG_SIZE));
	ASSERT_NE(SIG_ERR, signal(SIGALRM, on_signal));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &often, NULL));
	ret = copy_range(self->peer.fd, 0, self->buf, 0, SIZE_MAX / 2);
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &never, NULL));
	ASSERT_LT(0, ret);
	ASSERT_GE(MIB(128), ret);
	ASSERT_EQ(0, ret % (ssize_t)MIB(2));
}

/* udmabuf: the pages are those of the memfd. */
FIXTURE(memfd)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_VARIANT(memfd)
{
	const struct dmabuf_kind *kind;
};

FIXTURE_VARIANT_ADD(memfd, pages) { &udmabuf };
FIXTURE_VARIANT_ADD(memfd, thp) { &udmabuf_thp };

FIXTURE_SETUP(memfd)
{
	open_ends(_metadata, &self->buf, variant->kind, &self->peer, PEER_FILE,
		  true);
}

FIXTURE_TEARDOWN(memfd)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

/* Also with an offset into the memfd, whose other bytes are out of bounds. */
TEST_F(memfd, sees_the_fill)
{
	size_t skip = variant->kind->skip, end = skip + BUF_SIZE;
	int memfd = self->buf.memfd[0];
	struct stat st;

	ASSERT_EQ(0, fstat(memfd, &st));
	ASSERT_EQ(0, file_fill(memfd, 0, st.st_size, SEED_POISON));
	ASSERT_EQ(0, peer_fill(&self->peer, BUF_SIZE, SEED_FILE));
	ASSERT_EQ(BUF_SIZE, copy_all(self->peer.fd, 0, self->buf.fd, 0, BUF_SIZE));
	ASSERT_EQ(skip, file_match(memfd, 0, skip, SEED_POISON));
	ASSERT_EQ(BUF_SIZE, file_match_at(memfd, skip, BUF_SIZE, SEED_FILE, 0));
	ASSERT_EQ(st.st_size - end,
		  file_match(memfd, end, st.st_size - end, SEED_POISON));
}

TEST_F(memfd, feeds_the_drain)
{
	size_t skip = variant->kind->skip;

	ASSERT_EQ(0, file_fill(self->buf.memfd[0], 0, skip + BUF_SIZE, SEED_BUF));
	ASSERT_EQ(BUF_SIZE, copy_all(self->buf.fd, 0, self->peer.fd, 0, BUF_SIZE));
	ASSERT_EQ(BUF_SIZE, peer_match(&self->peer, 0, BUF_SIZE, SEED_BUF, skip));
}

/* Mappings of buffers that udmabuf has made for itself, -1 if nobody counts. */
static int count_own_mappings(void)
{
	FILE *dump = fopen("/sys/kernel/debug/dma-api/dump", "r");
	char line[512];
	int nr = 0;

	if (!dump)
		return -1;
	while (fgets(line, sizeof(line), dump))
		if (strstr(line, " udmabuf scatter-gather "))
			nr++;
	fclose(dump);
	return nr;
}

/*
 * As long as the buffer has no importer nobody writes behind the back of the CPU.
 * A mapping to sync by would, where caches are not coherent, throw away what the
 * CPU has written to the memfd. Only a kernel with CONFIG_DMA_API_DEBUG tells.
 */
TEST_F(memfd, is_not_mapped_without_importers)
{
	const __u64 flags = DMA_BUF_SYNC_RW;
	int buf = self->buf.fd, before = count_own_mappings();

	if (before < 0)
		SKIP(return, "no list of DMA mappings");
	ASSERT_EQ(0, peer_fill(&self->peer, BUF_SIZE, SEED_FILE));
	ASSERT_EQ(0, dmabuf_sync(buf, DMA_BUF_SYNC_START | flags));
	ASSERT_EQ(0, dmabuf_sync(buf, DMA_BUF_SYNC_END | flags));
	ASSERT_EQ(BUF_SIZE, copy_all(self->peer.fd, 0, buf, 0, BUF_SIZE));
	ASSERT_EQ(BUF_SIZE, copy_all(buf, 0, self->peer.fd, 0, BUF_SIZE));
	EXPECT_EQ(before, count_own_mappings());
}

int main(int argc, char **argv)
{
	skip_old_kernel();
	return test_harness_run(argc, argv);
}
