/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tables of the pages behind a dma-buf: what the core does with them.
 */
#ifndef _DMA_BUF_BVECS_H
#define _DMA_BUF_BVECS_H

#include <linux/bvec.h>
#include <linux/sizes.h>
#include <linux/types.h>

struct dma_buf;
struct iov_iter;

/* Longest run: &bio_vec.bv_len has 32 bits. */
#define DMA_BUF_BVECS_MAX_RUN	SZ_1G

/* Every how many runs the offset in the buffer is noted. */
#define DMA_BUF_BVECS_MARK	64

/**
 * struct dma_buf_bvecs - the pages behind a dma-buf
 * @size: bytes that the table describes
 * @marks: offset in the buffer, in bytes, of every %DMA_BUF_BVECS_MARK-th run
 * @nr: number of runs
 * @bv: the runs, in the order of the buffer
 *
 * A run is physically contiguous, starts on a page boundary, is a multiple of
 * PAGE_SIZE long, and its struct pages follow each other. Runs leave no holes.
 * A table does not change once it is built.
 */
struct dma_buf_bvecs {
	size_t		size;
	size_t		*marks;
	unsigned int	nr;
	struct bio_vec	bv[] __counted_by(nr);
};

const struct dma_buf_bvecs *dma_buf_get_bvecs(struct dma_buf *dmabuf);
void dma_buf_bvecs_free(struct dma_buf_bvecs *tbl);
void dma_buf_bvecs_iter(const struct dma_buf_bvecs *tbl, size_t offset,
			size_t len, unsigned int dir, struct iov_iter *iter);

#endif /* _DMA_BUF_BVECS_H */
