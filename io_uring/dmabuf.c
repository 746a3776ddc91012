// SPDX-License-Identifier: GPL-2.0
/*
 * dma-bufs as registered buffers.
 */
#include <linux/dma-buf.h>
#include <linux/dma-buf-io.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io_uring_types.h>
#include <linux/overflow.h>
#include <linux/seq_file.h>
#include <linux/uio.h>

#include "io_uring.h"
#include "regbuf.h"
#include "rsrc.h"
#include "rw.h"

/* By now no request has the node, so that no I/O uses the buffer. */
static void io_dmabuf_release(void *priv)
{
	dma_buf_io_destroy(priv);
}

static int io_dmabuf_attach(struct dma_buf_io *dbio, int fd)
{
	CLASS(fd, target)(fd);

	if (fd_empty(target))
		return -EBADF;
	if (!fd_file(target)->f_op->dma_buf_attach)
		return -EOPNOTSUPP;
	if (!(fd_file(target)->f_flags & O_DIRECT))
		return -EINVAL;
	return dma_buf_io_attach_file(dbio, fd_file(target));
}

/**
 * io_dmabuf_register - make a registered buffer of a dma-buf
 * @imu:	buffer to set up
 * @dmabuf_fd:	file descriptor of the dma-buf
 * @target_fd:	file descriptor of a file to do I/O with
 *
 * The dma-buf is mapped for the devices of the target, so that what they can't
 * reach is refused here. It may be used with other files as well.
 *
 * Context: process, with uring_lock held.
 * Return: 0 or a negative error, see
 * Documentation/userspace-api/io_uring-dma-buf.rst.
 */
int io_dmabuf_register(struct io_mapped_ubuf *imu, int dmabuf_fd, int target_fd)
{
	struct dma_buf_io *dbio;
	struct dma_buf *dmabuf;
	int ret;

	dmabuf = dma_buf_get(dmabuf_fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	dbio = dma_buf_io_create(dmabuf, DMA_BIDIRECTIONAL);
	dma_buf_put(dmabuf);
	if (IS_ERR(dbio))
		return PTR_ERR(dbio);

	ret = io_dmabuf_attach(dbio, target_fd);
	if (ret) {
		dma_buf_io_destroy(dbio);
		/* Task work interrupts too, and programs don't expect that. */
		return ret == -EINTR ? -ERESTARTSYS : ret;
	}

	imu->ubuf = 0;
	imu->len = dbio->size;
	imu->nr_bvecs = 0;
	imu->folio_shift = PAGE_SHIFT;
	refcount_set(&imu->refs, 1);
	imu->flags = IO_REGBUF_F_DMABUF;
	imu->dir = IO_BUF_DEST | IO_BUF_SOURCE;
	imu->release = io_dmabuf_release;
	imu->priv = dbio;
	return 0;
}

/* Only reads and writes know that they must not look at the memory. */
static int io_dmabuf_usable(struct io_kiocb *req)
{
	switch (req->opcode) {
	case IORING_OP_READ_FIXED:
	case IORING_OP_WRITE_FIXED:
	case IORING_OP_READV_FIXED:
	case IORING_OP_WRITEV_FIXED:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (!req->file->f_op->dma_buf_attach)
		return -EOPNOTSUPP;
	if (!(req->file->f_flags & O_DIRECT))
		return -EINVAL;
	return 0;
}

/**
 * io_dmabuf_import - set up an iterator over a registered dma-buf
 * @req:	the request
 * @iter:	the iterator
 * @imu:	the buffer, which @req keeps
 * @offset:	offset in the buffer in bytes
 * @len:	length in bytes, within the buffer
 * @ddir:	ITER_SOURCE or ITER_DEST
 *
 * No reference to a mapping is taken, as the request may be on its way for as
 * long as it takes. If the exporter has taken the memory back, the block layer
 * puts the I/O aside until the buffer is mapped again: no worker need sleep for
 * that.
 *
 * Context: process; does not sleep.
 * Return: 0; -EOPNOTSUPP if the request or its file can't use a dma-buf;
 * -EINVAL if the file is not open with O_DIRECT; -EAGAIN if the request must not
 * wait for the buffer to be mapped again.
 */
int io_dmabuf_import(struct io_kiocb *req, struct iov_iter *iter,
		     struct io_mapped_ubuf *imu, u64 offset, size_t len,
		     int ddir)
{
	struct dma_buf_io *dbio = imu->priv;
	int ret;

	ret = io_dmabuf_usable(req);
	if (unlikely(ret))
		return ret;
	if (unlikely(dma_buf_io_stale(dbio) && io_rw_nowait(req))) {
		/* Not to be tried again by a worker. */
		req->flags |= REQ_F_NOWAIT;
		return -EAGAIN;
	}
	iov_iter_dmabuf_map(iter, ddir, dbio, offset, len);
	return 0;
}

/**
 * io_dmabuf_import_vec - set up an iterator over vectors of a registered dma-buf
 * @req:	the request
 * @iter:	the iterator
 * @imu:	the buffer, which @req keeps
 * @iov:	vectors, whose bases are offsets in the buffer
 * @nr_iovs:	number of vectors
 * @ddir:	ITER_SOURCE or ITER_DEST
 *
 * Context: as for io_dmabuf_import().
 * Return: as io_dmabuf_import(); -EFAULT if a vector is not within the buffer;
 * -EOPNOTSUPP if they do not follow each other in it.
 */
int io_dmabuf_import_vec(struct io_kiocb *req, struct iov_iter *iter,
			 struct io_mapped_ubuf *imu, const struct iovec *iov,
			 unsigned int nr_iovs, int ddir)
{
	u64 start = 0, end = 0;
	unsigned int i;
	size_t len;

	for (i = 0; i < nr_iovs; i++) {
		u64 base = (uintptr_t)iov[i].iov_base;

		if (!iov[i].iov_len)
			continue;
		if (start == end) {
			start = base;
			end = base;
		} else if (base != end) {
			return -EOPNOTSUPP;
		}
		if (check_add_overflow(end, (u64)iov[i].iov_len, &end))
			return -EFAULT;
	}
	if (check_sub_overflow(end, start, &len) || end > imu->len ||
	    len > MAX_RW_COUNT)
		return -EFAULT;
	return io_dmabuf_import(req, iter, imu, start, len, ddir);
}

void io_dmabuf_show(struct seq_file *m, const struct io_mapped_ubuf *imu)
{
	struct dma_buf_io *dbio = imu->priv;

	seq_printf(m, "dmabuf ino:%llu/%zu\n",
		   file_inode(dbio->dmabuf->file)->i_ino, imu->len);
}
