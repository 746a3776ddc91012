// SPDX-License-Identifier: GPL-2.0
/*
 * Load a file into a dma-buf by copy_file_range(), and optionally drain the
 * buffer to a second file. Reports what was moved and what it cost the CPU, and
 * the SHA-256 of the bytes that are in the buffer.
 */
#include "dmabuf-util.h"

#include <err.h>
#include <getopt.h>
#include <inttypes.h>
#include <time.h>
#include <sys/socket.h>

#include <linux/if_alg.h>

#include "kselftest.h"

#define SHA256_SIZE	32

struct load {
	const char *heap;
	const char *src_path;
	const char *dst_path;
	bool buffered;
	bool json;
	size_t buf_size;
	int src;
	int dst;
	int hash;
	uint64_t bytes;
	unsigned int chunks;	/* calls of copy_file_range() that moved data */
	uint64_t fill_ns;
	uint64_t drain_ns;
};

static void usage(int code)
{
	fprintf(code ? stderr : stdout,
		"usage: dmabuf-load [-H HEAP] [-b MIB] [-B] [-j] SRC [DST]\n"
		"  -H HEAP  heap to allocate from (system)\n"
		"  -b MIB   size of the buffer at most (1024)\n"
		"  -B       buffered instead of direct I/O\n"
		"  -j       report as one line of JSON\n");
	exit(code);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/*
 * SHA-256 by the kernel: nothing to write here, nothing to link with.
 */
static int hash_open(void)
{
	struct sockaddr_alg addr = {
		.salg_family = AF_ALG,
		.salg_type = "hash",
		.salg_name = "sha256",
	};
	int alg, hash;

	alg = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (alg < 0)
		return -1;
	if (bind(alg, (struct sockaddr *)&addr, sizeof(addr))) {
		close(alg);
		return -1;
	}
	hash = accept4(alg, NULL, NULL, SOCK_CLOEXEC);
	close(alg);
	return hash;
}

/* The socket pins what it is sent, and a mapped dma-buf cannot be pinned. */
static void hash_add(int hash, const char *mem, size_t len)
{
	char part[KIB(64)];

	while (len) {
		size_t n = min_size(len, sizeof(part));

		memcpy(part, mem, n);
		if (send(hash, part, n, MSG_MORE) != (ssize_t)n)
			err(KSFT_FAIL, "hashing");
		mem += n;
		len -= n;
	}
}

static void hash_end(int hash, char hex[2 * SHA256_SIZE + 1])
{
	unsigned char sum[SHA256_SIZE];
	unsigned int i;

	if (send(hash, NULL, 0, 0) || read(hash, sum, sizeof(sum)) != sizeof(sum))
		err(KSFT_FAIL, "hashing");
	for (i = 0; i < sizeof(sum); i++)
		sprintf(hex + 2 * i, "%02x", sum[i]);
}

static int open_file(const char *path, int flags, bool buffered)
{
	int fd = open(path, flags | O_CLOEXEC | (buffered ? 0 : O_DIRECT), 0644);

	if (fd < 0 && errno == EINVAL && !buffered)
		errx(KSFT_FAIL, "%s: no direct I/O on this file system, try -B",
		     path);
	if (fd < 0)
		err(KSFT_FAIL, "%s", path);
	return fd;
}

/* Copy all of @len; returns the CPU time. */
static uint64_t copy(struct load *load, int in, off_t in_pos, int out,
		     off_t out_pos, size_t len, const char *what)
{
	uint64_t start = cpu_ns();
	size_t done = 0;

	while (done < len) {
		ssize_t ret = copy_range(in, in_pos + done, out, out_pos + done,
					 len - done);

		if (ret == -EINVAL && !load->chunks)
			errx(KSFT_SKIP, "%s: this kernel can't copy this file to or from a dma-buf",
			     what);
		if (ret < 0)
			errx(KSFT_FAIL, "%s: %s after %" PRIu64 " bytes", what,
			     strerror(-ret), load->bytes + done);
		if (!ret)
			errx(KSFT_FAIL, "%s: came to its end after %" PRIu64 " bytes",
			     what, load->bytes + done);
		done += ret;
		load->chunks++;
	}
	return cpu_ns() - start;
}

/* One buffer full: fill, hash what is there, drain. */
static void load_part(struct load *load, struct dmabuf *buf, size_t len)
{
	off_t pos = load->bytes;

	load->fill_ns += copy(load, load->src, pos, buf->fd, 0, len,
			      load->src_path);
	if (load->hash >= 0) {
		if (dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ))
			err(KSFT_FAIL, "DMA_BUF_IOCTL_SYNC");
		hash_add(load->hash, buf->map, len);
		if (dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ))
			err(KSFT_FAIL, "DMA_BUF_IOCTL_SYNC");
	}
	if (load->dst >= 0)
		load->drain_ns += copy(load, buf->fd, 0, load->dst, pos, len,
				       load->dst_path);
	load->bytes += len;
}

static void load_file(struct load *load, uint64_t size)
{
	const struct dmabuf_kind kind = { .heap = load->heap };
	size_t page = sysconf(_SC_PAGESIZE);
	struct dmabuf buf;
	int ret;

	if (!size)
		return;
	if (size < load->buf_size)
		load->buf_size = (size + page - 1) & ~(page - 1);

	ret = dmabuf_alloc(&buf, &kind, load->buf_size);
	if (!ret)
		ret = dmabuf_map(&buf);
	if (ret == -ENOENT)
		errx(KSFT_SKIP, "no /dev/dma_heap/%s", load->heap);
	if (ret)
		errx(KSFT_FAIL, "allocating %zu MiB from the %s heap: %s, try a smaller -b",
		     load->buf_size >> 20, load->heap, strerror(-ret));

	while (load->bytes < size)
		load_part(load, &buf, min_size(size - load->bytes, load->buf_size));
	dmabuf_free(&buf);
}

static void report_text(const struct load *load, const char *sha256)
{
	double mib = load->bytes ? load->bytes / 1048576.0 : 1;

	printf("%" PRIu64 " bytes in %u chunks, %s\n", load->bytes, load->chunks,
	       load->buffered ? "buffered" : "direct");
	printf("fill:  %.3f ms of CPU, %.3f us per MiB\n",
	       load->fill_ns / 1e6, load->fill_ns / 1e3 / mib);
	if (load->dst_path)
		printf("drain: %.3f ms of CPU, %.3f us per MiB\n",
		       load->drain_ns / 1e6, load->drain_ns / 1e3 / mib);
	printf("SHA-256 of the buffer: %s\n",
	       *sha256 ? sha256 : "(this kernel has no AF_ALG)");
}

static void report_json(const struct load *load, const char *sha256)
{
	printf("{\"bytes\": %" PRIu64 ", \"chunks\": %u, \"path\": \"%s\", ",
	       load->bytes, load->chunks, load->buffered ? "buffered" : "direct");
	printf("\"fill_cpu_ms\": %.3f, \"drain_cpu_ms\": %.3f, ",
	       load->fill_ns / 1e6, load->drain_ns / 1e6);
	printf("\"sha256\": \"%s\"}\n", sha256);
}

int main(int argc, char **argv)
{
	struct load load = { .heap = "system", .dst = -1 };
	char sha256[2 * SHA256_SIZE + 1] = "";
	unsigned long mib = 1024;
	struct stat st;
	char *end;
	int opt;

	while ((opt = getopt(argc, argv, "H:b:Bjh")) != -1) {
		switch (opt) {
		case 'H':
			load.heap = optarg;
			break;
		case 'b':
			mib = strtoul(optarg, &end, 10);
			if (*end || !mib || mib > SIZE_MAX >> 20)
				errx(KSFT_FAIL, "-b takes a number of MiB, not %s", optarg);
			break;
		case 'B':
			load.buffered = true;
			break;
		case 'j':
			load.json = true;
			break;
		case 'h':
			usage(0);
			break;
		default:
			usage(KSFT_FAIL);
		}
	}
	if (optind == argc || argc - optind > 2)
		usage(KSFT_FAIL);
	load.src_path = argv[optind];
	load.dst_path = argv[optind + 1];
	load.buf_size = MIB(mib);

	load.src = open_file(load.src_path, O_RDONLY, load.buffered);
	if (fstat(load.src, &st))
		err(KSFT_FAIL, "%s", load.src_path);
	if (!S_ISREG(st.st_mode))
		errx(KSFT_FAIL, "%s is no regular file", load.src_path);
	if (load.dst_path)
		load.dst = open_file(load.dst_path, O_WRONLY | O_CREAT | O_TRUNC,
				     load.buffered);
	load.hash = hash_open();

	load_file(&load, st.st_size);
	if (load.dst >= 0 && fsync(load.dst))
		err(KSFT_FAIL, "%s", load.dst_path);
	if (load.hash >= 0)
		hash_end(load.hash, sha256);
	if (load.json)
		report_json(&load, sha256);
	else
		report_text(&load, sha256);
	return KSFT_PASS;
}
