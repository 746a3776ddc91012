// SPDX-License-Identifier: GPL-2.0
/*
 * Requests on registered dma-bufs: attaching disks, DMA addresses for drivers,
 * and waiting for a mapping that the exporter took back.
 */
#include <linux/bio.h>
#include <linux/blk-mq-dma.h>
#include <linux/blk-mq-dmabuf.h>
#include <linux/sched/mm.h>
#include <linux/workqueue.h>
#include "blk.h"
#include "blk-rq-qos.h"

/* Requests may wait for it, and memory reclaim for those. */
static struct workqueue_struct *blk_dmabuf_wq;

static struct bio *blk_dmabuf_deferred(struct dma_buf_io *dbio)
{
	struct bio *head;

	spin_lock_irq(&dbio->defer_lock);
	head = dbio->defer_head;
	dbio->defer_head = NULL;
	dbio->defer_tail = NULL;
	spin_unlock_irq(&dbio->defer_lock);
	return head;
}

/*
 * What an exporter may return is not all known to the block layer. -EAGAIN and
 * -EOPNOTSUPP must not get out: io_uring takes them for a limit of I/O that does
 * not wait, and would try again for ever.
 */
static blk_status_t blk_dmabuf_status(int error)
{
	switch (error) {
	case -ENOMEM:
		return BLK_STS_RESOURCE;
	case -ENODEV:
		return BLK_STS_OFFLINE;
	default:
		return BLK_STS_INVAL;
	}
}

/*
 * I/O waits for the mapping, so making it must not wait for I/O. Once the last
 * bio has been submitted or ended the buffer may be on its way out, see
 * dma_buf_io_release().
 */
static void blk_dmabuf_defer_work(struct work_struct *work)
{
	struct dma_buf_io *dbio =
		container_of(work, struct dma_buf_io, defer_work);
	unsigned int noio = memalloc_noio_save();
	struct bio *bio, *next;
	int ret;

	for (bio = blk_dmabuf_deferred(dbio); bio; bio = next) {
		next = bio->bi_next;
		bio->bi_next = NULL;

		mutex_lock(&dbio->attach_lock);
		ret = bdev_dma_buf_attach(bio->bi_bdev, dbio);
		mutex_unlock(&dbio->attach_lock);

		if (!ret)
			submit_bio_noacct(bio);
		else
			bio_endio_status(bio, blk_dmabuf_status(ret));
	}
	memalloc_noio_restore(noio);
}

/**
 * blk_rq_dmabuf_defer - put a request aside until its buffer is mapped
 * @rq:		request for which blk_rq_dmabuf_get() returned NULL
 *
 * Takes the bios from the request, which ends. They are submitted again when
 * the buffer has been mapped, or fail: with -ENOMEM; with -ENODEV if the memory
 * or the device is gone; or with -EINVAL if the buffer can't be mapped for
 * another reason. Neither a tag nor a queue is held up meanwhile. In the
 * statistics, the request counts as one more.
 *
 * A driver that rings the doorbell once for several requests has to do so if
 * this was the last of them: for the block layer the request has been sent.
 *
 * Context: only from ->queue_rq(), with the request not started.
 * Return: what ->queue_rq() is to return.
 */
blk_status_t blk_rq_dmabuf_defer(struct request *rq)
{
	struct dma_buf_io *dbio = rq->bio->bi_dmabuf;
	struct bio_list bios = BIO_EMPTY_LIST;
	unsigned long flags;
	struct bio *bio;

	/*
	 * Somebody who waits for the request itself would take its end for that
	 * of the transfer. The flush machinery does not: with the bios come the
	 * flags that say what is to be flushed.
	 */
	if (rq->end_io && !(rq->rq_flags & RQF_FLUSH_SEQ))
		return BLK_STS_INVAL;

	/* They were let in once, and are to be again. */
	for (bio = rq->bio; bio; bio = bio->bi_next)
		rq_qos_done_bio(bio);
	blk_steal_bios(&bios, rq);

	spin_lock_irqsave(&dbio->defer_lock, flags);
	if (dbio->defer_tail)
		dbio->defer_tail->bi_next = bios.head;
	else
		dbio->defer_head = bios.head;
	dbio->defer_tail = bios.tail;
	dbio->nr_deferred++;
	/* With the lock held, as the buffer lasts only as long as its bios. */
	queue_work(blk_dmabuf_wq, &dbio->defer_work);
	spin_unlock_irqrestore(&dbio->defer_lock, flags);

	/* Or else elevators take the time since boot for its latency. */
	rq->io_start_time_ns = blk_time_get_ns();
	blk_mq_end_request(rq, BLK_STS_OK);
	return BLK_STS_OK;
}
EXPORT_SYMBOL_GPL(blk_rq_dmabuf_defer);

/**
 * bdev_dma_buf_attach - attach a buffer to the devices of a disk and map it
 * @bdev:	the disk or a partition of it
 * @dbio:	the buffer
 *
 * For the dma_buf_attach operations of file systems. Does little if it is
 * attached and mapped already.
 *
 * Context: process. @dbio's attach_lock is held; takes the reservation lock.
 * Return: 0; -EOPNOTSUPP if the disk does not support registered dma-bufs; or
 * what dma_buf_io_token_init() and dma_buf_io_map_token() return.
 */
int bdev_dma_buf_attach(struct block_device *bdev, struct dma_buf_io *dbio)
{
	struct gendisk *disk = bdev->bd_disk;
	struct dma_buf_io_token *token;

	lockdep_assert_held(&dbio->attach_lock);

	if (!blk_queue_dmabuf(disk->queue) || !disk->fops->dma_buf_attach)
		return -EOPNOTSUPP;

	if (!dbio->defer_work.func) {
		spin_lock_init(&dbio->defer_lock);
		INIT_WORK(&dbio->defer_work, blk_dmabuf_defer_work);
	}

	token = disk->fops->dma_buf_attach(disk, dbio);
	if (IS_ERR(token))
		return PTR_ERR(token);
	return dma_buf_io_map_token(token);
}
EXPORT_SYMBOL_GPL(bdev_dma_buf_attach);

/**
 * blk_rq_dmabuf_iter_next - DMA addresses of the next segment
 * @rq:		request on a registered dma-buf
 * @iter:	block layer DMA iterator
 *
 * Called by blk_rq_dma_map_iter_next(), which is what drivers call.
 *
 * Context: any.
 * Return: true with the address and the length in @iter, or false at the end.
 */
bool blk_rq_dmabuf_iter_next(struct request *rq, struct blk_dma_iter *iter)
{
	struct dma_buf_io_map *map = iter->iter.dmabuf;
	u64 offset = blk_rq_dmabuf_offset(rq) + blk_rq_payload_bytes(rq) -
		iter->dmabuf_left;

	if (!iter->dmabuf_left)
		return false;
	iter->addr = dma_buf_io_addr(map, offset);
	iter->len = dma_buf_io_contig(map, offset, iter->dmabuf_left);
	iter->dmabuf_left -= iter->len;
	return true;
}

/**
 * blk_rq_dmabuf_iter_start - DMA addresses of the first segment of a request
 * @rq:		request on a registered dma-buf
 * @map:	its mapping, from blk_rq_dmabuf_get()
 * @iter:	block layer DMA iterator
 *
 * Takes the place of blk_rq_dma_map_iter_start(); the other segments are those
 * of blk_rq_dma_map_iter_next(). Nothing is mapped, and nothing is to be
 * unmapped.
 *
 * Context: any.
 * Return: true, with the address and the length in @iter.
 */
bool blk_rq_dmabuf_iter_start(struct request *rq, struct dma_buf_io_map *map,
			      struct blk_dma_iter *iter)
{
	/* Like a bus address: there is nothing to unmap. */
	iter->p2pdma = (struct pci_p2pdma_map_state) {
		.map = PCI_P2PDMA_MAP_BUS_ADDR,
	};
	iter->status = BLK_STS_OK;
	iter->iter = (struct blk_map_iter) {
		.dmabuf		= map,
		.is_dmabuf	= true,
	};
	iter->dmabuf_left = blk_rq_payload_bytes(rq);
	return blk_rq_dmabuf_iter_next(rq, iter);
}
EXPORT_SYMBOL_GPL(blk_rq_dmabuf_iter_start);

/**
 * blk_rq_dmabuf_nr_segs - number of DMA segments of a request
 * @rq:		request on a registered dma-buf
 * @map:	its mapping
 *
 * Looks at each of them; blk_rq_nr_phys_segments() is 1 for all these requests.
 *
 * Context: any.
 * Return: what blk_rq_dmabuf_iter_start() and blk_rq_dma_map_iter_next() yield.
 */
unsigned int blk_rq_dmabuf_nr_segs(struct request *rq,
				   struct dma_buf_io_map *map)
{
	u64 offset = blk_rq_dmabuf_offset(rq);
	u32 left = blk_rq_payload_bytes(rq);
	unsigned int nr = 0;
	u32 len;

	for (; left; offset += len, left -= len) {
		len = dma_buf_io_contig(map, offset, left);
		nr++;
	}
	return nr;
}
EXPORT_SYMBOL_GPL(blk_rq_dmabuf_nr_segs);

static int __init blk_dmabuf_init(void)
{
	blk_dmabuf_wq = alloc_workqueue("blk_dmabuf",
					WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!blk_dmabuf_wq)
		panic("Failed to create blk_dmabuf workqueue\n");
	return 0;
}
subsys_initcall(blk_dmabuf_init);
