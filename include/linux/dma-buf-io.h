/* SPDX-License-Identifier: GPL-2.0 */
/*
 * dma-bufs as the memory of file I/O.
 *
 * A registered dma-buf is mapped for the devices it is used with ahead of the
 * I/O. See Documentation/driver-api/dma-buf-io.rst.
 */
#ifndef _LINUX_DMA_BUF_IO_H
#define _LINUX_DMA_BUF_IO_H

#include <linux/atomic.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/dma-direction.h>
#include <linux/err.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/minmax.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>

struct bio;
struct device;
struct dma_buf;
struct dma_buf_attachment;
struct dma_buf_io_map;
struct dma_buf_io_token;
struct file;
struct mem_cgroup;
struct module;
struct sg_table;

/* The devices of a buffer are searched for each command. */
#define DMA_BUF_IO_MAX_DEVS	64

/**
 * struct dma_buf_io - a dma-buf registered for I/O
 * @guard:	takes the place of the first bio_vec if a bio of the buffer's first
 *		2 GiB is mistaken for one with pages; who uses them faults, who
 *		does not finds all of the bio in it; must come first
 * @nr_tokens:	slots of @tokens that are or were in use
 * @nr_stale:	tokens whose mapping the exporter took back
 * @dir:	what devices may do to the memory
 * @size:	bytes
 * @dmabuf:	the dma-buf; holds a reference
 * @attach_lock: held to attach, map and detach devices; taken before the
 *		dma-buf's reservation lock
 * @kref:	the registrations, each token, and @release_work if it is queued
 * @release_work: detaches the devices once no registration is left
 * @memcg:	is charged for mappings
 * @defer_lock:	protects @defer_head and @defer_tail
 * @defer_head:	bios that found the buffer unmapped, oldest first
 * @defer_tail:	the last of them
 * @defer_work:	maps the buffer again and resubmits them; this and the other
 *		members for it are the block layer's, which sets them up when
 *		the buffer is first attached to a disk
 * @nr_deferred: bios that were deferred so far
 * @nr_users:	registrations
 * @node:	in the table of all buffers that may be registered again
 * @tokens:	the devices that the buffer is attached to; updated with
 *		@attach_lock held, read under RCU
 *
 * This is what an iov_iter and a bio carry. It says nothing about a device:
 * whoever sends a command looks up the mapping of his own device with
 * dma_buf_io_map_get().
 */
struct dma_buf_io {
	struct bio_vec			guard;
	unsigned int			nr_tokens;
	atomic_t			nr_stale;
	enum dma_data_direction		dir;
	size_t				size;
	struct dma_buf			*dmabuf;

	/* taken before the reservation lock */
	struct mutex			attach_lock;
	struct kref			kref;
	struct work_struct		release_work;
	struct mem_cgroup		*memcg;

	spinlock_t			defer_lock ____cacheline_aligned_in_smp;
	struct bio			*defer_head;
	struct bio			*defer_tail;
	struct work_struct		defer_work;
	u64				nr_deferred;
	unsigned int			nr_users;
	struct hlist_node		node;
	struct dma_buf_io_token __rcu	*tokens[DMA_BUF_IO_MAX_DEVS];
};

/**
 * struct dma_buf_io_ops - what the driver of a device adds to its mappings
 * @owner:	module of the driver
 * @map_init:	prepare descriptors for a new mapping and put them into its
 *		desc. Without them I/O must still work, so there is no error.
 *		The reservation lock is held; may sleep and allocate. [optional]
 * @map_exit:	free what @map_init made. No command uses the mapping any more.
 *		The reservation lock is held, possibly in memory reclaim: must
 *		not allocate. [optional]
 * @kick:	make the device's finished commands complete that nobody else
 *		may be polling for. Called again and again while an invalidation
 *		waits. Same context as @map_exit. [optional]
 * @release:	free the structure that the token is part of. May sleep, no
 *		lock is held.
 */
struct dma_buf_io_ops {
	struct module	*owner;
	void (*map_init)(struct dma_buf_io_token *token,
			 struct dma_buf_io_map *map);
	void (*map_exit)(struct dma_buf_io_token *token,
			 struct dma_buf_io_map *map);
	void (*kick)(struct dma_buf_io_token *token);
	void (*release)(struct dma_buf_io_token *token);
};

/**
 * struct dma_buf_io_token - attachment of a buffer to a device
 * @dev:	the device that does the DMA
 * @dbio:	the buffer; holds a reference
 * @ops:	the driver's operations
 * @attach:	attachment to the dma-buf
 * @map:	the mapping, NULL while there is none; updated under the
 *		reservation lock, read under RCU
 * @draining:	the mapping that no command gets any more; reservation lock
 * @stale:	counted in the buffer's nr_stale; reservation lock
 * @error:	why the last attempt to map failed, else 0; reservation lock
 * @nr_maps:	mappings made so far; reservation lock
 * @kref:	one for being attached, more for temporary users
 * @dead:	being detached; written with both locks held
 * @gone:	completes once the device is detached
 *
 * Embedded in a structure of the driver, which sets it up with
 * dma_buf_io_token_init().
 */
struct dma_buf_io_token {
	struct device			*dev;
	struct dma_buf_io_map __rcu	*map;
	struct dma_buf_io_map		*draining;
	struct dma_buf_io		*dbio;
	const struct dma_buf_io_ops	*ops;
	struct dma_buf_attachment	*attach;
	bool				stale;
	int				error;
	unsigned long			nr_maps;
	struct kref			kref;
	bool				dead;
	struct completion		gone;
};

/**
 * struct dma_buf_io_map - a mapping of a buffer for a device
 * @refs:	commands that use the mapping
 * @drained:	completes when @refs has dropped to zero
 * @token:	whose mapping it is
 * @sgt:	what the exporter made
 * @desc:	the driver's descriptors
 * @need_sync:	CPU caches need maintenance around each command
 * @shift:	all chunks but the last are 1 << @shift bytes
 * @nr:		number of chunks
 * @addr:	DMA address of each chunk
 */
struct dma_buf_io_map {
	struct percpu_ref		refs;
	struct completion		drained;
	struct dma_buf_io_token		*token;
	struct sg_table			*sgt;
	void				*desc;
	bool				need_sync;
	u8				shift;
	unsigned int			nr;
	dma_addr_t			addr[] __counted_by(nr);
};

/*
 * Without CONFIG_DMA_SHARED_BUFFER there is nothing behind these; callers have
 * an iterator, bio or request that can't exist then.
 */
struct dma_buf_io *dma_buf_io_create(struct dma_buf *dmabuf,
				     enum dma_data_direction dir);
void dma_buf_io_destroy(struct dma_buf_io *dbio);
int dma_buf_io_attach_file(struct dma_buf_io *dbio, struct file *file);

int dma_buf_io_token_init(struct dma_buf_io_token *token,
			  struct dma_buf_io *dbio, struct device *dev,
			  const struct dma_buf_io_ops *ops);
struct dma_buf_io_token *dma_buf_io_find(struct dma_buf_io *dbio,
					 struct device *dev);
int dma_buf_io_map_token(struct dma_buf_io_token *token);
void dma_buf_io_detach(struct dma_buf_io_token *token);
void dma_buf_io_token_put(struct dma_buf_io_token *token);

void __dma_buf_io_sync_for_device(const struct dma_buf_io_map *map, u64 offset,
				  size_t len, enum dma_data_direction dir);
void __dma_buf_io_sync_for_cpu(const struct dma_buf_io_map *map, u64 offset,
			       size_t len, enum dma_data_direction dir);

/**
 * dma_buf_io_stale - did an exporter take a mapping back?
 * @dbio:	the buffer
 *
 * I/O then has to wait until the buffer is mapped again, which the block layer
 * sees to. For those who must not wait.
 *
 * Context: any.
 * Return: true if a device has lost its mapping, and I/O has not yet asked for
 * a new one.
 */
static inline bool dma_buf_io_stale(const struct dma_buf_io *dbio)
{
	return atomic_read(&dbio->nr_stale);
}

/**
 * dma_buf_io_map_get - get the mapping of a buffer for a device
 * @dbio:	the buffer
 * @dev:	the device that does the DMA
 *
 * To be called when a command is about to go to the hardware and not earlier:
 * invalidation waits for the reference, so whoever holds it must not wait for
 * anything but the hardware.
 *
 * Context: any.
 * Return: the mapping, to be given back with dma_buf_io_map_put(), or NULL if
 * the buffer is not mapped for the device at the moment.
 */
static inline struct dma_buf_io_map *
dma_buf_io_map_get(struct dma_buf_io *dbio, const struct device *dev)
{
	struct dma_buf_io_map *map = NULL;
	struct dma_buf_io_token *token;
	unsigned int i;

	rcu_read_lock();
	for (i = 0; i < READ_ONCE(dbio->nr_tokens); i++) {
		token = rcu_dereference(dbio->tokens[i]);
		if (!token || token->dev != dev)
			continue;
		map = rcu_dereference(token->map);
		if (map && !percpu_ref_tryget_live_rcu(&map->refs))
			map = NULL;
		break;
	}
	rcu_read_unlock();
	return map;
}

/**
 * dma_buf_io_map_put - give a mapping back
 * @map:	the mapping
 *
 * Context: any, hard interrupts included.
 */
static inline void dma_buf_io_map_put(struct dma_buf_io_map *map)
{
	percpu_ref_put(&map->refs);
}

/**
 * dma_buf_io_addr - DMA address of a place in the buffer
 * @map:	the mapping
 * @offset:	offset in bytes, less than the size of the buffer
 *
 * Context: any, with a reference to @map.
 * Return: the address. How far it is contiguous is for dma_buf_io_contig().
 */
static inline dma_addr_t dma_buf_io_addr(const struct dma_buf_io_map *map,
					 u64 offset)
{
	return map->addr[offset >> map->shift] +
		(offset & ((1ULL << map->shift) - 1));
}

/**
 * dma_buf_io_contig - length of a contiguous range
 * @map:	the mapping
 * @offset:	its start
 * @max:	length at which to stop looking, not beyond the end of the buffer
 *
 * Context: any, with a reference to @map.
 * Return: bytes from @offset on whose DMA addresses follow each other, at most
 * @max.
 */
static inline size_t dma_buf_io_contig(const struct dma_buf_io_map *map,
				       u64 offset, size_t max)
{
	u64 chunk = 1ULL << map->shift;
	u64 len = chunk - (offset & (chunk - 1));
	unsigned long i = offset >> map->shift;

	while (len < max && map->addr[i + 1] == map->addr[i] + chunk) {
		len += chunk;
		i++;
	}
	return min(len, max);
}

/**
 * dma_buf_io_sync_for_device - hand a range over to the device
 * @map:	the mapping
 * @offset:	start of the range
 * @len:	its length
 * @dir:	direction of the transfer
 *
 * Context: any, with a reference to @map.
 */
static inline void dma_buf_io_sync_for_device(const struct dma_buf_io_map *map,
					      u64 offset, size_t len,
					      enum dma_data_direction dir)
{
	if (unlikely(map->need_sync))
		__dma_buf_io_sync_for_device(map, offset, len, dir);
}

/**
 * dma_buf_io_sync_for_cpu - take a range back from the device
 * @map:	the mapping
 * @offset:	start of the range
 * @len:	its length
 * @dir:	direction of the transfer
 *
 * Context: any, with a reference to @map.
 */
static inline void dma_buf_io_sync_for_cpu(const struct dma_buf_io_map *map,
					   u64 offset, size_t len,
					   enum dma_data_direction dir)
{
	if (unlikely(map->need_sync))
		__dma_buf_io_sync_for_cpu(map, offset, len, dir);
}

#endif /* _LINUX_DMA_BUF_IO_H */
