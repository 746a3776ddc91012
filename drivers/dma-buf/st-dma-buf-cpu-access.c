// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for CPU access to a part of a dma-buf.
 *
 * A mapping is made up here: CPU entries of any length, and DMA segments that
 * join some of them. What was synced is recorded byte by byte, in units that
 * keep that short.
 */
#include <kunit/device.h>
#include <kunit/test.h>
#include <linux/bitmap.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fcntl.h>
#include <linux/gfp.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "dma-buf-cpu-access.h"

#define UNIT		512
#define MAX_ENTRIES	16
#define MAX_UNITS	1024

/*
 * @len: of each CPU entry in units, ended by 0
 * @joined: bit n is set if entry n continues the DMA segment of entry n - 1
 */
struct sync_layout {
	const char	*desc;
	unsigned int	len[MAX_ENTRIES + 1];
	unsigned long	joined;
};

struct sync_test {
	struct scatterlist	sgl[MAX_ENTRIES];
	struct sg_table		sgt;
	unsigned int		units;
	dma_addr_t		addr_of[MAX_UNITS];	/* by unit of the buffer */
	unsigned int		entry_of[MAX_UNITS];
	unsigned int		calls;
	DECLARE_BITMAP(synced, MAX_UNITS);
};

static void lay_out(struct kunit *test, const struct sync_layout *layout)
{
	struct sync_test *priv = test->priv;
	struct scatterlist *seg = NULL;
	/* Segments neither follow each other nor come in order. */
	dma_addr_t addr = 0x80000000;
	unsigned int i, j, nr;

	for (nr = 0; layout->len[nr]; nr++)
		;
	KUNIT_ASSERT_LE(test, nr, MAX_ENTRIES);

	sg_init_table(priv->sgl, nr);
	priv->sgt = (struct sg_table){ .sgl = priv->sgl, .orig_nents = nr };
	priv->units = 0;
	for (i = 0; i < nr; i++) {
		unsigned int len = layout->len[i] * UNIT;

		priv->sgl[i].length = len;
		if (!(layout->joined & BIT(i))) {
			seg = seg ? sg_next(seg) : priv->sgl;
			addr -= 0x1000000;
			sg_dma_address(seg) = addr;
			sg_dma_len(seg) = 0;
			priv->sgt.nents++;
		}
		for (j = 0; j < layout->len[i]; j++) {
			KUNIT_ASSERT_LT(test, priv->units, MAX_UNITS);
			priv->addr_of[priv->units] = sg_dma_address(seg) +
						     sg_dma_len(seg) + j * UNIT;
			priv->entry_of[priv->units++] = i;
		}
		sg_dma_len(seg) += len;
	}
}

/* In place of dma_sync_single_for_cpu(): @dev is the test. */
static void record(struct device *dev, dma_addr_t addr, size_t size,
		   enum dma_data_direction dir)
{
	struct kunit *test = (struct kunit *)dev;
	struct sync_test *priv = test->priv;
	unsigned int unit, first, nr = size / UNIT;

	priv->calls++;
	KUNIT_EXPECT_EQ(test, dir, DMA_FROM_DEVICE);
	KUNIT_EXPECT_NE(test, nr, 0);
	KUNIT_EXPECT_EQ(test, size % UNIT, 0);

	for (first = 0; first < priv->units; first++)
		if (priv->addr_of[first] == addr)
			break;
	KUNIT_ASSERT_LE(test, first + nr, priv->units);

	for (unit = first; unit < first + nr; unit++) {
		KUNIT_EXPECT_EQ(test, priv->addr_of[unit],
				addr + (unit - first) * UNIT);
		KUNIT_EXPECT_EQ_MSG(test, priv->entry_of[unit],
				    priv->entry_of[first],
				    "crosses a CPU entry");
		KUNIT_EXPECT_FALSE_MSG(test, test_and_set_bit(unit, priv->synced),
				       "synced twice");
	}
}

static void check_range(struct kunit *test, unsigned int first, unsigned int nr)
{
	struct sync_test *priv = test->priv;
	DECLARE_BITMAP(expected, MAX_UNITS) = {};

	bitmap_zero(priv->synced, MAX_UNITS);
	bitmap_set(expected, first, nr);
	dma_buf_sync_dma_range((struct device *)test, &priv->sgt,
			       first * UNIT, nr * UNIT, DMA_FROM_DEVICE,
			       record);
	KUNIT_EXPECT_TRUE_MSG(test,
			      bitmap_equal(expected, priv->synced, MAX_UNITS),
			      "%u units from %u on", nr, first);
}

static void sync_test_ranges(struct kunit *test)
{
	struct sync_test *priv = test->priv;
	unsigned int first, nr;

	lay_out(test, test->param_value);
	for (first = 0; first < priv->units; first++)
		for (nr = 1; nr <= priv->units - first; nr++)
			check_range(test, first, nr);
}

/* To the byte, since a cache line of the neighbour's may be dirty. */
static void sync_test_bytes_record(struct device *dev, dma_addr_t addr,
				   size_t size, enum dma_data_direction dir)
{
	struct kunit *test = (struct kunit *)dev;
	struct sync_test *priv = test->priv;

	switch (priv->calls++) {
	case 0:
		KUNIT_EXPECT_EQ(test, addr, priv->addr_of[0] + 2 * UNIT - 3);
		KUNIT_EXPECT_EQ(test, size, 3);
		break;
	case 1:
		KUNIT_EXPECT_EQ(test, addr, priv->addr_of[2]);
		KUNIT_EXPECT_EQ(test, size, 2 * UNIT);
		break;
	case 2:
		KUNIT_EXPECT_EQ(test, addr, priv->addr_of[4]);
		KUNIT_EXPECT_EQ(test, size, 5);
		break;
	}
}

static void sync_test_bytes(struct kunit *test)
{
	struct sync_test *priv = test->priv;

	lay_out(test, &(struct sync_layout){ .len = { 2, 2, 2 }, .joined = BIT(2) });
	dma_buf_sync_dma_range((struct device *)test, &priv->sgt,
			       2 * UNIT - 3, 2 * UNIT + 8, DMA_TO_DEVICE,
			       sync_test_bytes_record);
	KUNIT_EXPECT_EQ(test, priv->calls, 3);
}

struct dir_case {
	const char		*desc;
	enum dma_data_direction	mapped, dir, sync;
};

static void sync_test_dir(struct kunit *test)
{
	const struct dir_case *param = test->param_value;

	KUNIT_EXPECT_EQ(test, dma_buf_sync_dir(param->mapped, param->dir),
			param->sync);
}

/* With DMA_API_DEBUG a direction that the mapping does not have is a warning. */
static void sync_test_mapping(struct kunit *test)
{
	const struct dir_case *param = test->param_value;
	struct scatterlist sg;
	struct sg_table sgt = { .sgl = &sg, .orig_nents = 1, .nents = 1 };
	struct device *dev;
	struct page *page;

	dev = kunit_device_register(test, "dma-buf-sync");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dev);
	if (dma_coerce_mask_and_coherent(dev, DMA_BIT_MASK(64)))
		kunit_skip(test, "no DMA");

	page = alloc_page(GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, page);
	sg_init_table(&sg, 1);
	sg_set_page(&sg, page, PAGE_SIZE, 0);

	if (dma_map_sgtable(dev, &sgt, param->mapped, 0)) {
		__free_page(page);
		kunit_skip(test, "no DMA mapping");
	}
	dma_buf_sync_sgtable_range_for_cpu(dev, &sgt, param->mapped, 3, 100,
					   param->dir);
	memset(page_address(page) + 3, 0x5a, 100);
	dma_buf_sync_sgtable_range_for_device(dev, &sgt, param->mapped, 3, 100,
					      param->dir);
	dma_unmap_sgtable(dev, &sgt, param->mapped, 0);
	__free_page(page);
}

/* The CPU accesses in the direction dir what is mapped. */
static const struct dir_case dir_cases[] = {
	{ "both, reading", DMA_BIDIRECTIONAL, DMA_FROM_DEVICE, DMA_FROM_DEVICE },
	{ "both, writing", DMA_BIDIRECTIONAL, DMA_TO_DEVICE, DMA_TO_DEVICE },
	{ "both, both", DMA_BIDIRECTIONAL, DMA_BIDIRECTIONAL, DMA_BIDIRECTIONAL },
	{ "device reads, reading", DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_NONE },
	{ "device reads, writing", DMA_TO_DEVICE, DMA_TO_DEVICE, DMA_TO_DEVICE },
	{ "device reads, both", DMA_TO_DEVICE, DMA_BIDIRECTIONAL, DMA_TO_DEVICE },
	{ "device writes, reading", DMA_FROM_DEVICE, DMA_FROM_DEVICE, DMA_FROM_DEVICE },
	{ "device writes, writing", DMA_FROM_DEVICE, DMA_TO_DEVICE, DMA_FROM_DEVICE },
	{ "device writes, both", DMA_FROM_DEVICE, DMA_BIDIRECTIONAL, DMA_FROM_DEVICE },
};

KUNIT_ARRAY_PARAM_DESC(dir_case, dir_cases, desc);

static const struct sync_layout sync_layouts[] = {
	{ "one entry", { 8 } },
	{ "entries as mapped", { 8, 1, 3, 2, 8 } },
	{ "all joined", { 8, 1, 3, 2, 8 }, 0x1e },
	{ "first ones joined", { 1, 2, 3, 4, 5 }, 0x06 },
	{ "last ones joined", { 1, 2, 3, 4, 5 }, 0x18 },
	{ "pairs joined", { 1, 1, 1, 1, 4, 4, 2, 3 }, 0xaa },
};

KUNIT_ARRAY_PARAM_DESC(sync_layout, sync_layouts, desc);

/* An exporter that tells what it was asked for. */
struct range_exporter {
	unsigned int		begins, ends;
	int			error;
	size_t			offset, len;
	enum dma_data_direction	dir;
	bool			fence_signaled;
	struct dma_fence	*fence;
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

static struct dma_buf_bvecs *exporter_build_bvecs(struct dma_buf *dmabuf)
{
	return ERR_PTR(-ENOMEM);
}

static int exporter_access(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	return 0;
}

static int exporter_begin_range(struct dma_buf *dmabuf, size_t offset,
				size_t len, enum dma_data_direction dir)
{
	struct range_exporter *exp = dmabuf->priv;

	exp->begins++;
	exp->offset = offset;
	exp->len = len;
	exp->dir = dir;
	exp->fence_signaled = exp->fence && dma_fence_is_signaled(exp->fence);
	return exp->error;
}

static int exporter_end_range(struct dma_buf *dmabuf, size_t offset,
			      size_t len, enum dma_data_direction dir)
{
	struct range_exporter *exp = dmabuf->priv;

	exp->ends++;
	exp->offset = offset;
	exp->len = len;
	exp->dir = dir;
	return exp->error;
}

#define EXPORTER_OPS				\
	.map_dma_buf	= exporter_map,		\
	.unmap_dma_buf	= exporter_unmap,	\
	.release	= exporter_release

static const struct dma_buf_ops exporter_ops = {
	EXPORTER_OPS,
	.build_bvecs		= exporter_build_bvecs,
	.begin_cpu_access	= exporter_access,
	.end_cpu_access		= exporter_access,
	.begin_cpu_access_range	= exporter_begin_range,
	.end_cpu_access_range	= exporter_end_range,
};

static const struct dma_buf_ops exporter_ops_none = {
	EXPORTER_OPS,
	.build_bvecs		= exporter_build_bvecs,
};

static const struct dma_buf_ops exporter_ops_whole_begin = {
	EXPORTER_OPS,
	.build_bvecs		= exporter_build_bvecs,
	.begin_cpu_access	= exporter_access,
	.end_cpu_access_range	= exporter_end_range,
};

static const struct dma_buf_ops exporter_ops_whole_end = {
	EXPORTER_OPS,
	.build_bvecs		= exporter_build_bvecs,
	.end_cpu_access		= exporter_access,
	.begin_cpu_access_range	= exporter_begin_range,
};

static struct dma_buf *exporter_export(struct range_exporter *exp,
				       const struct dma_buf_ops *ops)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);

	info.ops = ops;
	info.size = 16 * PAGE_SIZE;
	info.flags = O_RDWR;
	info.priv = exp;
	return dma_buf_export(&info);
}

static void access_test_exporter(struct kunit *test)
{
	struct range_exporter exp = {};
	struct dma_buf *dmabuf;

	dmabuf = exporter_export(&exp, &exporter_ops);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);

	KUNIT_EXPECT_EQ(test, dma_buf_begin_cpu_access_range(dmabuf, 123, 4567,
							     DMA_BIDIRECTIONAL), 0);
	KUNIT_EXPECT_EQ(test, exp.begins, 1);
	KUNIT_EXPECT_EQ(test, exp.offset, 123);
	KUNIT_EXPECT_EQ(test, exp.len, 4567);
	KUNIT_EXPECT_EQ(test, exp.dir, DMA_BIDIRECTIONAL);

	KUNIT_EXPECT_EQ(test, dma_buf_end_cpu_access_range(dmabuf, 89, 10,
							   DMA_FROM_DEVICE), 0);
	KUNIT_EXPECT_EQ(test, exp.ends, 1);
	KUNIT_EXPECT_EQ(test, exp.offset, 89);
	KUNIT_EXPECT_EQ(test, exp.len, 10);
	KUNIT_EXPECT_EQ(test, exp.dir, DMA_FROM_DEVICE);

	exp.error = -EIO;
	KUNIT_EXPECT_EQ(test, dma_buf_begin_cpu_access_range(dmabuf, 0, 1,
							     DMA_FROM_DEVICE), -EIO);
	KUNIT_EXPECT_EQ(test, dma_buf_end_cpu_access_range(dmabuf, 0, 1,
							   DMA_FROM_DEVICE), -EIO);
	dma_buf_put(dmabuf);
}

/* Nothing to sync is no error. */
static void access_test_no_ops(struct kunit *test)
{
	struct range_exporter exp = {};
	struct dma_buf *dmabuf;

	dmabuf = exporter_export(&exp, &exporter_ops_none);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);
	KUNIT_EXPECT_EQ(test, dma_buf_begin_cpu_access_range(dmabuf, 0, 1,
							     DMA_FROM_DEVICE), 0);
	KUNIT_EXPECT_EQ(test, dma_buf_end_cpu_access_range(dmabuf, 0, 1,
							   DMA_FROM_DEVICE), 0);
	dma_buf_put(dmabuf);
}

/* Operations for the whole buffer only are not enough for file I/O. */
static void access_test_export(struct kunit *test)
{
	static const struct dma_buf_ops *const ops[] = {
		&exporter_ops_whole_begin,
		&exporter_ops_whole_end,
	};
	struct range_exporter exp = {};
	struct dma_buf *dmabuf = NULL;
	unsigned int i;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "requires CONFIG_BUG");

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		kunit_warning_suppress(test) {
			dmabuf = exporter_export(&exp, ops[i]);
			KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
		}
		KUNIT_EXPECT_PTR_EQ(test, dmabuf, ERR_PTR(-EINVAL));
	}
}

static DEFINE_SPINLOCK(fence_lock);

static const char *fence_name(struct dma_fence *fence)
{
	return "selftest";
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = fence_name,
	.get_timeline_name = fence_name,
};

struct fence_signaler {
	struct delayed_work	work;
	struct dma_fence	*fence;
};

static void fence_signal(struct work_struct *work)
{
	struct fence_signaler *signaler =
		container_of(work, struct fence_signaler, work.work);

	dma_fence_signal(signaler->fence);
}

struct fence_case {
	const char		*desc;
	enum dma_resv_usage	usage;
	enum dma_data_direction	dir;
	bool			waits;
};

/* The exporter syncs after the fence if the access has to wait for it. */
static void access_test_fence(struct kunit *test)
{
	const struct fence_case *param = test->param_value;
	struct fence_signaler signaler;
	struct range_exporter exp = {};
	struct dma_buf *dmabuf;
	int ret;

	dmabuf = exporter_export(&exp, &exporter_ops);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);

	exp.fence = kzalloc_obj(*exp.fence);
	if (!exp.fence) {
		KUNIT_FAIL(test, "no fence");
		goto out;
	}
	dma_fence_init(exp.fence, &fence_ops, &fence_lock,
		       dma_fence_context_alloc(1), 1);
	dma_fence_enable_signaling(exp.fence);

	dma_resv_lock(dmabuf->resv, NULL);
	ret = dma_resv_reserve_fences(dmabuf->resv, 1);
	if (!ret)
		dma_resv_add_fence(dmabuf->resv, exp.fence, param->usage);
	dma_resv_unlock(dmabuf->resv);
	KUNIT_EXPECT_EQ(test, ret, 0);

	/* Whoever need not wait is long done when the fence signals. */
	signaler.fence = exp.fence;
	INIT_DELAYED_WORK_ONSTACK(&signaler.work, fence_signal);
	schedule_delayed_work(&signaler.work, param->waits ? HZ / 20 : 5 * HZ);

	KUNIT_EXPECT_EQ(test, dma_buf_begin_cpu_access_range(dmabuf, 0, PAGE_SIZE,
							     param->dir), 0);
	KUNIT_EXPECT_EQ(test, exp.begins, 1);
	KUNIT_EXPECT_EQ(test, exp.fence_signaled, param->waits);

	flush_delayed_work(&signaler.work);
	destroy_delayed_work_on_stack(&signaler.work);
	dma_fence_put(exp.fence);
out:
	dma_buf_put(dmabuf);
}

static const struct fence_case fence_cases[] = {
	{ "kernel, reading", DMA_RESV_USAGE_KERNEL, DMA_FROM_DEVICE, true },
	{ "kernel, writing", DMA_RESV_USAGE_KERNEL, DMA_BIDIRECTIONAL, true },
	{ "write, reading", DMA_RESV_USAGE_WRITE, DMA_FROM_DEVICE, true },
	{ "write, writing", DMA_RESV_USAGE_WRITE, DMA_BIDIRECTIONAL, true },
	{ "read, reading", DMA_RESV_USAGE_READ, DMA_FROM_DEVICE, false },
	{ "read, writing", DMA_RESV_USAGE_READ, DMA_BIDIRECTIONAL, true },
	{ "bookkeep, writing", DMA_RESV_USAGE_BOOKKEEP, DMA_BIDIRECTIONAL, false },
};

KUNIT_ARRAY_PARAM_DESC(fence_case, fence_cases, desc);

static int sync_test_init(struct kunit *test)
{
	test->priv = kunit_kzalloc(test, sizeof(struct sync_test), GFP_KERNEL);
	return test->priv ? 0 : -ENOMEM;
}

static struct kunit_case access_cases[] = {
	KUNIT_CASE_PARAM(sync_test_ranges, sync_layout_gen_params),
	KUNIT_CASE(sync_test_bytes),
	KUNIT_CASE_PARAM(sync_test_dir, dir_case_gen_params),
	KUNIT_CASE_PARAM(sync_test_mapping, dir_case_gen_params),
	KUNIT_CASE(access_test_exporter),
	KUNIT_CASE(access_test_no_ops),
	KUNIT_CASE(access_test_export),
	KUNIT_CASE_PARAM(access_test_fence, fence_case_gen_params),
	{}
};

static struct kunit_suite access_suite = {
	.name = "dma-buf-cpu-access",
	.init = sync_test_init,
	.test_cases = access_cases,
};

kunit_test_suite(access_suite);
