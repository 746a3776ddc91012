// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of bios on registered dma-bufs: where they are split, and what the
 * parts then are. Nothing is submitted. What a part must be follows from the
 * range and from the limit, with arithmetic of 64 bits.
 */
#include <kunit/test.h>
#include <linux/prandom.h>
#include <linux/sizes.h>

#include "blk.h"

#define NR_RANDOM	20000

static struct queue_limits limits(unsigned int block, unsigned int max_sectors)
{
	return (struct queue_limits) {
		.features		= BLK_FEAT_DMABUF,
		.logical_block_size	= block,
		.physical_block_size	= block,
		.dma_alignment		= 3,
		.max_hw_dmabuf_sectors	= max_sectors,
	};
}

/* A bio of @len bytes at @offset in the buffer and at @sector of the disk. */
static void bio_make(struct bio *bio, blk_opf_t opf, u64 offset,
		     unsigned int len, sector_t sector)
{
	bio_init(bio, NULL, NULL, 0, opf | REQ_DMABUF);
	/* Nobody looks into it here. */
	bio->bi_dmabuf = (struct dma_buf_io *)bio;
	bio_set_flag(bio, BIO_CLONED);
	bio->bi_iter.bi_sector = sector;
	bio->bi_iter.bi_size = len;
	bio->bi_iter.bi_idx = offset / SZ_2G;
	bio->bi_iter.bi_offset = offset % SZ_2G;
}

static u64 bio_where(const struct bio *bio)
{
	return (u64)bio->bi_iter.bi_idx * SZ_2G + bio->bi_iter.bi_offset;
}

/* Split one bio until nothing is left to split; each byte is in one part. */
static void check_parts(struct kunit *test, struct bio *bio,
			const struct queue_limits *lim, unsigned int max_bytes)
{
	unsigned int left = bio->bi_iter.bi_size, block = lim->logical_block_size;
	sector_t sector = bio->bi_iter.bi_sector;
	u64 offset = bio_where(bio);
	struct bio *part;
	unsigned int segs;
	int sectors;

	while (left > max_bytes) {
		unsigned int len = max_bytes - max_bytes % block;

		sectors = bio_dmabuf_split_at(bio, lim, &segs, max_bytes);
		KUNIT_ASSERT_EQ(test, sectors, len / SECTOR_SIZE);
		KUNIT_ASSERT_EQ(test, segs, 1);

		part = bio_split(bio, sectors, GFP_KERNEL, &fs_bio_set);
		KUNIT_ASSERT_FALSE(test, IS_ERR_OR_NULL(part));
		KUNIT_EXPECT_TRUE(test, bio_is_dmabuf(part));
		KUNIT_EXPECT_PTR_EQ(test, part->bi_dmabuf, bio->bi_dmabuf);
		KUNIT_EXPECT_EQ(test, bio_where(part), offset);
		KUNIT_EXPECT_EQ(test, part->bi_iter.bi_sector, sector);
		KUNIT_EXPECT_EQ(test, part->bi_iter.bi_size, len);
		KUNIT_EXPECT_EQ(test, bio_dmabuf_split_at(part, lim, &segs, max_bytes), 0);
		bio_put(part);

		offset += len;
		sector += len / SECTOR_SIZE;
		left -= len;
		KUNIT_ASSERT_EQ(test, bio_where(bio), offset);
		KUNIT_ASSERT_EQ(test, bio->bi_iter.bi_sector, sector);
		KUNIT_ASSERT_EQ(test, bio->bi_iter.bi_size, left);
	}

	segs = 0;
	KUNIT_EXPECT_EQ(test, bio_dmabuf_split_at(bio, lim, &segs, max_bytes), 0);
	KUNIT_EXPECT_EQ(test, segs, 1);
}

static void split_parts(struct kunit *test)
{
	static const unsigned int blocks[] = { 512, 4096, SZ_64K };
	struct rnd_state rnd;
	struct bio bio;
	unsigned int i;

	prandom_seed_state(&rnd, 1);
	for (i = 0; i < NR_RANDOM; i++) {
		unsigned int block = blocks[i % ARRAY_SIZE(blocks)];
		unsigned int max_bytes = block + prandom_u32_state(&rnd) % SZ_4M;
		unsigned int len = (1 + prandom_u32_state(&rnd) % (SZ_16M / block)) * block;
		/* All that bi_idx can count; half of them just before. */
		u64 offset = (u64)prandom_u32_state(&rnd) * SZ_2G;
		struct queue_limits lim = limits(block, SZ_1M);

		if (i % 2)
			offset += (prandom_u32_state(&rnd) % SZ_2G) & ~3U;
		else if (offset)
			offset -= (prandom_u32_state(&rnd) % SZ_16M) & ~3U;
		bio_make(&bio, REQ_OP_READ, offset, len,
			 prandom_u32_state(&rnd) & ~(block / SECTOR_SIZE - 1));
		check_parts(test, &bio, &lim, max_bytes);
		bio_uninit(&bio);
	}
}

/* What is said of one bio, and whether it may still be polled for then. */
static int split_once(blk_opf_t opf, const struct queue_limits *lim,
		      u64 offset, unsigned int len, unsigned int max_bytes,
		      bool *polled)
{
	unsigned int segs;
	struct bio bio;
	int ret;

	bio_make(&bio, opf, offset, len, 0);
	ret = bio_dmabuf_split_at(&bio, lim, &segs, max_bytes);
	*polled = bio.bi_opf & REQ_POLLED;
	bio_uninit(&bio);
	return ret;
}

static void split_refused(struct kunit *test)
{
	struct queue_limits lim = limits(4096, 128), none = limits(4096, 0);
	bool polled;

	KUNIT_EXPECT_EQ(test, -EAGAIN,
			split_once(REQ_OP_READ | REQ_NOWAIT, &lim, 0, SZ_1M, SZ_64K, &polled));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			split_once(REQ_OP_WRITE | REQ_ATOMIC, &lim, 0, SZ_1M, SZ_64K, &polled));
	/* Both are let through where nothing has to be split. */
	KUNIT_EXPECT_EQ(test, 0,
			split_once(REQ_OP_READ | REQ_NOWAIT, &lim, 0, SZ_64K, SZ_64K, &polled));
	KUNIT_EXPECT_EQ(test, 0,
			split_once(REQ_OP_WRITE | REQ_ATOMIC, &lim, 0, SZ_64K, SZ_64K, &polled));

	KUNIT_EXPECT_EQ(test, -EINVAL,
			split_once(REQ_OP_READ, &lim, 2, SZ_1M, SZ_64K, &polled));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			split_once(REQ_OP_READ, &lim, SZ_8G + 1, SZ_4K, SZ_64K, &polled));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			split_once(REQ_OP_READ, &lim, 0, SZ_4K + 2, SZ_64K, &polled));
	/* Less than a block can't be sent. */
	KUNIT_EXPECT_EQ(test, -EINVAL,
			split_once(REQ_OP_READ, &lim, 0, SZ_8K, SZ_2K, &polled));
	/* The feature went away after the bio had been let in. */
	KUNIT_EXPECT_EQ(test, -EOPNOTSUPP,
			split_once(REQ_OP_READ, &none, 0, SZ_4K, SZ_64K, &polled));
}

/* Of a bio that was split nobody polls for the parts. */
static void split_polled(struct kunit *test)
{
	struct queue_limits lim = limits(512, 128);
	bool polled;

	KUNIT_EXPECT_EQ(test, SZ_64K / SECTOR_SIZE,
			split_once(REQ_OP_READ | REQ_POLLED, &lim, 0, SZ_1M, SZ_64K, &polled));
	KUNIT_EXPECT_FALSE(test, polled);
	KUNIT_EXPECT_EQ(test, 0,
			split_once(REQ_OP_READ | REQ_POLLED, &lim, 0, SZ_64K, SZ_64K, &polled));
	KUNIT_EXPECT_TRUE(test, polled);
}

/* Whether the way to the split is taken at all. */
static void split_needed(struct kunit *test)
{
	static const struct {
		u64 offset;
		unsigned int len;
		unsigned int user;	/* max_sectors_kb, in sectors */
		unsigned int chunk;
		blk_opf_t opf;
		bool needed;
	} cases[] = {
		{ .len = SZ_512K },
		{ .len = SZ_512K, .offset = 3ULL * SZ_2G - SZ_4K },
		{ .len = SZ_512K + 512, .needed = true },
		{ .len = SZ_64K, .user = 128 },
		{ .len = SZ_64K + 512, .user = 128, .needed = true },
		/* The administrator can't raise it above what the device does. */
		{ .len = SZ_512K + 512, .user = 4096, .needed = true },
		{ .len = SZ_4K, .chunk = 256, .needed = true },
		{ .len = SZ_4K, .opf = REQ_ATOMIC, .needed = true },
		{ .len = SZ_4K, .offset = 2, .needed = true },
		{ .len = SZ_4K + 2, .needed = true },
	};
	unsigned int i;
	struct bio bio;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct queue_limits lim = limits(512, 1024);

		lim.max_user_sectors = cases[i].user;
		lim.chunk_sectors = cases[i].chunk;
		bio_make(&bio, REQ_OP_WRITE | cases[i].opf, cases[i].offset,
			 cases[i].len, 0);
		KUNIT_EXPECT_EQ_MSG(test, bio_may_need_split(&bio, &lim),
				    cases[i].needed, "case %u", i);
		bio_uninit(&bio);
	}
}

static struct kunit_case bio_dmabuf_cases[] = {
	KUNIT_CASE(split_parts),
	KUNIT_CASE(split_refused),
	KUNIT_CASE(split_polled),
	KUNIT_CASE(split_needed),
	{ }
};

static struct kunit_suite bio_dmabuf_suite = {
	.name = "bio-dmabuf",
	.test_cases = bio_dmabuf_cases,
};

kunit_test_suite(bio_dmabuf_suite);
