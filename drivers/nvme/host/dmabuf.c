// SPDX-License-Identifier: GPL-2.0
/*
 * Registered dma-bufs in the NVMe PCI driver: attaching them to a controller,
 * PRP lists made ahead of the I/O, and commands that need no list of their own.
 */
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "nvme.h"
#include "dmabuf.h"
#include "dmabuf-prp.h"

/*
 * List pages come in pieces, as a large buffer would need many of them in one.
 */
#define NVME_DMABUF_PIECE_SIZE	max_t(size_t, PAGE_SIZE, SZ_32K)
#define NVME_DMABUF_PIECE_PAGES	(NVME_DMABUF_PIECE_SIZE / NVME_CTRL_PAGE_SIZE)

struct nvme_dmabuf_piece {
	__le64		*cpu;
	dma_addr_t	dma;
};

struct nvme_dmabuf_lists {
	struct nvme_prp_layout		layout;
	unsigned int			nr_pieces;
	struct nvme_dmabuf_piece	pieces[] __counted_by(nr_pieces);
};

struct nvme_dmabuf_token {
	struct dma_buf_io_token	base;
	struct nvme_dmabuf_dev	*nd;
	struct list_head	node;
	bool			prefer_sgl;
};

static struct nvme_dmabuf_token *
to_nvme_dmabuf_token(struct dma_buf_io_token *token)
{
	return container_of(token, struct nvme_dmabuf_token, base);
}

/*
 * PRP lists
 */

static dma_addr_t nvme_dmabuf_list_addr(const struct nvme_dmabuf_lists *lists,
					struct nvme_prp_pos pos)
{
	const struct nvme_dmabuf_piece *piece =
		&lists->pieces[pos.page / NVME_DMABUF_PIECE_PAGES];

	return piece->dma +
		(pos.page % NVME_DMABUF_PIECE_PAGES) * NVME_CTRL_PAGE_SIZE +
		pos.slot * sizeof(__le64);
}

static void nvme_dmabuf_free_lists(struct device *dev,
				   struct nvme_dmabuf_lists *lists)
{
	unsigned int i;

	for (i = 0; i < lists->nr_pieces && lists->pieces[i].cpu; i++)
		dma_free_coherent(dev, NVME_DMABUF_PIECE_SIZE,
				  lists->pieces[i].cpu, lists->pieces[i].dma);
	kvfree(lists);
}

static struct nvme_dmabuf_lists *
nvme_dmabuf_alloc_lists(struct device *dev, const struct nvme_prp_layout *layout)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
	struct nvme_dmabuf_lists *lists;
	unsigned int nr, i;

	nr = DIV_ROUND_UP(layout->nr_pages, NVME_DMABUF_PIECE_PAGES);
	lists = kvzalloc_flex(*lists, pieces, nr, gfp);
	if (!lists)
		return NULL;
	lists->nr_pieces = nr;
	lists->layout = *layout;

	for (i = 0; i < nr; i++) {
		struct nvme_dmabuf_piece *piece = &lists->pieces[i];

		piece->cpu = dma_alloc_coherent(dev, NVME_DMABUF_PIECE_SIZE,
						&piece->dma, gfp);
		if (!piece->cpu) {
			nvme_dmabuf_free_lists(dev, lists);
			return NULL;
		}
	}
	return lists;
}

static void nvme_dmabuf_fill_page(struct nvme_dmabuf_lists *lists,
				  const struct dma_buf_io_map *map, u32 page)
{
	const struct nvme_prp_layout *layout = &lists->layout;
	__le64 *slots = lists->pieces[page / NVME_DMABUF_PIECE_PAGES].cpu +
		(page % NVME_DMABUF_PIECE_PAGES) * layout->slots;
	struct nvme_prp_entry entry;
	struct nvme_prp_pos pos = {};
	dma_addr_t addr;
	u32 slot;

	for (slot = 0; slot < layout->slots; slot++) {
		entry = nvme_prp_entry(layout, page, slot);
		switch (entry.kind) {
		case NVME_PRP_UNUSED:
			continue;
		case NVME_PRP_DATA:
			addr = dma_buf_io_addr(map, (u64)entry.index <<
					       NVME_CTRL_PAGE_SHIFT);
			break;
		case NVME_PRP_CHAIN:
			pos.page = entry.index;
			addr = nvme_dmabuf_list_addr(lists, pos);
			break;
		}
		slots[slot] = cpu_to_le64(addr);
	}
}

/* The reservation lock is held; commands have no map to see lists of yet. */
static void nvme_dmabuf_map_init(struct dma_buf_io_token *token,
				 struct dma_buf_io_map *map)
{
	struct nvme_dmabuf_token *nt = to_nvme_dmabuf_token(token);
	struct nvme_ctrl *ctrl = nt->nd->ctrl;
	struct nvme_dmabuf_lists *lists;
	struct nvme_prp_layout layout;
	u32 max_pages, align, page;

	/* One descriptor describes any range then. */
	if (nt->prefer_sgl && map->nr == 1)
		return;

	max_pages = ctrl->max_hw_dmabuf_sectors /
		(NVME_CTRL_PAGE_SIZE >> SECTOR_SHIFT) + 1;
	align = ctrl->quirks & NVME_QUIRK_DMAPOOL_ALIGN_512 ?
		512 : sizeof(__le64);
	if (nvme_prp_layout_init(&layout, NVME_CTRL_PAGE_SHIFT,
				 token->dbio->size >> NVME_CTRL_PAGE_SHIFT,
				 max_pages, align))
		return;
	if (!layout.nr_pages)
		return;

	lists = nvme_dmabuf_alloc_lists(nt->nd->dev, &layout);
	if (!lists)
		return;
	for (page = 0; page < layout.nr_pages; page++) {
		nvme_dmabuf_fill_page(lists, map, page);
		cond_resched();
	}
	map->desc = lists;
}

static void nvme_dmabuf_map_exit(struct dma_buf_io_token *token,
				 struct dma_buf_io_map *map)
{
	if (map->desc)
		nvme_dmabuf_free_lists(token->dev, map->desc);
}

/*
 * Commands
 */

static void nvme_dmabuf_set_sgl(struct nvme_command *cmd, dma_addr_t addr,
				u32 len)
{
	cmd->common.flags = NVME_CMD_SGL_METABUF;
	cmd->common.dptr.sgl.addr = cpu_to_le64(addr);
	cmd->common.dptr.sgl.length = cpu_to_le32(len);
	cmd->common.dptr.sgl.type = NVME_SGL_FMT_DATA_DESC << 4;
}

static void nvme_dmabuf_set_prp(struct nvme_command *cmd, dma_addr_t prp1,
				dma_addr_t prp2)
{
	cmd->common.dptr.prp1 = cpu_to_le64(prp1);
	cmd->common.dptr.prp2 = cpu_to_le64(prp2);
}

/**
 * nvme_dmabuf_setup_cmd - describe the data of a command
 * @cmd:	the command
 * @map:	mapping of the buffer
 * @offset:	where the data is in the buffer
 * @len:	its length, not 0
 * @format:	which formats are possible
 *
 * What a mapping makes possible without allocating anything: two PRPs, an SGL of
 * one descriptor, or the premade PRP lists.
 *
 * Context: any.
 * Return: true, or false if the command needs descriptors of its own.
 */
bool nvme_dmabuf_setup_cmd(struct nvme_command *cmd,
			   const struct dma_buf_io_map *map, u64 offset,
			   u32 len, const struct nvme_dmabuf_format *format)
{
	u32 nr_pages = nvme_prp_nr_pages(NVME_CTRL_PAGE_SHIFT, offset, len);
	const struct nvme_dmabuf_lists *lists = map->desc;
	dma_addr_t addr = dma_buf_io_addr(map, offset), prp2 = 0;
	struct nvme_prp_pos pos;

	if (nr_pages <= 2 && !format->sgl_forced) {
		if (nr_pages == 2) {
			offset = round_down(offset, NVME_CTRL_PAGE_SIZE);
			prp2 = dma_buf_io_addr(map,
					       offset + NVME_CTRL_PAGE_SIZE);
		}
		nvme_dmabuf_set_prp(cmd, addr, prp2);
		return true;
	}

	if (format->sgl &&
	    (format->sgl_forced || !lists ||
	     (format->sgl_threshold && len >= format->sgl_threshold)) &&
	    dma_buf_io_contig(map, offset, len) == len) {
		nvme_dmabuf_set_sgl(cmd, addr, len);
		return true;
	}

	if (!lists || format->sgl_forced ||
	    !nvme_prp_locate(&lists->layout, offset >> NVME_CTRL_PAGE_SHIFT,
			     nr_pages, &pos))
		return false;
	nvme_dmabuf_set_prp(cmd, addr, nvme_dmabuf_list_addr(lists, pos));
	return true;
}

/*
 * Attaching
 */

static void nvme_dmabuf_kick(struct dma_buf_io_token *token)
{
	struct nvme_dmabuf_dev *nd = to_nvme_dmabuf_token(token)->nd;

	nd->kick(nd);
}

static void nvme_dmabuf_release(struct dma_buf_io_token *token)
{
	struct nvme_dmabuf_token *nt = to_nvme_dmabuf_token(token);
	struct nvme_dmabuf_dev *nd = nt->nd;

	mutex_lock(&nd->lock);
	list_del(&nt->node);
	mutex_unlock(&nd->lock);
	nvme_put_ctrl(nd->ctrl);
	kfree(nt);
}

static const struct dma_buf_io_ops nvme_dmabuf_ops = {
	.owner		= THIS_MODULE,
	.map_init	= nvme_dmabuf_map_init,
	.map_exit	= nvme_dmabuf_map_exit,
	.release	= nvme_dmabuf_release,
};

static const struct dma_buf_io_ops nvme_dmabuf_polled_ops = {
	.owner		= THIS_MODULE,
	.map_init	= nvme_dmabuf_map_init,
	.map_exit	= nvme_dmabuf_map_exit,
	.kick		= nvme_dmabuf_kick,
	.release	= nvme_dmabuf_release,
};

/**
 * nvme_dmabuf_attach - attach a buffer to a controller
 * @nd:		the controller's part
 * @dbio:	the buffer
 * @prefer_sgl:	commands use SGLs where they can
 *
 * All namespaces of a controller share the mapping.
 *
 * Context: process. @dbio's attach_lock is held.
 * Return: the token, new or not, or an ERR_PTR: -ENODEV if the controller is
 * being removed, -ENOMEM, or what dma_buf_io_token_init() returns.
 */
struct dma_buf_io_token *nvme_dmabuf_attach(struct nvme_dmabuf_dev *nd,
					    struct dma_buf_io *dbio,
					    bool prefer_sgl)
{
	struct dma_buf_io_token *token = dma_buf_io_find(dbio, nd->dev);
	struct nvme_dmabuf_token *nt;
	int ret;

	if (token)
		return token;
	nt = kzalloc_obj(*nt, GFP_KERNEL_ACCOUNT);
	if (!nt)
		return ERR_PTR(-ENOMEM);
	nt->nd = nd;
	nt->prefer_sgl = prefer_sgl;

	down_read(&nd->attach_sem);
	ret = -ENODEV;
	if (nd->dead)
		goto free;
	ret = dma_buf_io_token_init(&nt->base, dbio, nd->dev,
				    nd->kick ? &nvme_dmabuf_polled_ops :
					       &nvme_dmabuf_ops);
	if (ret)
		goto free;
	nvme_get_ctrl(nd->ctrl);
	mutex_lock(&nd->lock);
	list_add_tail(&nt->node, &nd->tokens);
	mutex_unlock(&nd->lock);
	up_read(&nd->attach_sem);
	return &nt->base;

free:
	up_read(&nd->attach_sem);
	kfree(nt);
	return ERR_PTR(ret);
}

/**
 * nvme_dmabuf_init - set up a controller's part
 * @nd:		the part
 * @ctrl:	the controller, whose device is set
 * @kick:	see struct nvme_dmabuf_dev
 */
void nvme_dmabuf_init(struct nvme_dmabuf_dev *nd, struct nvme_ctrl *ctrl,
		      void (*kick)(struct nvme_dmabuf_dev *nd))
{
	nd->ctrl = ctrl;
	nd->dev = ctrl->dev;
	nd->kick = kick;
	init_rwsem(&nd->attach_sem);
	mutex_init(&nd->lock);
	INIT_LIST_HEAD(&nd->tokens);
}

/**
 * nvme_dmabuf_remove - detach all buffers from a controller
 * @nd:		the controller's part
 *
 * For the removal of the controller, when no command is in flight any more and
 * DMA mappings can still be undone. Buffers can't be attached afterwards.
 *
 * Context: process.
 */
void nvme_dmabuf_remove(struct nvme_dmabuf_dev *nd)
{
	struct nvme_dmabuf_token *nt;

	down_write(&nd->attach_sem);
	nd->dead = true;
	up_write(&nd->attach_sem);

	mutex_lock(&nd->lock);
	while ((nt = list_first_entry_or_null(&nd->tokens,
					      struct nvme_dmabuf_token, node))) {
		list_del_init(&nt->node);
		/* Without references it is detached and waits for the lock. */
		if (!kref_get_unless_zero(&nt->base.kref))
			continue;
		mutex_unlock(&nd->lock);
		dma_buf_io_detach(&nt->base);
		dma_buf_io_token_put(&nt->base);
		mutex_lock(&nd->lock);
	}
	mutex_unlock(&nd->lock);
}

MODULE_IMPORT_NS("DMA_BUF");
