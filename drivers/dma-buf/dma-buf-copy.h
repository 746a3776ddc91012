/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _DMA_BUF_COPY_H
#define _DMA_BUF_COPY_H

#include <linux/types.h>

struct file;

ssize_t dma_buf_copy_file_range(struct file *file_in, loff_t pos_in,
				struct file *file_out, loff_t pos_out,
				size_t len, unsigned int flags);

#endif /* _DMA_BUF_COPY_H */
