// SPDX-License-Identifier: GPL-2.0
/*
 * Extended descriptors of registered buffers.
 */
#include <linux/io_uring_types.h>
#include <linux/string.h>
#include <linux/uio.h>

#include <uapi/linux/io_uring.h>

#include "io_uring.h"
#include "regbuf.h"
#include "rsrc.h"

static struct io_rsrc_node *
io_regbuf_register_uaddr(struct io_ring_ctx *ctx,
			 const struct io_uring_regbuf_desc *desc)
{
	struct iovec iov = {
		.iov_base = u64_to_user_ptr(desc->uaddr),
		.iov_len = desc->size,
	};

	/* In an iovec this would empty the slot; there is a type for that. */
	if (!desc->uaddr)
		return ERR_PTR(-EFAULT);
	/* 32-bit kernels */
	if ((uintptr_t)iov.iov_base != desc->uaddr || iov.iov_len != desc->size)
		return ERR_PTR(-EFAULT);
	return io_sqe_buffer_register(ctx, &iov);
}

static struct io_rsrc_node *
io_regbuf_register_dmabuf(struct io_ring_ctx *ctx,
			  const struct io_uring_regbuf_desc *desc)
{
	struct io_rsrc_node *node;
	struct io_mapped_ubuf *imu;
	int ret;

	if (!IS_ENABLED(CONFIG_DMA_SHARED_BUFFER))
		return ERR_PTR(-EOPNOTSUPP);
	if (desc->uaddr || desc->size)
		return ERR_PTR(-EINVAL);

	node = io_rsrc_node_alloc(ctx, IORING_RSRC_BUFFER);
	if (!node)
		return ERR_PTR(-ENOMEM);
	imu = io_alloc_imu(ctx, 0);
	if (!imu) {
		ret = -ENOMEM;
		goto free_node;
	}
	ret = io_dmabuf_register(imu, desc->dmabuf_fd, desc->target_fd);
	if (ret)
		goto free_imu;
	node->buf = imu;
	return node;

free_imu:
	imu->nr_bvecs = 0;
	io_free_imu(ctx, imu);
free_node:
	io_cache_free(&ctx->node_cache, node);
	return ERR_PTR(ret);
}

/**
 * io_regbuf_register - register a buffer by its extended descriptor
 * @ctx:	the ring
 * @udesc:	struct io_uring_regbuf_desc in user memory
 *
 * Context: process, with uring_lock held.
 * Return: the node for the slot, NULL for one that is to be empty, or an
 * ERR_PTR, with nothing changed.
 */
struct io_rsrc_node *io_regbuf_register(struct io_ring_ctx *ctx,
					const void __user *udesc)
{
	struct io_uring_regbuf_desc desc;

	if (copy_from_user(&desc, udesc, sizeof(desc)))
		return ERR_PTR(-EFAULT);
	if (desc.flags || !mem_is_zero(desc.__resv, sizeof(desc.__resv)))
		return ERR_PTR(-EINVAL);

	switch (desc.type) {
	case IO_REGBUF_TYPE_EMPTY:
		if (desc.uaddr || desc.size || desc.dmabuf_fd || desc.target_fd)
			return ERR_PTR(-EINVAL);
		return NULL;
	case IO_REGBUF_TYPE_UADDR:
		if (desc.dmabuf_fd || desc.target_fd)
			return ERR_PTR(-EINVAL);
		return io_regbuf_register_uaddr(ctx, &desc);
	case IO_REGBUF_TYPE_DMABUF:
		return io_regbuf_register_dmabuf(ctx, &desc);
	}
	return ERR_PTR(-EINVAL);
}
