// SPDX-License-Identifier: GPL-2.0-only
/*
 * An exporter for tests of dma-buf importers.
 *
 * It makes buffers of any size and layout and does on request what exporters do
 * for reasons of their own: move a buffer, take it away, refuse to map it. It
 * says how long the importers took to let go of it.
 *
 * Everything in struct test_buffer that is not constant is protected by the
 * reservation lock of the dma-buf.
 */
#include <linux/compat.h>
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "dma-buf-io-test-uapi.h"

#define TEST_MAX_SIZE		SZ_1T
#define TEST_MAX_CHUNK		SZ_1G
#define TEST_POISON		0xa5
/* Longer than an importer may need for any command its device still has. */
#define TEST_UNMAP_TIMEOUT	secs_to_jiffies(60)
#define TEST_FAULT_AROUND	64

/*
 * Who accesses the buffer syncs it. A buffer larger than its memory has pages
 * mapped many times, which is no leak.
 */
#define TEST_DMA_ATTRS	\
	(DMA_ATTR_SKIP_CPU_SYNC | DMA_ATTR_DEBUGGING_IGNORE_CACHELINES)

/* The memory of a buffer. */
struct test_backing {
	struct kref		kref;
	unsigned int		nr_maps;	/* dma_resv of the buffer */
	unsigned long		chunk_pages;
	unsigned long		nr_chunks;
	struct page		*chunks[] __counted_by(nr_chunks);
};

struct test_buffer {
	struct dma_buf		*dmabuf;
	u32			flags;
	char			deny[32];
	unsigned long		chunk_pages;
	unsigned long		nr_chunks;

	struct test_backing	*backing;
	struct list_head	maps;
	wait_queue_head_t	unmapped;
	u64			generation;
	u64			fence_context;
	unsigned int		nr_maps;
	unsigned int		nr_pins;
	u64			total_attaches;
	u64			total_maps;
	bool			revoked;

	/* counted down by whoever attaches or maps */
	unsigned int		fail_count[2];
	int			fail_error[2];
};

struct test_map {
	struct sg_table		sgt;
	unsigned int		orig_nents;
	struct list_head	node;
	struct device		*dev;
	struct test_backing	*backing;
};

/* A move whose data arrives late. */
struct test_move {
	struct dma_fence	fence;
	struct delayed_work	work;
	struct dma_buf		*dmabuf;
	struct test_backing	*from;
	struct test_backing	*to;
};

static struct workqueue_struct *test_move_wq;

/*
 * Memory
 */

static void test_backing_free(struct kref *kref)
{
	struct test_backing *backing = container_of(kref, struct test_backing,
						    kref);
	unsigned long i, j;

	for (i = 0; i < backing->nr_chunks && backing->chunks[i]; i++) {
		for (j = 0; j < backing->chunk_pages; j++)
			__free_page(backing->chunks[i] + j);
		cond_resched();
	}
	kvfree(backing);
}

static void test_backing_put(struct test_backing *backing)
{
	kref_put(&backing->kref, test_backing_free);
}

/* Order-0 pages that are next to each other. */
static struct page *test_chunk_alloc(unsigned long nr_pages)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN;
	void *addr;

	if (nr_pages > MAX_ORDER_NR_PAGES) {
#ifdef CONFIG_CONTIG_ALLOC
		return alloc_contig_pages(nr_pages, gfp, numa_mem_id(), NULL);
#else
		return NULL;
#endif
	}
	addr = alloc_pages_exact(nr_pages << PAGE_SHIFT, gfp);
	return addr ? virt_to_page(addr) : NULL;
}

static int test_chunk_cmp(const void *a, const void *b)
{
	unsigned long pfn_a = page_to_pfn(*(struct page * const *)a);
	unsigned long pfn_b = page_to_pfn(*(struct page * const *)b);

	return cmp_int(pfn_b, pfn_a);
}

static struct test_backing *test_backing_alloc(unsigned long chunk_pages,
					       unsigned long nr_chunks)
{
	struct test_backing *backing;
	unsigned long i;

	backing = kvzalloc_flex(*backing, chunks, nr_chunks, GFP_KERNEL);
	if (!backing)
		return ERR_PTR(-ENOMEM);
	kref_init(&backing->kref);
	backing->chunk_pages = chunk_pages;
	backing->nr_chunks = nr_chunks;

	for (i = 0; i < nr_chunks; i++) {
		if (fatal_signal_pending(current))
			break;
		backing->chunks[i] = test_chunk_alloc(chunk_pages);
		if (!backing->chunks[i])
			break;
		cond_resched();
	}
	if (i < nr_chunks) {
		test_backing_put(backing);
		return ERR_PTR(fatal_signal_pending(current) ? -EINTR :
							       -ENOMEM);
	}

	/* From the top down, so that no chunk continues the one before it. */
	sort_nonatomic(backing->chunks, nr_chunks, sizeof(*backing->chunks),
		       test_chunk_cmp, NULL);
	return backing;
}

static void test_backing_copy(struct test_backing *to,
			      struct test_backing *from)
{
	unsigned long i, j;

	for (i = 0; i < to->nr_chunks; i++) {
		for (j = 0; j < to->chunk_pages; j++)
			copy_highpage(to->chunks[i] + j, from->chunks[i] + j);
		cond_resched();
	}
}

static void test_backing_poison(struct test_backing *backing)
{
	unsigned long i, j;

	for (i = 0; i < backing->nr_chunks; i++) {
		for (j = 0; j < backing->chunk_pages; j++)
			memset_page(backing->chunks[i] + j, 0, TEST_POISON,
				    PAGE_SIZE);
		cond_resched();
	}
}

static struct page *test_backing_page(const struct test_backing *backing,
				      unsigned long index)
{
	unsigned long chunk = index / backing->chunk_pages;

	return backing->chunks[chunk % backing->nr_chunks] +
	       index % backing->chunk_pages;
}

/*
 * Attaching and mapping
 */

static int test_injected_error(struct test_buffer *buf,
			       enum dma_buf_io_test_op op)
{
	dma_resv_assert_held(buf->dmabuf->resv);
	if (!buf->fail_count[op])
		return 0;
	buf->fail_count[op]--;
	return -buf->fail_error[op];
}

static int test_attach(struct dma_buf *dmabuf,
		       struct dma_buf_attachment *attach)
{
	struct test_buffer *buf = dmabuf->priv;
	int ret;

	if (!strcmp(dev_name(attach->dev), buf->deny))
		return -EBUSY;
	if (buf->flags & DMA_BUF_IO_TEST_NEED_P2P && !attach->peer2peer)
		return -EOPNOTSUPP;
	if (buf->flags & DMA_BUF_IO_TEST_NEED_REVOCABLE &&
	    !dma_buf_attach_revocable(attach))
		return -EOPNOTSUPP;

	dma_resv_lock(dmabuf->resv, NULL);
	ret = test_injected_error(buf, DMA_BUF_IO_TEST_OP_ATTACH);
	if (!ret)
		buf->total_attaches++;
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

static int test_pin(struct dma_buf_attachment *attach)
{
	struct test_buffer *buf = attach->dmabuf->priv;

	if (buf->revoked)
		return -ENODEV;
	buf->nr_pins++;
	return 0;
}

static void test_unpin(struct dma_buf_attachment *attach)
{
	struct test_buffer *buf = attach->dmabuf->priv;

	buf->nr_pins--;
}

static void test_unmap_chunks(struct test_map *map, unsigned int nr,
			      enum dma_data_direction dir)
{
	struct scatterlist *sg;
	unsigned int i;

	for_each_sg(map->sgt.sgl, sg, nr, i)
		dma_unmap_page_attrs(map->dev, sg_dma_address(sg),
				     sg_dma_len(sg), dir, TEST_DMA_ATTRS);
}

/* Leave nothing in the table but what the device needs. */
static int test_map_pageless(struct test_map *map, enum dma_data_direction dir)
{
	struct scatterlist *sg;
	unsigned int i;

	for_each_sgtable_sg(&map->sgt, sg, i) {
		unsigned int len = sg->length;
		dma_addr_t addr;

		addr = dma_map_page_attrs(map->dev, sg_page(sg), 0, len, dir,
					  TEST_DMA_ATTRS);
		if (dma_mapping_error(map->dev, addr)) {
			test_unmap_chunks(map, i, dir);
			return -EIO;
		}
		sg_set_page(sg, NULL, 0, 0);
		sg_dma_address(sg) = addr;
		sg_dma_len(sg) = len;
	}
	map->sgt.orig_nents = 0;
	return 0;
}

static struct test_map *test_map_alloc(struct test_buffer *buf,
				       struct device *dev)
{
	struct test_backing *backing = buf->backing;
	unsigned long pages = buf->dmabuf->size >> PAGE_SHIFT;
	unsigned long chunk = backing->chunk_pages;
	unsigned long seg, done = 0;
	struct scatterlist *sg;
	struct test_map *map;
	unsigned int i;
	int ret;

	map = kzalloc_obj(*map);
	if (!map)
		return ERR_PTR(-ENOMEM);
	map->dev = dev;
	map->backing = backing;

	/* As few entries for a chunk as the device can take. */
	seg = min(dma_get_max_seg_size(dev) >> PAGE_SHIFT, chunk);
	map->orig_nents = pages / chunk * DIV_ROUND_UP(chunk, seg) +
			  DIV_ROUND_UP(pages % chunk, seg);
	ret = sg_alloc_table(&map->sgt, map->orig_nents, GFP_KERNEL);
	if (ret) {
		kfree(map);
		return ERR_PTR(ret);
	}

	for_each_sgtable_sg(&map->sgt, sg, i) {
		unsigned long len = min3(seg, chunk - done % chunk,
					 pages - done);

		sg_set_page(sg, test_backing_page(backing, done),
			    len << PAGE_SHIFT, 0);
		done += len;
	}
	return map;
}

static void test_map_free(struct test_map *map)
{
	map->sgt.orig_nents = map->orig_nents;
	sg_free_table(&map->sgt);
	kfree(map);
}

static struct sg_table *test_map_dma_buf(struct dma_buf_attachment *attach,
					 enum dma_data_direction dir)
{
	struct test_buffer *buf = attach->dmabuf->priv;
	struct test_map *map;
	int ret;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (buf->revoked)
		return ERR_PTR(-ENODEV);
	ret = test_injected_error(buf, DMA_BUF_IO_TEST_OP_MAP);
	if (ret)
		return ERR_PTR(ret);

	/* Once for each, or two importers would chase each other for ever. */
	if (buf->flags & DMA_BUF_IO_TEST_MOVE_ON_MAP && !attach->priv) {
		attach->priv = buf;
		dma_buf_invalidate_mappings(attach->dmabuf);
	}

	map = test_map_alloc(buf, attach->dev);
	if (IS_ERR(map))
		return ERR_CAST(map);
	if (buf->flags & DMA_BUF_IO_TEST_PAGELESS)
		ret = test_map_pageless(map, dir);
	else
		ret = dma_map_sgtable(attach->dev, &map->sgt, dir,
				      TEST_DMA_ATTRS);
	if (ret) {
		test_map_free(map);
		return ERR_PTR(ret);
	}

	kref_get(&map->backing->kref);
	map->backing->nr_maps++;
	list_add(&map->node, &buf->maps);
	buf->nr_maps++;
	buf->total_maps++;
	return &map->sgt;
}

static void test_unmap_dma_buf(struct dma_buf_attachment *attach,
			       struct sg_table *sgt,
			       enum dma_data_direction dir)
{
	struct test_map *map = container_of(sgt, struct test_map, sgt);
	struct test_buffer *buf = attach->dmabuf->priv;
	struct test_backing *backing = map->backing;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (buf->flags & DMA_BUF_IO_TEST_PAGELESS)
		test_unmap_chunks(map, map->orig_nents, dir);
	else
		dma_unmap_sgtable(attach->dev, sgt, dir, TEST_DMA_ATTRS);
	list_del(&map->node);
	test_map_free(map);

	buf->nr_maps--;
	/* Who waits for this holds a reference to the backing. */
	WRITE_ONCE(backing->nr_maps, backing->nr_maps - 1);
	wake_up_all(&buf->unmapped);
	test_backing_put(backing);
}

/*
 * Access by the CPU
 */

static void test_sync(struct test_buffer *buf, enum dma_data_direction dir,
		      bool for_cpu)
{
	struct scatterlist *sg;
	struct test_map *map;
	unsigned int i;

	list_for_each_entry(map, &buf->maps, node) {
		if (!(buf->flags & DMA_BUF_IO_TEST_PAGELESS)) {
			if (for_cpu)
				dma_sync_sgtable_for_cpu(map->dev, &map->sgt,
							 dir);
			else
				dma_sync_sgtable_for_device(map->dev, &map->sgt,
							    dir);
			continue;
		}
		for_each_sgtable_dma_sg(&map->sgt, sg, i) {
			if (for_cpu)
				dma_sync_single_for_cpu(map->dev,
							sg_dma_address(sg),
							sg_dma_len(sg), dir);
			else
				dma_sync_single_for_device(map->dev,
							   sg_dma_address(sg),
							   sg_dma_len(sg), dir);
		}
	}
}

static int test_begin_cpu_access(struct dma_buf *dmabuf,
				 enum dma_data_direction dir)
{
	struct test_buffer *buf = dmabuf->priv;
	long ret;

	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	ret = dma_resv_wait_timeout(dmabuf->resv, DMA_RESV_USAGE_KERNEL, true,
				    MAX_SCHEDULE_TIMEOUT);
	if (ret > 0)
		test_sync(buf, dir, true);
	dma_resv_unlock(dmabuf->resv);
	return ret < 0 ? ret : 0;
}

static int test_end_cpu_access(struct dma_buf *dmabuf,
			       enum dma_data_direction dir)
{
	struct test_buffer *buf = dmabuf->priv;

	dma_resv_lock(dmabuf->resv, NULL);
	test_sync(buf, dir, false);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

/* A move zaps what is inserted here; both hold the reservation lock. */
static vm_fault_t test_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct test_buffer *buf = vma->vm_private_data;
	struct dma_resv *resv = buf->dmabuf->resv;
	unsigned long addr = vmf->address;
	vm_fault_t ret = VM_FAULT_NOPAGE;
	pgoff_t pgoff = vmf->pgoff;
	unsigned int i;

	if (dma_resv_lock_interruptible(resv, NULL))
		return ret;
	if (dma_resv_wait_timeout(resv, DMA_RESV_USAGE_KERNEL, true,
				  MAX_SCHEDULE_TIMEOUT) < 0)
		goto unlock;

	for (i = 0; i < TEST_FAULT_AROUND && addr < vma->vm_end; i++) {
		struct page *page = test_backing_page(buf->backing, pgoff++);
		vm_fault_t err;

		err = vmf_insert_pfn(vma, addr, page_to_pfn(page));
		if (!i)
			ret = err;
		if (err & VM_FAULT_ERROR)
			break;
		addr += PAGE_SIZE;
	}
unlock:
	dma_resv_unlock(resv);
	return ret;
}

static const struct vm_operations_struct test_vm_ops = {
	.fault = test_fault,
};

/* Page-less buffers too: the test has to see what the device wrote. */
static int test_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	/* A shared mapping of a read-only buffer has lost VM_SHARED by now. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	vm_flags_set(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &test_vm_ops;
	vma->vm_private_data = dmabuf->priv;
	return 0;
}

static void test_release(struct dma_buf *dmabuf)
{
	struct test_buffer *buf = dmabuf->priv;

	WARN_ON(buf->nr_maps || buf->nr_pins);
	test_backing_put(buf->backing);
	kfree(buf);
}

static const struct dma_buf_ops test_dma_buf_ops = {
	.attach			= test_attach,
	.pin			= test_pin,
	.unpin			= test_unpin,
	.map_dma_buf		= test_map_dma_buf,
	.unmap_dma_buf		= test_unmap_dma_buf,
	.release		= test_release,
	.begin_cpu_access	= test_begin_cpu_access,
	.end_cpu_access		= test_end_cpu_access,
	.mmap			= test_mmap,
};

/*
 * Moving and revoking
 */

static const char *test_fence_name(struct dma_fence *fence)
{
	return "dma_buf_io_test";
}

static const struct dma_fence_ops test_fence_ops = {
	.get_driver_name	= test_fence_name,
	.get_timeline_name	= test_fence_name,
};

static void test_move_work(struct work_struct *work)
{
	struct test_move *late = container_of(to_delayed_work(work),
					      struct test_move, work);
	struct dma_buf *dmabuf = late->dmabuf;
	struct test_backing *from = late->from;
	struct test_backing *to = late->to;
	bool cookie;

	cookie = dma_fence_begin_signalling();
	test_backing_copy(to, from);
	dma_fence_signal(&late->fence);
	dma_fence_end_signalling(cookie);

	dma_fence_put(&late->fence);
	test_backing_put(from);
	test_backing_put(to);
	dma_buf_put(dmabuf);
}

/*
 * Let no importer use the mappings any more. An exporter that is short of
 * memory does this in reclaim, so importers must not wait for memory here.
 */
static void test_stop_access(struct test_buffer *buf,
			     struct dma_buf_io_test_move *arg, ktime_t start)
{
	struct dma_resv *resv = buf->dmabuf->resv;

	arg->maps = buf->nr_maps;
	fs_reclaim_acquire(GFP_KERNEL);
	dma_buf_invalidate_mappings(buf->dmabuf);
	fs_reclaim_release(GFP_KERNEL);
	arg->invalidate_ns = ktime_to_ns(ktime_sub(ktime_get(), start));
	arg->maps_left = buf->nr_maps;

	dma_resv_wait_timeout(resv, DMA_RESV_USAGE_BOOKKEEP, false,
			      MAX_SCHEDULE_TIMEOUT);
	arg->idle_ns = ktime_to_ns(ktime_sub(ktime_get(), start));
	if (!buf->nr_maps)
		arg->unmap_ns = arg->idle_ns;
}

/* Without the lock, which importers may need to unmap. */
static int test_wait_unmapped(struct test_buffer *buf,
			      struct test_backing *backing,
			      struct dma_buf_io_test_move *arg, ktime_t start)
{
	long ret;

	if (arg->unmap_ns)
		return 0;
	ret = wait_event_interruptible_timeout(buf->unmapped,
					       !READ_ONCE(backing->nr_maps),
					       TEST_UNMAP_TIMEOUT);
	if (ret < 0)
		return ret;
	if (!ret)
		return -ETIMEDOUT;
	arg->unmap_ns = ktime_to_ns(ktime_sub(ktime_get(), start));
	return 0;
}

/* Lock the buffer for a move or revocation, when the last move is complete. */
static int test_lock_idle(struct test_buffer *buf)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	long ret;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	ret = dma_resv_wait_timeout(resv, DMA_RESV_USAGE_KERNEL, true,
				    MAX_SCHEDULE_TIMEOUT);
	if (ret > 0 && !buf->nr_pins)
		return 0;
	dma_resv_unlock(resv);
	return ret < 0 ? ret : -EBUSY;
}

static int test_move(struct test_buffer *buf, struct dma_buf_io_test_move *arg)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	struct test_backing *from, *to;
	struct test_move *late = NULL;
	ktime_t start;
	int ret;

	to = test_backing_alloc(buf->chunk_pages, buf->nr_chunks);
	if (IS_ERR(to))
		return PTR_ERR(to);
	if (arg->delay_ms) {
		ret = -ENOMEM;
		late = kzalloc_obj(*late);
		if (!late)
			goto put_new;
		test_backing_poison(to);
	}

	ret = test_lock_idle(buf);
	if (ret)
		goto free_late;
	if (late) {
		ret = dma_resv_reserve_fences(resv, 1);
		if (ret)
			goto unlock;
	}

	start = ktime_get();
	test_stop_access(buf, arg, start);
	unmap_mapping_range(buf->dmabuf->file->f_mapping, 0, 0, 1);

	from = buf->backing;
	buf->backing = to;
	arg->generation = ++buf->generation;
	if (late) {
		kref_get(&from->kref);
		kref_get(&to->kref);
		get_dma_buf(buf->dmabuf);
		late->from = from;
		late->to = to;
		late->dmabuf = buf->dmabuf;
		dma_fence_init(&late->fence, &test_fence_ops, NULL,
			       buf->fence_context, buf->generation);
		dma_resv_add_fence(resv, &late->fence, DMA_RESV_USAGE_KERNEL);
		INIT_DELAYED_WORK(&late->work, test_move_work);
		queue_delayed_work(test_move_wq, &late->work,
				   msecs_to_jiffies(arg->delay_ms));
	} else {
		test_backing_copy(to, from);
	}
	dma_resv_unlock(resv);

	ret = test_wait_unmapped(buf, from, arg, start);
	test_backing_put(from);
	return ret;

unlock:
	dma_resv_unlock(resv);
free_late:
	kfree(late);
put_new:
	test_backing_put(to);
	return ret;
}

static int test_revoke(struct test_buffer *buf,
		       struct dma_buf_io_test_move *arg)
{
	struct test_backing *backing;
	ktime_t start;
	int ret;

	if (arg->delay_ms)
		return -EINVAL;
	ret = test_lock_idle(buf);
	if (ret)
		return ret;

	start = ktime_get();
	buf->revoked = true;
	test_stop_access(buf, arg, start);
	arg->generation = buf->generation;
	backing = buf->backing;
	kref_get(&backing->kref);
	dma_resv_unlock(buf->dmabuf->resv);

	ret = test_wait_unmapped(buf, backing, arg, start);
	test_backing_put(backing);
	return ret;
}

static int test_unrevoke(struct test_buffer *buf,
			 struct dma_buf_io_test_move *arg)
{
	int ret;

	if (arg->delay_ms)
		return -EINVAL;
	ret = dma_resv_lock_interruptible(buf->dmabuf->resv, NULL);
	if (ret)
		return ret;
	test_stop_access(buf, arg, ktime_get());
	arg->generation = buf->generation;
	buf->revoked = false;
	dma_resv_unlock(buf->dmabuf->resv);
	return 0;
}

/*
 * Requests
 */

static bool test_create_valid(const struct dma_buf_io_test_create *arg)
{
	if (arg->flags & ~DMA_BUF_IO_TEST_FLAGS || arg->resv[0] || arg->resv[1])
		return false;
	if (strnlen(arg->deny, sizeof(arg->deny)) == sizeof(arg->deny))
		return false;
	if (!PAGE_ALIGNED(arg->size | arg->chunk | arg->backing))
		return false;
	if (!arg->size || arg->size > min_t(u64, TEST_MAX_SIZE, LONG_MAX))
		return false;
	return arg->chunk <= TEST_MAX_CHUNK && arg->backing <= arg->size;
}

static int test_create(struct dma_buf_io_test_create __user *uarg)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct dma_buf_io_test_create arg;
	unsigned long backing, chunk;
	struct test_buffer *buf;
	struct dma_buf *dmabuf;
	int ret, fd;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (!test_create_valid(&arg))
		return -EINVAL;
	backing = arg.backing ?: arg.size;
	chunk = min_t(u64, arg.chunk ?: backing, backing);
	if (chunk > TEST_MAX_CHUNK || (arg.backing && backing % chunk))
		return -EINVAL;

	buf = kzalloc_obj(*buf);
	if (!buf)
		return -ENOMEM;
	INIT_LIST_HEAD(&buf->maps);
	init_waitqueue_head(&buf->unmapped);
	buf->flags = arg.flags;
	buf->fence_context = dma_fence_context_alloc(1);
	buf->chunk_pages = chunk >> PAGE_SHIFT;
	buf->nr_chunks = DIV_ROUND_UP(backing, chunk);
	strscpy(buf->deny, arg.deny);
	buf->backing = test_backing_alloc(buf->chunk_pages, buf->nr_chunks);
	if (IS_ERR(buf->backing)) {
		ret = PTR_ERR(buf->backing);
		goto free_buf;
	}

	exp_info.ops = &test_dma_buf_ops;
	exp_info.size = arg.size;
	exp_info.flags = arg.flags & DMA_BUF_IO_TEST_RDONLY ? O_RDONLY : O_RDWR;
	exp_info.priv = buf;
	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf)) {
		ret = PTR_ERR(dmabuf);
		goto put_backing;
	}
	/* Nobody else has the buffer before it has a file descriptor. */
	buf->dmabuf = dmabuf;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		dma_buf_put(dmabuf);
		return fd;
	}
	if (put_user(fd, &uarg->fd)) {
		put_unused_fd(fd);
		dma_buf_put(dmabuf);
		return -EFAULT;
	}
	dma_buf_fd_install(dmabuf, fd);
	return 0;

put_backing:
	test_backing_put(buf->backing);
free_buf:
	kfree(buf);
	return ret;
}

static struct dma_buf *test_get(int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);

	if (IS_ERR(dmabuf) || dmabuf->ops == &test_dma_buf_ops)
		return dmabuf;
	dma_buf_put(dmabuf);
	return ERR_PTR(-EINVAL);
}

static int test_ioctl_move(unsigned int cmd,
			   struct dma_buf_io_test_move __user *uarg)
{
	struct dma_buf_io_test_move arg, out = {};
	struct dma_buf *dmabuf;
	int ret;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	dmabuf = test_get(arg.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	out.fd = arg.fd;
	out.delay_ms = arg.delay_ms;
	switch (cmd) {
	case DMA_BUF_IO_TEST_MOVE:
		ret = test_move(dmabuf->priv, &out);
		break;
	case DMA_BUF_IO_TEST_REVOKE:
		ret = test_revoke(dmabuf->priv, &out);
		break;
	default:
		ret = test_unrevoke(dmabuf->priv, &out);
	}
	dma_buf_put(dmabuf);

	if ((!ret || ret == -ETIMEDOUT) && copy_to_user(uarg, &out, sizeof(out)))
		return -EFAULT;
	return ret;
}

static int test_ioctl_fail(struct dma_buf_io_test_fail __user *uarg)
{
	struct dma_buf_io_test_fail arg;
	struct test_buffer *buf;
	struct dma_buf *dmabuf;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (arg.op > DMA_BUF_IO_TEST_OP_MAP || !arg.error ||
	    arg.error > MAX_ERRNO)
		return -EINVAL;
	dmabuf = test_get(arg.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	buf = dmabuf->priv;
	dma_resv_lock(dmabuf->resv, NULL);
	buf->fail_count[arg.op] = arg.count;
	buf->fail_error[arg.op] = arg.error;
	dma_resv_unlock(dmabuf->resv);
	dma_buf_put(dmabuf);
	return 0;
}

static int test_ioctl_info(struct dma_buf_io_test_info __user *uarg)
{
	struct dma_buf_io_test_info arg, out = {};
	struct test_buffer *buf;
	struct dma_buf *dmabuf;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	dmabuf = test_get(arg.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	buf = dmabuf->priv;
	out.fd = arg.fd;
	dma_resv_lock(dmabuf->resv, NULL);
	out.attached = list_count_nodes(&dmabuf->attachments);
	out.mapped = buf->nr_maps;
	out.pinned = buf->nr_pins;
	out.attaches = buf->total_attaches;
	out.maps = buf->total_maps;
	out.generation = buf->generation;
	dma_resv_unlock(dmabuf->resv);
	dma_buf_put(dmabuf);

	return copy_to_user(uarg, &out, sizeof(out)) ? -EFAULT : 0;
}

static long test_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *uarg = (void __user *)arg;

	switch (cmd) {
	case DMA_BUF_IO_TEST_CREATE:
		return test_create(uarg);
	case DMA_BUF_IO_TEST_MOVE:
	case DMA_BUF_IO_TEST_REVOKE:
	case DMA_BUF_IO_TEST_UNREVOKE:
		return test_ioctl_move(cmd, uarg);
	case DMA_BUF_IO_TEST_FAIL:
		return test_ioctl_fail(uarg);
	case DMA_BUF_IO_TEST_INFO:
		return test_ioctl_info(uarg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations test_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= test_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

static struct miscdevice test_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "dma_buf_io_test",
	.fops	= &test_fops,
	.mode	= 0600,
};

static int __init test_init(void)
{
	int ret;

	test_move_wq = alloc_workqueue("dma_buf_io_test",
				       WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!test_move_wq)
		return -ENOMEM;
	ret = misc_register(&test_misc);
	if (ret)
		destroy_workqueue(test_move_wq);
	return ret;
}
module_init(test_init);

static void __exit test_exit(void)
{
	misc_deregister(&test_misc);
	destroy_workqueue(test_move_wq);
}
module_exit(test_exit);

MODULE_DESCRIPTION("Exporter for tests of dma-buf importers");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
