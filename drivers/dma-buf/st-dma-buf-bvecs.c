// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for the tables of the pages behind a dma-buf.
 *
 * The buffers are made of real pages, taken from one contiguous block and put
 * in an order that gives runs of known lengths. What a table should say then
 * follows from that order.
 */
#include <kunit/test.h>
#include <linux/bits.h>
#include <linux/completion.h>
#include <linux/dma-buf.h>
#include <linux/dma-buf-bvecs.h>
#include <linux/fcntl.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/prandom.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "dma-buf-bvecs.h"

#define BLOCK_ORDER	9
#define BLOCK_PAGES	BIT(BLOCK_ORDER)

/*
 * @runs: number of runs
 * @len: pages of each run, or 0 for lengths from 1 to 4 by turns
 * @backwards: each run lies before the one that precedes it
 */
struct bvecs_layout {
	const char	*desc;
	unsigned int	runs;
	unsigned int	len;
	bool		backwards;
};

struct bvecs_test {
	struct page	*block;
	unsigned int	nr_pages;
	struct page	*pages[BLOCK_PAGES];
	unsigned int	run_of[BLOCK_PAGES];	/* by page of the buffer */
};

static unsigned int run_pages(const struct bvecs_layout *layout, unsigned int run)
{
	return layout->len ? layout->len : run % 4 + 1;
}

/* One page of the block is left out between any two runs. */
static void lay_out(struct kunit *test, const struct bvecs_layout *layout)
{
	struct bvecs_test *priv = test->priv;
	unsigned int run, i, from = 0, used = 0;

	for (run = 0; run < layout->runs; run++)
		used += run_pages(layout, run) + 1;
	KUNIT_ASSERT_LE(test, used, BLOCK_PAGES + 1);

	priv->nr_pages = 0;
	for (run = 0; run < layout->runs; run++) {
		unsigned int len = run_pages(layout, run);
		unsigned int first = layout->backwards ? used - 1 - from - len :
							 from;

		for (i = 0; i < len; i++) {
			priv->pages[priv->nr_pages] = priv->block + first + i;
			priv->run_of[priv->nr_pages++] = run;
		}
		from += len + 1;
	}
}

static void check_iter(struct kunit *test, const struct dma_buf_bvecs *tbl,
		       size_t offset, size_t len)
{
	struct bvecs_test *priv = test->priv;
	unsigned int first = offset >> PAGE_SHIFT;
	unsigned int last = (offset + len - 1) >> PAGE_SHIFT;
	const struct bio_vec *bv;
	struct iov_iter iter;
	size_t skip;
	unsigned int i;

	dma_buf_bvecs_iter(tbl, offset, len, ITER_DEST, &iter);
	KUNIT_ASSERT_TRUE(test, iov_iter_is_bvec(&iter));
	KUNIT_ASSERT_EQ(test, iov_iter_rw(&iter), READ);
	KUNIT_ASSERT_EQ(test, iov_iter_count(&iter), len);
	KUNIT_ASSERT_EQ(test, iter.nr_segs,
			priv->run_of[last] - priv->run_of[first] + 1);

	bv = iter.bvec;
	skip = iter.iov_offset;
	KUNIT_ASSERT_LT(test, skip, bv->bv_len);
	KUNIT_ASSERT_EQ(test, offset_in_page(skip), offset_in_page(offset));
	for (i = first; i <= last; i++) {
		KUNIT_ASSERT_EQ(test, bv->bv_offset, 0);
		KUNIT_ASSERT_PTR_EQ(test, bv->bv_page + (skip >> PAGE_SHIFT),
				    priv->pages[i]);
		skip += PAGE_SIZE - offset_in_page(skip);
		if (skip >= bv->bv_len) {
			KUNIT_ASSERT_EQ(test, skip, bv->bv_len);
			skip = 0;
			bv++;
		}
	}
}

/* The table as such, every page from either side, and ranges at random. */
static void check_table(struct kunit *test, const struct dma_buf_bvecs *tbl,
			const struct bvecs_layout *layout)
{
	struct bvecs_test *priv = test->priv;
	const size_t size = (size_t)priv->nr_pages << PAGE_SHIFT;
	struct rnd_state rnd;
	unsigned int i;

	KUNIT_ASSERT_EQ(test, tbl->nr, layout->runs);
	KUNIT_ASSERT_EQ(test, tbl->size, size);
	for (i = 0; i < tbl->nr; i++)
		KUNIT_ASSERT_EQ(test, tbl->bv[i].bv_len,
				run_pages(layout, i) << PAGE_SHIFT);

	check_iter(test, tbl, 0, size);
	for (i = 0; i < priv->nr_pages; i++) {
		const size_t start = (size_t)i << PAGE_SHIFT;

		check_iter(test, tbl, start, 1);
		check_iter(test, tbl, start + PAGE_SIZE - 1, 1);
		check_iter(test, tbl, start, size - start);
		check_iter(test, tbl, 0, start + 1);
	}

	prandom_seed_state(&rnd, 1);
	for (i = 0; i < 500; i++) {
		size_t offset = prandom_u32_state(&rnd) % size;
		size_t len = prandom_u32_state(&rnd) % (size - offset) + 1;

		check_iter(test, tbl, offset, len);
	}
}

static void bvecs_test_pages(struct kunit *test)
{
	const struct bvecs_layout *layout = test->param_value;
	struct bvecs_test *priv = test->priv;
	struct dma_buf_bvecs *tbl;

	lay_out(test, layout);
	tbl = dma_buf_bvecs_from_pages(priv->pages, priv->nr_pages);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, tbl);
	check_table(test, tbl, layout);
	dma_buf_bvecs_free(tbl);
}

/* One entry of the scatterlist for each @step pages, or less at its end. */
static void check_sgt(struct kunit *test, unsigned int step)
{
	const struct bvecs_layout *layout = test->param_value;
	struct bvecs_test *priv = test->priv;
	unsigned int i, nents = 0, len;
	struct dma_buf_bvecs *tbl;
	struct scatterlist *sg;
	struct sg_table sgt;

	lay_out(test, layout);
	for (i = 0; i < layout->runs; i++)
		nents += DIV_ROUND_UP(run_pages(layout, i), step);
	KUNIT_ASSERT_EQ(test, sg_alloc_table(&sgt, nents, GFP_KERNEL), 0);

	for (i = 0, sg = sgt.sgl; i < priv->nr_pages; i += len, sg = sg_next(sg)) {
		for (len = 1; len < step && i + len < priv->nr_pages; len++)
			if (priv->run_of[i + len] != priv->run_of[i])
				break;
		sg_set_page(sg, priv->pages[i], len << PAGE_SHIFT, 0);
	}

	tbl = dma_buf_bvecs_from_sgt(&sgt);
	sg_free_table(&sgt);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, tbl);
	check_table(test, tbl, layout);
	dma_buf_bvecs_free(tbl);
}

static void bvecs_test_sgt(struct kunit *test)
{
	check_sgt(test, 1);
	check_sgt(test, 2);
	check_sgt(test, BLOCK_PAGES);
}

static void set_entry(struct scatterlist *sg, struct page *page,
		      unsigned int len, unsigned int offset)
{
	sg_assign_page(sg, page);
	sg->length = len;
	sg->offset = offset;
}

/* A run that does not fit into a bio_vec. Only its first page is real. */
static void bvecs_test_long_run(struct kunit *test)
{
	const unsigned int len[] = { SZ_1G, SZ_1G, SZ_512M };
	struct bvecs_test *priv = test->priv;
	struct page *page = priv->block;
	struct dma_buf_bvecs *tbl;
	struct scatterlist sgl;
	struct sg_table sgt = { .sgl = &sgl, .nents = 1, .orig_nents = 1 };
	struct iov_iter iter;
	unsigned int i;

	sg_init_table(&sgl, 1);
	set_entry(&sgl, page, SZ_2G + SZ_512M, 0);

	tbl = dma_buf_bvecs_from_sgt(&sgt);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, tbl);
	KUNIT_EXPECT_EQ(test, tbl->size, (size_t)SZ_2G + SZ_512M);
	KUNIT_ASSERT_EQ(test, tbl->nr, ARRAY_SIZE(len));
	for (i = 0; i < tbl->nr; i++) {
		KUNIT_EXPECT_PTR_EQ(test, tbl->bv[i].bv_page, page);
		KUNIT_EXPECT_EQ(test, tbl->bv[i].bv_len, len[i]);
		page += len[i] >> PAGE_SHIFT;
	}

	dma_buf_bvecs_iter(tbl, (size_t)SZ_2G - 1, 2, ITER_SOURCE, &iter);
	KUNIT_EXPECT_EQ(test, iov_iter_rw(&iter), WRITE);
	KUNIT_EXPECT_PTR_EQ(test, iter.bvec, (const struct bio_vec *)&tbl->bv[1]);
	KUNIT_EXPECT_EQ(test, iter.nr_segs, 2);
	KUNIT_EXPECT_EQ(test, iter.iov_offset, SZ_1G - 1);
	dma_buf_bvecs_free(tbl);
}

/* Mistakes of exporters. */
static void bvecs_test_bad_sgt(struct kunit *test)
{
	static const struct {
		unsigned int len, offset;
	} bad[] = {
		{ PAGE_SIZE, 512 },
		{ PAGE_SIZE + 512, 0 },
		{ 512, 0 },
		{ 0, 0 },
	};
	struct bvecs_test *priv = test->priv;
	struct scatterlist sgl[3];
	struct sg_table sgt = { .sgl = sgl, .nents = 3, .orig_nents = 3 };
	unsigned int i;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "requires CONFIG_BUG");

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct dma_buf_bvecs *tbl = NULL;

		sg_init_table(sgl, ARRAY_SIZE(sgl));
		set_entry(&sgl[0], priv->block, PAGE_SIZE, 0);
		set_entry(&sgl[1], priv->block + 2, bad[i].len, bad[i].offset);
		set_entry(&sgl[2], priv->block + 4, PAGE_SIZE, 0);

		kunit_warning_suppress(test) {
			tbl = dma_buf_bvecs_from_sgt(&sgt);
			KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
		}
		KUNIT_EXPECT_PTR_EQ(test, tbl, ERR_PTR(-EINVAL));
	}
}

static void bvecs_test_no_pages(struct kunit *test)
{
	struct bvecs_test *priv = test->priv;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "requires CONFIG_BUG");

	kunit_warning_suppress(test) {
		KUNIT_EXPECT_PTR_EQ(test, dma_buf_bvecs_from_pages(priv->pages, 0),
				    ERR_PTR(-EINVAL));
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
}

/* An exporter of the first @nr_pages of the block. */
struct bvecs_exporter {
	struct page		**pages;
	unsigned int		nr_pages;
	atomic_t		builds;
	int			error;
	unsigned int		wait_for;	/* builds at the same time */
	struct completion	all_there;
};

static struct sg_table *exporter_map(struct dma_buf_attachment *attach,
				     enum dma_data_direction dir)
{
	return ERR_PTR(-ENODEV);
}

static void exporter_unmap(struct dma_buf_attachment *attach,
			   struct sg_table *sgt, enum dma_data_direction dir)
{
}

static void exporter_release(struct dma_buf *dmabuf)
{
}

static int exporter_pin(struct dma_buf_attachment *attach)
{
	return 0;
}

static void exporter_unpin(struct dma_buf_attachment *attach)
{
}

static struct dma_buf_bvecs *exporter_build_bvecs(struct dma_buf *dmabuf)
{
	struct bvecs_exporter *exp = dmabuf->priv;
	int builds = atomic_inc_return(&exp->builds);

	if (exp->error)
		return ERR_PTR(exp->error);

	if (exp->wait_for) {
		if (builds == exp->wait_for)
			complete_all(&exp->all_there);
		else if (!wait_for_completion_timeout(&exp->all_there, 10 * HZ))
			return ERR_PTR(-ETIMEDOUT);
	}
	return dma_buf_bvecs_from_pages(exp->pages, exp->nr_pages);
}

#define EXPORTER_OPS				\
	.map_dma_buf	= exporter_map,		\
	.unmap_dma_buf	= exporter_unmap,	\
	.release	= exporter_release

static const struct dma_buf_ops exporter_ops = {
	EXPORTER_OPS,
	.build_bvecs	= exporter_build_bvecs,
};

static const struct dma_buf_ops exporter_ops_no_bvecs = {
	EXPORTER_OPS,
};

static const struct dma_buf_ops exporter_ops_pin = {
	EXPORTER_OPS,
	.pin		= exporter_pin,
	.unpin		= exporter_unpin,
	.build_bvecs	= exporter_build_bvecs,
};

static struct bvecs_exporter *exporter_init(struct kunit *test)
{
	struct bvecs_test *priv = test->priv;
	struct bvecs_exporter *exp;

	exp = kunit_kzalloc(test, sizeof(*exp), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, exp);
	lay_out(test, &(struct bvecs_layout){ .runs = 8, .len = 2 });
	exp->pages = priv->pages;
	exp->nr_pages = priv->nr_pages;
	init_completion(&exp->all_there);
	return exp;
}

static struct dma_buf *exporter_export(struct bvecs_exporter *exp, size_t size,
				       const struct dma_buf_ops *ops)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);

	info.ops = ops;
	info.size = size;
	info.flags = O_RDWR;
	info.priv = exp;
	return dma_buf_export(&info);
}

static void bvecs_test_get(struct kunit *test)
{
	struct bvecs_exporter *exp = exporter_init(test);
	const struct dma_buf_bvecs *tbl;
	struct dma_buf *dmabuf;

	dmabuf = exporter_export(exp, exp->nr_pages << PAGE_SHIFT, &exporter_ops);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);

	/* A failure is not kept ... */
	exp->error = -ENOMEM;
	KUNIT_EXPECT_PTR_EQ(test, dma_buf_get_bvecs(dmabuf),
			    (const struct dma_buf_bvecs *)ERR_PTR(-ENOMEM));
	exp->error = 0;

	/* ... but the table is. */
	tbl = dma_buf_get_bvecs(dmabuf);
	KUNIT_EXPECT_NOT_ERR_OR_NULL(test, tbl);
	KUNIT_EXPECT_PTR_EQ(test, dma_buf_get_bvecs(dmabuf), tbl);
	KUNIT_EXPECT_EQ(test, atomic_read(&exp->builds), 2);
	dma_buf_put(dmabuf);
}

static void bvecs_test_get_unsupported(struct kunit *test)
{
	struct bvecs_exporter *exp = exporter_init(test);
	struct dma_buf *dmabuf;

	dmabuf = exporter_export(exp, PAGE_SIZE, &exporter_ops_no_bvecs);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);
	KUNIT_EXPECT_PTR_EQ(test, dma_buf_get_bvecs(dmabuf),
			    (const struct dma_buf_bvecs *)ERR_PTR(-EOPNOTSUPP));
	dma_buf_put(dmabuf);
}

/* A table that ends before the buffer does is not used. */
static void bvecs_test_get_short(struct kunit *test)
{
	struct bvecs_exporter *exp = exporter_init(test);
	struct dma_buf *dmabuf;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "requires CONFIG_BUG");

	dmabuf = exporter_export(exp, (exp->nr_pages + 1) << PAGE_SHIFT,
				 &exporter_ops);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_PTR_EQ(test, dma_buf_get_bvecs(dmabuf),
				    (const struct dma_buf_bvecs *)ERR_PTR(-EIO));
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	KUNIT_EXPECT_NULL(test, dmabuf->bvecs);
	dma_buf_put(dmabuf);
}

/* Memory that can move has no table. */
static void bvecs_test_export_pin(struct kunit *test)
{
	struct bvecs_exporter *exp = exporter_init(test);
	struct dma_buf *dmabuf = NULL;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "requires CONFIG_BUG");

	kunit_warning_suppress(test) {
		dmabuf = exporter_export(exp, PAGE_SIZE, &exporter_ops_pin);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	KUNIT_EXPECT_PTR_EQ(test, dmabuf, ERR_PTR(-EINVAL));
}

#define RACE_THREADS	3

struct bvecs_racer {
	struct dma_buf			*dmabuf;
	const struct dma_buf_bvecs	*tbl;
	struct completion		done;
};

static int bvecs_race(void *data)
{
	struct bvecs_racer *racer = data;

	racer->tbl = dma_buf_get_bvecs(racer->dmabuf);
	complete(&racer->done);
	return 0;
}

/* All build, since nobody returns from it before all are there; one wins. */
static void bvecs_test_get_race(struct kunit *test)
{
	struct bvecs_exporter *exp = exporter_init(test);
	struct bvecs_racer *racers;
	struct dma_buf *dmabuf;
	unsigned int i;

	racers = kunit_kcalloc(test, RACE_THREADS, sizeof(*racers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, racers);
	exp->wait_for = RACE_THREADS;
	dmabuf = exporter_export(exp, exp->nr_pages << PAGE_SHIFT, &exporter_ops);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);

	for (i = 0; i < RACE_THREADS; i++) {
		struct task_struct *task;

		racers[i].dmabuf = dmabuf;
		init_completion(&racers[i].done);
		task = kthread_run(bvecs_race, &racers[i], "bvecs-race%u", i);
		if (IS_ERR(task)) {
			KUNIT_FAIL(test, "no thread: %pe", task);
			complete(&racers[i].done);
		}
	}
	for (i = 0; i < RACE_THREADS; i++)
		wait_for_completion(&racers[i].done);

	KUNIT_EXPECT_EQ(test, atomic_read(&exp->builds), RACE_THREADS);
	KUNIT_EXPECT_NOT_ERR_OR_NULL(test, racers[0].tbl);
	for (i = 0; i < RACE_THREADS; i++)
		KUNIT_EXPECT_PTR_EQ(test, racers[i].tbl,
				    (const struct dma_buf_bvecs *)dmabuf->bvecs);
	dma_buf_put(dmabuf);
}

static const struct bvecs_layout bvecs_layouts[] = {
	{ "one page", 1, 1 },
	{ "one run", 1, BLOCK_PAGES },
	{ "two runs", 2, 100 },
	{ "two runs, backwards", 2, 100, true },
	{ "mixed lengths", 140, 0 },
	{ "mixed lengths, backwards", 140, 0, true },
	{ "scattered, one below a mark", DMA_BUF_BVECS_MARK - 1, 1 },
	{ "scattered, up to a mark", DMA_BUF_BVECS_MARK, 1 },
	{ "scattered, one past a mark", DMA_BUF_BVECS_MARK + 1, 1 },
	{ "scattered, one past two marks", 2 * DMA_BUF_BVECS_MARK + 1, 1 },
	{ "scattered, three marks", 3 * DMA_BUF_BVECS_MARK, 1 },
	{ "scattered, backwards", 200, 1, true },
};

KUNIT_ARRAY_PARAM_DESC(bvecs_layout, bvecs_layouts, desc);

static int bvecs_test_init(struct kunit *test)
{
	struct bvecs_test *priv;

	priv = kunit_kzalloc(test, sizeof(*priv), GFP_KERNEL);
	if (!priv)
		return -ENOMEM;
	priv->block = alloc_pages(GFP_KERNEL | __GFP_COMP, BLOCK_ORDER);
	if (!priv->block)
		return -ENOMEM;
	test->priv = priv;
	return 0;
}

static void bvecs_test_exit(struct kunit *test)
{
	struct bvecs_test *priv = test->priv;

	if (priv)
		__free_pages(priv->block, BLOCK_ORDER);
}

static struct kunit_case bvecs_cases[] = {
	KUNIT_CASE_PARAM(bvecs_test_pages, bvecs_layout_gen_params),
	KUNIT_CASE_PARAM(bvecs_test_sgt, bvecs_layout_gen_params),
	KUNIT_CASE(bvecs_test_long_run),
	KUNIT_CASE(bvecs_test_bad_sgt),
	KUNIT_CASE(bvecs_test_no_pages),
	KUNIT_CASE(bvecs_test_get),
	KUNIT_CASE(bvecs_test_get_unsupported),
	KUNIT_CASE(bvecs_test_get_short),
	KUNIT_CASE(bvecs_test_get_race),
	KUNIT_CASE(bvecs_test_export_pin),
	{}
};

static struct kunit_suite bvecs_suite = {
	.name = "dma-buf-bvecs",
	.init = bvecs_test_init,
	.exit = bvecs_test_exit,
	.test_cases = bvecs_cases,
};

kunit_test_suite(bvecs_suite);

MODULE_IMPORT_NS("DMA_BUF");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
