/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Interface of the test exporter, /dev/dma_buf_io_test.
 *
 * It is for the selftests only, which are built from the same tree: there is no
 * promise that it stays as it is.
 */
#ifndef _DMA_BUF_IO_TEST_UAPI_H
#define _DMA_BUF_IO_TEST_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The mappings are DMA addresses only, without pages. */
#define DMA_BUF_IO_TEST_PAGELESS	0x01
/* Only importers that allow peer-to-peer may attach, else EOPNOTSUPP. */
#define DMA_BUF_IO_TEST_NEED_P2P	0x02
/* Only importers that can be revoked may attach, else EOPNOTSUPP. */
#define DMA_BUF_IO_TEST_NEED_REVOCABLE	0x04
/* The first map of each attachment invalidates all mappings, as GPUs do. */
#define DMA_BUF_IO_TEST_MOVE_ON_MAP	0x08
/* The file of the buffer is not open for writing. */
#define DMA_BUF_IO_TEST_RDONLY		0x10
#define DMA_BUF_IO_TEST_FLAGS		0x1f

/**
 * struct dma_buf_io_test_create - make a buffer
 * @size:	its size in bytes, whole pages
 * @chunk:	bytes that are contiguous in memory, whole pages; 0 for all of
 *		@backing. Two chunks never follow each other in memory,
 *		unless there are just two that repeat.
 * @backing:	bytes of memory, a multiple of @chunk; the buffer repeats them
 *		until it has its size. 0 for as many as @size.
 * @flags:	DMA_BUF_IO_TEST_*
 * @fd:		set to the file descriptor of the dma-buf
 * @deny:	name of a device that cannot attach (EBUSY), or empty
 * @resv:	must be 0
 */
struct dma_buf_io_test_create {
	__aligned_u64	size;
	__aligned_u64	chunk;
	__aligned_u64	backing;
	__u32		flags;
	__s32		fd;
	char		deny[32];
	__aligned_u64	resv[2];
};

/**
 * struct dma_buf_io_test_move - take the memory away from the importers
 * @fd:		the dma-buf
 * @delay_ms:	for a move: the data arrives that much later, and a fence of
 *		usage KERNEL says when. Until then the new place holds 0xa5.
 * @maps:	set to the mappings there were
 * @maps_left:	set to those that were left when invalidating returned
 * @invalidate_ns: set to the time that invalidating took
 * @idle_ns:	set to the time until all fences had signalled
 * @unmap_ns:	set to the time until the last mapping was gone
 * @generation:	set to the number of the place where the data is now
 *
 * All times are counted from the start. Times are set also when the call fails
 * with ETIMEDOUT because mappings were left after a minute; @unmap_ns is 0 then.
 */
struct dma_buf_io_test_move {
	__s32		fd;
	__u32		delay_ms;
	__u32		maps;
	__u32		maps_left;
	__aligned_u64	invalidate_ns;
	__aligned_u64	idle_ns;
	__aligned_u64	unmap_ns;
	__aligned_u64	generation;
};

enum dma_buf_io_test_op {
	DMA_BUF_IO_TEST_OP_ATTACH,
	DMA_BUF_IO_TEST_OP_MAP,
};

/**
 * struct dma_buf_io_test_fail - let operations of importers fail
 * @fd:		the dma-buf
 * @op:		enum dma_buf_io_test_op
 * @count:	how many of them are to fail
 * @error:	errno they fail with
 */
struct dma_buf_io_test_fail {
	__s32		fd;
	__u32		op;
	__u32		count;
	__u32		error;
};

/**
 * struct dma_buf_io_test_info - what importers have done with a buffer
 * @fd:		the dma-buf
 * @attached:	attachments there are
 * @mapped:	mappings there are
 * @pinned:	pins there are
 * @attaches:	attachments there have been
 * @maps:	mappings there have been
 * @generation:	number of the place where the data is
 */
struct dma_buf_io_test_info {
	__s32		fd;
	__u32		attached;
	__u32		mapped;
	__u32		pinned;
	__aligned_u64	attaches;
	__aligned_u64	maps;
	__aligned_u64	generation;
};

#define DMA_BUF_IO_TEST_CREATE	 _IOWR('Z', 0, struct dma_buf_io_test_create)
/* Put the data elsewhere. EBUSY if the buffer is pinned. */
#define DMA_BUF_IO_TEST_MOVE	 _IOWR('Z', 1, struct dma_buf_io_test_move)
/* Take the buffer from importers; mapping it fails with ENODEV from then on. */
#define DMA_BUF_IO_TEST_REVOKE	 _IOWR('Z', 2, struct dma_buf_io_test_move)
/* Give it back. Invalidates once more first, as vfio-pci does. */
#define DMA_BUF_IO_TEST_UNREVOKE _IOWR('Z', 3, struct dma_buf_io_test_move)
#define DMA_BUF_IO_TEST_FAIL	 _IOW('Z', 4, struct dma_buf_io_test_fail)
#define DMA_BUF_IO_TEST_INFO	 _IOWR('Z', 5, struct dma_buf_io_test_info)

#endif /* _DMA_BUF_IO_TEST_UAPI_H */
