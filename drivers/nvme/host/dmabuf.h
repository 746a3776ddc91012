/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Registered dma-bufs in the NVMe PCI driver.
 */
#ifndef _NVME_DMABUF_H
#define _NVME_DMABUF_H

#include <linux/blk-mq-dmabuf.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/nvme.h>
#include <linux/rwsem.h>

struct nvme_ctrl;

/**
 * struct nvme_dmabuf_dev - what a controller keeps about registered dma-bufs
 * @ctrl:	the controller
 * @dev:	its PCI device, which does the DMA
 * @kick:	completes finished commands of polled queues, NULL if there are none
 * @attach_sem:	held for reading to attach a buffer, which may take as long as
 *		its exporter takes and is not to hold up other buffers
 * @dead:	the controller is being removed; written with @attach_sem held
 * @lock:	protects @tokens
 * @tokens:	buffers that are attached to the controller
 */
struct nvme_dmabuf_dev {
	struct nvme_ctrl	*ctrl;
	struct device		*dev;
	void			(*kick)(struct nvme_dmabuf_dev *nd);
	struct rw_semaphore	attach_sem;
	bool			dead;
	struct mutex		lock;		/* protects tokens */
	struct list_head	tokens __guarded_by(&lock);
};

/* How a command may describe its data, see nvme_pci_use_sgls(). */
struct nvme_dmabuf_format {
	bool		sgl;		/* an SGL is possible */
	bool		sgl_forced;	/* nothing else is */
	unsigned int	sgl_threshold;	/* preferred from that size on; 0: never */
};

#ifdef CONFIG_DMA_SHARED_BUFFER
void nvme_dmabuf_init(struct nvme_dmabuf_dev *nd, struct nvme_ctrl *ctrl,
		      void (*kick)(struct nvme_dmabuf_dev *nd));
void nvme_dmabuf_remove(struct nvme_dmabuf_dev *nd);
struct dma_buf_io_token *nvme_dmabuf_attach(struct nvme_dmabuf_dev *nd,
					    struct dma_buf_io *dbio,
					    bool prefer_sgl);
#else
static inline void nvme_dmabuf_init(struct nvme_dmabuf_dev *nd,
				    struct nvme_ctrl *ctrl,
				    void (*kick)(struct nvme_dmabuf_dev *nd))
{
}

static inline void nvme_dmabuf_remove(struct nvme_dmabuf_dev *nd)
{
}

static inline struct dma_buf_io_token *
nvme_dmabuf_attach(struct nvme_dmabuf_dev *nd, struct dma_buf_io *dbio,
		   bool prefer_sgl)
{
	return ERR_PTR(-EOPNOTSUPP);
}
#endif /* CONFIG_DMA_SHARED_BUFFER */

bool nvme_dmabuf_setup_cmd(struct nvme_command *cmd,
			   const struct dma_buf_io_map *map, u64 offset,
			   u32 len, const struct nvme_dmabuf_format *format);

#endif /* _NVME_DMABUF_H */
