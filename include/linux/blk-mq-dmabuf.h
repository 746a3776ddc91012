/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_BLK_MQ_DMABUF_H
#define _LINUX_BLK_MQ_DMABUF_H

#include <linux/blk-mq.h>
#include <linux/dma-buf-io.h>

struct blk_dma_iter;

/* Does the request transfer its data to or from a registered dma-buf? */
static inline bool blk_rq_is_dmabuf(const struct request *rq)
{
	return IS_ENABLED(CONFIG_DMA_SHARED_BUFFER) &&
		(rq->cmd_flags & REQ_DMABUF);
}

/* Where its data is in the buffer. Requests are not merged: there is one bio. */
static inline u64 blk_rq_dmabuf_offset(const struct request *rq)
{
	return bio_dmabuf_offset(&rq->bio->bi_iter);
}

/**
 * blk_rq_dmabuf_get - get the mapping for a request
 * @rq:		request on a registered dma-buf
 * @dma_dev:	device that does the DMA
 *
 * For drivers, when they prepare the command; see dma_buf_io_map_get().
 *
 * Context: any.
 * Return: the mapping, to be given back with dma_buf_io_map_put() when the
 * command is complete, or NULL, in which case ->queue_rq() undoes what it did
 * and returns blk_rq_dmabuf_defer().
 */
static inline struct dma_buf_io_map *
blk_rq_dmabuf_get(const struct request *rq, const struct device *dma_dev)
{
	return dma_buf_io_map_get(rq->bio->bi_dmabuf, dma_dev);
}

blk_status_t blk_rq_dmabuf_defer(struct request *rq);
bool blk_rq_dmabuf_iter_start(struct request *rq, struct dma_buf_io_map *map,
			      struct blk_dma_iter *iter);
bool blk_rq_dmabuf_iter_next(struct request *rq, struct blk_dma_iter *iter);
unsigned int blk_rq_dmabuf_nr_segs(struct request *rq,
				   struct dma_buf_io_map *map);

int bdev_dma_buf_attach(struct block_device *bdev, struct dma_buf_io *dbio);

#endif /* _LINUX_BLK_MQ_DMABUF_H */
