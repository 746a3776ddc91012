// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for registered dma-bufs: the life of a mapping, and its addresses.
 *
 * The exporter is made up: it hands out DMA addresses that nobody accesses, and
 * moves, revokes and fails on request.
 */
#include <kunit/device.h>
#include <kunit/test.h>
#include <kunit/visibility.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/dma-buf.h>
#include <linux/dma-buf-io.h>
#include <linux/dma-resv.h>
#include <linux/fcntl.h>
#include <linux/kthread.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#define MAX_SEGS	8

/*
 * @pages: of each DMA segment, ended by 0
 * @joined: bit n is set if segment n follows segment n - 1 in DMA addresses
 */
struct io_layout {
	const char	*desc;
	unsigned int	pages[MAX_SEGS + 1];
	unsigned long	joined;
	unsigned int	shift;		/* of the chunks there should be */
	int		error;
	unsigned int	misalign;	/* of the last segment's address */
};

struct io_exporter {
	const struct io_layout	*layout;
	size_t			size;
	dma_addr_t		base;		/* changes with each move */
	int			map_error;
	bool			move_on_map;
	unsigned int		attached;
	unsigned int		mapped;
	unsigned int		max_mapped;
	struct dma_buf		*dmabuf;
};

struct io_device {
	struct dma_buf_io_token	token;
	struct kunit		*test;
	struct device		*dev;
	unsigned int		map_inits;
	unsigned int		map_exits;
	unsigned int		kicks;
	struct completion	kicked;
	struct completion	released;
};

static const struct io_layout one_segment = {
	.desc = "one segment", .pages = { 256 }, .shift = 63,
};

static bool io_done(struct completion *done)
{
	return wait_for_completion_timeout(done, 10 * HZ);
}

/*
 * Exporter
 */

static unsigned int io_nr_segs(const struct io_layout *layout)
{
	unsigned int nr = 0;

	while (layout->pages[nr])
		nr++;
	return nr;
}

/* Segments neither follow each other, unless they are to, nor come in order. */
static dma_addr_t io_seg_addr(const struct io_exporter *exp, unsigned int i)
{
	const struct io_layout *layout = exp->layout;
	dma_addr_t addr;

	if (i && (layout->joined & BIT(i)))
		return io_seg_addr(exp, i - 1) +
			layout->pages[i - 1] * PAGE_SIZE;
	addr = exp->base + (MAX_SEGS - i) * (dma_addr_t)SZ_256M;
	if (layout->misalign && i + 1 == io_nr_segs(layout))
		addr += layout->misalign;
	return addr;
}

/* The address of each byte, found the long way. */
static dma_addr_t io_linear_addr(const struct io_exporter *exp, u64 offset)
{
	unsigned int i;

	for (i = 0; offset >= exp->layout->pages[i] * PAGE_SIZE; i++)
		offset -= exp->layout->pages[i] * PAGE_SIZE;
	return io_seg_addr(exp, i) + offset;
}

static int io_exp_attach(struct dma_buf *dmabuf,
			 struct dma_buf_attachment *attach)
{
	struct io_exporter *exp = dmabuf->priv;

	exp->attached++;
	return 0;
}

static void io_exp_detach(struct dma_buf *dmabuf,
			  struct dma_buf_attachment *attach)
{
	struct io_exporter *exp = dmabuf->priv;

	exp->attached--;
}

static struct sg_table *io_exp_map(struct dma_buf_attachment *attach,
				   enum dma_data_direction dir)
{
	struct io_exporter *exp = attach->dmabuf->priv;
	unsigned int i, nr = io_nr_segs(exp->layout);
	struct scatterlist *sg;
	struct sg_table *sgt;

	if (exp->move_on_map) {
		exp->move_on_map = false;
		exp->base += SZ_4G;
		dma_buf_invalidate_mappings(attach->dmabuf);
	}
	if (exp->map_error)
		return ERR_PTR(exp->map_error);

	sgt = kzalloc_obj(*sgt);
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	if (sg_alloc_table(sgt, nr, GFP_KERNEL)) {
		kfree(sgt);
		return ERR_PTR(-ENOMEM);
	}
	for_each_sgtable_dma_sg(sgt, sg, i) {
		sg_dma_address(sg) = io_seg_addr(exp, i);
		sg_dma_len(sg) = exp->layout->pages[i] * PAGE_SIZE;
	}
	exp->mapped++;
	exp->max_mapped = max(exp->max_mapped, exp->mapped);
	return sgt;
}

static void io_exp_unmap(struct dma_buf_attachment *attach,
			 struct sg_table *sgt, enum dma_data_direction dir)
{
	struct io_exporter *exp = attach->dmabuf->priv;

	exp->mapped--;
	sg_free_table(sgt);
	kfree(sgt);
}

static void io_exp_release(struct dma_buf *dmabuf)
{
	struct io_exporter *exp = dmabuf->priv;

	exp->dmabuf = NULL;
}

static const struct dma_buf_ops io_exp_ops = {
	.attach		= io_exp_attach,
	.detach		= io_exp_detach,
	.map_dma_buf	= io_exp_map,
	.unmap_dma_buf	= io_exp_unmap,
	.release	= io_exp_release,
};

static struct io_exporter *io_export(struct kunit *test,
				     const struct io_layout *layout, int flags)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct io_exporter *exp;
	unsigned int i;

	exp = kunit_kzalloc(test, sizeof(*exp), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, exp);
	exp->layout = layout;
	exp->base = SZ_1G;
	for (i = 0; layout->pages[i]; i++)
		exp->size += layout->pages[i] * PAGE_SIZE;
	info.ops = &io_exp_ops;
	info.size = exp->size;
	info.flags = flags;
	info.priv = exp;
	exp->dmabuf = dma_buf_export(&info);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, exp->dmabuf);
	return exp;
}

static void io_move(struct io_exporter *exp)
{
	dma_resv_lock(exp->dmabuf->resv, NULL);
	exp->base += SZ_4G;
	dma_buf_invalidate_mappings(exp->dmabuf);
	dma_resv_unlock(exp->dmabuf->resv);
}

/*
 * Driver
 */

static struct io_device *to_io_device(struct dma_buf_io_token *token)
{
	return container_of(token, struct io_device, token);
}

static void io_dev_map_init(struct dma_buf_io_token *token,
			    struct dma_buf_io_map *map)
{
	to_io_device(token)->map_inits++;
	map->desc = token;
}

static void io_dev_map_exit(struct dma_buf_io_token *token,
			    struct dma_buf_io_map *map)
{
	struct io_device *iodev = to_io_device(token);

	iodev->map_exits++;
	KUNIT_EXPECT_PTR_EQ(iodev->test, map->desc, (void *)token);
	KUNIT_EXPECT_TRUE(iodev->test, percpu_ref_is_zero(&map->refs));
}

static void io_dev_kick(struct dma_buf_io_token *token)
{
	struct io_device *iodev = to_io_device(token);

	iodev->kicks++;
	complete(&iodev->kicked);
}

static void io_dev_release(struct dma_buf_io_token *token)
{
	complete(&to_io_device(token)->released);
}

static const struct dma_buf_io_ops io_dev_ops = {
	.owner		= THIS_MODULE,
	.map_init	= io_dev_map_init,
	.map_exit	= io_dev_map_exit,
	.release	= io_dev_release,
};

static const struct dma_buf_io_ops io_dev_polled_ops = {
	.owner		= THIS_MODULE,
	.kick		= io_dev_kick,
	.release	= io_dev_release,
};

static struct io_device *io_device(struct kunit *test, const char *name)
{
	struct io_device *iodev;

	iodev = kunit_kzalloc(test, sizeof(*iodev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, iodev);
	iodev->test = test;
	init_completion(&iodev->kicked);
	init_completion(&iodev->released);
	iodev->dev = kunit_device_register(test, name);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, iodev->dev);
	return iodev;
}

static int io_attach(struct dma_buf_io *dbio, struct io_device *iodev,
		     const struct dma_buf_io_ops *ops)
{
	int ret;

	mutex_lock(&dbio->attach_lock);
	ret = dma_buf_io_token_init(&iodev->token, dbio, iodev->dev, ops);
	if (!ret)
		ret = dma_buf_io_map_token(&iodev->token);
	mutex_unlock(&dbio->attach_lock);
	return ret;
}

/* As the block layer does it, once for each device. */
static void io_remap(struct dma_buf_io *dbio)
{
	struct dma_buf_io_token *token;
	unsigned int i;

	mutex_lock(&dbio->attach_lock);
	for (i = 0; i < dbio->nr_tokens; i++) {
		token = rcu_dereference_protected(dbio->tokens[i],
						  lockdep_is_held(&dbio->attach_lock));
		if (token)
			dma_buf_io_map_token(token);
	}
	mutex_unlock(&dbio->attach_lock);
}

static struct dma_buf_io *io_create(struct kunit *test, struct io_exporter *exp)
{
	struct dma_buf_io *dbio;

	dbio = dma_buf_io_create(exp->dmabuf, DMA_BIDIRECTIONAL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dbio);
	return dbio;
}

/* Unregister, and see to it that everything is given back. */
static void io_destroy(struct kunit *test, struct dma_buf_io *dbio,
		       struct io_exporter *exp, struct io_device *iodev)
{
	unsigned int i;

	dma_buf_io_destroy(dbio);
	if (iodev)
		KUNIT_EXPECT_TRUE(test, io_done(&iodev->released));
	dma_buf_put(exp->dmabuf);
	/* The last reference to the file is dropped by a work item. */
	for (i = 0; i < 500 && READ_ONCE(exp->dmabuf); i++)
		msleep(20);
	KUNIT_EXPECT_NULL(test, exp->dmabuf);
	KUNIT_EXPECT_EQ(test, exp->attached, 0);
	KUNIT_EXPECT_EQ(test, exp->mapped, 0);
	KUNIT_EXPECT_LE(test, exp->max_mapped, 1);
	if (iodev)
		KUNIT_EXPECT_EQ(test, iodev->map_inits, iodev->map_exits);
}

/*
 * Addresses
 */

static void io_test_addresses(struct kunit *test)
{
	const struct io_layout *layout = test->param_value;
	struct io_exporter *exp = io_export(test, layout, O_RDWR);
	struct io_device *iodev = io_device(test, "io-addresses");
	struct dma_buf_io *dbio = io_create(test, exp);
	struct dma_buf_io_map *map;
	u64 offset, end;
	int ret;

	ret = io_attach(dbio, iodev, &io_dev_ops);
	KUNIT_EXPECT_EQ(test, ret, layout->error);
	map = dma_buf_io_map_get(dbio, iodev->dev);
	if (layout->error) {
		KUNIT_EXPECT_NULL(test, map);
		goto out;
	}
	KUNIT_ASSERT_NOT_NULL(test, map);
	KUNIT_EXPECT_EQ(test, map->shift, layout->shift);

	for (offset = 0; offset < exp->size; offset += PAGE_SIZE / 2) {
		KUNIT_EXPECT_EQ(test, dma_buf_io_addr(map, offset),
				io_linear_addr(exp, offset));
		for (end = offset + 512; end < exp->size; end += 512)
			if (io_linear_addr(exp, end) !=
			    io_linear_addr(exp, offset) + end - offset)
				break;
		KUNIT_EXPECT_EQ(test, dma_buf_io_contig(map, offset,
							exp->size - offset),
				end - offset);
		KUNIT_EXPECT_EQ(test, dma_buf_io_contig(map, offset, 512), 512);
	}
	dma_buf_io_map_put(map);
out:
	io_destroy(test, dbio, exp, iodev);
}

static const struct io_layout io_layouts[] = {
	{ .desc = "one", .pages = { 5 }, .shift = 63 },
	{ .desc = "two that follow each other", .pages = { 3, 5 },
	  .joined = BIT(1), .shift = 63 },
	{ .desc = "equal", .pages = { 4, 4, 4, 4 }, .shift = PAGE_SHIFT + 2 },
	{ .desc = "last is shorter", .pages = { 4, 4, 1 },
	  .shift = PAGE_SHIFT + 2 },
	{ .desc = "last is longer", .pages = { 4, 4, 9 },
	  .shift = PAGE_SHIFT + 2 },
	{ .desc = "mixed", .pages = { 8, 1, 2, 16 }, .shift = PAGE_SHIFT },
	{ .desc = "multiples", .pages = { 8, 2, 6, 1 },
	  .shift = PAGE_SHIFT + 1 },
	{ .desc = "some follow each other", .pages = { 1, 3, 4, 8, 2 },
	  .joined = BIT(1) | BIT(3), .shift = PAGE_SHIFT + 2 },
	{ .desc = "misaligned", .pages = { 4, 4 }, .misalign = 512,
	  .error = -EOPNOTSUPP },
};

KUNIT_ARRAY_PARAM_DESC(io_layout, io_layouts, desc);

/* What is exported does not cover what was said to be its size. */
static void io_test_too_short(struct kunit *test)
{
	static const struct io_layout shorter = { .pages = { 255 } };
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev = io_device(test, "io-short");
	struct dma_buf_io *dbio = io_create(test, exp);

	exp->layout = &shorter;
	KUNIT_EXPECT_EQ(test, io_attach(dbio, iodev, &io_dev_ops), -EOPNOTSUPP);
	KUNIT_EXPECT_NULL(test, dma_buf_io_map_get(dbio, iodev->dev));
	io_destroy(test, dbio, exp, iodev);
}

/*
 * Life of a mapping
 */

struct io_mover {
	struct io_exporter	*exp;
	struct completion	done;
};

static int io_mover_fn(void *data)
{
	struct io_mover *mover = data;

	io_move(mover->exp);
	complete(&mover->done);
	return 0;
}

/* Not on the stack: it may outlive a test that fails. */
static struct io_mover *io_start_mover(struct kunit *test,
				       struct io_exporter *exp)
{
	struct io_mover *mover = kzalloc_obj(*mover);
	struct task_struct *task;

	KUNIT_ASSERT_NOT_NULL(test, mover);
	mover->exp = exp;
	init_completion(&mover->done);
	task = kthread_run(io_mover_fn, mover, "io-mover");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	return mover;
}

static void io_end_mover(struct kunit *test, struct io_mover *mover)
{
	KUNIT_ASSERT_TRUE(test, io_done(&mover->done));
	kfree(mover);
}

static void io_test_move(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev = io_device(test, "io-move");
	struct dma_buf_io *dbio = io_create(test, exp);
	struct io_mover *mover;
	struct dma_buf_io_map *map;
	dma_addr_t old;

	KUNIT_ASSERT_EQ(test, io_attach(dbio, iodev, &io_dev_ops), 0);
	KUNIT_EXPECT_FALSE(test, dma_buf_io_stale(dbio));
	map = dma_buf_io_map_get(dbio, iodev->dev);
	KUNIT_ASSERT_NOT_NULL(test, map);
	old = dma_buf_io_addr(map, 0);

	/* While a command has the mapping, the exporter waits for it. */
	mover = io_start_mover(test, exp);
	msleep(200);
	KUNIT_EXPECT_FALSE(test, completion_done(&mover->done));
	KUNIT_EXPECT_EQ(test, exp->mapped, 1);
	KUNIT_EXPECT_NULL(test, dma_buf_io_map_get(dbio, iodev->dev));
	dma_buf_io_map_put(map);
	io_end_mover(test, mover);
	KUNIT_EXPECT_EQ(test, exp->mapped, 0);

	/* Whoever may not sleep is told to come again. */
	KUNIT_EXPECT_TRUE(test, dma_buf_io_stale(dbio));
	KUNIT_EXPECT_EQ(test, exp->mapped, 0);
	io_remap(dbio);
	KUNIT_EXPECT_EQ(test, exp->mapped, 1);
	KUNIT_EXPECT_FALSE(test, dma_buf_io_stale(dbio));
	map = dma_buf_io_map_get(dbio, iodev->dev);
	KUNIT_ASSERT_NOT_NULL(test, map);
	KUNIT_EXPECT_EQ(test, dma_buf_io_addr(map, 0), old + SZ_4G);
	dma_buf_io_map_put(map);

	/* Twice without a mapping in between counts once. */
	io_move(exp);
	io_move(exp);
	KUNIT_EXPECT_EQ(test, atomic_read(&dbio->nr_stale), 1);
	io_destroy(test, dbio, exp, iodev);
}

/* A polled queue completes only if it is kicked. */
static void io_test_kick(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev = io_device(test, "io-kick");
	struct dma_buf_io *dbio = io_create(test, exp);
	struct io_mover *mover;
	struct dma_buf_io_map *map;
	unsigned int i;

	KUNIT_ASSERT_EQ(test, io_attach(dbio, iodev, &io_dev_polled_ops), 0);
	map = dma_buf_io_map_get(dbio, iodev->dev);
	KUNIT_ASSERT_NOT_NULL(test, map);
	mover = io_start_mover(test, exp);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_TRUE(test, io_done(&iodev->kicked));
	KUNIT_EXPECT_FALSE(test, completion_done(&mover->done));
	dma_buf_io_map_put(map);
	io_end_mover(test, mover);
	io_destroy(test, dbio, exp, iodev);
}

static void io_test_revoke(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev = io_device(test, "io-revoke");
	struct dma_buf_io *dbio = io_create(test, exp);
	struct dma_buf_io_map *map;

	KUNIT_ASSERT_EQ(test, io_attach(dbio, iodev, &io_dev_ops), 0);
	exp->map_error = -ENODEV;
	io_move(exp);

	/* For other devices it may still do, and waiting does not help. */
	KUNIT_EXPECT_TRUE(test, dma_buf_io_stale(dbio));
	io_remap(dbio);
	KUNIT_EXPECT_FALSE(test, dma_buf_io_stale(dbio));
	KUNIT_EXPECT_NULL(test, dma_buf_io_map_get(dbio, iodev->dev));
	KUNIT_EXPECT_EQ(test, iodev->token.error, -ENODEV);

	/* The I/O that wants this device tries, and is told why not. */
	mutex_lock(&dbio->attach_lock);
	KUNIT_EXPECT_EQ(test, dma_buf_io_map_token(&iodev->token), -ENODEV);
	mutex_unlock(&dbio->attach_lock);

	/* vfio-pci says so when the memory is back. */
	exp->map_error = 0;
	io_move(exp);
	KUNIT_EXPECT_TRUE(test, dma_buf_io_stale(dbio));
	io_remap(dbio);
	map = dma_buf_io_map_get(dbio, iodev->dev);
	KUNIT_ASSERT_NOT_NULL(test, map);
	dma_buf_io_map_put(map);
	io_destroy(test, dbio, exp, iodev);
}

/* No device gets commands any more while one of them is waited for. */
static void io_test_two_devices(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *first = io_device(test, "io-first");
	struct io_device *second = io_device(test, "io-second");
	struct dma_buf_io *dbio = io_create(test, exp);
	struct io_mover *mover;
	struct dma_buf_io_map *map[2];

	KUNIT_ASSERT_EQ(test, io_attach(dbio, first, &io_dev_ops), 0);
	KUNIT_ASSERT_EQ(test, io_attach(dbio, second, &io_dev_ops), 0);
	map[0] = dma_buf_io_map_get(dbio, first->dev);
	map[1] = dma_buf_io_map_get(dbio, second->dev);
	KUNIT_ASSERT_NOT_NULL(test, map[0]);
	KUNIT_ASSERT_NOT_NULL(test, map[1]);

	mover = io_start_mover(test, exp);
	msleep(200);
	KUNIT_EXPECT_FALSE(test, completion_done(&mover->done));
	KUNIT_EXPECT_NULL(test, dma_buf_io_map_get(dbio, first->dev));
	KUNIT_EXPECT_NULL(test, dma_buf_io_map_get(dbio, second->dev));
	dma_buf_io_map_put(map[1]);
	dma_buf_io_map_put(map[0]);
	io_end_mover(test, mover);
	KUNIT_EXPECT_EQ(test, exp->mapped, 0);

	exp->max_mapped = 0;
	io_destroy(test, dbio, exp, first);
	KUNIT_EXPECT_TRUE(test, io_done(&second->released));
}

/* Registrations of a buffer share it, and the last one to go takes it along. */
static void io_test_share(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev = io_device(test, "io-share");
	struct dma_buf_io *dbio = io_create(test, exp);
	struct dma_buf_io *reads;

	KUNIT_EXPECT_PTR_EQ(test, io_create(test, exp), dbio);
	reads = dma_buf_io_create(exp->dmabuf, DMA_FROM_DEVICE);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, reads);
	KUNIT_EXPECT_PTR_NE(test, reads, dbio);
	dma_buf_io_destroy(reads);

	KUNIT_ASSERT_EQ(test, io_attach(dbio, iodev, &io_dev_ops), 0);
	dma_buf_io_destroy(dbio);
	msleep(200);
	KUNIT_EXPECT_EQ(test, exp->attached, 1);
	io_destroy(test, dbio, exp, iodev);
}

/* GPUs migrate the buffer when it is mapped, which invalidates all mappings. */
static void io_test_move_on_map(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev = io_device(test, "io-move-on-map");
	struct dma_buf_io *dbio = io_create(test, exp);
	struct dma_buf_io_map *map;

	exp->move_on_map = true;
	KUNIT_ASSERT_EQ(test, io_attach(dbio, iodev, &io_dev_ops), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&dbio->nr_stale), 0);
	map = dma_buf_io_map_get(dbio, iodev->dev);
	KUNIT_ASSERT_NOT_NULL(test, map);
	KUNIT_EXPECT_EQ(test, dma_buf_io_addr(map, 0), io_linear_addr(exp, 0));
	dma_buf_io_map_put(map);
	io_destroy(test, dbio, exp, iodev);
}

/* The device goes away, then the buffer. */
static void io_test_detach(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev = io_device(test, "io-detach");
	struct dma_buf_io *dbio = io_create(test, exp);

	KUNIT_ASSERT_EQ(test, io_attach(dbio, iodev, &io_dev_ops), 0);
	io_move(exp);
	kref_get(&iodev->token.kref);
	dma_buf_io_detach(&iodev->token);
	KUNIT_EXPECT_EQ(test, exp->attached, 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&dbio->nr_stale), 0);
	KUNIT_EXPECT_NULL(test, dma_buf_io_map_get(dbio, iodev->dev));
	mutex_lock(&dbio->attach_lock);
	KUNIT_EXPECT_NULL(test, dma_buf_io_find(dbio, iodev->dev));
	mutex_unlock(&dbio->attach_lock);

	/* The second one to detach finds it done. */
	dma_buf_io_detach(&iodev->token);
	KUNIT_EXPECT_FALSE(test, completion_done(&iodev->released));
	dma_buf_io_token_put(&iodev->token);
	KUNIT_EXPECT_TRUE(test, completion_done(&iodev->released));
	io_destroy(test, dbio, exp, NULL);
}

static void io_test_devices(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDWR);
	struct io_device *iodev[DMA_BUF_IO_MAX_DEVS + 1];
	struct dma_buf_io *dbio = io_create(test, exp);
	struct dma_buf_io_map *map;
	unsigned int i;
	char name[32];

	for (i = 0; i <= DMA_BUF_IO_MAX_DEVS; i++) {
		snprintf(name, sizeof(name), "io-device%u", i);
		iodev[i] = io_device(test, name);
		KUNIT_EXPECT_EQ(test, io_attach(dbio, iodev[i], &io_dev_ops),
				i < DMA_BUF_IO_MAX_DEVS ? 0 : -ENOSPC);
	}
	for (i = 0; i < DMA_BUF_IO_MAX_DEVS; i++) {
		map = dma_buf_io_map_get(dbio, iodev[i]->dev);
		KUNIT_ASSERT_NOT_NULL(test, map);
		KUNIT_EXPECT_PTR_EQ(test, map->token, &iodev[i]->token);
		dma_buf_io_map_put(map);
	}
	KUNIT_EXPECT_NULL(test, dma_buf_io_map_get(dbio, iodev[i]->dev));

	io_move(exp);
	KUNIT_EXPECT_EQ(test, atomic_read(&dbio->nr_stale), DMA_BUF_IO_MAX_DEVS);
	io_remap(dbio);
	KUNIT_EXPECT_EQ(test, exp->mapped, DMA_BUF_IO_MAX_DEVS);

	/* A place that becomes free is used again. */
	kref_get(&iodev[3]->token.kref);
	dma_buf_io_detach(&iodev[3]->token);
	dma_buf_io_token_put(&iodev[3]->token);
	KUNIT_EXPECT_EQ(test, io_attach(dbio, iodev[i], &io_dev_ops), 0);

	exp->max_mapped = 0;
	io_destroy(test, dbio, exp, iodev[i]);
	for (i = 0; i < DMA_BUF_IO_MAX_DEVS; i++)
		KUNIT_EXPECT_TRUE(test, completion_done(&iodev[i]->released));
}

static void io_test_create(struct kunit *test)
{
	struct io_exporter *exp = io_export(test, &one_segment, O_RDONLY);
	struct dma_buf_io *dbio;

	dbio = dma_buf_io_create(exp->dmabuf, DMA_BIDIRECTIONAL);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(dbio), -EACCES);
	dbio = dma_buf_io_create(exp->dmabuf, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(dbio), -EACCES);
	dbio = dma_buf_io_create(exp->dmabuf, DMA_TO_DEVICE);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dbio);
	io_destroy(test, dbio, exp, NULL);
}

static struct kunit_case io_cases[] = {
	KUNIT_CASE_PARAM(io_test_addresses, io_layout_gen_params),
	KUNIT_CASE(io_test_too_short),
	KUNIT_CASE(io_test_move),
	KUNIT_CASE(io_test_kick),
	KUNIT_CASE(io_test_revoke),
	KUNIT_CASE(io_test_two_devices),
	KUNIT_CASE(io_test_share),
	KUNIT_CASE(io_test_move_on_map),
	KUNIT_CASE(io_test_detach),
	KUNIT_CASE(io_test_devices),
	KUNIT_CASE(io_test_create),
	{}
};

static struct kunit_suite io_suite = {
	.name = "dma-buf-io",
	.test_cases = io_cases,
};

kunit_test_suite(io_suite);

MODULE_IMPORT_NS("DMA_BUF");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
