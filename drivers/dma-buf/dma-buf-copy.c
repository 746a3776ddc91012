// SPDX-License-Identifier: GPL-2.0-only
/*
 * copy_file_range() between a dma-buf and a file.
 */
#include <linux/blk_types.h>
#include <linux/bvec.h>
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/lcm.h>
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/stat.h>
#include <linux/uio.h>

#include <trace/events/dma_buf.h>

#include "dma-buf-bvecs.h"
#include "dma-buf-copy.h"
#include "dma-buf-cpu-access.h"

/**
 * DOC: file I/O
 *
 * copy_file_range() fills a dma-buf from a file, or drains it into one. The
 * file is a regular file or a block device. If it is opened with O_DIRECT, its
 * device transfers from and to the pages of the buffer, and the CPU does not
 * touch the data. Else there is one copy, between the page cache and the buffer.
 *
 * The core hands the pages of the buffer to the file's read_iter or write_iter.
 * An exporter does no I/O: it describes its pages, by
 * &dma_buf_ops.build_bvecs, and makes a part of the buffer accessible to the
 * CPU and back to devices, by &dma_buf_ops.begin_cpu_access_range and
 * &dma_buf_ops.end_cpu_access_range. Exporters whose memory moves, belongs to a
 * device, or must not be accessed by the CPU have no such callbacks, and a copy
 * fails with -EOPNOTSUPP.
 *
 * For importers, a copy is CPU access to the range that is copied. It first
 * waits for the fences in &dma_buf.resv, for all of them when it fills the
 * buffer and for those of writers when it drains it. It does not add a fence of
 * its own: file I/O allocates memory, takes locks of filesystems, and can wait
 * for user space or a network, none of which a fence may depend on. User space
 * knows that the copy is done when the call returns, and must not let a device
 * access the range before that.
 *
 * Copies to or from different parts of a buffer are independent, but for those
 * that share a cache line. DMA_BUF_IOCTL_SYNC is not: it is about the whole
 * buffer, and must not be issued while a copy is going on.
 *
 * No lock of a dma-buf is held across the I/O. A buffer can be attached, mapped
 * and accessed elsewhere while a part of it is being copied, however long that
 * takes. The pages stay because the buffer's file is referenced by the system
 * call, and because they are the same for the lifetime of the buffer.
 */

/* The longest transfer: how long a signal or the freezing of a filesystem waits. */
#define DMA_BUF_COPY_CHUNK	SZ_128M

/* The largest bounce buffer for the end of a file. */
#define DMA_BUF_COPY_BOUNCE	SZ_64K

/* The longest copy: as long as a read(2), but something rounder. */
#define DMA_BUF_COPY_MAX	round_down((size_t)MAX_RW_COUNT, SZ_2M)

/*
 * What direct I/O on the file asks for, in bytes: @pos for where it starts,
 * @len for how long it is. 1 means that it is up to the filesystem.
 *
 * Devices want each piece of memory to be of a length that has the alignment of
 * its address. Some want more of that than their block size, such as a loop
 * device on a filesystem with larger blocks.
 */
struct dma_buf_copy_align {
	u32	pos;
	u32	len;
};

/**
 * struct dma_buf_copy - a copy between a dma-buf and a file
 * @bvecs: the pages of the buffer
 * @file: the file
 * @drain: the copy goes from the buffer to the file
 * @ki_flags: of the file when the copy began, so that it is all of one kind
 * @align: what direct I/O on the file asks for
 * @kiocb: the last transfer
 * @offset: position in the buffer, in bytes
 * @pos: position in the file, in bytes
 * @asked_direct: bytes that the file was asked for as direct I/O
 */
struct dma_buf_copy {
	const struct dma_buf_bvecs	*bvecs;
	struct file			*file;
	bool				drain;
	int				ki_flags;
	struct dma_buf_copy_align	align;
	struct kiocb			kiocb;
	size_t				offset;
	loff_t				pos;
	size_t				asked_direct;
};

static bool is_dma_buf_file(const struct file *file)
{
	return file->f_op->copy_file_range == dma_buf_copy_file_range;
}

static ssize_t dma_buf_copy_rw(struct dma_buf_copy *copy, loff_t pos,
			       struct iov_iter *iter, int ki_flags)
{
	struct file *file = copy->file;
	ssize_t ret;

	/* Not to be used again: filesystems change the flags as they go. */
	init_sync_kiocb(&copy->kiocb, file);
	copy->kiocb.ki_flags = ki_flags;
	copy->kiocb.ki_pos = pos;

	if (copy->drain) {
		file_start_write(file);
		ret = file->f_op->write_iter(&copy->kiocb, iter);
		file_end_write(file);
	} else {
		ret = file->f_op->read_iter(&copy->kiocb, iter);
	}

	if (WARN_ON_ONCE(ret == -EIOCBQUEUED))
		return -EIO;
	return ret;
}

/*
 * Account for @bytes of the last transfer.
 *
 * A filesystem may move data through the page cache although direct I/O was
 * asked for. Some clear the flag then: ext4 and ntfs3 for a read, exfat, ext2
 * and ntfs3 for a write, even if a part of it was direct. That is all there is
 * to see here. It stays set when ext4 writes, f2fs, btrfs or a block device fall
 * back, for a file in memory such as that of tmpfs, and when a stacking
 * filesystem passes the call on.
 */
static void dma_buf_copy_advance(struct dma_buf_copy *copy, size_t bytes)
{
	copy->offset += bytes;
	copy->pos += bytes;
	if (copy->kiocb.ki_flags & IOCB_DIRECT)
		copy->asked_direct += bytes;
}

/* Transfer between the pages of the buffer and the file. */
static ssize_t dma_buf_copy_chunk(struct dma_buf_copy *copy, size_t len,
				  int ki_flags)
{
	struct iov_iter iter;
	ssize_t ret;

	dma_buf_bvecs_iter(copy->bvecs, copy->offset, len,
			   copy->drain ? ITER_SOURCE : ITER_DEST, &iter);
	ret = dma_buf_copy_rw(copy, copy->pos, &iter, ki_flags);
	if (ret > 0)
		dma_buf_copy_advance(copy, ret);
	return ret;
}

static struct dma_buf_copy_align
dma_buf_copy_align(const struct dma_buf_copy *copy)
{
	struct dma_buf_copy_align align = { .pos = 1, .len = 1 };
	struct file *file = copy->file;
	unsigned long pos, len;
	struct kstat stat;

	if (!(copy->ki_flags & IOCB_DIRECT))
		return align;

	if (!vfs_getattr_nosec(&file->f_path, &stat,
			       STATX_DIOALIGN | STATX_DIO_READ_ALIGN,
			       AT_STATX_DONT_SYNC) &&
	    (stat.result_mask & (STATX_DIOALIGN | STATX_DIO_READ_ALIGN))) {
		pos = stat.dio_offset_align;
		if (!copy->drain && stat.dio_read_offset_align)
			pos = stat.dio_read_offset_align;
		len = lcm_not_zero(pos, stat.dio_mem_align);
	} else {
		/*
		 * Some do direct I/O, but tell nothing about it. Those that are
		 * on a disk want blocks. The blocks of others can be stripes of
		 * megabytes, which are no matter of alignment.
		 */
		pos = clamp_t(unsigned long,
			      i_blocksize(file->f_mapping->host),
			      SECTOR_SIZE, PAGE_SIZE);
		len = pos;
	}

	if (pos && len <= DMA_BUF_COPY_CHUNK) {
		align.pos = pos;
		align.len = len;
	}
	return align;
}

/*
 * Read the last bytes of a file that ends within a block, as @size bytes from
 * @skip bytes before them on. What direct I/O reads besides them is not to show
 * up in the buffer.
 */
static ssize_t dma_buf_copy_read_tail(struct dma_buf_copy *copy, size_t len,
				      u32 skip, size_t size)
{
	struct iov_iter iter;
	struct folio *folio;
	struct bio_vec bv;
	ssize_t ret;

	/* Zeroed, since a file may claim to have read more than it has. */
	folio = folio_alloc(GFP_KERNEL | __GFP_ZERO, get_order(size));
	if (!folio)
		return -ENOMEM;

	bvec_set_folio(&bv, folio, size, 0);
	iov_iter_bvec(&iter, ITER_DEST, &bv, 1, size);
	ret = dma_buf_copy_rw(copy, copy->pos - skip, &iter, copy->ki_flags);
	if (ret > 0)
		ret = clamp_t(ssize_t, ret - skip, 0, len);
	if (ret > 0) {
		dma_buf_bvecs_iter(copy->bvecs, copy->offset, ret, ITER_DEST,
				   &iter);
		copy_folio_to_iter(folio, skip, ret, &iter);
		dma_buf_copy_advance(copy, ret);
	}

	folio_put(folio);
	return ret;
}

/*
 * Transfer what is left after direct I/O has moved all whole blocks. A part of
 * a block can be written without a change to the rest of it through the page
 * cache only.
 */
static ssize_t dma_buf_copy_tail(struct dma_buf_copy *copy, size_t len)
{
	size_t size;
	u32 skip;

	if (copy->drain)
		return dma_buf_copy_chunk(copy, len,
					  copy->ki_flags & ~IOCB_DIRECT);

	/* Whole units, so that the last one of a device ends where that ends. */
	div_u64_rem(copy->pos, copy->align.len, &skip);
	size = roundup(skip + len, copy->align.len);
	if (size <= DMA_BUF_COPY_BOUNCE)
		return dma_buf_copy_read_tail(copy, len, skip, size);

	/* For the filesystem to take or to refuse. */
	return dma_buf_copy_chunk(copy, len, copy->ki_flags);
}

/*
 * Returns the number of bytes copied, which is short at the end of the file, on
 * a signal and on an error after some progress, or an error.
 */
static ssize_t dma_buf_copy(struct dma_buf_copy *copy, size_t len)
{
	const struct dma_buf_copy_align align = copy->align;
	size_t done = 0, bulk = len;
	ssize_t ret;
	u32 rem;

	/* A start within a block is for the filesystem to take or to refuse. */
	div_u64_rem(copy->pos, align.pos, &rem);
	if (!rem)
		bulk -= len % align.len;

	while (done < bulk) {
		size_t chunk = min(bulk - done,
				   rounddown(DMA_BUF_COPY_CHUNK, align.len));

		ret = dma_buf_copy_chunk(copy, chunk, copy->ki_flags);
		if (ret <= 0)
			return done ? done : ret;
		done += ret;
		if (ret < chunk || (done < len && signal_pending(current)))
			return done;
	}

	if (done < len) {
		ret = dma_buf_copy_tail(copy, len - done);
		if (ret <= 0)
			return done ? done : ret;
		done += ret;
	}
	return done;
}

/* Copy with the range of the buffer handed to the CPU and back. */
static ssize_t dma_buf_copy_access(struct dma_buf *dmabuf,
				   struct dma_buf_copy *copy, size_t len)
{
	/*
	 * Filling is not DMA_TO_DEVICE: after a short read the remainder of the
	 * range, as a device has written it, has to survive the end.
	 */
	const enum dma_data_direction dir = copy->drain ? DMA_FROM_DEVICE :
							  DMA_BIDIRECTIONAL;
	const size_t offset = copy->offset;
	ssize_t ret;
	int err;

	err = dma_buf_begin_cpu_access_range(dmabuf, offset, len, dir);
	if (err)
		return err;

	ret = dma_buf_copy(copy, len);

	err = dma_buf_end_cpu_access_range(dmabuf, offset, len, dir);
	if (err && ret >= 0)
		return err;
	return ret;
}

/**
 * dma_buf_copy_file_range - copy between a dma-buf and a file
 * @file_in: source
 * @pos_in: position in @file_in, in bytes
 * @file_out: destination
 * @pos_out: position in @file_out, in bytes
 * @len: number of bytes, which the VFS has limited to the end of @file_in
 * @flags: none so far
 *
 * The &file_operations.copy_file_range of dma-bufs. One of the files is a
 * dma-buf, the other one a regular file or a block device.
 *
 * Context: process context, may sleep for as long as the file takes. No locks
 * are held, and no freeze protection of @file_out.
 * Return: the number of bytes copied, which may be less than @len, or
 *
 * * -EOPNOTSUPP if the exporter supports no file I/O or both are dma-bufs
 * * -ENOSPC if @pos_out is at the end of a buffer or beyond
 * * -EINVAL if the file cannot be read or written in this way
 * * -ENOMEM
 * * -ERESTARTSYS if a signal ends the wait for a fence
 * * what the file or the exporter fails with
 */
ssize_t dma_buf_copy_file_range(struct file *file_in, loff_t pos_in,
				struct file *file_out, loff_t pos_out,
				size_t len, unsigned int flags)
{
	struct dma_buf_copy copy = {};
	struct dma_buf *dmabuf;
	loff_t offset;
	ssize_t ret;

	copy.drain = is_dma_buf_file(file_in);
	if (copy.drain) {
		dmabuf = file_in->private_data;
		offset = pos_in;
		copy.file = file_out;
		copy.pos = pos_out;
	} else {
		dmabuf = file_out->private_data;
		offset = pos_out;
		copy.file = file_in;
		copy.pos = pos_in;
	}

	if (is_dma_buf_file(copy.file))
		return -EOPNOTSUPP;
	if (copy.drain ? !copy.file->f_op->write_iter :
			 !copy.file->f_op->read_iter)
		return -EINVAL;
	/* 0 would tell that the source has come to its end. */
	if (offset >= dmabuf->size)
		return copy.drain ? 0 : -ENOSPC;

	copy.offset = offset;
	copy.ki_flags = READ_ONCE(copy.file->f_iocb_flags);
	copy.align = dma_buf_copy_align(&copy);

	/* If more is left, the next call starts where direct I/O can start. */
	len = min(len, dmabuf->size - (size_t)offset);
	if (len > DMA_BUF_COPY_MAX)
		len = rounddown(DMA_BUF_COPY_MAX, copy.align.len);

	copy.bvecs = dma_buf_get_bvecs(dmabuf);
	if (IS_ERR(copy.bvecs))
		return PTR_ERR(copy.bvecs);

	ret = dma_buf_copy_access(dmabuf, &copy, len);
	trace_dma_buf_copy(dmabuf, offset, len, copy.drain, copy.asked_direct,
			   ret);
	return ret;
}
