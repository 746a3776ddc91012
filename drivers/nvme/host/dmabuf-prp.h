/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Layout of premade PRP lists for a registered dma-buf.
 *
 * The PRP entries of a buffer are written once, when it is mapped. A command
 * then needs no list of its own: its PRP2 points into the premade ones, at the
 * entry of its second page. What makes this more than an array is how a
 * controller reads a list:
 *
 *  - it starts at any slot of a list page and reads on to the end of that page;
 *  - it takes the last slot of a list page for the address of the next list
 *    page if more than one entry is still to come, and for a data entry if just
 *    one is. What the last slot must hold depends on where the command ends.
 *
 * Two layouts serve every command nevertheless:
 *
 * Windows: each list page repeats the end of the one before it, by so much that
 * every command up to the size limit lies within one list page. Nothing is
 * chained. The list pages advance by @stride entries.
 *
 *	page 0   0 1 2 3 4 5 6 7
 *	page 1             5 6 7 8 9 ...	(8 slots, stride 5: up to 4 entries)
 *
 * Chains: when that would more than double the memory, there are two chains of
 * list pages, in which each last slot is a pointer. One chain alone fails when
 * the last entry of a command comes first in a list page, as the controller
 * then takes the pointer before it for that entry. The second chain is shifted
 * by half a list page, so that an entry is never first in both.
 *
 *	chain 0  0 1 2 3 4 5 6 > 7 8 9 ...
 *	chain 1  . . . 0 1 2 3 > 4 5 6 7 8 9 10 > ...
 *
 * This file is arithmetic only: it does no DMA and knows no address. Pages are
 * NVMe pages, counted from the start of the buffer. Entry k is that of page
 * k + 1: the page in which a command starts is in PRP1, so that a command which
 * starts in page k takes its list from entry k on, and page 0 needs no entry.
 */
#ifndef _NVME_DMABUF_PRP_H
#define _NVME_DMABUF_PRP_H

#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/reciprocal_div.h>
#include <linux/types.h>
#include <linux/wordpart.h>

/* 8 TiB in pages of 4 KiB; leaves room to add in 32 bits */
#define NVME_PRP_MAX_PAGES	BIT(31)

/**
 * struct nvme_prp_layout - how the PRP entries of a buffer are laid out
 * @nr_entries:	entries there are, one less than the pages of the buffer
 * @max_entries: entries the list of one command may have
 * @stride:	entries by which a list page is ahead of the one before it
 * @inv_stride:	reciprocal of @stride
 * @slots:	slots of a list page
 * @align_mask:	slots at which a list may start have none of these bits
 * @shift:	empty slots at the start of the second chain, 0 for windows
 * @chain_pages: list pages of one chain, 0 for windows
 * @nr_pages:	list pages in all
 *
 * Set up by nvme_prp_layout_init() and constant afterwards.
 */
struct nvme_prp_layout {
	u32			nr_entries;
	u32			max_entries;
	u32			stride;
	struct reciprocal_value	inv_stride;
	u32			slots;
	u32			align_mask;
	u32			shift;
	u32			chain_pages;
	u32			nr_pages;
};

/**
 * struct nvme_prp_pos - place of an entry
 * @page:	list page
 * @slot:	slot in it
 */
struct nvme_prp_pos {
	u32	page;
	u32	slot;
};

/**
 * enum nvme_prp_kind - what a slot of a list page holds
 * @NVME_PRP_UNUSED:	nothing, it stays zero
 * @NVME_PRP_DATA:	the address of a page of the buffer
 * @NVME_PRP_CHAIN:	the address of another list page
 */
enum nvme_prp_kind {
	NVME_PRP_UNUSED,
	NVME_PRP_DATA,
	NVME_PRP_CHAIN,
};

/**
 * struct nvme_prp_entry - content of a slot
 * @kind:	what it holds
 * @index:	page of the buffer or list page, by @kind
 */
struct nvme_prp_entry {
	enum nvme_prp_kind	kind;
	u32			index;
};

/**
 * nvme_prp_nr_pages - NVMe pages that a range of a buffer touches
 * @page_shift:	shift of the NVMe page size
 * @offset:	start of the range in bytes
 * @len:	length of the range in bytes, not 0 and less than 2 GiB
 *
 * Context: any.
 * Return: the number of pages.
 */
static inline u32 nvme_prp_nr_pages(unsigned int page_shift, u64 offset,
				    u32 len)
{
	u32 mask = (1U << page_shift) - 1;

	return (((u32)offset & mask) + len + mask) >> page_shift;
}

/**
 * nvme_prp_layout_init - choose the layout for a buffer
 * @l:		layout to set up
 * @page_shift:	shift of the NVMe page size, at least 5
 * @nr_pages:	size of the buffer in NVMe pages
 * @max_pages:	NVMe pages that a command of the maximum size can touch
 * @align:	alignment in bytes that the controller wants of a list, a power
 *		of two from 8 up to the NVMe page size
 *
 * A buffer or a limit of less than three pages needs no list, and the layout
 * has no list pages. Otherwise it has one list page if that is enough for the
 * whole buffer, windows if they take at most twice the memory of the bare
 * entries, and else two chains, which take about twice that memory.
 *
 * Context: any.
 * Return: 0, or -EFBIG if the buffer has more than NVME_PRP_MAX_PAGES.
 */
static inline int nvme_prp_layout_init(struct nvme_prp_layout *l,
				       unsigned int page_shift, u64 nr_pages,
				       u32 max_pages, u32 align)
{
	u32 slots = (1U << page_shift) / sizeof(__le64);
	u32 reach;

	if (nr_pages > NVME_PRP_MAX_PAGES)
		return -EFBIG;

	*l = (struct nvme_prp_layout) {
		.slots		= slots,
		.align_mask	= align / sizeof(__le64) - 1,
	};
	if (nr_pages < 3 || max_pages < 3)
		return 0;

	l->nr_entries = lower_32_bits(nr_pages - 1);
	reach = min(max_pages - 1, l->nr_entries);

	if (l->nr_entries <= slots) {
		l->max_entries = slots;
		l->stride = slots;
		l->nr_pages = 1;
	} else if (reach <= slots / 2 + 1) {
		l->max_entries = reach;
		l->stride = slots + 1 - reach;
		/* a list has two entries at least: none starts at the last */
		l->nr_pages = (l->nr_entries - 2) / l->stride + 1;
	} else {
		l->max_entries = U32_MAX;
		l->stride = slots - 1;
		l->shift = l->stride / 2;
		l->chain_pages = DIV_ROUND_UP(l->nr_entries + l->shift,
					      l->stride);
		l->nr_pages = 2 * l->chain_pages;
	}
	l->inv_stride = reciprocal_value(l->stride);
	return 0;
}

static inline struct nvme_prp_pos
nvme_prp_divide(const struct nvme_prp_layout *l, u32 n)
{
	u32 page = reciprocal_divide(n, l->inv_stride);

	return (struct nvme_prp_pos) {
		.page	= page,
		.slot	= n - page * l->stride,
	};
}

/**
 * nvme_prp_locate - find the list of a command
 * @l:		layout of the buffer
 * @first:	page in which the command starts
 * @nr:		pages it touches, at least 3
 * @pos:	set to the place of its first list entry, which PRP2 points to
 *
 * The caller has checked that the command lies in the buffer.
 *
 * Context: any. Called for every command: a multiplication, no division.
 * Return: true, or false if the lists do not serve the command: it is longer
 * than the limit they were made for, there are none, or the controller's
 * alignment rule forbids to start at the entry. It then needs a list of its own.
 */
static inline bool nvme_prp_locate(const struct nvme_prp_layout *l, u32 first,
				   u32 nr, struct nvme_prp_pos *pos)
{
	u32 entries = nr - 1;

	if (entries > l->max_entries)
		return false;

	*pos = nvme_prp_divide(l, first);
	if (l->chain_pages && pos->slot + entries > l->stride) {
		u32 last = first + entries - 1;

		/* Use the chain in which the last entry is not first in a page. */
		if (!nvme_prp_divide(l, last).slot) {
			*pos = nvme_prp_divide(l, first + l->shift);
			pos->page += l->chain_pages;
		}
	}
	return !(pos->slot & l->align_mask);
}

/**
 * nvme_prp_entry - what to write to a slot of a list page
 * @l:		layout of the buffer
 * @page:	list page, less than @l->nr_pages
 * @slot:	slot of it, less than @l->slots
 *
 * Context: any.
 * Return: the content of the slot.
 */
static inline struct nvme_prp_entry
nvme_prp_entry(const struct nvme_prp_layout *l, u32 page, u32 slot)
{
	struct nvme_prp_entry unused = { .kind = NVME_PRP_UNUSED };
	u32 shift = 0;
	u64 k;

	if (l->chain_pages) {
		if (slot == l->stride) {
			if (page + 1 == l->chain_pages ||
			    page + 1 == l->nr_pages)
				return unused;
			return (struct nvme_prp_entry) {
				.kind	= NVME_PRP_CHAIN,
				.index	= page + 1,
			};
		}
		if (page >= l->chain_pages) {
			page -= l->chain_pages;
			shift = l->shift;
		}
	}

	k = (u64)page * l->stride + slot;
	if (k < shift || k - shift >= l->nr_entries)
		return unused;
	return (struct nvme_prp_entry) {
		.kind	= NVME_PRP_DATA,
		.index	= k - shift + 1,
	};
}

#endif /* _NVME_DMABUF_PRP_H */
