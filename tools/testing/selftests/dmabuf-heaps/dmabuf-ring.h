/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Registered dma-bufs for programs whose liburing does not know them.
 *
 * The first part works with any ring, and all that it needs of liburing is the
 * ring's file descriptor and a free SQE:
 *
 *	io_uring_register_buffers_sparse(&ring, 1);
 *	dmabuf_ring_register(ring.ring_fd, 0, dmabuf_fd, file_fd);
 *	dmabuf_ring_prep(io_uring_get_sqe(&ring), IORING_OP_READ_FIXED, file_fd,
 *			 0, offset_in_buffer, len, file_offset);
 *
 * The second part is a ring without liburing, for one thread. Functions return
 * a negative errno on failure.
 */
#ifndef DMABUF_RING_H
#define DMABUF_RING_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/io_uring.h>

/* Headers older than the feature. */
#ifndef IORING_RSRC_UPDATE_EXTENDED
#define IORING_RSRC_UPDATE_EXTENDED	(1U << 1)

enum io_uring_regbuf_type {
	IO_REGBUF_TYPE_EMPTY,
	IO_REGBUF_TYPE_UADDR,
	IO_REGBUF_TYPE_DMABUF,

	__IO_REGBUF_TYPE_MAX,
};

struct io_uring_regbuf_desc {
	__u32 type;
	__u32 flags;
	__u64 size;
	__u64 uaddr;
	__s32 dmabuf_fd;
	__s32 target_fd;
	__u64 __resv[6];
};
#endif

/* struct io_uring_rsrc_update2, whose second member used to be reserved */
struct dmabuf_ring_update {
	__u32 offset;
	__u32 flags;
	__u64 data;
	__u64 tags;
	__u32 nr;
	__u32 resv2;
};

/*
 * For any ring
 */

static inline int dmabuf_ring_ctl(int ring_fd, unsigned int opcode, void *arg,
				  unsigned int nr)
{
	int ret = syscall(__NR_io_uring_register, ring_fd, opcode, arg, nr);

	return ret < 0 ? -errno : ret;
}

/* A table of @nr slots that are empty. */
static inline int dmabuf_ring_table(int ring_fd, unsigned int nr)
{
	struct io_uring_rsrc_register reg = {
		.nr = nr,
		.flags = IORING_RSRC_REGISTER_SPARSE,
	};

	return dmabuf_ring_ctl(ring_fd, IORING_REGISTER_BUFFERS2, &reg,
			       sizeof(reg));
}

/* Returns the number of descriptors taken, which may be less than @nr. */
static inline int dmabuf_ring_update(int ring_fd, unsigned int slot,
				     const struct io_uring_regbuf_desc *descs,
				     unsigned int nr)
{
	struct dmabuf_ring_update up = {
		.offset = slot,
		.flags = IORING_RSRC_UPDATE_EXTENDED,
		.data = (uintptr_t)descs,
		.nr = nr,
	};

	return dmabuf_ring_ctl(ring_fd, IORING_REGISTER_BUFFERS_UPDATE, &up,
			       sizeof(up));
}

/*
 * Register a dma-buf for I/O, and map it for the device of @target_fd, a file
 * that is open with O_DIRECT. Other files may be used with it as well. Returns
 * 1. The dma-buf may be closed afterwards.
 */
static inline int dmabuf_ring_register(int ring_fd, unsigned int slot,
				       int dmabuf_fd, int target_fd)
{
	struct io_uring_regbuf_desc desc = {
		.type = IO_REGBUF_TYPE_DMABUF,
		.dmabuf_fd = dmabuf_fd,
		.target_fd = target_fd,
	};

	return dmabuf_ring_update(ring_fd, slot, &desc, 1);
}

/* Empty a slot. Commands in flight keep the buffer. Returns 1. */
static inline int dmabuf_ring_unregister(int ring_fd, unsigned int slot)
{
	struct io_uring_regbuf_desc desc = { .type = IO_REGBUF_TYPE_EMPTY };

	return dmabuf_ring_update(ring_fd, slot, &desc, 1);
}

/*
 * Fill in an SQE. @opcode is IORING_OP_READ_FIXED or IORING_OP_WRITE_FIXED,
 * @offset where the data is in the buffer, and @pos where in the file.
 */
static inline void dmabuf_ring_prep(struct io_uring_sqe *sqe,
				    unsigned int opcode, int fd,
				    unsigned int slot, __u64 offset, __u32 len,
				    __u64 pos)
{
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->buf_index = slot;
	sqe->addr = offset;
	sqe->len = len;
	sqe->off = pos;
}

/*
 * A ring without liburing
 */

struct dmabuf_ring {
	int fd;
	unsigned int flags;
	unsigned int to_submit;
	char *rings;
	size_t rings_size;
	struct io_uring_sqe *sqes;
	size_t sqes_size;
	struct io_uring_cqe *cqes;
	unsigned int sq_entries, sq_mask, cq_mask;
	unsigned int *sq_head, *sq_tail, *sq_array, *sq_flags;
	unsigned int *cq_head, *cq_tail;
};

static inline void dmabuf_ring_exit(struct dmabuf_ring *ring)
{
	if (ring->sqes)
		munmap(ring->sqes, ring->sqes_size);
	if (ring->rings)
		munmap(ring->rings, ring->rings_size);
	if (ring->fd >= 0)
		close(ring->fd);
	memset(ring, 0, sizeof(*ring));
	ring->fd = -1;
}

/* @flags: IORING_SETUP_*, except those that change the layout of the rings */
static inline int dmabuf_ring_init(struct dmabuf_ring *ring,
				   unsigned int entries, unsigned int flags)
{
	struct io_uring_params p = { .flags = flags };
	size_t sq_size, cq_size;
	void *mem;
	int ret;

	memset(ring, 0, sizeof(*ring));
	ring->fd = syscall(__NR_io_uring_setup, entries, &p);
	if (ring->fd < 0)
		return -errno;
	ring->flags = flags;

	sq_size = p.sq_off.array + p.sq_entries * sizeof(__u32);
	cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
	ring->sqes_size = p.sq_entries * sizeof(struct io_uring_sqe);

	mem = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
	if (mem == MAP_FAILED)
		goto fail;
	ring->rings = mem;
	mem = mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
	if (mem == MAP_FAILED)
		goto fail;
	ring->sqes = mem;

	ring->sq_entries = p.sq_entries;
	ring->sq_mask = p.sq_entries - 1;
	ring->cq_mask = p.cq_entries - 1;
	ring->sq_head = (unsigned int *)(ring->rings + p.sq_off.head);
	ring->sq_tail = (unsigned int *)(ring->rings + p.sq_off.tail);
	ring->sq_flags = (unsigned int *)(ring->rings + p.sq_off.flags);
	ring->sq_array = (unsigned int *)(ring->rings + p.sq_off.array);
	ring->cq_head = (unsigned int *)(ring->rings + p.cq_off.head);
	ring->cq_tail = (unsigned int *)(ring->rings + p.cq_off.tail);
	ring->cqes = (struct io_uring_cqe *)(ring->rings + p.cq_off.cqes);
	return 0;
fail:
	ret = -errno;
	dmabuf_ring_exit(ring);
	return ret;
}

/* Whether the kernel takes descriptors of buffers: one of nothing, to begin. */
static inline bool dmabuf_ring_known(void)
{
	struct dmabuf_ring ring;
	int ret;

	if (dmabuf_ring_init(&ring, 1, 0))
		return false;
	ret = dmabuf_ring_table(ring.fd, 1);
	if (!ret)
		ret = dmabuf_ring_unregister(ring.fd, 0);
	dmabuf_ring_exit(&ring);
	return ret != -EINVAL;
}

/* The next SQE, which goes out with the next submit; NULL if all are in use. */
static inline struct io_uring_sqe *dmabuf_ring_sqe(struct dmabuf_ring *ring)
{
	unsigned int tail = *ring->sq_tail + ring->to_submit;
	unsigned int head = __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE);

	if (tail - head == ring->sq_entries)
		return NULL;
	ring->sq_array[tail & ring->sq_mask] = tail & ring->sq_mask;
	ring->to_submit++;
	return &ring->sqes[tail & ring->sq_mask];
}

static inline int dmabuf_ring_enter(struct dmabuf_ring *ring,
				    unsigned int submit, unsigned int wait,
				    unsigned int flags)
{
	int ret = syscall(__NR_io_uring_enter, ring->fd, submit, wait, flags,
			  NULL, 0);

	return ret < 0 ? -errno : ret;
}

/* Returns the number submitted. */
static inline int dmabuf_ring_submit(struct dmabuf_ring *ring)
{
	unsigned int nr = ring->to_submit;
	int ret;

	ring->to_submit = 0;
	__atomic_store_n(ring->sq_tail, *ring->sq_tail + nr, __ATOMIC_RELEASE);
	if (!(ring->flags & IORING_SETUP_SQPOLL))
		return nr ? dmabuf_ring_enter(ring, nr, 0, 0) : 0;

	/* The thread reads the tail before it says that it goes to sleep. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED) &
	    IORING_SQ_NEED_WAKEUP) {
		ret = dmabuf_ring_enter(ring, nr, 0, IORING_ENTER_SQ_WAKEUP);
		if (ret < 0)
			return ret;
	}
	return nr;
}

/* Take a completion if there is one: 1, else 0. */
static inline int dmabuf_ring_reap(struct dmabuf_ring *ring,
				   struct io_uring_cqe *cqe)
{
	unsigned int head = *ring->cq_head;

	if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
		return 0;
	*cqe = ring->cqes[head & ring->cq_mask];
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return 1;
}

/* Wait for a completion and take it. A polled ring is polled. */
static inline int dmabuf_ring_wait(struct dmabuf_ring *ring,
				   struct io_uring_cqe *cqe)
{
	while (!dmabuf_ring_reap(ring, cqe)) {
		int ret = dmabuf_ring_enter(ring, 0, 1, IORING_ENTER_GETEVENTS);

		if (ret < 0 && ret != -EINTR && ret != -EAGAIN)
			return ret;
	}
	return 0;
}

/* One read or write from start to end: what its CQE says. */
static inline int dmabuf_ring_rw(struct dmabuf_ring *ring, unsigned int opcode,
				 int fd, unsigned int slot, __u64 offset,
				 __u32 len, __u64 pos)
{
	struct io_uring_sqe *sqe = dmabuf_ring_sqe(ring);
	struct io_uring_cqe cqe;
	int ret;

	if (!sqe)
		return -EBUSY;
	dmabuf_ring_prep(sqe, opcode, fd, slot, offset, len, pos);
	ret = dmabuf_ring_submit(ring);
	if (ret >= 0)
		ret = dmabuf_ring_wait(ring, &cqe);
	return ret < 0 ? ret : cqe.res;
}

#endif /* DMABUF_RING_H */
