// SPDX-License-Identifier: GPL-2.0
/*
 * Bios on registered dma-bufs: making and splitting them.
 */
#include <linux/bio.h>
#include <linux/blk-crypto.h>
#include <linux/blkdev.h>
#include <linux/uio.h>
#include "blk.h"

/**
 * bio_iov_dmabuf_set - let a bio carry a range of a registered dma-buf
 * @bio:	bio without data so far
 * @iter:	ITER_DMABUF_MAP iterator, which is not advanced
 *
 * Context: any.
 * Return: false if @bio's device does not take registered dma-bufs.
 */
bool bio_iov_dmabuf_set(struct bio *bio, const struct iov_iter *iter)
{
	if (!bio->bi_bdev || !blk_queue_dmabuf(bdev_get_queue(bio->bi_bdev)))
		return false;

	bio->bi_opf |= REQ_DMABUF;
	bio->bi_dmabuf = iter->dmabuf_io;
	bio->bi_iter.bi_idx = (u64)iter->iov_offset >> BIO_DMABUF_IDX_SHIFT;
	bio->bi_iter.bi_offset = iter->iov_offset &
				 (BIT(BIO_DMABUF_IDX_SHIFT) - 1);
	bio->bi_iter.bi_size = iov_iter_count(iter);
	bio_set_flag(bio, BIO_CLONED);
	return true;
}

/**
 * bio_dmabuf_split_at - check if and where to split a bio on a registered dma-buf
 * @bio:	the bio
 * @lim:	limits of the queue
 * @segs:	set to 1 if @bio can be sent or split
 * @max_bytes:	maximum number of bytes per bio
 *
 * How many segments a range has for the device is known to its driver only,
 * which takes any range of up to @max_bytes as one command.
 *
 * This takes the place of bio_split_rw_at(), which looks at the bvecs and must
 * not see these bios.
 *
 * Context: any.
 * Return: a negative errno if @bio can't be split, 0 if it does not have to be, or
 * a positive sector offset. -EOPNOTSUPP says that the queue does not take
 * registered dma-bufs any more.
 */
int bio_dmabuf_split_at(struct bio *bio, const struct queue_limits *lim,
			unsigned int *segs, unsigned int max_bytes)
{
	struct bio_crypt_ctx *bc = bio_crypt_ctx(bio);
	unsigned int align_mask = lim->dma_alignment;
	unsigned int bytes;

	if (bc)
		align_mask |= bc->bc_key->crypto_cfg.data_unit_size - 1;

	/* Reconfigured since the bio was let in. */
	if (!lim->max_hw_dmabuf_sectors)
		return -EOPNOTSUPP;
	if ((bio->bi_iter.bi_offset | bio->bi_iter.bi_size) & align_mask)
		return -EINVAL;

	bio->bi_bvec_gap_bit = 0;
	*segs = 1;
	if (bio->bi_iter.bi_size <= max_bytes)
		return 0;

	/* For the reasons that bio_split_io_at() gives. */
	if (bio->bi_opf & REQ_ATOMIC)
		return -EINVAL;
	if (bio->bi_opf & REQ_NOWAIT)
		return -EAGAIN;
	/* There are no zones, which could ask for more. */
	bytes = ALIGN_DOWN(max_bytes, lim->logical_block_size);
	if (!bytes)
		return -EINVAL;
	bio_clear_polled(bio);
	return bytes >> SECTOR_SHIFT;
}
