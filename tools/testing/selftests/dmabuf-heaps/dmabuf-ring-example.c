// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Load the start of a block device into a buffer of the system heap, where any
 * device can use it, without a copy: dmabuf-ring-example /dev/nvme0n1 4194304
 *
 * With a third argument, what is in the buffer is copied to that file.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include <linux/dma-buf.h>
#include <linux/dma-heap.h>

#include "dmabuf-ring.h"

#define MAX_READ	(1UL << 30)	/* one read moves less than 2 GiB */

static void copy_out(int buf, size_t size, const char *path)
{
	struct dma_buf_sync sync = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ };
	void *mem = mmap(NULL, size, PROT_READ, MAP_SHARED, buf, 0);
	FILE *file = fopen(path, "we");

	if (mem == MAP_FAILED || !file || ioctl(buf, DMA_BUF_IOCTL_SYNC, &sync) ||
	    fwrite(mem, 1, size, file) != size || fclose(file))
		err(1, "copying the buffer to %s", path);
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
	ioctl(buf, DMA_BUF_IOCTL_SYNC, &sync);
	munmap(mem, size);
}

int main(int argc, char **argv)
{
	struct dma_heap_allocation_data buf = { .fd_flags = O_RDWR | O_CLOEXEC };
	struct dmabuf_ring ring;
	size_t done = 0, size;
	int file, heap, ret;

	if (argc != 3 && argc != 4)
		errx(2, "usage: %s DEVICE BYTES [FILE]", argv[0]);
	size = strtoul(argv[2], NULL, 0);
	buf.len = size;

	file = open(argv[1], O_RDONLY | O_DIRECT | O_CLOEXEC);
	heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	if (file < 0 || heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &buf))
		err(1, "%s or a buffer of %zu bytes", argv[1], size);

	ret = dmabuf_ring_init(&ring, 4, 0);
	if (!ret)
		ret = dmabuf_ring_table(ring.fd, 1);
	if (!ret)
		ret = dmabuf_ring_register(ring.fd, 0, buf.fd, file);
	if (ret < 0)
		errx(1, "registering: %s", strerror(-ret));

	while (done < size) {
		size_t len = size - done < MAX_READ ? size - done : MAX_READ;

		ret = dmabuf_ring_rw(&ring, IORING_OP_READ_FIXED, file, 0, done,
				     len, done);
		if (ret <= 0)
			errx(1, "at %zu: %s", done,
			     ret ? strerror(-ret) : "end of the device");
		done += ret;
	}
	printf("%zu bytes are in the dma-buf\n", done);
	if (argc == 4)
		copy_out(buf.fd, size, argv[3]);
	return 0;
}
