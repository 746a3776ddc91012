// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of the premade PRP lists for registered dma-bufs.
 *
 * A simulated controller fetches PRP lists from simulated memory by the rules
 * of the NVM Express Base Specification ("Physical Region Page Entry and List")
 * and moves data. It shares nothing with dmabuf-prp.h: what it must move
 * follows from the range of the command alone. Memory that it must not touch
 * is between all pages that it may.
 */
#include <kunit/test.h>
#include <linux/prandom.h>
#include <linux/sizes.h>

#include "dmabuf-prp.h"

#define DATA_BASE	BIT_ULL(52)
#define LIST_BASE	BIT_ULL(56)

/* What the lists of a test are made of, and what a command must move. */
struct prp_memory {
	unsigned int		page_shift;
	u32			list_pages;
	const struct nvme_prp_layout *layout;
	struct nvme_prp_entry	(*entry)(const struct prp_memory *mem,
					 u32 page, u32 slot);
	u64			next;	/* byte of the buffer to be moved next */
	u64			end;
};

/*
 * Neighbours in the buffer are not neighbours in memory. The multiplication by
 * an odd number permutes the pages.
 */
static u64 data_addr(const struct prp_memory *mem, u64 offset)
{
	u32 page = (u32)(offset >> mem->page_shift) * 0x9e3779b1U;
	u32 mask = (1U << mem->page_shift) - 1;

	return DATA_BASE + ((u64)page << mem->page_shift) + (offset & mask);
}

/* Every third page holds a list, the two after it must not be read. */
static u64 list_addr(const struct prp_memory *mem, u32 page)
{
	return LIST_BASE + ((u64)page * 3 << mem->page_shift);
}

/* The controller reads a PRP entry: eight bytes of a list page. */
static int mem_fetch(const struct prp_memory *mem, u64 addr, u64 *prp)
{
	u32 mask = (1U << mem->page_shift) - 1;
	struct nvme_prp_entry entry;
	u64 page;

	if (addr < LIST_BASE || addr % 8)
		return -EFAULT;
	page = (addr - LIST_BASE) >> mem->page_shift;
	if (page > U32_MAX || (u32)page % 3 || (u32)page / 3 >= mem->list_pages)
		return -EFAULT;

	entry = mem->entry(mem, (u32)page / 3, (addr & mask) / 8);
	switch (entry.kind) {
	case NVME_PRP_DATA:
		*prp = data_addr(mem, (u64)entry.index << mem->page_shift);
		break;
	case NVME_PRP_CHAIN:
		*prp = list_addr(mem, entry.index);
		break;
	default:
		*prp = 0;
	}
	return 0;
}

/* The controller moves data: it must be the next bytes of the command. */
static int mem_move(struct prp_memory *mem, u64 addr, u32 len)
{
	if (addr != data_addr(mem, mem->next) || len > mem->end - mem->next)
		return -EBADMSG;
	mem->next += len;
	return 0;
}

/**
 * ctrl_transfer - execute the data transfer of a command
 * @mem:	host memory
 * @prp1:	PRP entry 1 of the command
 * @prp2:	PRP entry 2
 * @len:	bytes to transfer
 *
 * Return: 0, -EINVAL for what the specification calls an invalid PRP offset,
 * -EFAULT if a list was fetched from where there is none, -EBADMSG if data was
 * moved that is not the command's.
 */
static int ctrl_transfer(struct prp_memory *mem, u64 prp1, u64 prp2, u32 len)
{
	const u32 size = 1U << mem->page_shift;
	u32 chunk;
	u64 prp;
	int ret;

	/* PRP1 may have an offset, of whole dwords. */
	if (prp1 & 3)
		return -EINVAL;
	chunk = min(len, size - (u32)(prp1 & (size - 1)));
	ret = mem_move(mem, prp1, chunk);
	if (ret)
		return ret;
	len -= chunk;
	if (!len)
		return 0;

	/* No more than a page is left: PRP2 is a data entry without offset. */
	if (len <= size) {
		if (prp2 & (size - 1))
			return -EINVAL;
		return mem_move(mem, prp2, len);
	}

	/* PRP2 points to a list, which may start at any qword of a page. */
	if (prp2 & 7)
		return -EINVAL;
	while (len) {
		bool last_slot = (prp2 & (size - 1)) == size - 8;

		ret = mem_fetch(mem, prp2, &prp);
		if (ret)
			return ret;
		/* Neither data entries nor pointers in a list have an offset. */
		if (prp & (size - 1))
			return -EINVAL;

		/* More than one page left in the last slot: it is a pointer. */
		if (last_slot && len > size) {
			prp2 = prp;
			continue;
		}
		chunk = min(len, size);
		ret = mem_move(mem, prp, chunk);
		if (ret)
			return ret;
		len -= chunk;
		prp2 += 8;
	}
	return 0;
}

/* Let the controller move [offset, offset + len) with the list at @pos. */
static int run_command(struct prp_memory *mem, u64 offset, u32 len,
		       struct nvme_prp_pos pos)
{
	int ret;

	mem->next = offset;
	mem->end = offset + len;
	ret = ctrl_transfer(mem, data_addr(mem, offset),
			    list_addr(mem, pos.page) + pos.slot * 8, len);
	if (!ret && mem->next != mem->end)
		return -ENODATA;
	return ret;
}

static struct nvme_prp_entry layout_entry(const struct prp_memory *mem,
					  u32 page, u32 slot)
{
	return nvme_prp_entry(mem->layout, page, slot);
}

static struct prp_memory layout_memory(const struct nvme_prp_layout *l,
				       unsigned int page_shift)
{
	return (struct prp_memory) {
		.page_shift	= page_shift,
		.list_pages	= l->nr_pages,
		.layout		= l,
		.entry		= layout_entry,
	};
}

/*
 * Run a command of pages first to first + nr - 1 with all of the first and last
 * page, with as little of both as can be, and with most of both.
 */
static int run_pages(struct prp_memory *mem, u32 first, u32 nr,
		     struct nvme_prp_pos pos)
{
	const u32 size = 1U << mem->page_shift;
	const u32 head[] = { 0, size - 4, 4 };
	const u32 tail[] = { size, 4, size - 4 };
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(head); i++) {
		u64 offset = ((u64)first << mem->page_shift) + head[i];
		u32 len = (nr - 1) * size - head[i] + tail[i];

		if (nvme_prp_nr_pages(mem->page_shift, offset, len) != nr)
			return -ERANGE;
		ret = run_command(mem, offset, len, pos);
		if (ret)
			return ret;
	}
	return 0;
}

/* A command may go without premade lists only if it is beyond the limit. */
static void check_command(struct kunit *test, struct prp_memory *mem,
			  u32 max_pages, u32 first, u32 nr)
{
	struct nvme_prp_pos pos;

	if (!nvme_prp_locate(mem->layout, first, nr, &pos)) {
		KUNIT_ASSERT_GT_MSG(test, nr, max_pages,
				    "[%u, +%u) not served", first, nr);
		return;
	}
	KUNIT_ASSERT_EQ_MSG(test, 0, run_pages(mem, first, nr, pos),
			    "[%u, +%u) at %u/%u", first, nr, pos.page, pos.slot);
}

/* Every command in every buffer of up to @max_size pages, for one limit. */
static void check_limit(struct kunit *test, unsigned int page_shift,
			u32 max_size, u32 max_pages)
{
	struct nvme_prp_layout l;
	u32 size, first, nr;

	for (size = 3; size <= max_size; size++) {
		struct prp_memory mem;

		KUNIT_ASSERT_EQ(test, 0,
				nvme_prp_layout_init(&l, page_shift, size,
						     max_pages, 8));
		mem = layout_memory(&l, page_shift);
		for (first = 0; first < size - 2; first++)
			for (nr = 3; nr <= size - first; nr++)
				check_command(test, &mem, max_pages, first, nr);
	}
}

/* All sizes of buffer and all limits that differ, with 4 to 16 slots a page. */
static void prp_exhaustive(struct kunit *test)
{
	unsigned int page_shift;

	for (page_shift = 5; page_shift <= 7; page_shift++) {
		u32 slots = (1U << page_shift) / 8, max_pages;

		for (max_pages = 3; max_pages <= slots + 3; max_pages++)
			check_limit(test, page_shift, 3 * slots + 9, max_pages);
		check_limit(test, page_shift, 3 * slots + 9, U32_MAX);
		cond_resched();
	}
}

/* Largest transfers in pages, with a start in the middle of a page. */
static const u32 prp_limits[] = {
	SZ_4K / SZ_4K + 1,   SZ_128K / SZ_4K + 1, SZ_256K / SZ_4K + 1,
	SZ_512K / SZ_4K + 1, SZ_1M / SZ_4K + 1,   SZ_1M / SZ_4K + 2,
	SZ_2M / SZ_4K + 1,   SZ_4M / SZ_4K + 1,   SZ_8M / SZ_4K + 1,
};

static void prp_limit_desc(const u32 *limit, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%u pages", *limit);
}

KUNIT_ARRAY_PARAM(prp_limit, prp_limits, prp_limit_desc);

/*
 * Real list pages, in buffers of up to 1 TiB. Half of the commands are placed
 * such that they end close to where a list page of some layout does.
 */
static void prp_random(struct kunit *test)
{
	const u32 max_pages = *(const u32 *)test->param_value;
	unsigned int i, beyond_4g = 0, commands = 0;
	struct nvme_prp_layout l;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, 0x6e766d65);
	for (i = 0; i < 8000; i++) {
		u32 size, first, nr, longest = max(max_pages, 3U);
		struct prp_memory mem;

		size = (prandom_u32_state(&rnd) & (SZ_256M - 1)) >>
			prandom_u32_state(&rnd) % 20;
		size = max(size, longest);
		KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, size,
							      longest, 8));
		mem = layout_memory(&l, 12);

		nr = 3 + prandom_u32_state(&rnd) % (longest - 2);
		if (i & 1) {
			u32 at = prandom_u32_state(&rnd) % size;

			at -= at % (l.stride + (prandom_u32_state(&rnd) & 1));
			at += prandom_u32_state(&rnd) % 5;
			first = clamp(at, nr, size) - nr;
		} else {
			first = prandom_u32_state(&rnd) % (size - nr + 1);
		}
		check_command(test, &mem, longest, first, nr);
		commands++;
		beyond_4g += (u64)first << 12 >= SZ_4G;
	}
	KUNIT_EXPECT_GT(test, beyond_4g, commands / 4);
}

/* Some lengths at every start in the first 4 MiB. */
static void prp_dense(struct kunit *test)
{
	const u32 max_pages = *(const u32 *)test->param_value;
	const u32 size = SZ_16M / SZ_4K;
	struct nvme_prp_layout l;
	struct prp_memory mem;
	u32 first, i, nr[] = {
		3, 4, max_pages / 2, max_pages - 1, max_pages,
	};

	KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, size, max_pages,
						      8));
	mem = layout_memory(&l, 12);
	for (i = 0; i < ARRAY_SIZE(nr); i++) {
		if (nr[i] < 3 || nr[i] > max_pages)
			continue;
		/* In 1100 starts every slot is that of a last entry twice. */
		for (first = 0; first < 1100; first++)
			check_command(test, &mem, max_pages, first, nr[i]);
		cond_resched();
	}
}

/* A command beyond the limit is served rightly or not at all. */
static void prp_beyond_limit(struct kunit *test)
{
	const u32 max_pages = *(const u32 *)test->param_value;
	const u32 size = SZ_64M / SZ_4K;
	struct nvme_prp_layout l;
	struct prp_memory mem;
	u32 nr;

	KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, size, max_pages,
						      8));
	mem = layout_memory(&l, 12);
	for (nr = max(max_pages + 1, 3U); nr < 3000; nr += 7)
		check_command(test, &mem, max_pages, nr, nr);
}

/* A controller that wants lists aligned gets none that is not. */
static void prp_aligned(struct kunit *test)
{
	static const u32 limits[] = { 33, 257, 2049 };
	const u32 size = SZ_32M / SZ_4K;
	struct nvme_prp_layout l, free;
	struct nvme_prp_pos pos, any;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		u32 first, nr = min(limits[i], 100U), served = 0;
		struct prp_memory mem;

		KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, size,
							      limits[i], 512));
		KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&free, 12, size,
							      limits[i], 8));
		mem = layout_memory(&l, 12);
		for (first = 0; first < 4096; first++) {
			u64 list;

			KUNIT_ASSERT_TRUE(test, nvme_prp_locate(&free, first,
								nr, &any));
			list = list_addr(&mem, any.page) + any.slot * 8;
			if (!nvme_prp_locate(&l, first, nr, &pos)) {
				KUNIT_ASSERT_NE(test, 0, list % 512);
				continue;
			}
			KUNIT_ASSERT_EQ(test, 0, list % 512);
			KUNIT_ASSERT_EQ(test, 0, run_pages(&mem, first, nr,
							   pos));
			served++;
		}
		/* one start in 64, and a few more at the ends of list pages */
		KUNIT_EXPECT_GE(test, served, 4096 / 64);
	}
}

/* List pages of a buffer of 1 GiB, whose bare entries fill 512. */
static void prp_memory_size(struct kunit *test)
{
	static const struct {
		u32	max_pages;
		u32	at_most;
	} sizes[] = {
		{ 33,	547 },
		{ 65,	586 },
		{ 129,	683 },
		{ 257,	1024 },
		{ 258,	1025 },
		{ 259,	1028 },
		{ 2049,	1028 },
	};
	struct nvme_prp_layout l;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		KUNIT_ASSERT_EQ(test, 0,
				nvme_prp_layout_init(&l, 12, SZ_1G / SZ_4K,
						     sizes[i].max_pages, 8));
		KUNIT_EXPECT_LE_MSG(test, l.nr_pages, sizes[i].at_most,
				    "limit of %u pages", sizes[i].max_pages);
		KUNIT_EXPECT_GE(test, l.nr_pages, 512);
	}

	/* One list page does for 2 MiB and the page that is in PRP1. */
	KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, 513, 2049, 8));
	KUNIT_EXPECT_EQ(test, l.nr_pages, 1);
}

/* Too small for a list, and too large for the arithmetic. */
static void prp_bounds(struct kunit *test)
{
	struct nvme_prp_layout l;
	struct nvme_prp_pos pos;
	u32 size;

	for (size = 0; size < 3; size++) {
		KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, size,
							      257, 8));
		KUNIT_EXPECT_EQ(test, l.nr_pages, 0);
		KUNIT_EXPECT_FALSE(test, nvme_prp_locate(&l, 0, 3, &pos));
	}
	KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, 1000, 2, 8));
	KUNIT_EXPECT_EQ(test, l.nr_pages, 0);
	KUNIT_EXPECT_FALSE(test, nvme_prp_locate(&l, 0, 3, &pos));

	KUNIT_EXPECT_EQ(test, -EFBIG,
			nvme_prp_layout_init(&l, 12, (1ULL << 31) + 1, 257, 8));
	KUNIT_EXPECT_EQ(test, -EFBIG,
			nvme_prp_layout_init(&l, 12, 1ULL << 33, 257, 8));
}

/* The last commands of the largest buffer, in both layouts. */
static void prp_largest(struct kunit *test)
{
	const u32 max_pages = *(const u32 *)test->param_value;
	struct nvme_prp_layout l;
	struct prp_memory mem;
	u32 nr;

	KUNIT_ASSERT_EQ(test, 0, nvme_prp_layout_init(&l, 12, BIT_ULL(31),
						      max_pages, 8));
	mem = layout_memory(&l, 12);
	for (nr = 3; nr <= max_pages; nr++)
		check_command(test, &mem, max_pages, BIT(31) - nr, nr);
}

/* What a range touches, worked out by hand. */
static void prp_nr_pages(struct kunit *test)
{
	static const struct {
		u64	offset;
		u32	len;
		u32	nr;
	} ranges[] = {
		{ 0,			1,		1 },
		{ 0,			4096,		1 },
		{ 0,			4097,		2 },
		{ 512,			3584,		1 },
		{ 512,			4096,		2 },
		{ 3584,			512,		1 },
		{ 3584,			1024,		2 },
		{ 3584,			SZ_8M,		2049 },
		{ 0,			SZ_8M,		2048 },
		{ SZ_4G - 512,		1024,		2 },
		{ 5 * SZ_4G + 512,	SZ_1M,		257 },
		{ 5 * SZ_4G + 4095,	0x7ffff000,	0x80000 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ranges); i++)
		KUNIT_EXPECT_EQ_MSG(test, ranges[i].nr,
				    nvme_prp_nr_pages(12, ranges[i].offset,
						      ranges[i].len),
				    "offset %llu length %u", ranges[i].offset,
				    ranges[i].len);
}

/*
 * The two layouts that come to mind first. That they fail, and just where they
 * do, shows that the simulated controller tells right from wrong.
 */
static struct nvme_prp_entry flat_entry(const struct prp_memory *mem, u32 page,
					u32 slot)
{
	u32 slots = (1U << mem->page_shift) / 8;

	return (struct nvme_prp_entry) {
		.kind	= NVME_PRP_DATA,
		.index	= page * slots + slot,
	};
}

static struct nvme_prp_entry chain_entry(const struct prp_memory *mem, u32 page,
					 u32 slot)
{
	u32 slots = (1U << mem->page_shift) / 8;

	if (slot == slots - 1)
		return (struct nvme_prp_entry) {
			.kind	= NVME_PRP_CHAIN,
			.index	= page + 1,
		};
	return (struct nvme_prp_entry) {
		.kind	= NVME_PRP_DATA,
		.index	= page * (slots - 1) + slot,
	};
}

/* A list page that is just full of data: right only if nothing is beyond it. */
static void prp_flat_fails(struct kunit *test)
{
	struct prp_memory mem = {
		.list_pages = 100, .entry = flat_entry,
	};

	for (mem.page_shift = 5; mem.page_shift <= 12; mem.page_shift++) {
		u32 slots = (1U << mem.page_shift) / 8, nr;

		/* The list starts at page 1 of the buffer, in slot 1. */
		for (nr = 3; nr < 2 * slots + 2; nr++) {
			struct nvme_prp_pos pos = { .slot = 1 };
			int ret = run_pages(&mem, 0, nr, pos);

			if (nr <= slots)
				KUNIT_EXPECT_EQ(test, 0, ret);
			else
				KUNIT_EXPECT_NE(test, 0, ret);
		}
	}
}

/* One chain: wrong for the commands whose last page comes first in a list. */
static void prp_single_chain_fails(struct kunit *test)
{
	struct prp_memory mem = {
		.list_pages = 100, .entry = chain_entry,
	};

	for (mem.page_shift = 5; mem.page_shift <= 12; mem.page_shift++) {
		u32 per_page = (1U << mem.page_shift) / 8 - 1;
		u32 first, nr, wrong = 0;

		for (first = 0; first < per_page + 2;
		     first += per_page > 20 ? per_page / 4 : 1) {
			for (nr = 3; nr < 3 * per_page + 2; nr++) {
				u32 last = first + nr - 1;
				struct nvme_prp_pos pos = {
					.page = (first + 1) / per_page,
					.slot = (first + 1) % per_page,
				};
				int ret = run_pages(&mem, first, nr, pos);

				if (last % per_page) {
					KUNIT_EXPECT_EQ(test, 0, ret);
				} else {
					/* took a pointer for a data page */
					KUNIT_EXPECT_EQ(test, -EBADMSG, ret);
					wrong++;
				}
			}
		}
		KUNIT_EXPECT_GT(test, wrong, 0);
	}
}

static struct kunit_case nvme_prp_cases[] = {
	KUNIT_CASE(prp_nr_pages),
	KUNIT_CASE(prp_bounds),
	KUNIT_CASE(prp_memory_size),
	KUNIT_CASE_SLOW(prp_exhaustive),
	KUNIT_CASE_PARAM(prp_random, prp_limit_gen_params),
	KUNIT_CASE_PARAM(prp_dense, prp_limit_gen_params),
	KUNIT_CASE_PARAM(prp_beyond_limit, prp_limit_gen_params),
	KUNIT_CASE_PARAM(prp_largest, prp_limit_gen_params),
	KUNIT_CASE(prp_aligned),
	KUNIT_CASE(prp_flat_fails),
	KUNIT_CASE(prp_single_chain_fails),
	{}
};

static struct kunit_suite nvme_prp_suite = {
	.name = "nvme-dmabuf-prp",
	.test_cases = nvme_prp_cases,
};

kunit_test_suite(nvme_prp_suite);

MODULE_DESCRIPTION("KUnit tests of premade PRP lists");
MODULE_LICENSE("GPL");
