/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dma_buf_io

#if !defined(_TRACE_DMA_BUF_IO_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_DMA_BUF_IO_H

#include <linux/dma-buf.h>
#include <linux/dma-buf-io.h>
#include <linux/tracepoint.h>

/* Changes of state only: nothing here fires for I/O that finds its mapping. */

DECLARE_EVENT_CLASS(dma_buf_io_token,
	TP_PROTO(const struct dma_buf_io_token *token),
	TP_ARGS(token),
	TP_STRUCT__entry(
		__string(dev_name, dev_name(token->dev))
		__field(u64, ino)
		__field(size_t, size)
		__field(bool, peer2peer)
	),
	TP_fast_assign(
		__assign_str(dev_name);
		__entry->ino = file_inode(token->dbio->dmabuf->file)->i_ino;
		__entry->size = token->dbio->size;
		__entry->peer2peer = token->attach->peer2peer;
	),
	TP_printk("dev_name=%s ino=%llu size=%zu peer2peer=%d",
		  __get_str(dev_name), __entry->ino, __entry->size,
		  __entry->peer2peer)
);

DEFINE_EVENT(dma_buf_io_token, dma_buf_io_attach,
	TP_PROTO(const struct dma_buf_io_token *token),
	TP_ARGS(token)
);

DEFINE_EVENT(dma_buf_io_token, dma_buf_io_detach,
	TP_PROTO(const struct dma_buf_io_token *token),
	TP_ARGS(token)
);

TRACE_EVENT(dma_buf_io_map,
	TP_PROTO(const struct dma_buf_io_token *token,
		 const struct dma_buf_io_map *map, int error),
	TP_ARGS(token, map, error),
	TP_STRUCT__entry(
		__string(dev_name, dev_name(token->dev))
		__field(u64, ino)
		__field(unsigned long, nr_maps)
		__field(unsigned int, chunks)
		__field(u8, shift)
		__field(bool, desc)
		__field(bool, need_sync)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(dev_name);
		__entry->ino = file_inode(token->dbio->dmabuf->file)->i_ino;
		__entry->nr_maps = token->nr_maps;
		__entry->chunks = map ? map->nr : 0;
		__entry->shift = map ? map->shift : 0;
		__entry->desc = map && map->desc;
		__entry->need_sync = map && map->need_sync;
		__entry->error = error;
	),
	TP_printk("dev_name=%s ino=%llu nr_maps=%lu chunks=%u shift=%u desc=%d need_sync=%d error=%d",
		  __get_str(dev_name), __entry->ino, __entry->nr_maps,
		  __entry->chunks, __entry->shift, __entry->desc,
		  __entry->need_sync, __entry->error)
);

TRACE_EVENT(dma_buf_io_unmap,
	TP_PROTO(const struct dma_buf_io_token *token, u64 wait_ns),
	TP_ARGS(token, wait_ns),
	TP_STRUCT__entry(
		__string(dev_name, dev_name(token->dev))
		__field(u64, ino)
		__field(unsigned long, nr_maps)
		__field(u64, wait_ns)
	),
	TP_fast_assign(
		__assign_str(dev_name);
		__entry->ino = file_inode(token->dbio->dmabuf->file)->i_ino;
		__entry->nr_maps = token->nr_maps;
		__entry->wait_ns = wait_ns;
	),
	TP_printk("dev_name=%s ino=%llu nr_maps=%lu wait_ns=%llu",
		  __get_str(dev_name), __entry->ino, __entry->nr_maps,
		  __entry->wait_ns)
);

#endif /* _TRACE_DMA_BUF_IO_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
