// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPU access to a part of a dma-buf.
 *
 * dma_buf_begin_cpu_access() and dma_buf_end_cpu_access() are about the whole
 * buffer. That is fine for a mapping that one task draws into. It is not when
 * several tasks work on parts of a buffer of their own: where caches are not
 * coherent, one task's begin throws away what another one has written and not
 * yet flushed, and where the DMA API bounces, one task's end overwrites what a
 * device has written elsewhere in the buffer. And it costs time by the size of
 * the buffer for each access, however small.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/export.h>
#include <linux/minmax.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>

#include <kunit/visibility.h>

#include "dma-buf-cpu-access.h"

/*
 * Call @sync for the part of a DMA mapping that is @len bytes from byte @offset
 * of the buffer on, in pieces that each lie within one CPU entry of @sgt, since
 * what is contiguous for the device may be scattered in memory.
 *
 * The other way round does not happen: a mapping joins CPU entries to longer
 * DMA segments, but it never splits one.
 */
VISIBLE_IF_KUNIT void dma_buf_sync_dma_range(struct device *dev,
					     struct sg_table *sgt,
					     size_t offset, size_t len,
					     enum dma_data_direction dir,
					     dma_buf_sync_fn sync)
{
	struct scatterlist *sg, *seg = sgt->sgl;
	unsigned int i, seg_offset = 0;

	for_each_sgtable_sg(sgt, sg, i) {
		if (!len)
			break;

		if (seg_offset == sg_dma_len(seg)) {
			seg = sg_next(seg);
			seg_offset = 0;
		}

		if (offset < sg->length) {
			size_t part = min(len, sg->length - offset);

			sync(dev, sg_dma_address(seg) + seg_offset + offset,
			     part, dir);
			len -= part;
			offset = 0;
		} else {
			offset -= sg->length;
		}
		seg_offset += sg->length;
	}
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_sync_dma_range);

/*
 * The direction to sync a mapping in that was made for @mapped, for CPU access
 * of direction @dir: DMA_FROM_DEVICE if the CPU only reads. DMA_NONE if there is
 * nothing to do: neither side writes. A bounce buffer of a device that only
 * reads is older than what others have written.
 */
VISIBLE_IF_KUNIT enum dma_data_direction
dma_buf_sync_dir(enum dma_data_direction mapped, enum dma_data_direction dir)
{
	if (mapped == DMA_BIDIRECTIONAL)
		return dir;
	if (mapped == DMA_TO_DEVICE && dir == DMA_FROM_DEVICE)
		return DMA_NONE;
	return mapped;
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_sync_dir);

/**
 * dma_buf_sync_sgtable_range_for_cpu - sync a part of a mapping for the CPU
 * @dev: device that the buffer is mapped for
 * @sgt: the mapping, made by dma_map_sgtable()
 * @mapped: direction that it was made for
 * @offset: start of the range in the buffer, in bytes
 * @len: length of the range, in bytes
 * @dir: direction of the access
 *
 * Like dma_sync_sgtable_for_cpu(), for the bytes of the range: an exporter's way
 * to implement &dma_buf_ops.begin_cpu_access_range. Some architectures work on
 * the whole of a cache line that is in the range in part only.
 *
 * Context: any. The mapping must stay in place during the call.
 */
void dma_buf_sync_sgtable_range_for_cpu(struct device *dev,
					struct sg_table *sgt,
					enum dma_data_direction mapped,
					size_t offset, size_t len,
					enum dma_data_direction dir)
{
	dir = dma_buf_sync_dir(mapped, dir);
	if (dir != DMA_NONE && dma_dev_need_sync(dev))
		dma_buf_sync_dma_range(dev, sgt, offset, len, dir,
				       dma_sync_single_for_cpu);
}
EXPORT_SYMBOL_NS_GPL(dma_buf_sync_sgtable_range_for_cpu, "DMA_BUF");

/**
 * dma_buf_sync_sgtable_range_for_device - sync a part of a mapping for a device
 * @dev: device that the buffer is mapped for
 * @sgt: the mapping, made by dma_map_sgtable()
 * @mapped: direction that it was made for
 * @offset: start of the range in the buffer, in bytes
 * @len: length of the range, in bytes
 * @dir: direction of the access
 *
 * Like dma_sync_sgtable_for_device(), for the bytes of the range: an exporter's
 * way to implement &dma_buf_ops.end_cpu_access_range.
 *
 * Context: any. The mapping must stay in place during the call.
 */
void dma_buf_sync_sgtable_range_for_device(struct device *dev,
					   struct sg_table *sgt,
					   enum dma_data_direction mapped,
					   size_t offset, size_t len,
					   enum dma_data_direction dir)
{
	dir = dma_buf_sync_dir(mapped, dir);
	if (dir != DMA_NONE && dma_dev_need_sync(dev))
		dma_buf_sync_dma_range(dev, sgt, offset, len, dir,
				       dma_sync_single_for_device);
}
EXPORT_SYMBOL_NS_GPL(dma_buf_sync_sgtable_range_for_device, "DMA_BUF");

/*
 * Prepare @len bytes from byte @offset of the buffer on for access by the CPU,
 * or by a device that is no importer: wait for the work of importers that is
 * tracked in &dma_buf.resv, then make its results visible.
 *
 * In this order, because data that was made visible before a device has
 * finished writing it may be stale again.
 *
 * Process context, with no locks held. Returns -ERESTARTSYS if a signal
 * interrupts the wait, or else what the exporter fails with.
 */
int dma_buf_begin_cpu_access_range(struct dma_buf *dmabuf, size_t offset,
				   size_t len, enum dma_data_direction dir)
{
	const bool write = dir != DMA_FROM_DEVICE;
	long ret;

	might_lock(&dmabuf->resv->lock.base);

	ret = dma_resv_wait_timeout(dmabuf->resv, dma_resv_usage_rw(write),
				    true, MAX_SCHEDULE_TIMEOUT);
	if (ret < 0)
		return ret;

	if (!dmabuf->ops->begin_cpu_access_range)
		return 0;
	return dmabuf->ops->begin_cpu_access_range(dmabuf, offset, len, dir);
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_begin_cpu_access_range);

/*
 * End the access that dma_buf_begin_cpu_access_range() began with the same
 * arguments: importers get to see what was written.
 *
 * Process context, with no locks held. Returns what the exporter fails with.
 */
int dma_buf_end_cpu_access_range(struct dma_buf *dmabuf, size_t offset,
				 size_t len, enum dma_data_direction dir)
{
	might_lock(&dmabuf->resv->lock.base);

	if (!dmabuf->ops->end_cpu_access_range)
		return 0;
	return dmabuf->ops->end_cpu_access_range(dmabuf, offset, len, dir);
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_end_cpu_access_range);
