// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost to read a block device through io_uring, for each kind of
 * buffer? A row is a kind of buffer, the size of an I/O and the queue depth.
 *
 * rate:     keeps the queue full for a while: I/Os per second, time of the
 *	     submitting calls and CPU time. For real hardware.
 * split:    one batch of I/Os at a time on an otherwise quiet CPU that also
 *	     takes the interrupts: what the CPU does to submit and what it does
 *	     to complete. Below an emulator that counts instructions (-i) this
 *	     is exact to a few of them.
 * register: what it takes to register and unregister a buffer.
 * move:     what it takes when the exporter moves the buffer (needs the test
 *	     exporter): the invalidation, and the first I/O afterwards.
 * trace:    counts per I/O from trace points: commands, DMA mappings, IOMMU
 *	     mappings and allocations.
 *
 * Nothing is compared: that data arrives where it should is what dma-buf-io
 * tests. A row counts only if each I/O moved all of its bytes.
 */
#include "dmabuf-util.h"
#include "dmabuf-ring.h"

#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <time.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include <linux/fs.h>

#include "kselftest.h"
#include "../../../../drivers/dma-buf/dma-buf-io-test-uapi.h"

#define MAX_DEPTH	256
#define MAX_LIST	32
#define MAX_DEVICES	8
#define MAX_SAMPLES	64
#define TRACING		"/sys/kernel/tracing"

enum what { RATE, SPLIT, REGISTER, MOVE, TRACE };
enum kind { USER, FIXED, FIXED_HUGE, DMABUF, DMABUF_HUGE, DMABUF_4K, MOVABLE, MOVABLE_4K };

static const char * const what_names[] = { "rate", "split", "register", "move", "trace" };
static const char * const kind_names[] = {
	[USER]		= "user",
	[FIXED]		= "fixed",
	[FIXED_HUGE]	= "fixed-huge",
	[DMABUF]	= "dmabuf",
	[DMABUF_HUGE]	= "dmabuf-huge",
	[DMABUF_4K]	= "dmabuf-4k",
	[MOVABLE]	= "movable",
	[MOVABLE_4K]	= "movable-4k",
};

#define KINDS_IO	((1U << MOVABLE) - 1)
#define KINDS_MOVE	(1U << MOVABLE | 1U << MOVABLE_4K)

static struct options {
	enum what what;
	unsigned int kinds;	/* bit mask of enum kind; 0 is all that fit */
	size_t sizes[MAX_LIST];
	unsigned int nr_sizes;
	size_t depths[MAX_LIST];
	unsigned int nr_depths;
	const char *heap;
	const char *label;
	unsigned int repeat;
	unsigned int rounds;
	unsigned int seconds;
	int cpu;
	bool write;
	bool overwrite;
	bool icount;
	bool json;
} opt = {
	.heap = "system",
	.label = "",
	.repeat = 9,
	.rounds = 2,
	.seconds = 2,
	.cpu = -1,
};

static struct device {
	const char *path;
	int fd;
	uint64_t size;
} devices[MAX_DEVICES];
static unsigned int nr_devices;

/* An I/O buffer of any kind, and the slot 0 of a ring that has it. */
struct buffer {
	enum kind kind;
	size_t size;
	char *mem;		/* of user memory */
	struct dmabuf dmabuf;
	const char *step;	/* what failed */
};

enum status { PASS, SKIP, FAIL };

struct result {
	enum status status;
	char reason[128];
	unsigned int device;
	unsigned int nr;	/* values in each column, one per round */
	double value[8][MAX_SAMPLES];
};

/* False, so that a caller can pass it on. */
#define row_ends(res, _status, ...) ({					\
	(res)->status = _status;					\
	snprintf((res)->reason, sizeof((res)->reason), __VA_ARGS__);	\
	false;								\
})

static bool kind_is_dmabuf(enum kind kind)
{
	return kind >= DMABUF;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/*
 * The clock for what is as short as a system call. With -i it is the emulated
 * time stamp counter, which ticks once per instruction.
 */
static inline uint64_t ticks(void)
{
#if defined(__x86_64__) || defined(__i386__)
	if (opt.icount)
		return __builtin_ia32_rdtsc();
#endif
	return now_ns(CLOCK_MONOTONIC_RAW);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(const double *values, unsigned int nr)
{
	double sorted[MAX_SAMPLES];

	memcpy(sorted, values, nr * sizeof(*values));
	qsort(sorted, nr, sizeof(*sorted), compare);
	return sorted[nr / 2];
}

/*
 * Buffers
 */

/*
 * Touch the pages in an order that leaves hardly any two of them side by side
 * in memory, as they are on a machine that has been up for a while.
 */
static void touch_scattered(char *mem, size_t size)
{
	size_t page = sysconf(_SC_PAGESIZE), nr = size / page, i, j;

	for (i = 0; i < 7; i++)
		for (j = i; j < nr; j += 7)
			mem[j * page] = 0;
}

static int user_alloc(struct buffer *buf, unsigned int flags)
{
	buf->step = flags ? "huge pages (see /proc/sys/vm/nr_hugepages)" : "memory";
	buf->mem = mmap(NULL, buf->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	if (buf->mem == MAP_FAILED) {
		buf->mem = NULL;
		return -errno;
	}
	if (flags)
		memset(buf->mem, 0, buf->size);
	else if (!madvise(buf->mem, buf->size, MADV_NOHUGEPAGE) || errno == EINVAL)
		touch_scattered(buf->mem, buf->size);
	else
		return -errno;
	return 0;
}

static int scattered_alloc(struct buffer *buf)
{
	struct udmabuf_create_item item = { .size = buf->size };
	char *mem;
	int ret;

	buf->dmabuf = (struct dmabuf){ .fd = -1, .size = buf->size };
	buf->step = "memfd";
	ret = memfd_alloc(buf->size, 0);
	if (ret < 0)
		return ret;
	buf->dmabuf.memfd[buf->dmabuf.nr_memfds++] = ret;
	mem = mmap(NULL, buf->size, PROT_READ | PROT_WRITE, MAP_SHARED, ret, 0);
	if (mem == MAP_FAILED)
		return -errno;
	touch_scattered(mem, buf->size);
	munmap(mem, buf->size);

	buf->step = "udmabuf (see size_limit_mb in /sys/module/udmabuf/parameters)";
	item.memfd = ret;
	ret = udmabuf_alloc(&item, 1);
	if (ret < 0)
		return ret;
	buf->dmabuf.fd = ret;
	return 0;
}

static int movable_alloc(struct buffer *buf, size_t chunk)
{
	struct dma_buf_io_test_create arg = { .size = buf->size, .chunk = chunk };
	int dev, ret;

	buf->step = "test exporter (modprobe dma-buf-io-test)";
	dev = open("/dev/dma_buf_io_test", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -errno;
	ret = ioctl(dev, DMA_BUF_IO_TEST_CREATE, &arg) ? -errno : 0;
	close(dev);
	buf->dmabuf.fd = ret ? -1 : arg.fd;
	buf->dmabuf.size = buf->size;
	return ret;
}

static void buffer_free(struct buffer *buf)
{
	if (buf->mem)
		munmap(buf->mem, buf->size);
	dmabuf_free(&buf->dmabuf);
	buf->mem = NULL;
}

/* On failure buf->step says what failed. */
static int buffer_alloc(struct buffer *buf, enum kind kind, size_t size)
{
	const struct dmabuf_kind heap = { .heap = opt.heap };
	const struct dmabuf_kind huge = { .memfd_flags = MFD_HUGETLB | MFD_HUGE_2MB };
	size_t unit = kind == FIXED_HUGE || kind == DMABUF_HUGE ?
		      HUGE_SIZE : (size_t)sysconf(_SC_PAGESIZE);
	int ret;

	*buf = (struct buffer){
		.kind = kind,
		.size = (size + unit - 1) / unit * unit,
		.dmabuf.fd = -1,
	};
	switch (kind) {
	case USER:
	case FIXED:
		ret = user_alloc(buf, 0);
		break;
	case FIXED_HUGE:
		ret = user_alloc(buf, MAP_HUGETLB | MAP_HUGE_2MB);
		break;
	case DMABUF:
		ret = dmabuf_alloc(&buf->dmabuf, &heap, buf->size);
		buf->step = buf->dmabuf.step;
		break;
	case DMABUF_HUGE:
		ret = dmabuf_alloc(&buf->dmabuf, &huge, buf->size);
		buf->step = buf->dmabuf.step;
		break;
	case DMABUF_4K:
		ret = scattered_alloc(buf);
		break;
	default:
		ret = movable_alloc(buf, kind == MOVABLE ? 0 : sysconf(_SC_PAGESIZE));
		break;
	}
	if (ret)
		buffer_free(buf);
	return ret;
}

/*
 * Registration
 */

/* A kernel that does not know descriptors refuses one of nothing as well. */
static bool descriptors_known(int ring_fd)
{
	return dmabuf_ring_unregister(ring_fd, 0) != -EINVAL;
}

static int register_user(int ring_fd, const struct buffer *buf)
{
	struct iovec iov = { .iov_base = buf->mem, .iov_len = buf->size };
	struct dmabuf_ring_update up = { .data = (uintptr_t)&iov, .nr = 1 };

	return dmabuf_ring_ctl(ring_fd, IORING_REGISTER_BUFFERS_UPDATE, &up, sizeof(up));
}

static int unregister_user(int ring_fd)
{
	struct iovec iov = {};
	struct dmabuf_ring_update up = { .data = (uintptr_t)&iov, .nr = 1 };

	return dmabuf_ring_ctl(ring_fd, IORING_REGISTER_BUFFERS_UPDATE, &up, sizeof(up));
}

static int buffer_register(int ring_fd, const struct buffer *buf, int file_fd)
{
	if (buf->kind == USER)
		return 0;
	if (kind_is_dmabuf(buf->kind))
		return dmabuf_ring_register(ring_fd, 0, buf->dmabuf.fd, file_fd);
	return register_user(ring_fd, buf);
}

static int buffer_unregister(int ring_fd, const struct buffer *buf)
{
	if (buf->kind == USER)
		return 0;
	if (kind_is_dmabuf(buf->kind))
		return dmabuf_ring_unregister(ring_fd, 0);
	return unregister_user(ring_fd);
}

/* A ring whose file 0 is the device and whose buffer 0 is empty. */
static int ring_open(struct dmabuf_ring *ring, unsigned int depth, int file_fd)
{
	int ret = dmabuf_ring_init(ring, depth, 0);

	if (ret)
		return ret;
	ret = dmabuf_ring_table(ring->fd, 1);
	if (ret >= 0)
		ret = dmabuf_ring_ctl(ring->fd, IORING_REGISTER_FILES, &file_fd, 1);
	if (ret < 0)
		dmabuf_ring_exit(ring);
	return ret < 0 ? ret : 0;
}

/* All that a row needs, ready for I/O. */
struct setup {
	struct dmabuf_ring ring;
	struct buffer buf;
	const struct device *dev;
	size_t size;
	unsigned int depth;
	uint64_t pos;		/* where the next I/O goes */
};

static void setup_exit(struct setup *s)
{
	dmabuf_ring_exit(&s->ring);
	buffer_free(&s->buf);
}

static bool setup_alloc(struct setup *s, enum kind kind, size_t bytes, struct result *res)
{
	int ret = buffer_alloc(&s->buf, kind, bytes);

	if (!ret)
		return true;
	return row_ends(res, ret == -ENOENT || ret == -ENODEV || ret == -ENOMEM ? SKIP : FAIL,
			"%s: %s", s->buf.step, strerror(-ret));
}

static bool setup_ring(struct setup *s, struct result *res)
{
	int ret = ring_open(&s->ring, s->depth, s->dev->fd);

	if (ret)
		return row_ends(res, FAIL, "making a ring: %s", strerror(-ret));
	if (kind_is_dmabuf(s->buf.kind) && !descriptors_known(s->ring.fd))
		return row_ends(res, SKIP, "not supported by this kernel");
	return true;
}

static bool setup_register(struct setup *s, struct result *res)
{
	int ret = buffer_register(s->ring.fd, &s->buf, s->dev->fd);

	if (ret >= 0)
		return true;
	return row_ends(res, FAIL, "registering the buffer: %s", strerror(-ret));
}

/* @s has the device, the size and the depth. To be undone in any case. */
static bool setup_all(struct setup *s, enum kind kind, struct result *res)
{
	s->ring.fd = -1;
	s->buf.dmabuf.fd = -1;
	s->pos = 0;
	if (s->dev->size < s->size * s->depth)
		return row_ends(res, SKIP, "the device is too small");
	return setup_alloc(s, kind, s->size * s->depth, res) &&
	       setup_ring(s, res) && setup_register(s, res);
}

/*
 * I/O
 */
static bool prep_one(struct setup *s, unsigned int index)
{
	struct io_uring_sqe *sqe = dmabuf_ring_sqe(&s->ring);
	uint64_t offset = index * s->size;

	if (!sqe)
		return false;
	if (s->pos + s->size > s->dev->size)
		s->pos = 0;
	if (s->buf.mem)
		offset += (uintptr_t)s->buf.mem;
	if (s->buf.kind == USER)
		dmabuf_ring_prep(sqe, opt.write ? IORING_OP_WRITE : IORING_OP_READ,
				 0, 0, offset, s->size, s->pos);
	else
		dmabuf_ring_prep(sqe, opt.write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED,
				 0, 0, offset, s->size, s->pos);
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->user_data = index;
	s->pos += s->size;
	return true;
}

static void prep_batch(struct setup *s)
{
	unsigned int i;

	for (i = 0; i < s->depth; i++)
		prep_one(s, i);
}

static bool check_cqe(const struct setup *s, const struct io_uring_cqe *cqe, struct result *res)
{
	if (cqe->res < 0)
		return row_ends(res, FAIL, "I/O: %s", strerror(-cqe->res));
	if ((size_t)cqe->res != s->size)
		return row_ends(res, FAIL, "I/O moved %d bytes only", cqe->res);
	return true;
}

static bool reap_batch(struct setup *s, struct result *res)
{
	struct io_uring_cqe cqe;
	unsigned int i;
	bool ok = true;
	int ret;

	/* All of them, so that the buffer is idle even after an error. */
	for (i = 0; i < s->depth; i++) {
		ret = dmabuf_ring_wait(&s->ring, &cqe);
		if (ret)
			return row_ends(res, FAIL, "waiting: %s", strerror(-ret));
		if (ok)
			ok = check_cqe(s, &cqe, res);
	}
	return ok;
}

static bool run_batch(struct setup *s, struct result *res)
{
	int ret;

	prep_batch(s);
	ret = dmabuf_ring_submit(&s->ring);
	if (ret < 0 || (unsigned int)ret != s->depth)
		return row_ends(res, FAIL, "submitting: %s",
				ret < 0 ? strerror(-ret) : "not all");
	return reap_batch(s, res);
}

/*
 * split: the program spins and looks at the clock. When that jumps, something
 * else had the CPU: the drive's interrupt with all that follows from it, or the
 * timer's, which comes at its own regular time and is not counted.
 */
static struct {
	uint64_t loop;		/* ticks per turn of the loop that spins */
	uint64_t period;	/* of the timer interrupt, 0 if none was seen */
	uint64_t seen;		/* when it came last */
	uint64_t cost;		/* what it takes */
} timer;

/* No interrupt is as short, and what spin()'s callers do is shorter. */
#define MIN_GAP		300

/* As late as this it is still the timer. */
#define TIMER_SLACK	(timer.period / 400)

static bool is_timer(uint64_t start)
{
	uint64_t phase;

	if (!timer.period)
		return false;
	phase = (start + TIMER_SLACK - timer.seen) % timer.period;
	return phase <= 2 * TIMER_SLACK;
}

static unsigned int timers_in(uint64_t from, uint64_t to)
{
	if (!timer.period || from < timer.seen)
		return 0;
	return (to - timer.seen) / timer.period - (from - timer.seen) / timer.period;
}

/*
 * Wait from *@prev on for the next jump of the clock, until @end or until the
 * ring's tail is at @tail_end. Returns the jump's size and when it was over in
 * *@prev, or 0. The tail is read before the clock: what moved it shows as a jump.
 */
static inline uint64_t spin(uint64_t *prev, uint64_t end, const unsigned int *tail,
			    unsigned int tail_end)
{
	uint64_t then = *prev, now;
	bool last = false;

	while (then < end && !last) {
		last = tail && __atomic_load_n(tail, __ATOMIC_ACQUIRE) == tail_end;
		now = ticks();
		if (now - then > timer.loop + MIN_GAP) {
			*prev = now;
			return now - then - timer.loop;
		}
		then = now;
	}
	return 0;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t median_u64(uint64_t *values, unsigned int nr)
{
	qsort(values, nr, sizeof(*values), compare_u64);
	return values[nr / 2];
}

/* Find out how long a turn of the loop takes, and when the timer interrupts. */
static void timer_calibrate(void)
{
	uint64_t gaps[32], dists[32], sample[101], last = 0, prev, start;
	unsigned int i, nr = 0;

	timer.loop = 1000;
	for (i = 0; i < ARRAY_SIZE(sample); i++) {
		start = ticks();
		sample[i] = ticks() - start;
	}
	timer.loop = median_u64(sample, ARRAY_SIZE(sample));

	prev = ticks();
	for (i = 0; i < ARRAY_SIZE(gaps); i++) {
		uint64_t gap = spin(&prev, prev + 1000000000ULL, NULL, 0);

		if (!gap)
			break;
		start = prev - gap;
		if (last) {
			gaps[nr] = gap;
			dists[nr++] = start - last;
		}
		last = start;
	}
	if (nr < 8)
		return;
	timer.period = median_u64(dists, nr);
	/* Each is off by a few turns, all of them together by less. */
	for (i = 0; i < nr && dists[i] < timer.period - timer.period / 1000; i++)
		;
	for (start = 0, prev = 0; i < nr && dists[i] <= timer.period + timer.period / 1000; i++) {
		start += dists[i];
		prev++;
	}
	timer.period = start / prev;
	timer.cost = median_u64(gaps, nr);
	timer.seen = last;
}

/*
 * Right behind the timer's interrupt there is the longest quiet time. If it does
 * not come when it should, the kernel has corrected its clock.
 */
static void timer_wait(void)
{
	uint64_t prev = ticks(), end = prev + 3 * timer.period, gap;

	while (timer.period) {
		gap = spin(&prev, end, NULL, 0);
		if (!gap) {
			timer_calibrate();
			return;
		}
		/* After idle times its phase is not known, but its cost is. */
		if (is_timer(prev - gap) ||
		    (gap * 10 > timer.cost * 9 && gap * 10 < timer.cost * 11)) {
			timer.seen = prev - gap;
			return;
		}
	}
}

struct sample {
	uint64_t submit;
	uint64_t complete;
	bool early;		/* completions may have come while submitting */
};

static bool run_sample(struct setup *s, struct sample *sample, struct result *res)
{
	unsigned int end = *s->ring.cq_tail + s->depth, before;
	uint64_t t0, t1, prev, gap;
	int ret;

	prep_batch(s);
	s->ring.to_submit = 0;
	__atomic_store_n(s->ring.sq_tail, *s->ring.sq_tail + s->depth, __ATOMIC_RELEASE);
	before = *s->ring.cq_tail;
	timer_wait();

	t0 = ticks();
	ret = dmabuf_ring_enter(&s->ring, s->depth, 0, 0);
	t1 = ticks();
	prev = t1;
	if (ret < 0 || (unsigned int)ret != s->depth)
		return row_ends(res, FAIL, "submitting: %s",
				ret < 0 ? strerror(-ret) : "not all");

	*sample = (struct sample){
		.submit = t1 - t0 - timer.loop - timers_in(t0, t1) * timer.cost,
		.early = __atomic_load_n(s->ring.cq_tail, __ATOMIC_ACQUIRE) != before,
	};
	while ((gap = spin(&prev, t1 + 60000000000ULL, s->ring.cq_tail, end))) {
		if (is_timer(prev - gap)) {
			timer.seen = prev - gap;
			gap = gap > 2 * timer.cost ? gap - timer.cost : 0;
		} else if (!sample->complete && (prev - gap - t1) * 8 < t1 - t0) {
			/* Some of its commands are done when the call returns. */
			sample->early = true;
		}
		sample->complete += gap;
	}
	return reap_batch(s, res);
}

/*
 * Samples of one setup. Several devices are the same drive with ever longer
 * latency; the first one serves that does not complete before all is submitted.
 */
static bool run_samples(struct setup *s, struct sample *samples, unsigned int nr,
			struct result *res)
{
	unsigned int i, early;

	/* Caches of all sorts, and pages that are mapped when they are used. */
	for (i = 0; i < 2; i++) {
		if (!run_sample(s, &samples[0], res))
			return false;
	}
	for (i = 0, early = 0; i < nr; early += samples[i++].early) {
		if (!run_sample(s, &samples[i], res))
			return false;
		/* The emulator's first translation of code is not different. */
		if (samples[i].early && i < 2 && s->dev + 1 < devices + nr_devices)
			return true;
	}
	if (early * 2 >= nr)
		return row_ends(res, SKIP,
				"completions come while submitting: too fast a device, or too short a queue");
	return true;
}

static bool run_split_round(enum kind kind, size_t size, unsigned int depth, struct result *res)
{
	struct sample samples[MAX_SAMPLES];
	double submit[MAX_SAMPLES], complete[MAX_SAMPLES];
	unsigned int i, nr;
	bool ok;

	for (;;) {
		struct setup s = { .dev = &devices[res->device], .size = size, .depth = depth };

		memset(samples, 0, sizeof(samples));
		ok = setup_all(&s, kind, res) && run_samples(&s, samples, opt.repeat, res);
		setup_exit(&s);
		if (!ok)
			return false;
		if (!(samples[0].early || samples[1].early) || res->device + 1 >= nr_devices)
			break;
		res->device++;
	}
	for (i = 0, nr = 0; i < opt.repeat; i++) {
		if (samples[i].early)
			continue;
		submit[nr] = (double)samples[i].submit / depth;
		complete[nr++] = (double)samples[i].complete / depth;
	}
	res->value[0][res->nr] = median(submit, nr);
	res->value[1][res->nr++] = median(complete, nr);
	return true;
}

/*
 * rate: keep the queue full.
 */
static bool run_rate_loop(struct setup *s, uint64_t end, uint64_t *done, uint64_t *submit_ns,
			  struct result *res)
{
	unsigned int flying = 0, i;
	struct io_uring_cqe cqe;
	uint64_t start;
	int ret;

	for (i = 0; i < s->depth; i++)
		prep_one(s, i);
	while (s->ring.to_submit || flying) {
		start = now_ns(CLOCK_MONOTONIC);
		flying += s->ring.to_submit;
		ret = dmabuf_ring_submit(&s->ring);
		if (ret < 0)
			return row_ends(res, FAIL, "submitting: %s", strerror(-ret));
		*submit_ns += now_ns(CLOCK_MONOTONIC) - start;

		ret = dmabuf_ring_wait(&s->ring, &cqe);
		if (ret)
			return row_ends(res, FAIL, "waiting: %s", strerror(-ret));
		do {
			flying--;
			if (!check_cqe(s, &cqe, res))
				return false;
			++*done;
			if (start < end)
				prep_one(s, cqe.user_data);
		} while (dmabuf_ring_reap(&s->ring, &cqe));
	}
	return true;
}

static uint64_t cpu_ns(void)
{
	return now_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static bool run_rate_round(enum kind kind, size_t size, unsigned int depth, struct result *res)
{
	struct setup s = { .dev = &devices[0], .size = size, .depth = depth };
	uint64_t start, cpu, done = 0, submit = 0;
	bool ok;

	ok = setup_all(&s, kind, res) && run_batch(&s, res);
	start = now_ns(CLOCK_MONOTONIC);
	cpu = cpu_ns();
	if (ok)
		ok = run_rate_loop(&s, start + opt.seconds * 1000000000ULL, &done, &submit, res);
	if (ok) {
		uint64_t wall = now_ns(CLOCK_MONOTONIC) - start;

		cpu = cpu_ns() - cpu;
		res->value[0][res->nr] = (double)submit / done;
		res->value[1][res->nr] = (double)(cpu > submit ? cpu - submit : 0) / done;
		res->value[2][res->nr] = done * 1e9 / wall;
		res->value[3][res->nr] = done * 1e3 * size / wall;
		res->value[4][res->nr++] = (double)wall * depth / done / 1e3;
	}
	setup_exit(&s);
	return ok;
}

/*
 * register: the calls, and the memory that the kernel keeps for it.
 */

/* Free pages, those that a CPU has set aside included. */
static long free_pages(void)
{
	FILE *f = fopen("/proc/zoneinfo", "re");
	char line[256];
	long sum = 0, n;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, " nr_free_pages %ld", &n) == 1 ||
		    sscanf(line, " count: %ld", &n) == 1)
			sum += n;
	}
	if (f)
		fclose(f);
	return sum;
}

static bool run_register_round(enum kind kind, size_t size, unsigned int depth, struct result *res)
{
	struct setup s = {
		.dev = &devices[0], .size = size, .depth = depth,
		.ring.fd = -1, .buf.dmabuf.fd = -1,
	};
	double reg[MAX_SAMPLES], unreg[MAX_SAMPLES], kib[MAX_SAMPLES];
	unsigned int i;
	bool ok;

	ok = setup_alloc(&s, kind, size, res) && setup_ring(&s, res);
	for (i = 0; ok && i < opt.repeat; i++) {
		long pages = free_pages();
		uint64_t t0, t1;
		int ret;

		t0 = ticks();
		ret = buffer_register(s.ring.fd, &s.buf, s.dev->fd);
		t1 = ticks();
		if (ret < 0) {
			ok = row_ends(res, FAIL, "registering the buffer: %s", strerror(-ret));
			break;
		}
		reg[i] = t1 - t0;
		kib[i] = (pages - free_pages()) * (sysconf(_SC_PAGESIZE) / 1024.0);

		t0 = ticks();
		ret = buffer_unregister(s.ring.fd, &s.buf);
		t1 = ticks();
		if (ret < 0)
			ok = row_ends(res, FAIL, "unregistering: %s", strerror(-ret));
		unreg[i] = t1 - t0;
		/* What is released in the background is not part of the next. */
		usleep(20000);
	}
	setup_exit(&s);
	if (!ok)
		return false;
	res->value[0][res->nr] = median(reg, i);
	res->value[1][res->nr] = median(unreg, i);
	res->value[2][res->nr++] = median(kib, i);
	return true;
}

/*
 * move: the exporter takes the memory away and puts the data elsewhere.
 */
static bool move_buffer(const struct setup *s, struct dma_buf_io_test_move *arg,
			struct result *res)
{
	int dev = open("/dev/dma_buf_io_test", O_RDWR | O_CLOEXEC);

	*arg = (struct dma_buf_io_test_move){ .fd = s->buf.dmabuf.fd };
	if (dev < 0 || ioctl(dev, DMA_BUF_IO_TEST_MOVE, arg)) {
		int error = errno;

		if (dev >= 0)
			close(dev);
		return row_ends(res, FAIL, "moving the buffer: %s", strerror(error));
	}
	close(dev);
	if (!arg->maps)
		return row_ends(res, FAIL, "the buffer was not mapped");
	return true;
}

static bool run_move_round(enum kind kind, size_t size, unsigned int depth, struct result *res)
{
	struct setup s = {
		.dev = &devices[0], .size = sysconf(_SC_PAGESIZE), .depth = depth,
		.ring.fd = -1, .buf.dmabuf.fd = -1,
	};
	double invalidate[MAX_SAMPLES], unmap[MAX_SAMPLES], first[MAX_SAMPLES], next[MAX_SAMPLES];
	struct dma_buf_io_test_move arg;
	struct sample sample;
	unsigned int i;
	bool ok;

	ok = setup_alloc(&s, kind, size, res) && setup_ring(&s, res) &&
	     setup_register(&s, res) && run_batch(&s, res);
	for (i = 0; ok && i < opt.repeat; i++) {
		ok = move_buffer(&s, &arg, res);
		invalidate[i] = arg.invalidate_ns;
		unmap[i] = arg.unmap_ns;
		ok = ok && run_sample(&s, &sample, res);
		first[i] = sample.submit + sample.complete;
		ok = ok && run_batch(&s, res) && run_sample(&s, &sample, res);
		next[i] = sample.submit + sample.complete;
	}
	setup_exit(&s);
	if (!ok)
		return false;
	res->value[0][res->nr] = median(invalidate, i);
	res->value[1][res->nr] = median(unmap, i);
	res->value[2][res->nr] = median(first, i);
	res->value[3][res->nr++] = median(next, i);
	return true;
}

/*
 * trace: what the process does between the first and the last I/O.
 */
static int write_text(const char *path, const char *text, unsigned int flags)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static const struct {
	const char *event;
	const char *text;
	unsigned int column;
} traced[] = {
	{ "nvme/nvme_setup_cmd",	" nvme_setup_cmd:",	0 },
	{ "dma/dma_map_phys",		" dma_map_phys:",	1 },
	{ "dma/dma_map_sg",		" dma_map_sg:",		1 },
	{ "iommu/map",			" map: IOMMU",		2 },
	{ "kmem/kmalloc",		" kmalloc:",		3 },
	{ "kmem/kmem_cache_alloc",	" kmem_cache_alloc:",	3 },
	{ "kmem/mm_page_alloc",		" mm_page_alloc:",	3 },
};

/*
 * The process and the workers of its rings, which are threads of it. They are
 * not children of anybody for the tracer, so they have to exist by now.
 */
static int trace_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int ret;

	if (!dir)
		return -errno;
	ret = write_text(TRACING "/set_event_pid", "", O_TRUNC);
	while (!ret && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			ret = write_text(TRACING "/set_event_pid", entry->d_name, O_APPEND);
	closedir(dir);
	return ret;
}

/* All but switching it on. */
static int trace_prepare(void)
{
	unsigned int i;
	int ret;

	write_text(TRACING "/tracing_on", "0", 0);
	write_text(TRACING "/events/enable", "0", 0);
	ret = trace_threads();
	if (!ret)
		ret = write_text(TRACING "/buffer_size_kb", "16384", 0);
	for (i = 0; i < ARRAY_SIZE(traced) && !ret; i++) {
		char path[96];

		/* One that this kernel has not been built with counts nothing. */
		snprintf(path, sizeof(path), TRACING "/events/%s/enable", traced[i].event);
		ret = write_text(path, "1", 0);
		if (ret == -ENOENT)
			ret = 0;
	}
	return ret;
}

static void trace_stop(unsigned long count[4])
{
	unsigned int i;
	char line[1024];
	FILE *f;

	write_text(TRACING "/tracing_on", "0", 0);
	f = fopen(TRACING "/trace", "re");
	while (f && fgets(line, sizeof(line), f)) {
		for (i = 0; i < ARRAY_SIZE(traced); i++)
			if (line[0] != '#' && strstr(line, traced[i].text))
				count[traced[i].column]++;
	}
	if (f)
		fclose(f);
	write_text(TRACING "/events/enable", "0", 0);
	write_text(TRACING "/set_event_pid", "", O_TRUNC);
}

static bool run_trace_round(enum kind kind, size_t size, unsigned int depth, struct result *res)
{
	struct setup s = { .dev = &devices[0], .size = size, .depth = depth };
	unsigned long count[4] = {};
	unsigned int i;
	bool ok;
	int ret;

	ok = setup_all(&s, kind, res);
	for (i = 0; ok && i < 4; i++)
		ok = run_batch(&s, res);
	if (!ok) {
		setup_exit(&s);
		return false;
	}
	ret = trace_prepare();
	if (ret) {
		setup_exit(&s);
		return row_ends(res, SKIP, TRACING ": %s", strerror(-ret));
	}
	write_text(TRACING "/trace", "", O_TRUNC);
	write_text(TRACING "/tracing_on", "1", 0);
	ok = run_batch(&s, res);
	trace_stop(count);
	setup_exit(&s);
	if (!ok)
		return false;
	for (i = 0; i < ARRAY_SIZE(count); i++)
		res->value[i][res->nr] = (double)count[i] / depth;
	res->nr++;
	return true;
}

/*
 * Report
 */
static const struct {
	bool (*round)(enum kind kind, size_t size, unsigned int depth, struct result *res);
	unsigned int kinds;
	const char *key;	/* of the buffer, in JSON */
	const char *columns[6];
} whats[] = {
	[RATE] = {
		run_rate_round, KINDS_IO, "rate",
		{ "submit", "complete", "iops", "MBps", "latency_us" },
	},
	[SPLIT] = { run_split_round, KINDS_IO, "buffer", { "submit", "complete" } },
	[REGISTER] = {
		run_register_round, KINDS_IO & ~(1U << USER), "register",
		{ "cost", "undo", "KiB" },
	},
	[MOVE] = {
		run_move_round, KINDS_MOVE, "move",
		{ "invalidate", "unmap", "first_io", "next_io" },
	},
	[TRACE] = {
		run_trace_round, KINDS_IO, "trace",
		{ "commands", "dma_maps", "iommu_maps", "allocations" },
	},
};

static const char *size_text(char text[24], size_t size)
{
	if (size >= MIB(1) && !(size % MIB(1)))
		snprintf(text, 24, "%zuM", size >> 20);
	else if (!(size % KIB(1)))
		snprintf(text, 24, "%zuK", size >> 10);
	else
		snprintf(text, 24, "%zu", size);
	return text;
}

static void print_head(void)
{
	const char * const *column;

	printf("%-12s %6s %5s", "buffer", "size", "depth");
	for (column = whats[opt.what].columns; *column; column++)
		printf(" %13s", *column);
	printf("  spread\n");
}

/* How far the rounds are apart, as a part of the median, in the worst column. */
static double spread(const struct result *res, unsigned int columns)
{
	double worst = 0;
	unsigned int i, c;

	for (c = 0; c < columns; c++) {
		double mid = median(res->value[c], res->nr);
		double low = mid, high = mid;

		for (i = 0; i < res->nr; i++) {
			low = res->value[c][i] < low ? res->value[c][i] : low;
			high = res->value[c][i] > high ? res->value[c][i] : high;
		}
		if (mid > 0 && (high - low) / mid > worst)
			worst = (high - low) / mid;
	}
	return worst;
}

static void print_row(enum kind kind, size_t size, unsigned int depth, const struct result *res)
{
	const char * const *column = whats[opt.what].columns;
	char text[24];
	unsigned int c;

	printf("%-12s %6s %5u", kind_names[kind], size_text(text, size), depth);
	if (res->status != PASS) {
		printf(" %s %s\n", res->status == SKIP ? "SKIP" : "FAIL", res->reason);
		return;
	}
	for (c = 0; column[c]; c++)
		printf(" %13.*f", opt.what == TRACE ? 2 : 0, median(res->value[c], res->nr));
	printf(" %6.2f%%\n", 100 * spread(res, c));
}

static void print_json(enum kind kind, size_t size, unsigned int depth, const struct result *res)
{
	const char * const *column = whats[opt.what].columns;
	unsigned int c;

	printf("{\"label\": \"%s\", \"%s\": \"%s\"", opt.label,
	       whats[opt.what].key, kind_names[kind]);
	printf(", \"size\": %zu, \"depth\": %u", size, depth);
	if (res->status != PASS) {
		printf(", \"skip\": \"%s\"}\n", res->reason);
		return;
	}
	for (c = 0; column[c]; c++)
		printf(", \"%s\": %.1f", column[c], median(res->value[c], res->nr));
	printf(", \"spread\": %.2f}\n", 100 * spread(res, c));
}

static void run_row(enum kind kind, size_t size, unsigned int depth, unsigned int count[3])
{
	struct result res = {};
	unsigned int i;

	for (i = 0; i < opt.rounds; i++) {
		if (!whats[opt.what].round(kind, size, depth, &res))
			break;
	}
	count[res.status]++;
	if (opt.json)
		print_json(kind, size, depth, &res);
	else
		print_row(kind, size, depth, &res);
	fflush(stdout);
}

static void run_rows(unsigned int count[3])
{
	unsigned int kind, s, d;

	if (!opt.json)
		print_head();
	for (kind = 0; kind < ARRAY_SIZE(kind_names); kind++) {
		if (!(opt.kinds & 1U << kind))
			continue;
		for (d = 0; d < opt.nr_depths; d++)
			for (s = 0; s < opt.nr_sizes; s++)
				run_row(kind, opt.sizes[s], opt.depths[d], count);
	}
}

/*
 * Options
 */
static void usage(int code)
{
	fprintf(code ? stderr : stdout,
		"usage: dmabuf-ring-bench [OPTION]... DEVICE...\n"
		"  -w WHAT     rate, split, register, move or trace (rate)\n"
		"  -b BUFFERS  of user,fixed,fixed-huge,dmabuf,dmabuf-huge,dmabuf-4k,\n"
		"              for -w move of movable,movable-4k (all)\n"
		"  -s SIZES    of an I/O, or of the buffer to register or to move\n"
		"              (4K,16K,64K,256K,1M,8M)\n"
		"  -q DEPTHS   I/Os at a time (1,16; 1 for -w register and move)\n"
		"  -o OP       read or write (read)\n"
		"  -W          -o write may overwrite DEVICE\n"
		"  -H HEAP     for dmabuf rows (system)\n"
		"  -n SAMPLES  per round, of which the median counts (9)\n"
		"  -r ROUNDS   per row, the median is shown (2)\n"
		"  -t SECONDS  that a round of -w rate takes (2)\n"
		"  -c CPU      run on this CPU\n"
		"  -i          the time stamp counter counts instructions\n"
		"  -l LABEL    put into each row of JSON\n"
		"  -j          JSON, a line per row\n"
		"More than one DEVICE: for -w split, in the order of their latency; the\n"
		"first one is used that completes nothing while the I/O is submitted.\n"
		"Exit: 0 all rows passed or were skipped, 1 one failed, 4 none ran\n");
	exit(code);
}

static unsigned long number(const char *arg, char name, unsigned long max)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(arg, &end, 10);
	if (!isdigit(*arg) || *end || errno || value > max)
		errx(KSFT_FAIL, "-%c takes a number up to %lu, not '%s'", name, max, arg);
	return value;
}

/* Fills @list from the comma separated numbers @arg; returns how many. */
static unsigned int numbers(char *arg, char name, size_t *list, size_t max)
{
	unsigned int nr = 0;
	char *item, *end;

	while ((item = strsep(&arg, ","))) {
		if (nr == MAX_LIST)
			errx(KSFT_FAIL, "-%c takes %d numbers at most", name, MAX_LIST);
		errno = 0;
		list[nr] = strtoul(item, &end, 10);
		if (*end == 'K')
			list[nr] <<= 10, end++;
		else if (*end == 'M')
			list[nr] <<= 20, end++;
		if (!isdigit(*item) || *end || errno || !list[nr] || list[nr] > max)
			errx(KSFT_FAIL, "-%c takes numbers up to %zu, not '%s'", name, max, item);
		nr++;
	}
	return nr;
}

/* A bit mask of the names in the comma separated list @arg. */
static unsigned int names(char *arg, char option, const char * const *list, unsigned int nr)
{
	unsigned int mask = 0, i;
	char *name;

	while ((name = strsep(&arg, ","))) {
		for (i = 0; i < nr && strcmp(name, list[i]); i++)
			;
		if (i == nr)
			errx(KSFT_FAIL, "-%c: what is '%s'?", option, name);
		mask |= 1U << i;
	}
	return mask;
}

/* The place of the single name @arg. */
static unsigned int name(char *arg, char option, const char * const *list, unsigned int nr)
{
	unsigned int mask = names(arg, option, list, nr);

	return __builtin_ctz(mask);
}

static void parse_options(int argc, char **argv)
{
	static const char * const op_names[] = { "read", "write" };
	int c;

	while ((c = getopt(argc, argv, "w:b:s:q:o:WH:n:r:t:c:il:jh")) != -1) {
		switch (c) {
		case 'w':
			opt.what = name(optarg, c, what_names, ARRAY_SIZE(what_names));
			break;
		case 'b':
			opt.kinds = names(optarg, c, kind_names, ARRAY_SIZE(kind_names));
			break;
		case 's':
			opt.nr_sizes = numbers(optarg, c, opt.sizes, MIB(1024));
			break;
		case 'q':
			opt.nr_depths = numbers(optarg, c, opt.depths, MAX_DEPTH);
			break;
		case 'o':
			opt.write = name(optarg, c, op_names, ARRAY_SIZE(op_names));
			break;
		case 'W':
			opt.overwrite = true;
			break;
		case 'H':
			opt.heap = optarg;
			break;
		case 'n':
			opt.repeat = number(optarg, c, MAX_SAMPLES);
			break;
		case 'r':
			opt.rounds = number(optarg, c, MAX_SAMPLES);
			break;
		case 't':
			opt.seconds = number(optarg, c, 3600);
			break;
		case 'c':
			opt.cpu = number(optarg, c, CPU_SETSIZE - 1);
			break;
		case 'i':
			opt.icount = true;
			break;
		case 'l':
			opt.label = optarg;
			break;
		case 'j':
			opt.json = true;
			break;
		case 'h':
			usage(0);
			break;
		default:
			usage(KSFT_FAIL);
		}
	}
	if (optind == argc || argc - optind > MAX_DEVICES)
		usage(KSFT_FAIL);
	if (opt.repeat < 2 || !opt.rounds)
		errx(KSFT_FAIL, "it takes 2 samples and 1 round at least");
	if (opt.write && !opt.overwrite)
		errx(KSFT_FAIL, "-o write overwrites %s; say -W if that is meant", argv[optind]);
}

static void options_complete(void)
{
	static const size_t sizes[] = {
		KIB(4), KIB(16), KIB(64), KIB(256), MIB(1), MIB(8),
	};

	if (!opt.kinds)
		opt.kinds = whats[opt.what].kinds;
	if (opt.kinds & ~whats[opt.what].kinds)
		errx(KSFT_FAIL, "not all of these buffers are for -w %s", what_names[opt.what]);
	if (!opt.nr_sizes) {
		memcpy(opt.sizes, sizes, sizeof(sizes));
		opt.nr_sizes = ARRAY_SIZE(sizes);
	}
	if (opt.what == REGISTER || opt.what == MOVE) {
		opt.depths[0] = 1;
		opt.nr_depths = 1;
	} else if (!opt.nr_depths) {
		opt.depths[0] = 1;
		opt.depths[1] = 16;
		opt.nr_depths = 2;
	}
}

static void device_open(const char *path)
{
	struct device *dev = &devices[nr_devices++];
	struct stat st;

	dev->path = path;
	dev->fd = open(path, (opt.write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	if (dev->fd < 0 || fstat(dev->fd, &st))
		err(KSFT_FAIL, "%s", path);
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(dev->fd, BLKGETSIZE64, &dev->size))
			err(KSFT_FAIL, "%s", path);
	} else if (S_ISREG(st.st_mode)) {
		dev->size = st.st_size;
	} else {
		errx(KSFT_FAIL, "%s is neither a block device nor a file", path);
	}
}

int main(int argc, char **argv)
{
	unsigned int count[3] = {};

	parse_options(argc, argv);
	options_complete();
	if (opt.cpu >= 0) {
		cpu_set_t cpus;

		CPU_ZERO(&cpus);
		CPU_SET(opt.cpu, &cpus);
		if (sched_setaffinity(0, sizeof(cpus), &cpus))
			err(KSFT_FAIL, "CPU %d", opt.cpu);
	}
	for (; optind < argc; optind++)
		device_open(argv[optind]);
	/* A page of the program or its stack that is not there would count. */
	if (mlockall(MCL_CURRENT))
		warn("mlockall");
	if (opt.what == SPLIT || opt.what == MOVE)
		timer_calibrate();

	run_rows(count);
	if (count[FAIL])
		return KSFT_FAIL;
	return count[PASS] ? KSFT_PASS : KSFT_SKIP;
}
