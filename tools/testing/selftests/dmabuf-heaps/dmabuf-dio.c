// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost to get a file into memory that devices share, and back?
 *
 * A row is a kind of memory, a way to move the data, and buffered or direct I/O.
 * Each one moves a whole file into or out of fresh buffers. A row is reported
 * only if every byte has arrived: reads are checked in the memory, writes by
 * reading the file again. Setting up, checking and cleaning up are not part of
 * what is measured.
 *
 * CPU time is that of the process. Below an emulator that counts instructions
 * it is exact, so it is printed with all digits in the output for machines.
 */
#include "dmabuf-util.h"

#include <ctype.h>
#include <err.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <sys/sendfile.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#include "kselftest.h"

#define MAX_REPEAT	64
#define MAX_THREADS	64

enum mem_type { MEMFD, U_MEMFD, UDMABUF, HEAP };
enum io_type { RW, RW_POPULATED, SENDFILE, SPLICE, CFR };

static const char * const mem_names[] = { "memfd", "u+memfd", "udmabuf", "dmabuf" };
static const char * const io_names[] = { "rw", "rw-pop", "sendfile", "splice", "cfr" };
static const char * const io_titles[] = { "R/W", "R/W pop", "sendfile", "splice", "c_f_r" };
static const char * const path_names[] = { "buffer", "direct" };
static const char * const op_names[] = { "read", "write" };

struct row {
	enum mem_type mem;
	bool direct;
	enum io_type io;
};

/* Direct R/W with a mapping of a dma-buf is missing: it fails by design. */
static const struct row rows[] = {
	{ HEAP,    false, RW },
	{ MEMFD,   false, RW },
	{ MEMFD,   false, SENDFILE },
	{ MEMFD,   false, SPLICE },
	{ MEMFD,   false, CFR },
	{ MEMFD,   true,  RW },
	{ MEMFD,   true,  SENDFILE },
	{ MEMFD,   true,  SPLICE },
	{ MEMFD,   true,  CFR },
	{ U_MEMFD, false, RW },
	{ U_MEMFD, false, SENDFILE },
	{ U_MEMFD, false, SPLICE },
	{ U_MEMFD, false, CFR },
	{ U_MEMFD, true,  RW },
	{ U_MEMFD, true,  RW_POPULATED },
	{ U_MEMFD, true,  SENDFILE },
	{ U_MEMFD, true,  SPLICE },
	{ U_MEMFD, true,  CFR },
	{ UDMABUF, false, RW },
	{ UDMABUF, false, CFR },
	{ UDMABUF, true,  CFR },
	{ HEAP,    false, CFR },
	{ HEAP,    true,  CFR },
};

static struct options {
	const char *file;
	const char *dir;
	const char *heap;
	struct dmabuf_kind udmabuf;
	size_t total;
	size_t buf_size;
	unsigned int ops;	/* bit masks of the enums and arrays above */
	unsigned int mems;
	unsigned int ios;
	unsigned int paths;
	unsigned int repeat;
	unsigned int threads;
	int cpu;
	bool attach;
	bool populate;
	bool overwrite;
	bool extra;
	bool json;
	bool keep;
} opt = {
	.dir = ".",
	.heap = "system",
	.total = MIB(1024),
	.buf_size = MIB(32),
	.ops = 1,
	.mems = ~0U,
	.ios = ~0U,
	.paths = ~0U,
	.repeat = 5,
	.threads = 1,
	.cpu = -1,
};

/* The file, once for each path. */
static struct {
	int fd[2];
	uint64_t seed;		/* of the pattern in it; unknown content if 0 */
	char error[64];		/* why there is no direct I/O */
} file = { .fd = { -1, -1 } };

static int vgem = -1;

struct buffer {
	struct dmabuf dmabuf;
	int io_fd;		/* file that the I/O goes to */
	char *map;		/* for RW */
	off_t pos;		/* its part of the file */
	size_t len;
	__u32 vgem_handle;
};

enum status { PASS, SKIP, FAIL };

struct result {
	enum status status;
	char reason[128];
	unsigned int runs;
	uint64_t create_ns[MAX_REPEAT];
	uint64_t close_ns[MAX_REPEAT];
	uint64_t io_ns[MAX_REPEAT];
	uint64_t cpu_ns[MAX_REPEAT];
};

/* False, so that a caller can pass it on. */
#define row_ends(res, _status, ...) ({					\
	(res)->status = _status;					\
	snprintf((res)->reason, sizeof((res)->reason), __VA_ARGS__);	\
	false;								\
})

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/*
 * Moving data: each function moves all of a buffer and returns 0, or a negative
 * errno, -ENODATA if the other end came to its end before.
 */
static int move_rw(const struct buffer *buf, int fd, bool write)
{
	size_t done = 0;
	int ret = 0;

	if (buf->dmabuf.fd >= 0 && buf->io_fd == buf->dmabuf.fd)
		ret = dmabuf_sync(buf->io_fd, DMA_BUF_SYNC_START |
				  (write ? DMA_BUF_SYNC_READ : DMA_BUF_SYNC_WRITE));
	while (!ret && done < buf->len) {
		char *mem = buf->map + done;
		size_t len = buf->len - done;
		ssize_t n = write ? pwrite(fd, mem, len, buf->pos + done) :
				    pread(fd, mem, len, buf->pos + done);

		if (n > 0)
			done += n;
		else
			ret = n ? -errno : -ENODATA;
	}
	if (!ret && buf->dmabuf.fd >= 0 && buf->io_fd == buf->dmabuf.fd)
		ret = dmabuf_sync(buf->io_fd, DMA_BUF_SYNC_END |
				  (write ? DMA_BUF_SYNC_READ : DMA_BUF_SYNC_WRITE));
	return ret;
}

/* The destination has no offset argument, so its file position it is. */
static int move_sendfile(const struct buffer *buf, int fd, bool write)
{
	int out = write ? fd : buf->io_fd, in = write ? buf->io_fd : fd;
	off_t from = write ? 0 : buf->pos, to = write ? buf->pos : 0;
	size_t left = buf->len;

	if (lseek(out, to, SEEK_SET) != to)
		return -errno;
	while (left) {
		ssize_t n = sendfile(out, in, &from, left);

		if (n <= 0)
			return n ? -errno : -ENODATA;
		left -= n;
	}
	return 0;
}

static int drain_pipe(int pipe, int out, off_t *to, size_t len)
{
	while (len) {
		ssize_t n = splice(pipe, NULL, out, to, len, 0);

		if (n <= 0)
			return n ? -errno : -ENODATA;
		len -= n;
	}
	return 0;
}

static int move_splice(const struct buffer *buf, int fd, bool write)
{
	int out = write ? fd : buf->io_fd, in = write ? buf->io_fd : fd;
	off_t from = write ? 0 : buf->pos, to = write ? buf->pos : 0;
	size_t left = buf->len;
	int ret = 0, pipes[2];

	if (pipe2(pipes, O_CLOEXEC))
		return -errno;
	/* As large as an ordinary user may have it; the default is 64 KiB. */
	fcntl(pipes[1], F_SETPIPE_SZ, MIB(1));
	while (left && !ret) {
		ssize_t n = splice(in, &from, pipes[1], NULL, left, 0);

		if (n <= 0) {
			ret = n ? -errno : -ENODATA;
			break;
		}
		ret = drain_pipe(pipes[0], out, &to, n);
		left -= n;
	}
	close(pipes[0]);
	close(pipes[1]);
	return ret;
}

static int move_cfr(const struct buffer *buf, int fd, bool write)
{
	ssize_t ret;

	if (write)
		ret = copy_all(buf->io_fd, 0, fd, buf->pos, buf->len);
	else
		ret = copy_all(fd, buf->pos, buf->io_fd, 0, buf->len);
	if (ret < 0)
		return ret;
	return (size_t)ret == buf->len ? 0 : -ENODATA;
}

static int (* const move[])(const struct buffer *buf, int fd, bool write) = {
	[RW] = move_rw,
	[RW_POPULATED] = move_rw,
	[SENDFILE] = move_sendfile,
	[SPLICE] = move_splice,
	[CFR] = move_cfr,
};

/*
 * Buffers
 */
static void buffer_free(struct buffer *buf)
{
	if (buf->map)
		munmap(buf->map, buf->dmabuf.size);
	if (buf->vgem_handle)
		vgem_release(vgem, buf->vgem_handle);
	dmabuf_free(&buf->dmabuf);
	buf->map = NULL;
	buf->vgem_handle = 0;
}

static int buffer_map(struct buffer *buf, bool populate)
{
	buf->map = mmap(NULL, buf->dmabuf.size, PROT_READ | PROT_WRITE,
			MAP_SHARED | (populate ? MAP_POPULATE : 0), buf->io_fd, 0);
	if (buf->map != MAP_FAILED)
		return 0;
	buf->map = NULL;
	buf->dmabuf.step = "mmap";
	return -errno;
}

/* On failure buf->dmabuf.step says what failed. */
static int buffer_alloc(struct buffer *buf, const struct row *row, size_t size)
{
	const struct dmabuf_kind heap = { .heap = opt.heap };
	int ret;

	if (row->mem == MEMFD) {
		buf->dmabuf = (struct dmabuf){ .fd = -1, .size = size, .step = "memfd" };
		ret = memfd_alloc(size, 0);
		if (ret < 0)
			return ret;
		buf->dmabuf.memfd[buf->dmabuf.nr_memfds++] = ret;
	} else {
		ret = dmabuf_alloc(&buf->dmabuf,
				   row->mem == HEAP ? &heap : &opt.udmabuf, size);
		if (ret)
			return ret;
	}

	buf->io_fd = row->mem == MEMFD || row->mem == U_MEMFD ?
		     buf->dmabuf.memfd[0] : buf->dmabuf.fd;
	if (opt.attach && buf->dmabuf.fd >= 0) {
		buf->dmabuf.step = "import to vgem";
		ret = vgem_import(vgem, buf->dmabuf.fd, &buf->vgem_handle);
		if (ret)
			return ret;
	}
	if (row->io == RW || row->io == RW_POPULATED)
		return buffer_map(buf, row->io == RW_POPULATED || opt.populate);
	return 0;
}

/* For access that is not measured: a mapping of any buffer. */
static int buffer_access(struct buffer *buf)
{
	return buf->map ? 0 : buffer_map(buf, false);
}

static size_t page_round(size_t size)
{
	size_t page = sysconf(_SC_PAGESIZE);

	return (size + page - 1) & ~(page - 1);
}

/* Allocate all buffers, which together hold the file. */
static bool buffers_alloc(struct buffer *bufs, unsigned int nr,
			  const struct row *row, struct result *res)
{
	unsigned int i;
	int ret;

	for (i = 0; i < nr; i++) {
		struct buffer *buf = &bufs[i];

		buf->pos = (off_t)i * opt.buf_size;
		buf->len = min_size(opt.buf_size, opt.total - buf->pos);
		ret = buffer_alloc(buf, row, page_round(buf->len));
		if (!ret)
			continue;
		return row_ends(res, ret == -ENOENT || ret == -ENODEV ? SKIP : FAIL,
				"%s: %s", buf->dmabuf.step, strerror(-ret));
	}
	return true;
}

static void buffers_free(struct buffer *bufs, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		buffer_free(&bufs[i]);
}

/*
 * Checking: not measured.
 */
static bool check_memory(struct buffer *buf, struct result *res)
{
	static char expected[MIB(1)];
	size_t done;
	int ret;

	ret = buffer_access(buf);
	if (ret)
		return row_ends(res, FAIL, "mapping to verify: %s", strerror(-ret));
	if (buf->io_fd == buf->dmabuf.fd)
		dmabuf_sync(buf->io_fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);

	for (done = 0; done < buf->len; done += sizeof(expected)) {
		size_t len = min_size(sizeof(expected), buf->len - done);

		if (file.seed)
			pattern_fill(expected, len, file.seed, buf->pos + done);
		else if (pread(file.fd[0], expected, len, buf->pos + done) != (ssize_t)len)
			return row_ends(res, FAIL, "reading the file to verify");
		if (memcmp(expected, buf->map + done, len))
			return row_ends(res, FAIL, "wrong data in the MiB at %" PRIu64,
					(uint64_t)buf->pos + done);
	}

	if (buf->io_fd == buf->dmabuf.fd)
		dmabuf_sync(buf->io_fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	return true;
}

static bool check_file(struct result *res)
{
	ssize_t good;
	int ret;

	/* What the device has, not what the page cache has. */
	ret = file_make_cold(file.fd[0]);
	if (ret)
		return row_ends(res, FAIL, "dropping the page cache: %s", strerror(-ret));
	good = file_match(file.fd[0], 0, opt.total, file.seed);
	if (good < 0)
		return row_ends(res, FAIL, "reading the file: %s", strerror(-good));
	if ((size_t)good < opt.total)
		return row_ends(res, FAIL, "wrong data in the file at %zd", good);
	return true;
}

static bool check_direct(const struct row *row, struct result *res)
{
	long pages;

	if (!row->direct)
		return true;
	/* A tail within a block is written through the page cache. */
	pages = file_cached_pages(file.fd[0], 0, opt.total & ~(KIB(64) - 1));
	if (pages < 0)
		return row_ends(res, FAIL, "cachestat: %s", strerror(-pages));
	if (pages)
		return row_ends(res, FAIL, "BUFFERED: %ld pages in the page cache", pages);
	return true;
}

/*
 * A run: all of the file, by all threads.
 */
struct worker {
	pthread_t thread;
	const struct row *row;
	const struct buffer *bufs;
	unsigned int first;
	unsigned int nr;
	bool write;
	int ret;
};

static void *worker_run(void *data)
{
	struct worker *w = data;
	unsigned int i;

	for (i = w->first; i < w->nr && !w->ret; i += opt.threads)
		w->ret = move[w->row->io](&w->bufs[i], file.fd[w->row->direct], w->write);
	return NULL;
}

static int move_all(const struct row *row, const struct buffer *bufs,
		    unsigned int nr, bool write)
{
	struct worker workers[MAX_THREADS] = {};
	unsigned int i;
	int ret = 0;

	for (i = 0; i < opt.threads; i++) {
		workers[i] = (struct worker){
			.row = row, .bufs = bufs, .first = i, .nr = nr, .write = write,
		};
		/* One thread is this one, so that nothing is added to it. */
		if (opt.threads == 1)
			worker_run(&workers[i]);
		else if (pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]))
			errx(KSFT_FAIL, "cannot start a thread");
	}
	for (i = 0; i < opt.threads; i++) {
		if (opt.threads > 1)
			pthread_join(workers[i].thread, NULL);
		if (!ret)
			ret = workers[i].ret;
	}
	return ret;
}

static bool move_measured(const struct row *row, const struct buffer *bufs,
			  unsigned int nr, bool write, struct result *res)
{
	uint64_t wall, cpu;
	int ret;

	wall = now_ns(CLOCK_MONOTONIC);
	cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	ret = move_all(row, bufs, nr, write);
	res->cpu_ns[res->runs] = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	res->io_ns[res->runs] = now_ns(CLOCK_MONOTONIC) - wall;

	if (row->io == CFR && ret == -EXDEV)
		return row_ends(res, SKIP, "EXDEV");
	if (row->io == CFR && ret == -EOPNOTSUPP)
		return row_ends(res, SKIP, "this memory cannot be used for file I/O");
	if (row->io == CFR && row->mem >= UDMABUF && ret == -EINVAL)
		return row_ends(res, SKIP, "not supported by this kernel, or not for this file");
	if (ret)
		return row_ends(res, FAIL, "%s", strerror(-ret));
	return true;
}

/* A new pattern for each run, so that what an earlier one has written shows. */
static bool write_prepare(struct buffer *bufs, unsigned int nr, struct result *res)
{
	unsigned int i;
	int ret;

	file.seed++;
	for (i = 0; i < nr; i++) {
		ret = buffer_access(&bufs[i]);
		if (ret)
			return row_ends(res, FAIL, "mapping to fill: %s", strerror(-ret));
		if (bufs[i].io_fd == bufs[i].dmabuf.fd)
			dmabuf_sync(bufs[i].io_fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
		pattern_fill(bufs[i].map, bufs[i].len, file.seed, bufs[i].pos);
		if (bufs[i].io_fd == bufs[i].dmabuf.fd)
			dmabuf_sync(bufs[i].io_fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
	}
	return true;
}

static bool run_buffers(const struct row *row, struct buffer *bufs,
			unsigned int nr, bool write, struct result *res)
{
	unsigned int i;
	int ret;

	if (write && !write_prepare(bufs, nr, res))
		return false;
	ret = file_make_cold(file.fd[0]);
	if (ret)
		return row_ends(res, FAIL, "dropping the page cache: %s", strerror(-ret));
	if (!move_measured(row, bufs, nr, write, res))
		return false;
	if (!check_direct(row, res))
		return false;
	if (write)
		return check_file(res);
	for (i = 0; i < nr; i++) {
		if (!check_memory(&bufs[i], res))
			return false;
	}
	return true;
}

static bool run_once(const struct row *row, bool write, struct result *res)
{
	unsigned int nr = (opt.total + opt.buf_size - 1) / opt.buf_size;
	struct buffer *bufs = calloc(nr, sizeof(*bufs));
	uint64_t start;
	bool ok;

	if (!bufs)
		errx(KSFT_FAIL, "out of memory");
	for (unsigned int i = 0; i < nr; i++)
		bufs[i].dmabuf.fd = -1;

	start = now_ns(CLOCK_MONOTONIC);
	ok = buffers_alloc(bufs, nr, row, res);
	res->create_ns[res->runs] = now_ns(CLOCK_MONOTONIC) - start;
	if (ok)
		ok = run_buffers(row, bufs, nr, write, res);

	start = now_ns(CLOCK_MONOTONIC);
	buffers_free(bufs, nr);
	res->close_ns[res->runs] = now_ns(CLOCK_MONOTONIC) - start;
	free(bufs);
	res->runs += ok;
	return ok;
}

static void run_row(const struct row *row, bool write, struct result *res)
{
	if (row->direct && file.fd[1] < 0) {
		row_ends(res, SKIP, "%s", file.error);
		return;
	}
	if (write && row->io == SENDFILE && opt.threads > 1) {
		row_ends(res, SKIP, "threads would share the file position");
		return;
	}
	while (res->runs < opt.repeat && run_once(row, write, res))
		;
}

/*
 * Report
 */
static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t median(const uint64_t *values, unsigned int nr)
{
	uint64_t sorted[MAX_REPEAT];

	memcpy(sorted, values, nr * sizeof(*values));
	qsort(sorted, nr, sizeof(*sorted), compare);
	return sorted[nr / 2];
}

static double mb_per_s(uint64_t ns)
{
	return ns ? opt.total * 1000.0 / ns : 0;
}

static double cpu_us_per_mib(const struct result *res)
{
	return median(res->cpu_ns, res->runs) / 1e3 / (opt.total / 1048576.0);
}

static void print_head(bool write)
{
	printf("|%6zux%zuMiB %-5s %6zuMiB    |Creat-ms|Close-ms|",
	       (opt.total + opt.buf_size - 1) / opt.buf_size, opt.buf_size >> 20,
	       op_names[write], opt.total >> 20);
	printf("  I/O-ms|I/O-MB/s|  I/O%%|CPU-us/MiB|%s\n",
	       opt.extra ? "  CPU-ms| min-ms| max-ms|" : "");
	printf("|-------------------------------|--------|--------|");
	printf("--------|--------|------|----------|%s\n",
	       opt.extra ? "--------|-------|-------|" : "");
}

static void print_row(unsigned int nr, const char *tag, const struct row *row,
		      const struct result *res, uint64_t base_ns)
{
	uint64_t io = median(res->io_ns, res->runs ? res->runs : 1);

	printf("|%2u) %3s %7s %s %-8s|", nr, tag, mem_names[row->mem],
	       path_names[row->direct], io_titles[row->io]);
	if (res->status != PASS) {
		printf(" %s %s\n", res->status == SKIP ? "SKIP" : "FAIL", res->reason);
		return;
	}
	printf("%8.1f|%8.1f|%8.1f|%8.0f|%5.0f%%|%10.3f|",
	       median(res->create_ns, res->runs) / 1e6,
	       median(res->close_ns, res->runs) / 1e6, io / 1e6, mb_per_s(io),
	       base_ns ? 100.0 * base_ns / io : 100, cpu_us_per_mib(res));
	if (opt.extra) {
		uint64_t sorted[MAX_REPEAT];

		memcpy(sorted, res->io_ns, sizeof(sorted));
		qsort(sorted, res->runs, sizeof(*sorted), compare);
		printf("%8.1f|%7.1f|%7.1f|", median(res->cpu_ns, res->runs) / 1e6,
		       sorted[0] / 1e6, sorted[res->runs - 1] / 1e6);
	}
	printf("\n");
}

static void print_json_array(const char *name, const uint64_t *values, unsigned int nr)
{
	unsigned int i;

	printf(", \"%s\": [", name);
	for (i = 0; i < nr; i++)
		printf("%s%" PRIu64, i ? ", " : "", values[i]);
	printf("]");
}

static void print_json(const struct row *row, bool write, const struct result *res)
{
	static const char * const status_names[] = { "pass", "skip", "fail" };

	printf("{\"op\": \"%s\", \"mem\": \"%s\", \"path\": \"%s\", \"io\": \"%s\"",
	       op_names[write], mem_names[row->mem], path_names[row->direct],
	       io_names[row->io]);
	printf(", \"heap\": \"%s\", \"threads\": %u", opt.heap, opt.threads);
	printf(", \"status\": \"%s\", \"reason\": \"%s\", \"bytes\": %zu, \"buffer_bytes\": %zu",
	       status_names[res->status], res->reason, opt.total, opt.buf_size);
	print_json_array("create_ns", res->create_ns, res->runs);
	print_json_array("close_ns", res->close_ns, res->runs);
	print_json_array("io_ns", res->io_ns, res->runs);
	print_json_array("cpu_ns", res->cpu_ns, res->runs);
	printf("}\n");
}

/* First line of a file below /sys or /proc, "?" if there is none. */
static const char *read_line(char *line, size_t size, const char *path)
{
	FILE *f = fopen(path, "re");

	if (!f || !fgets(line, size, f))
		snprintf(line, size, "?");
	if (f)
		fclose(f);
	line[strcspn(line, "\n")] = 0;
	return line;
}

static const char *queue_line(char *line, size_t size, dev_t dev, const char *name)
{
	char path[96];

	/* A partition has its queue at the disk. */
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/%s",
		 major(dev), minor(dev), name);
	if (access(path, R_OK))
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../queue/%s",
			 major(dev), minor(dev), name);
	return read_line(line, size, path);
}

static void mount_of(dev_t dev, char type[64], char source[128])
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	unsigned int maj, min;
	char line[1024];

	snprintf(type, 64, "?");
	snprintf(source, 128, "?");
	while (f && fgets(line, sizeof(line), f)) {
		char *rest = strstr(line, " - ");

		if (rest && sscanf(line, "%*u %*u %u:%u", &maj, &min) == 2 &&
		    makedev(maj, min) == dev)
			sscanf(rest, " - %63s %127s", type, source);
	}
	if (f)
		fclose(f);
}

static void cpu_mhz(char mhz[32])
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(mhz, 32, "?");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "cpu MHz : %31s", mhz) == 1)
			break;
	}
	if (f)
		fclose(f);
}

static void print_system(void)
{
	char type[64], source[128], mhz[32], thp[64], sched[64], sectors[32];
	struct utsname uts;
	struct stat st;
	dev_t dev;

	uname(&uts);
	fstat(file.fd[0], &st);
	dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	mount_of(dev, type, source);
	cpu_mhz(mhz);
	printf("# kernel %s, CPU %s MHz, THP %s, IOMMU %s\n", uts.release, mhz,
	       read_line(thp, sizeof(thp), "/sys/kernel/mm/transparent_hugepage/enabled"),
	       access("/sys/class/iommu/dmar0", F_OK) && access("/sys/class/iommu/ivhd0", F_OK) ?
	       "none seen" : "present");
	printf("# %s on %s, scheduler %s, max_sectors_kb %s\n",
	       S_ISBLK(st.st_mode) ? "block device" : type,
	       S_ISBLK(st.st_mode) ? opt.file : source,
	       queue_line(sched, sizeof(sched), dev, "scheduler"),
	       queue_line(sectors, sizeof(sectors), dev, "max_sectors_kb"));
}

/* Run the rows that are wanted; returns how many of each status there were. */
static void run_rows(bool write, unsigned int count[3])
{
	const struct row *first = NULL;
	uint64_t base_ns = 0;
	unsigned int i, nr = 0;

	if (!opt.json)
		print_head(write);
	/* The first row once more at the end shows how far the machine drifts. */
	for (i = 0; i <= ARRAY_SIZE(rows); i++) {
		const struct row *row = i < ARRAY_SIZE(rows) ? &rows[i] : first;
		const char *tag = i == ARRAY_SIZE(rows) ? "End" : "";
		struct result res = {};

		if (!row || (i < ARRAY_SIZE(rows) &&
			     (!(opt.mems & 1 << row->mem) || !(opt.ios & 1 << row->io) ||
			      !(opt.paths & 1 << row->direct))))
			continue;

		run_row(row, write, &res);
		count[res.status]++;
		if (res.status == PASS && !first && opt.repeat) {
			first = row;
			base_ns = median(res.io_ns, res.runs);
			tag = "Beg";
		}
		if (opt.json)
			print_json(row, write, &res);
		else
			print_row(++nr, tag, row, &res, base_ns);
		fflush(stdout);
	}
}

/*
 * The file
 */
static void file_open_existing(void)
{
	bool write = opt.ops & 2;
	struct stat st;
	off_t size;

	if (write && !opt.overwrite)
		errx(KSFT_FAIL, "-o write overwrites %s; say -W if that is meant", opt.file);
	file.fd[0] = open(opt.file, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (file.fd[0] < 0 || fstat(file.fd[0], &st))
		err(KSFT_FAIL, "%s", opt.file);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		errx(KSFT_FAIL, "%s is neither a regular file nor a block device", opt.file);
	size = lseek(file.fd[0], 0, SEEK_END);
	if (size <= 0)
		errx(KSFT_FAIL, "%s is empty", opt.file);
	opt.total = min_size(opt.total, size);
}

/* The file is gone as soon as the program is, however that ends. */
static void file_create(void)
{
	char path[PATH_MAX];
	int ret;

	snprintf(path, sizeof(path), "%s/dmabuf-dio-XXXXXX", opt.dir);
	file.fd[0] = mkostemp(path, O_CLOEXEC);
	if (file.fd[0] < 0)
		err(KSFT_FAIL, "%s", path);
	if (opt.keep)
		fprintf(stderr, "keeping %s\n", path);
	else
		unlink(path);

	file.seed = now_ns(CLOCK_REALTIME) | 1;
	ret = file_fill(file.fd[0], 0, opt.total, file.seed);
	if (ret)
		errx(KSFT_FAIL, "writing %zu MiB to %s: %s", opt.total >> 20, path, strerror(-ret));
}

static void file_prepare(void)
{
	char path[32];

	if (opt.file)
		file_open_existing();
	else
		file_create();

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file.fd[0]);
	file.fd[1] = open(path, (opt.ops & 2 || !opt.file ? O_RDWR : O_RDONLY) |
			  O_DIRECT | O_CLOEXEC);
	if (file.fd[1] < 0)
		snprintf(file.error, sizeof(file.error), "O_DIRECT: %s", strerror(errno));
}

/*
 * Options
 */
static void usage(int code)
{
	fprintf(code ? stderr : stdout,
		"usage: dmabuf-dio [OPTION]...\n"
		"  -d DIR      make a file in DIR (.)\n"
		"  -f FILE     use this file or block device instead\n"
		"  -W          -o write may overwrite FILE\n"
		"  -s MIB      bytes to move per row (1024)\n"
		"  -b MIB      size of a buffer (32)\n"
		"  -o OPS      read, write or both (read)\n"
		"  -m MEMS     of memfd,u+memfd,udmabuf,dmabuf (all)\n"
		"  -i IOS      of rw,rw-pop,sendfile,splice,cfr (all)\n"
		"  -p PATHS    of buffer,direct (all)\n"
		"  -n REPEAT   times per row, the median is shown (5)\n"
		"  -t THREADS  that share the buffers (1)\n"
		"  -H HEAP     for dmabuf rows (system)\n"
		"  -T PAGES    for udmabuf rows: 4k, shuffle, thp or huge (4k)\n"
		"  -A          keep dma-bufs attached to a device (vgem)\n"
		"  -P          populate mappings\n"
		"  -c CPU      run on this CPU\n"
		"  -x          more columns\n"
		"  -j          JSON, a line per row\n"
		"  -k          keep the file\n"
		"Exit: 0 all rows passed or were skipped, 1 one failed, 4 none ran\n");
	exit(code);
}

static unsigned long number(const char *arg, char name, unsigned long max)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(arg, &end, 10);
	if (!isdigit(*arg) || *end || errno || !value || value > max)
		errx(KSFT_FAIL, "-%c takes a number from 1 to %lu, not '%s'", name, max, arg);
	return value;
}

/* A bit mask of the names in the comma separated list @arg. */
static unsigned int names(char *arg, char option, const char * const *list,
			  unsigned int nr)
{
	unsigned int mask = 0, i;
	char *name;

	while ((name = strsep(&arg, ","))) {
		for (i = 0; i < nr && strcmp(name, list[i]); i++)
			;
		if (i == nr)
			errx(KSFT_FAIL, "-%c: what is '%s'?", option, name);
		mask |= 1 << i;
	}
	return mask;
}

static void udmabuf_kind(const char *arg)
{
	if (!strcmp(arg, "shuffle"))
		opt.udmabuf.shuffle = true;
	else if (!strcmp(arg, "thp"))
		opt.udmabuf.thp = true;
	else if (!strcmp(arg, "huge"))
		opt.udmabuf.memfd_flags = MFD_HUGETLB | MFD_HUGE_2MB;
	else if (strcmp(arg, "4k"))
		errx(KSFT_FAIL, "-T: what is '%s'?", arg);
}

static void parse_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "d:f:Ws:b:o:m:i:p:n:t:H:T:APc:xjkh")) != -1) {
		switch (c) {
		case 'd':
			opt.dir = optarg;
			break;
		case 'f':
			opt.file = optarg;
			break;
		case 'W':
			opt.overwrite = true;
			break;
		case 's':
			opt.total = MIB(number(optarg, c, SIZE_MAX >> 21));
			break;
		case 'b':
			opt.buf_size = MIB(number(optarg, c, SIZE_MAX >> 21));
			break;
		case 'o':
			opt.ops = !strcmp(optarg, "both") ? 3 :
				  names(optarg, c, op_names, ARRAY_SIZE(op_names));
			break;
		case 'm':
			opt.mems = names(optarg, c, mem_names, ARRAY_SIZE(mem_names));
			break;
		case 'i':
			opt.ios = names(optarg, c, io_names, ARRAY_SIZE(io_names));
			break;
		case 'p':
			opt.paths = names(optarg, c, path_names, ARRAY_SIZE(path_names));
			break;
		case 'n':
			opt.repeat = number(optarg, c, MAX_REPEAT);
			break;
		case 't':
			opt.threads = number(optarg, c, MAX_THREADS);
			break;
		case 'H':
			opt.heap = optarg;
			break;
		case 'T':
			udmabuf_kind(optarg);
			break;
		case 'A':
			opt.attach = true;
			break;
		case 'P':
			opt.populate = true;
			break;
		case 'c':
			opt.cpu = strcmp(optarg, "0") ? (int)number(optarg, c, CPU_SETSIZE - 1) : 0;
			break;
		case 'x':
			opt.extra = true;
			break;
		case 'j':
			opt.json = true;
			break;
		case 'k':
			opt.keep = true;
			break;
		case 'h':
			usage(0);
			break;
		default:
			usage(KSFT_FAIL);
		}
	}
	if (optind < argc)
		usage(KSFT_FAIL);
}

int main(int argc, char **argv)
{
	unsigned int count[3] = {};
	unsigned int op;

	parse_options(argc, argv);
	if (opt.attach) {
		vgem = vgem_open();
		if (vgem < 0)
			errx(KSFT_FAIL, "-A needs the vgem driver");
	}
	if (opt.cpu >= 0) {
		cpu_set_t cpus;

		CPU_ZERO(&cpus);
		CPU_SET(opt.cpu, &cpus);
		if (sched_setaffinity(0, sizeof(cpus), &cpus))
			err(KSFT_FAIL, "CPU %d", opt.cpu);
	}

	file_prepare();
	if (!opt.json)
		print_system();
	for (op = 0; op < ARRAY_SIZE(op_names); op++) {
		if (opt.ops & 1 << op)
			run_rows(op, count);
	}
	if (count[FAIL])
		return KSFT_FAIL;
	return count[PASS] ? KSFT_PASS : KSFT_SKIP;
}
