/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tables of the pages behind a dma-buf: what exporters need to build one.
 */
#ifndef _LINUX_DMA_BUF_BVECS_H
#define _LINUX_DMA_BUF_BVECS_H

struct dma_buf_bvecs;
struct page;
struct sg_table;

struct dma_buf_bvecs *dma_buf_bvecs_from_pages(struct page **pages,
					       unsigned long nr_pages);
struct dma_buf_bvecs *dma_buf_bvecs_from_sgt(struct sg_table *sgt);

#endif /* _LINUX_DMA_BUF_BVECS_H */
