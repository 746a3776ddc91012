/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_REGBUF_H
#define IOU_REGBUF_H

#include <linux/io_uring_types.h>
#include "rsrc.h"

struct iou_vec;
struct seq_file;

struct io_rsrc_node *io_regbuf_register(struct io_ring_ctx *ctx,
					const void __user *udesc);

/*
 * Without CONFIG_DMA_SHARED_BUFFER no such buffer can be registered, and there
 * is nothing behind these.
 */
int io_dmabuf_register(struct io_mapped_ubuf *imu, int dmabuf_fd, int target_fd);
int io_dmabuf_import(struct io_kiocb *req, struct iov_iter *iter,
		     struct io_mapped_ubuf *imu, u64 offset, size_t len,
		     int ddir);
int io_dmabuf_import_vec(struct io_kiocb *req, struct iov_iter *iter,
			 struct io_mapped_ubuf *imu, const struct iovec *iov,
			 unsigned int nr_iovs, int ddir);
void io_dmabuf_show(struct seq_file *m, const struct io_mapped_ubuf *imu);

static inline bool io_regbuf_is_dmabuf(const struct io_mapped_ubuf *imu)
{
	return IS_ENABLED(CONFIG_DMA_SHARED_BUFFER) &&
		(imu->flags & IO_REGBUF_F_DMABUF);
}

#endif
