// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs as the memory of file I/O: attaching registered buffers to devices,
 * mapping them ahead of the I/O, and giving the memory back to the exporter.
 */
#include <kunit/visibility.h>
#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/dma-buf-io.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/iommu-dma.h>
#include <linux/log2.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/poison.h>
#include <linux/sched/mm.h>
#include <linux/scatterlist.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#define CREATE_TRACE_POINTS
#include <trace/events/dma_buf_io.h>

/* Protects the table and the number of registrations of each buffer. */
static DEFINE_MUTEX(dma_buf_io_lock);
static DEFINE_HASHTABLE(dma_buf_io_table, 8);

/* Each item sleeps for an RCU grace period, so that many have to go in parallel. */
#define DMA_BUF_IO_MAX_RELEASES	32
static struct workqueue_struct *dma_buf_io_wq;

#if IS_ENABLED(CONFIG_DMABUF_IO_TEST)
/* Bounce buffers as a stand-in for the caches of machines that are not coherent. */
static bool allow_bounce;
module_param(allow_bounce, bool, 0400);
MODULE_PARM_DESC(allow_bounce, "Take bounced mappings. For tests, loses data if a buffer is mapped twice.");
#else
#define allow_bounce	false
#endif

static void dma_buf_io_free(struct kref *kref)
{
	struct dma_buf_io *dbio = container_of(kref, struct dma_buf_io, kref);

	dma_buf_put(dbio->dmabuf);
	mem_cgroup_put(dbio->memcg);
	mutex_destroy(&dbio->attach_lock);
	kfree(dbio);
}

static struct dma_buf_io_token *dma_buf_io_token_in(struct dma_buf_io *dbio,
						    unsigned int slot)
{
	return rcu_dereference_protected(dbio->tokens[slot],
					 lockdep_is_held(&dbio->attach_lock));
}

/*
 * Mapping
 */

/*
 * The number of tokens without a mapping, so that I/O which finds all of them
 * mapped need not look at any.
 */
static void dma_buf_io_set_stale(struct dma_buf_io_token *token, bool stale)
{
	if (token->stale == stale)
		return;
	token->stale = stale;
	if (stale)
		atomic_inc(&token->dbio->nr_stale);
	else
		atomic_dec(&token->dbio->nr_stale);
}

struct dma_buf_io_run {
	struct scatterlist	*sg;
	unsigned int		left;
	dma_addr_t		addr;
	u64			len;
};

/*
 * The next run of DMA addresses that follow each other. Only the DMA side of
 * the list is looked at: the pages may not exist. Returns 1, 0 at the end, or a
 * negative error.
 */
static int dma_buf_io_next_run(struct dma_buf_io_run *run)
{
	run->len = 0;
	for (; run->left; run->left--, run->sg = sg_next(run->sg)) {
		dma_addr_t addr = sg_dma_address(run->sg);
		unsigned int len = sg_dma_len(run->sg);

		if (!len || !PAGE_ALIGNED(addr) || !PAGE_ALIGNED(len) ||
		    addr + (len - 1) < addr)
			return -EOPNOTSUPP;
		if (!run->len)
			run->addr = addr;
		else if (addr != run->addr + run->len)
			break;
		run->len += len;
	}
	return run->len ? 1 : 0;
}

static struct dma_buf_io_run dma_buf_io_runs(const struct sg_table *sgt)
{
	return (struct dma_buf_io_run) { .sg = sgt->sgl, .left = sgt->nents };
}

/*
 * Choose the chunks of the address table: the largest power of two that divides
 * all runs but the last, so that the address of any offset is one shift and one
 * load away.
 */
static int dma_buf_io_chunk_shift(const struct sg_table *sgt, u64 size)
{
	struct dma_buf_io_run run = dma_buf_io_runs(sgt);
	u64 total = 0, lens = 0, last = 0;
	int ret;

	while ((ret = dma_buf_io_next_run(&run)) > 0) {
		lens |= last;
		last = run.len;
		total += run.len;
	}
	if (ret)
		return ret;
	if (total < size)
		return -EOPNOTSUPP;
	return lens ? __ffs64(lens) : BITS_PER_LONG_LONG - 1;
}

static void dma_buf_io_drained(struct percpu_ref *ref)
{
	struct dma_buf_io_map *map =
		container_of(ref, struct dma_buf_io_map, refs);

	complete(&map->drained);
}

static struct dma_buf_io_map *
dma_buf_io_alloc_map(struct dma_buf_io_token *token, struct sg_table *sgt)
{
	struct dma_buf_io *dbio = token->dbio;
	struct dma_buf_io_run run = dma_buf_io_runs(sgt);
	struct dma_buf_io_map *map;
	unsigned int i = 0;
	u64 chunk, nr, off;
	int shift, ret;

	shift = dma_buf_io_chunk_shift(sgt, dbio->size);
	if (shift < 0)
		return ERR_PTR(shift);
	chunk = 1ULL << shift;
	nr = (dbio->size + chunk - 1) >> shift;
	/* What kvmalloc() takes without complaint. */
	if (nr > (INT_MAX - sizeof(*map)) / sizeof(map->addr[0]))
		return ERR_PTR(-EFBIG);

	map = kvzalloc_flex(*map, addr, nr, GFP_KERNEL_ACCOUNT);
	if (!map)
		return ERR_PTR(-ENOMEM);
	map->nr = nr;
	map->shift = shift;
	map->sgt = sgt;
	map->token = token;
	init_completion(&map->drained);
	ret = percpu_ref_init(&map->refs, dma_buf_io_drained, 0,
			      GFP_KERNEL_ACCOUNT);
	if (ret) {
		kvfree(map);
		return ERR_PTR(ret);
	}

	while (i < nr && dma_buf_io_next_run(&run) > 0)
		for (off = 0; off < run.len && i < nr; off += chunk)
			map->addr[i++] = run.addr + off;
	return map;
}

static void dma_buf_io_free_map(struct dma_buf_io_map *map)
{
	percpu_ref_exit(&map->refs);
	kvfree(map);
}

static bool dma_buf_io_need_sync(struct device *dev, struct sg_table *sgt)
{
	struct scatterlist *sg;
	unsigned int i;

	if (dev_dma_skip_sync(dev))
		return false;
	for_each_sgtable_dma_sg(sgt, sg, i)
		if (dma_need_sync(dev, sg_dma_address(sg)))
			return true;
	return false;
}

/*
 * Is there no other reason to sync than bounce buffers? A mapping that lives for
 * long must not take these away from others. Nor would it be right: each mapping
 * of the buffer has its own, exporters sync all of them as a whole and copy all
 * of them back in the end, so that the stale ones win over what was read.
 */
static bool dma_buf_io_sync_is_bounce(struct device *dev)
{
	return dev_is_dma_coherent(dev) && !use_dma_iommu(dev);
}

static struct dma_buf_io_map *
dma_buf_io_create_map(struct dma_buf_io_token *token)
{
	struct dma_buf_io *dbio = token->dbio;
	struct dma_buf_io_map *map;
	struct sg_table *sgt;
	bool need_sync;
	long ret;

	sgt = dma_buf_map_attachment(token->attach, dbio->dir);
	if (IS_ERR(sgt))
		return ERR_CAST(sgt);

	/* The exporter may still be copying the data to the new place. */
	ret = dma_resv_wait_timeout(dbio->dmabuf->resv, DMA_RESV_USAGE_KERNEL,
				    true, MAX_SCHEDULE_TIMEOUT);
	if (ret < 0)
		goto unmap;

	ret = -EOPNOTSUPP;
	need_sync = dma_buf_io_need_sync(token->dev, sgt);
	if (need_sync && dma_buf_io_sync_is_bounce(token->dev) && !allow_bounce)
		goto unmap;

	map = dma_buf_io_alloc_map(token, sgt);
	if (IS_ERR(map)) {
		ret = PTR_ERR(map);
		goto unmap;
	}
	map->need_sync = need_sync;
	if (token->ops->map_init)
		token->ops->map_init(token, map);
	return map;

unmap:
	dma_buf_unmap_attachment(token->attach, sgt, dbio->dir);
	return ERR_PTR(ret);
}

/* Let no more commands have the mapping. */
static void dma_buf_io_kill_map(struct dma_buf_io_token *token)
{
	struct dma_buf_io *dbio = token->dbio;
	struct dma_buf_io_map *map;

	map = rcu_replace_pointer(token->map, NULL,
				  dma_resv_held(dbio->dmabuf->resv));
	if (!map)
		return;
	token->draining = map;
	percpu_ref_kill(&map->refs);
}

/*
 * Wait for the commands that the hardware has. Nothing else holds a reference,
 * so this takes as long as the hardware takes, or the driver's timeout and
 * recovery if that is not to finish. Commands on a polled queue complete only
 * when somebody polls, and user space may have stopped to.
 */
static void dma_buf_io_drain(struct dma_buf_io_token *token,
			     struct dma_buf_io_map *map)
{
	if (!token->ops->kick) {
		wait_for_completion(&map->drained);
		return;
	}
	do {
		token->ops->kick(token);
	} while (!wait_for_completion_timeout(&map->drained, 1));
}

/* May be called in memory reclaim and must not allocate. */
static void dma_buf_io_unmap(struct dma_buf_io_token *token)
{
	struct dma_buf_io *dbio = token->dbio;
	struct dma_buf_io_map *map;
	ktime_t start;

	dma_resv_assert_held(dbio->dmabuf->resv);
	dma_buf_io_kill_map(token);
	map = token->draining;
	if (!map)
		return;
	token->draining = NULL;

	start = ktime_get();
	dma_buf_io_drain(token, map);
	trace_dma_buf_io_unmap(token, ktime_to_ns(ktime_sub(ktime_get(), start)));

	if (token->ops->map_exit)
		token->ops->map_exit(token, map);
	dma_buf_unmap_attachment(token->attach, map->sgt, dbio->dir);
	/*
	 * Draining took an RCU grace period after the map was unpublished, so
	 * nobody looks at it any more.
	 */
	dma_buf_io_free_map(map);
}

/**
 * dma_buf_io_map_token - see to it that a buffer is mapped for a device
 * @token:	the token of the device
 *
 * Waits for the exporter's fences of usage KERNEL, that is, until the data is
 * in the place that gets mapped.
 *
 * Context: process. The buffer's attach_lock is held; takes the reservation
 * lock.
 * Return: 0; -EINTR; -EOPNOTSUPP if the device can't use the memory without
 * bouncing, or if what the exporter made is not aligned to pages or too short;
 * -EFBIG if it has more chunks than can be counted; -ENOMEM; -ENODEV if the
 * device is being removed; or what the exporter returns, which is -ENODEV for
 * most if the buffer was revoked.
 */
int dma_buf_io_map_token(struct dma_buf_io_token *token)
{
	struct dma_buf_io *dbio = token->dbio;
	struct mem_cgroup *old_memcg;
	struct dma_buf_io_map *map;
	int ret;

	lockdep_assert_held(&dbio->attach_lock);

	if (token->dead)
		return -ENODEV;
	ret = dma_resv_lock_interruptible(dbio->dmabuf->resv, NULL);
	if (ret)
		return ret;
	if (rcu_access_pointer(token->map))
		goto unlock;

	/* If an exporter has invalidated the mapping of another device only. */
	dma_buf_io_unmap(token);

	old_memcg = set_active_memcg(dbio->memcg);
	map = dma_buf_io_create_map(token);
	set_active_memcg(old_memcg);

	if (IS_ERR(map)) {
		ret = PTR_ERR(map);
		if (ret == -ERESTARTSYS)
			ret = -EINTR;
	}
	trace_dma_buf_io_map(token, ret ? NULL : map, ret);
	if (ret) {
		/* Not tried again until I/O asks for this very device. */
		if (ret != -EINTR) {
			token->error = ret;
			dma_buf_io_set_stale(token, false);
		}
		goto unlock;
	}

	token->error = 0;
	token->nr_maps++;
	dma_buf_io_set_stale(token, false);
	rcu_assign_pointer(token->map, map);
unlock:
	dma_resv_unlock(dbio->dmabuf->resv);
	return ret;
}
EXPORT_SYMBOL_NS_GPL(dma_buf_io_map_token, "DMA_BUF");

/*
 * Invalidation
 */

/*
 * The exporter calls all attachments, one after the other. What each of them has
 * to wait for goes by at the same time.
 */
static void dma_buf_io_kill_all(struct dma_buf_io *dbio)
{
	struct dma_buf_io_token *token;
	unsigned int i;

	rcu_read_lock();
	for (i = 0; i < READ_ONCE(dbio->nr_tokens); i++) {
		token = rcu_dereference(dbio->tokens[i]);
		if (token)
			dma_buf_io_kill_map(token);
	}
	rcu_read_unlock();
}

/*
 * The device does not touch the memory any more when this returns, and the
 * mapping is gone. No fence is published: the exporter need not wait for
 * anything else. It may also be called for a buffer that isn't mapped, by an
 * exporter that gives the memory back, or from within our own call to map it.
 */
static void dma_buf_io_invalidate(struct dma_buf_attachment *attach)
{
	struct dma_buf_io_token *token = attach->importer_priv;

	dma_buf_io_kill_all(token->dbio);
	dma_buf_io_unmap(token);
	token->error = 0;
	if (!token->dead)
		dma_buf_io_set_stale(token, true);
}

/*
 * Peer-to-peer memory is not kept in sync by anybody, so only a device that
 * needs no help with that can have it.
 */
static const struct dma_buf_attach_ops dma_buf_io_p2p_ops = {
	.allow_peer2peer	= true,
	.invalidate_mappings	= dma_buf_io_invalidate,
};

static const struct dma_buf_attach_ops dma_buf_io_ops = {
	.invalidate_mappings	= dma_buf_io_invalidate,
};

/*
 * Attaching and detaching
 */

/**
 * dma_buf_io_find - find the token of a device
 * @dbio:	the buffer
 * @dev:	the device that does the DMA
 *
 * Context: process. @dbio's attach_lock is held.
 * Return: the token, or NULL if the buffer is not attached to @dev.
 */
struct dma_buf_io_token *dma_buf_io_find(struct dma_buf_io *dbio,
					 struct device *dev)
{
	struct dma_buf_io_token *token;
	unsigned int i;

	for (i = 0; i < dbio->nr_tokens; i++) {
		token = dma_buf_io_token_in(dbio, i);
		if (token && token->dev == dev)
			return token;
	}
	return NULL;
}
EXPORT_SYMBOL_NS_GPL(dma_buf_io_find, "DMA_BUF");

static int dma_buf_io_free_slot(struct dma_buf_io *dbio)
{
	unsigned int i;

	for (i = 0; i < DMA_BUF_IO_MAX_DEVS; i++)
		if (!rcu_access_pointer(dbio->tokens[i]))
			return i;
	return -ENOSPC;
}

/**
 * dma_buf_io_token_init - attach a buffer to a device
 * @token:	token in a structure of the driver, which is zeroed
 * @dbio:	the buffer
 * @dev:	the device that does the DMA; the driver keeps it until @ops->release
 * @ops:	the driver's operations
 *
 * For the dma_buf_attach operations of drivers, which return the token. The
 * caller of the operation then maps the buffer. The driver must call
 * dma_buf_io_detach() for its tokens before DMA with @dev comes to an end.
 *
 * Context: process. @dbio's attach_lock is held, takes the reservation lock.
 * Return: 0; -ENOSPC if the buffer is attached to DMA_BUF_IO_MAX_DEVS devices;
 * -ENODEV if @ops->owner is being unloaded; or what the exporter returns. On
 * error @ops->release is not called.
 */
int dma_buf_io_token_init(struct dma_buf_io_token *token,
			  struct dma_buf_io *dbio, struct device *dev,
			  const struct dma_buf_io_ops *ops)
{
	const struct dma_buf_attach_ops *attach_ops = &dma_buf_io_ops;
	struct dma_buf_attachment *attach;
	int slot;

	lockdep_assert_held(&dbio->attach_lock);

	slot = dma_buf_io_free_slot(dbio);
	if (slot < 0)
		return slot;
	if (!try_module_get(ops->owner))
		return -ENODEV;

	token->dbio = dbio;
	token->dev = dev;
	token->ops = ops;
	kref_init(&token->kref);
	init_completion(&token->gone);
	if (dev_dma_skip_sync(dev))
		attach_ops = &dma_buf_io_p2p_ops;
	attach = dma_buf_dynamic_attach(dbio->dmabuf, dev, attach_ops, token);
	if (IS_ERR(attach)) {
		/* An exporter may have invalidated from within its attach. */
		atomic_sub(token->stale, &dbio->nr_stale);
		module_put(ops->owner);
		return PTR_ERR(attach);
	}
	token->attach = attach;
	kref_get(&dbio->kref);
	trace_dma_buf_io_attach(token);

	rcu_assign_pointer(dbio->tokens[slot], token);
	if (slot == dbio->nr_tokens)
		WRITE_ONCE(dbio->nr_tokens, slot + 1);
	return 0;
}
EXPORT_SYMBOL_NS_GPL(dma_buf_io_token_init, "DMA_BUF");

static void dma_buf_io_token_free(struct kref *kref)
{
	struct dma_buf_io_token *token =
		container_of(kref, struct dma_buf_io_token, kref);
	struct dma_buf_io *dbio = token->dbio;
	struct module *owner = token->ops->owner;

	token->ops->release(token);
	module_put(owner);
	kref_put(&dbio->kref, dma_buf_io_free);
}

/**
 * dma_buf_io_token_put - drop a reference to a token
 * @token:	the token
 *
 * Context: process, without any lock.
 */
void dma_buf_io_token_put(struct dma_buf_io_token *token)
{
	kref_put(&token->kref, dma_buf_io_token_free);
}
EXPORT_SYMBOL_NS_GPL(dma_buf_io_token_put, "DMA_BUF");

static void dma_buf_io_remove_token(struct dma_buf_io *dbio,
				    struct dma_buf_io_token *token)
{
	unsigned int i;

	for (i = 0; i < dbio->nr_tokens; i++)
		if (rcu_access_pointer(dbio->tokens[i]) == token)
			RCU_INIT_POINTER(dbio->tokens[i], NULL);
}

/**
 * dma_buf_io_detach - detach a buffer from a device
 * @token:	the token of the device; the caller holds a reference
 *
 * Returns when the device has let go of the buffer, also if somebody else is
 * detaching it already. Commands in flight are waited for, so the device must
 * be able to finish them, or the driver must have cancelled them.
 *
 * Context: process, without any lock.
 */
void dma_buf_io_detach(struct dma_buf_io_token *token)
{
	struct dma_buf_io *dbio = token->dbio;
	struct dma_buf *dmabuf = dbio->dmabuf;

	mutex_lock(&dbio->attach_lock);
	if (token->dead) {
		mutex_unlock(&dbio->attach_lock);
		wait_for_completion(&token->gone);
		return;
	}
	dma_resv_lock(dmabuf->resv, NULL);
	token->dead = true;
	dma_buf_io_kill_map(token);
	dma_resv_unlock(dmabuf->resv);
	dma_buf_io_remove_token(dbio, token);
	/*
	 * dma_buf_io_map_get() may be looking at the token. Draining needs a
	 * grace period too, which is not to be waited for with the reservation
	 * lock held.
	 */
	synchronize_rcu();
	dma_resv_lock(dmabuf->resv, NULL);
	dma_buf_io_unmap(token);
	dma_buf_io_set_stale(token, false);
	dma_resv_unlock(dmabuf->resv);
	mutex_unlock(&dbio->attach_lock);

	trace_dma_buf_io_detach(token);
	dma_buf_detach(dmabuf, token->attach);
	complete_all(&token->gone);
	dma_buf_io_token_put(token);
}
EXPORT_SYMBOL_NS_GPL(dma_buf_io_detach, "DMA_BUF");

/**
 * dma_buf_io_attach_file - attach a buffer to the devices of a file and map it
 * @dbio:	the buffer
 * @file:	the file
 *
 * Context: process, without a lock that nests in a reservation lock.
 * Return: 0; -EOPNOTSUPP if the file or a device below it can't do I/O with
 * dma-bufs; -EINTR; or what dma_buf_io_token_init() and dma_buf_io_map_token()
 * return. Devices that were attached before an error stay attached, until the
 * buffer is destroyed.
 */
int dma_buf_io_attach_file(struct dma_buf_io *dbio, struct file *file)
{
	struct dma_buf_io_token *token;
	int ret;

	if (!file->f_op->dma_buf_attach)
		return -EOPNOTSUPP;
	ret = mutex_lock_interruptible(&dbio->attach_lock);
	if (ret)
		return ret;
	token = file->f_op->dma_buf_attach(file, dbio);
	if (IS_ERR(token))
		ret = PTR_ERR(token);
	else if (token)
		ret = dma_buf_io_map_token(token);
	mutex_unlock(&dbio->attach_lock);
	return ret;
}

/*
 * Buffers
 */

static void dma_buf_io_release(struct dma_buf_io *dbio)
{
	struct dma_buf_io_token *token;
	unsigned int i;

	for (i = 0; i < DMA_BUF_IO_MAX_DEVS; i++) {
		mutex_lock(&dbio->attach_lock);
		token = dma_buf_io_token_in(dbio, i);
		if (token)
			kref_get(&token->kref);
		mutex_unlock(&dbio->attach_lock);
		if (!token)
			continue;
		dma_buf_io_detach(token);
		dma_buf_io_token_put(token);
	}

	/* It has no bios any more, but may not have returned yet. */
	if (dbio->defer_work.func)
		cancel_work_sync(&dbio->defer_work);
	kref_put(&dbio->kref, dma_buf_io_free);
}

static void dma_buf_io_release_work(struct work_struct *work)
{
	struct dma_buf_io *dbio =
		container_of(work, struct dma_buf_io, release_work);
	bool unused = false;

	mutex_lock(&dma_buf_io_lock);
	/* It may have been registered again, or this be the second time. */
	if (!dbio->nr_users && hash_hashed(&dbio->node)) {
		hash_del(&dbio->node);
		unused = true;
	}
	mutex_unlock(&dma_buf_io_lock);

	if (unused)
		dma_buf_io_release(dbio);
	/* That of the work itself. */
	kref_put(&dbio->kref, dma_buf_io_free);
}

/* Takes the reference of all registrations together. */
static struct dma_buf_io *dma_buf_io_alloc(struct dma_buf *dmabuf,
					   enum dma_data_direction dir)
{
	struct dma_buf_io *dbio;

	dbio = kzalloc_obj(*dbio, GFP_KERNEL_ACCOUNT);
	if (!dbio)
		return NULL;
	get_dma_buf(dmabuf);
	dbio->guard.bv_page = LIST_POISON1;
	dbio->guard.bv_len = UINT_MAX;
	dbio->dmabuf = dmabuf;
	dbio->size = dmabuf->size;
	dbio->dir = dir;
	dbio->memcg = get_mem_cgroup_from_mm(current->mm);
	mutex_init(&dbio->attach_lock);
	kref_init(&dbio->kref);
	INIT_WORK(&dbio->release_work, dma_buf_io_release_work);
	hash_add(dma_buf_io_table, &dbio->node, (unsigned long)dmabuf);
	return dbio;
}

static struct dma_buf_io *dma_buf_io_lookup(struct dma_buf *dmabuf,
					    enum dma_data_direction dir)
{
	struct dma_buf_io *dbio;

	hash_for_each_possible(dma_buf_io_table, dbio, node,
			       (unsigned long)dmabuf)
		if (dbio->dmabuf == dmabuf && dbio->dir == dir)
			return dbio;
	return NULL;
}

/**
 * dma_buf_io_create - register a dma-buf for I/O
 * @dmabuf:	the dma-buf; takes a reference of its own
 * @dir:	what devices may do to the memory: DMA_TO_DEVICE for writes to
 *		files, DMA_FROM_DEVICE for reads, DMA_BIDIRECTIONAL for both
 *
 * All registrations of a dma-buf for the same direction share the buffer with
 * its attachments and mappings, so that an exporter that wants its memory back
 * has to wait for one of these for each device, not for one for each ring.
 * Mappings are charged to the memory cgroup of whoever registers it first.
 *
 * Context: process.
 * Return: the buffer, or an ERR_PTR: -ENOMEM; -EACCES if devices could write to
 * a dma-buf that is not open for writing, or read one that is not open for
 * reading; -EINVAL if its size is not a multiple of the page size.
 */
struct dma_buf_io *dma_buf_io_create(struct dma_buf *dmabuf,
				     enum dma_data_direction dir)
{
	struct dma_buf_io *dbio;

	if (dir != DMA_TO_DEVICE && !(dmabuf->file->f_mode & FMODE_WRITE))
		return ERR_PTR(-EACCES);
	if (dir != DMA_FROM_DEVICE && !(dmabuf->file->f_mode & FMODE_READ))
		return ERR_PTR(-EACCES);
	if (!dmabuf->size || !PAGE_ALIGNED(dmabuf->size))
		return ERR_PTR(-EINVAL);

	guard(mutex)(&dma_buf_io_lock);
	dbio = dma_buf_io_lookup(dmabuf, dir);
	if (!dbio)
		dbio = dma_buf_io_alloc(dmabuf, dir);
	if (!dbio)
		return ERR_PTR(-ENOMEM);
	dbio->nr_users++;
	return dbio;
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_io_create);

/**
 * dma_buf_io_destroy - unregister a dma-buf
 * @dbio:	the buffer, which no I/O of this registration uses any more
 *
 * Devices are detached asynchronously, as that takes an RCU grace period. Until
 * then another registration may find the buffer and keep it.
 *
 * Context: process.
 */
void dma_buf_io_destroy(struct dma_buf_io *dbio)
{
	guard(mutex)(&dma_buf_io_lock);
	if (--dbio->nr_users)
		return;
	/* For the work. If it is queued already it has one. */
	kref_get(&dbio->kref);
	if (!queue_work(dma_buf_io_wq, &dbio->release_work))
		kref_put(&dbio->kref, dma_buf_io_free);
}
EXPORT_SYMBOL_IF_KUNIT(dma_buf_io_destroy);

/*
 * Cache maintenance goes by pages: the DMA API looks up the memory behind the
 * first address of a range only, and what is contiguous for the device need not
 * be contiguous in memory.
 */
static size_t dma_buf_io_page_len(u64 offset, size_t len)
{
	return min(len, PAGE_SIZE - offset_in_page(offset));
}

void __dma_buf_io_sync_for_device(const struct dma_buf_io_map *map, u64 offset,
				  size_t len, enum dma_data_direction dir)
{
	size_t n;

	for (; len; offset += n, len -= n) {
		n = dma_buf_io_page_len(offset, len);
		dma_sync_single_for_device(map->token->dev,
					   dma_buf_io_addr(map, offset), n, dir);
	}
}
EXPORT_SYMBOL_NS_GPL(__dma_buf_io_sync_for_device, "DMA_BUF");

void __dma_buf_io_sync_for_cpu(const struct dma_buf_io_map *map, u64 offset,
			       size_t len, enum dma_data_direction dir)
{
	size_t n;

	for (; len; offset += n, len -= n) {
		n = dma_buf_io_page_len(offset, len);
		dma_sync_single_for_cpu(map->token->dev,
					dma_buf_io_addr(map, offset), n, dir);
	}
}
EXPORT_SYMBOL_NS_GPL(__dma_buf_io_sync_for_cpu, "DMA_BUF");

#ifdef CONFIG_DEBUG_FS
static void dma_buf_io_show_token(struct seq_file *m,
				  struct dma_buf_io_token *token)
{
	struct dma_buf_io *dbio = token->dbio;
	struct dma_buf_io_map *map;

	map = rcu_dereference_protected(token->map,
					dma_resv_held(dbio->dmabuf->resv));
	seq_printf(m, "  %s: %s maps=%lu peer2peer=%d", dev_name(token->dev),
		   map ? "mapped" : token->error ? "broken" : "stale",
		   token->nr_maps, token->attach->peer2peer);
	if (token->error)
		seq_printf(m, " error=%d", token->error);
	if (map)
		seq_printf(m, " chunks=%u shift=%u need_sync=%d desc=%d",
			   map->nr, map->shift, map->need_sync, !!map->desc);
	seq_putc(m, '\n');
}

/*
 * The locks of a buffer may be held for as long as its exporter or a drive
 * takes, and all registrations would wait for whoever waits for them here.
 */
static void dma_buf_io_show_buffer(struct seq_file *m, struct dma_buf_io *dbio)
{
	struct dma_buf_io_token *token;
	unsigned int i;

	seq_printf(m, "ino=%llu exporter=%s size=%zu users=%u deferred=%llu\n",
		   file_inode(dbio->dmabuf->file)->i_ino,
		   dbio->dmabuf->exp_name, dbio->size, dbio->nr_users,
		   READ_ONCE(dbio->nr_deferred));
	if (!mutex_trylock(&dbio->attach_lock)) {
		seq_puts(m, "  busy\n");
		return;
	}
	if (dma_resv_trylock(dbio->dmabuf->resv)) {
		for (i = 0; i < dbio->nr_tokens; i++) {
			token = dma_buf_io_token_in(dbio, i);
			if (token)
				dma_buf_io_show_token(m, token);
		}
		dma_resv_unlock(dbio->dmabuf->resv);
	} else {
		seq_puts(m, "  busy\n");
	}
	mutex_unlock(&dbio->attach_lock);
}

static int dma_buf_io_show(struct seq_file *m, void *unused)
{
	struct dma_buf_io *dbio;
	unsigned int bucket;

	guard(mutex)(&dma_buf_io_lock);
	hash_for_each(dma_buf_io_table, bucket, dbio, node)
		dma_buf_io_show_buffer(m, dbio);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(dma_buf_io);

static void __init dma_buf_io_init_debugfs(void)
{
	struct dentry *dir = debugfs_lookup("dma_buf", NULL);

	if (!dir)
		return;
	debugfs_create_file("io", 0444, dir, NULL, &dma_buf_io_fops);
	dput(dir);
}
#else
static void __init dma_buf_io_init_debugfs(void)
{
}
#endif

static int __init dma_buf_io_init(void)
{
	dma_buf_io_wq = alloc_workqueue("dma_buf_io", WQ_UNBOUND,
					DMA_BUF_IO_MAX_RELEASES);
	if (!dma_buf_io_wq)
		panic("Failed to create dma_buf_io workqueue\n");
	dma_buf_io_init_debugfs();
	return 0;
}
fs_initcall(dma_buf_io_init);
