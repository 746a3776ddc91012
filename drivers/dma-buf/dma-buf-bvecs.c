// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tables of the pages behind a dma-buf.
 *
 * File I/O wants a dma-buf as an array of bio_vecs. Making one takes a look at
 * every page, so it is done once per buffer, by the first user, and any range
 * of the buffer is a part of that array.
 */
#include <linux/dma-buf.h>
#include <linux/dma-buf-bvecs.h>
#include <linux/err.h>
#include <linux/export.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/overflow.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include <kunit/visibility.h>

#include "dma-buf-bvecs.h"

/*
 * A table is built in two passes over the exporter's description of the buffer:
 * the first one, with @tbl NULL, counts, the second one fills in.
 */
struct bvecs_builder {
	struct dma_buf_bvecs	*tbl;
	size_t			nr;	/* runs so far */
	size_t			size;	/* bytes so far */
	unsigned int		room;	/* bytes that the last run may grow by */
	struct page		*next;	/* page that continues the last run */
};

/* Without a virtual memory map struct pages follow on within a section only. */
static bool bvecs_continues(const struct bvecs_builder *b, struct page *page)
{
	return b->room && page == b->next &&
	       memdesc_section(&page->flags) ==
	       memdesc_section(&(page - 1)->flags);
}

static void bvecs_start_run(struct bvecs_builder *b, struct page *page)
{
	struct dma_buf_bvecs *tbl = b->tbl;

	if (tbl) {
		if (b->nr % DMA_BUF_BVECS_MARK == 0)
			tbl->marks[b->nr / DMA_BUF_BVECS_MARK] = b->size;
		bvec_set_page(&tbl->bv[b->nr], page, 0, 0);
	}
	b->nr++;
	b->room = DMA_BUF_BVECS_MAX_RUN;
}

/* Add @len bytes, contiguous in memory and in the memory map. */
static int bvecs_add(struct bvecs_builder *b, struct page *page, size_t len)
{
	if (WARN_ON_ONCE(!len || !PAGE_ALIGNED(len)))
		return -EINVAL;
	/* Memory of a device, which not every peer can reach. */
	if (is_zone_device_page(page))
		return -EOPNOTSUPP;
	/* Peers may hold on to a page by its reference count. */
	if (IS_ENABLED(CONFIG_DMABUF_DEBUG) && WARN_ON_ONCE(!page_count(page)))
		return -EINVAL;

	while (len) {
		unsigned int part;

		if (!bvecs_continues(b, page))
			bvecs_start_run(b, page);

		part = min(len, b->room);
		if (b->tbl)
			b->tbl->bv[b->nr - 1].bv_len += part;
		b->room -= part;
		b->size += part;
		len -= part;
		page += part >> PAGE_SHIFT;
		b->next = page;
	}
	return 0;
}

static int bvecs_add_pages(struct bvecs_builder *b, struct page **pages,
			   unsigned long nr_pages)
{
	while (nr_pages) {
		/* Each page is looked at, so take a break now and then. */
		size_t nr = num_pages_contiguous(pages, min(nr_pages, SZ_256));
		int ret;

		ret = bvecs_add(b, pages[0], nr << PAGE_SHIFT);
		if (ret)
			return ret;
		cond_resched();
		pages += nr;
		nr_pages -= nr;
	}
	return 0;
}

static int bvecs_add_sgt(struct bvecs_builder *b, struct sg_table *sgt)
{
	struct scatterlist *sg;
	unsigned int i;
	int ret;

	for_each_sgtable_sg(sgt, sg, i) {
		if (WARN_ON_ONCE(sg->offset))
			return -EINVAL;
		ret = bvecs_add(b, sg_page(sg), sg->length);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

/* Between the passes: make room for what was counted, and start over. */
static int bvecs_alloc(struct bvecs_builder *b)
{
	/* Beyond INT_MAX kvmalloc() is loud, which a large buffer is no reason for. */
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
	struct dma_buf_bvecs *tbl;

	if (WARN_ON_ONCE(!b->nr))
		return -EINVAL;
	if (overflows_type(b->nr, tbl->nr))
		return -E2BIG;

	tbl = kvmalloc_flex(*tbl, bv, b->nr, gfp);
	if (!tbl)
		return -ENOMEM;
	tbl->marks = kvmalloc_objs(*tbl->marks,
				   DIV_ROUND_UP(b->nr, DMA_BUF_BVECS_MARK), gfp);
	if (!tbl->marks) {
		kvfree(tbl);
		return -ENOMEM;
	}
	tbl->nr = b->nr;
	tbl->size = b->size;

	*b = (struct bvecs_builder){ .tbl = tbl };
	return 0;
}

/**
 * dma_buf_bvecs_from_pages - describe a buffer by an array of pages
 * @pages: the pages, in the order of the buffer
 * @nr_pages: how many, at least one
 *
 * For &dma_buf_ops.build_bvecs. The array is not needed any more on return.
 *
 * Context: process context, may sleep, takes no locks.
 * Return: the table, or an ERR_PTR(): -ENOMEM; -E2BIG for more runs than a
 * table can have; -EOPNOTSUPP if the pages belong to a device.
 */
struct dma_buf_bvecs *dma_buf_bvecs_from_pages(struct page **pages,
					       unsigned long nr_pages)
{
	struct bvecs_builder b = {};
	int ret;

	ret = bvecs_add_pages(&b, pages, nr_pages);
	if (!ret)
		ret = bvecs_alloc(&b);
	if (ret)
		return ERR_PTR(ret);

	bvecs_add_pages(&b, pages, nr_pages);
	return b.tbl;
}
EXPORT_SYMBOL_NS_GPL(dma_buf_bvecs_from_pages, "DMA_BUF");

/**
 * dma_buf_bvecs_from_sgt - describe a buffer by the pages of a scatterlist
 * @sgt: table of whole pages, in the order of the buffer
 *
 * For &dma_buf_ops.build_bvecs. @sgt has to be the exporter's own. An
 * attachment's table is no source of pages; see "struct dma_buf_ops".
 * The table is not needed any more on return, and need not be DMA mapped.
 *
 * Context: process context, may sleep, takes no locks.
 * Return: the table, or an ERR_PTR(): -ENOMEM; -EINVAL if an entry does not
 * consist of whole pages; -E2BIG for more runs than a table can have;
 * -EOPNOTSUPP if the pages belong to a device.
 */
struct dma_buf_bvecs *dma_buf_bvecs_from_sgt(struct sg_table *sgt)
{
	struct bvecs_builder b = {};
	int ret;

	ret = bvecs_add_sgt(&b, sgt);
	if (!ret)
		ret = bvecs_alloc(&b);
	if (ret)
		return ERR_PTR(ret);

	bvecs_add_sgt(&b, sgt);
	return b.tbl;
}
EXPORT_SYMBOL_NS_GPL(dma_buf_bvecs_from_sgt, "DMA_BUF");

/* Free what one of the functions above has returned, or NULL. */
void dma_buf_bvecs_free(struct dma_buf_bvecs *tbl)
{
	if (!tbl)
		return;
	kvfree(tbl->marks);
	kvfree(tbl);
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_bvecs_free);

/*
 * The table of a buffer, built if this is the first time that somebody asks.
 *
 * It stays until the buffer is released. Building takes no lock, so that it
 * holds nobody up; when two tasks build at the same time, the first one wins.
 *
 * Process context, may sleep. Returns -EOPNOTSUPP if the exporter does not
 * describe its pages, or else what building the table has failed with.
 */
const struct dma_buf_bvecs *dma_buf_get_bvecs(struct dma_buf *dmabuf)
{
	struct dma_buf_bvecs *tbl, *old;

	/* Pairs with the cmpxchg() below: the table is seen as it was built. */
	tbl = smp_load_acquire(&dmabuf->bvecs);
	if (tbl)
		return tbl;

	if (!dmabuf->ops->build_bvecs)
		return ERR_PTR(-EOPNOTSUPP);

	tbl = dmabuf->ops->build_bvecs(dmabuf);
	if (IS_ERR(tbl))
		return tbl;
	if (WARN_ON_ONCE(tbl->size < dmabuf->size)) {
		dma_buf_bvecs_free(tbl);
		return ERR_PTR(-EIO);
	}

	old = cmpxchg(&dmabuf->bvecs, NULL, tbl);
	if (old) {
		dma_buf_bvecs_free(tbl);
		return old;
	}
	return tbl;
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_get_bvecs);

/* The run that holds byte @offset of the buffer, which is byte @skip of it. */
static unsigned int bvecs_find(const struct dma_buf_bvecs *tbl, size_t offset,
			       size_t *skip)
{
	unsigned int lo = 0, hi = (tbl->nr - 1) / DMA_BUF_BVECS_MARK, run;

	/* The last mark that is not beyond @offset. */
	while (lo < hi) {
		unsigned int mid = hi - (hi - lo) / 2;

		if (tbl->marks[mid] <= offset)
			lo = mid;
		else
			hi = mid - 1;
	}

	offset -= tbl->marks[lo];
	for (run = lo * DMA_BUF_BVECS_MARK; offset >= tbl->bv[run].bv_len; run++)
		offset -= tbl->bv[run].bv_len;

	*skip = offset;
	return run;
}

/*
 * Make @iter, of data direction @dir, the @len bytes from byte @offset of the
 * buffer on. @len is at least 1, and the range lies within the table. The
 * iterator refers to the table.
 */
void dma_buf_bvecs_iter(const struct dma_buf_bvecs *tbl, size_t offset,
			size_t len, unsigned int dir, struct iov_iter *iter)
{
	unsigned int first, last;
	size_t skip, unused;

	first = bvecs_find(tbl, offset, &skip);
	last = bvecs_find(tbl, offset + len - 1, &unused);

	iov_iter_bvec(iter, dir, &tbl->bv[first], last - first + 1, len);
	iter->iov_offset = skip;
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_bvecs_iter);
