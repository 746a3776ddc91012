/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * CPU access to a part of a dma-buf.
 */
#ifndef _DMA_BUF_CPU_ACCESS_H
#define _DMA_BUF_CPU_ACCESS_H

#include <linux/dma-direction.h>
#include <linux/types.h>

struct device;
struct dma_buf;
struct sg_table;

int dma_buf_begin_cpu_access_range(struct dma_buf *dmabuf, size_t offset,
				   size_t len, enum dma_data_direction dir);
int dma_buf_end_cpu_access_range(struct dma_buf *dmabuf, size_t offset,
				 size_t len, enum dma_data_direction dir);

typedef void (*dma_buf_sync_fn)(struct device *dev, dma_addr_t addr,
				size_t size, enum dma_data_direction dir);

#if IS_ENABLED(CONFIG_KUNIT)
enum dma_data_direction dma_buf_sync_dir(enum dma_data_direction mapped,
					 enum dma_data_direction dir);
void dma_buf_sync_dma_range(struct device *dev, struct sg_table *sgt,
			    size_t offset, size_t len,
			    enum dma_data_direction dir, dma_buf_sync_fn sync);
#endif

#endif /* _DMA_BUF_CPU_ACCESS_H */
