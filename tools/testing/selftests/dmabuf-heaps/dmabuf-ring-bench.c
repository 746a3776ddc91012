// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost to read a block device through io_uring, with ordinary
 * memory, with registered memory, and with registered dma-bufs?
 *
 * A batch of reads is submitted by one call, whose time is the cost of
 * submitting them. Then the program spins on the completion queue and looks for
 * the gaps in its own time after which completions were there: what the CPU did
 * in them, from the interrupt on, is the cost of completing the reads. That is
 * what it is on a CPU that gets the interrupts of its own I/O and has nothing
 * else to do, if the drive needs longer than the submission; a row where it does
 * not says so.
 *
 * With -i, below an emulator that counts instructions as nanoseconds, the unit
 * is instructions, and what is shown is exact but for a few of them.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include "dmabuf-util.h"
#include "dmabuf-ring.h"

#define MAX_DEPTH	64
#define SAMPLES		15
#define BUF_SIZE	MIB(16)

enum kind { USER, FIXED, FIXED_HUGE, DMABUF, DMABUF_HUGE, DMABUF_4K, NR_KINDS };

static const char * const kinds[] = {
	[USER]		= "user",
	[FIXED]		= "fixed",
	[FIXED_HUGE]	= "fixed-huge",
	[DMABUF]	= "dmabuf",
	[DMABUF_HUGE]	= "dmabuf-huge",
	[DMABUF_4K]	= "dmabuf-4k",
};

static const size_t io_sizes[] = {
	KIB(4), KIB(16), KIB(64), KIB(256), MIB(1), MIB(8),
};

struct memory {
	char *mem;		/* of the process, else NULL */
	int dmabuf;		/* or -1 */
	int memfd;
};

static bool count_instructions;
static bool json;
static const char *label = "";

static unsigned long now(void)
{
	struct timespec ts;

#ifdef __x86_64__
	if (count_instructions)
		return __builtin_ia32_rdtsc();
#endif
	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return ts.tv_sec * 1000000000UL + ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a;
	unsigned long y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

static void memory_free(struct memory *m)
{
	if (m->mem)
		munmap(m->mem, BUF_SIZE);
	if (m->dmabuf >= 0)
		close(m->dmabuf);
	if (m->memfd >= 0)
		close(m->memfd);
}

/* Returns 0 or a negative errno. */
static int memory_alloc(struct memory *m, enum kind kind, size_t size)
{
	struct udmabuf_create_item item = { .size = size };
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;

	*m = (struct memory) { .dmabuf = -1, .memfd = -1 };
	switch (kind) {
	case USER:
	case FIXED:
	case FIXED_HUGE:
		if (kind == FIXED_HUGE)
			flags |= MAP_HUGETLB;
		m->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
		if (m->mem == MAP_FAILED) {
			m->mem = NULL;
			return -errno;
		}
		if (kind != FIXED_HUGE)
			madvise(m->mem, size, MADV_NOHUGEPAGE);
		return 0;
	case DMABUF:
		m->dmabuf = heap_alloc("system", size, O_RDWR | O_CLOEXEC);
		break;
	case DMABUF_HUGE:
		m->memfd = memfd_alloc(size, MFD_HUGETLB);
		if (m->memfd < 0)
			return m->memfd;
		item.memfd = m->memfd;
		m->dmabuf = udmabuf_alloc(&item, 1);
		break;
	default:
		m->memfd = memfd_alloc(size, 0);
		if (m->memfd < 0)
			return m->memfd;
		m->dmabuf = udmabuf_alloc_shuffled(m->memfd, size);
		break;
	}
	return m->dmabuf < 0 ? m->dmabuf : 0;
}

static int ring_register_memory(struct dmabuf_ring *ring, struct memory *m,
				enum kind kind, size_t size, int file)
{
	struct iovec iov = { .iov_base = m->mem, .iov_len = size };
	struct dmabuf_ring_update up = { .data = (uintptr_t)&iov, .nr = 1 };

	if (kind == USER)
		return 1;
	if (m->dmabuf >= 0)
		return dmabuf_ring_register(ring->fd, 0, m->dmabuf, file);
	return dmabuf_ring_ctl(ring->fd, IORING_REGISTER_BUFFERS_UPDATE, &up,
			       sizeof(up));
}

struct cost {
	unsigned long submit;
	unsigned long complete;
	bool early;		/* completions came while submitting */
};

static int run_batch(struct dmabuf_ring *ring, struct memory *m, enum kind kind,
		     size_t size, unsigned int depth, unsigned long idle,
		     struct cost *cost)
{
	unsigned int i, tail, seen = *ring->cq_tail;
	unsigned long start, then, t;
	struct io_uring_cqe cqe;
	int ret;

	for (i = 0; i < depth; i++) {
		struct io_uring_sqe *sqe = dmabuf_ring_sqe(ring);

		dmabuf_ring_prep(sqe, kind == USER ? IORING_OP_READ :
						     IORING_OP_READ_FIXED,
				 0, 0, (uintptr_t)m->mem, size, i * size);
		sqe->flags = IOSQE_FIXED_FILE;
	}
	ring->to_submit = 0;
	__atomic_store_n(ring->sq_tail, *ring->sq_tail + depth, __ATOMIC_RELEASE);

	start = now();
	ret = dmabuf_ring_enter(ring, depth, 0, 0);
	then = now();
	if (ret != (int)depth)
		return ret < 0 ? ret : -EIO;
	*cost = (struct cost) {
		.submit = then - start,
		.early = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) != seen,
	};
	seen += depth;
	/* A gap is over when the completion is seen: look at the clock once more. */
	for (i = *ring->cq_tail; ; i = tail, then = t) {
		tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
		t = now();
		if (tail != i && t - then > idle)
			cost->complete += t - then - idle;
		if (tail == seen)
			break;
		if (t - start > 20000000000UL)
			return -ETIMEDOUT;
	}
	for (i = 0; i < depth; i++) {
		if (!dmabuf_ring_reap(ring, &cqe))
			return -EIO;
		if (cqe.res != (int)size)
			return cqe.res < 0 ? cqe.res : -EIO;
	}
	return 0;
}

/* What a turn of the loop above takes when nothing happens. */
static unsigned long measure_idle(struct dmabuf_ring *ring)
{
	unsigned long best = ~0UL, then = now(), t;
	unsigned int i, tail, last = 0;

	for (i = 0; i < 1000; i++, then = t) {
		tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
		t = now();
		if (tail != last)
			last = tail;
		if (t - then < best)
			best = t - then;
	}
	return best;
}

static void print_row(enum kind kind, size_t size, unsigned int depth,
		      const char *note, const unsigned long *submit,
		      const unsigned long *complete)
{
	double spread = 0;

	if (!note)
		spread = 100.0 * (submit[SAMPLES - 2] - submit[1]) /
			submit[SAMPLES / 2];
	if (json && note)
		printf("{\"label\": \"%s\", \"buffer\": \"%s\", \"size\": %zu, \"depth\": %u, \"skip\": \"%s\"}\n",
		       label, kinds[kind], size, depth, note);
	else if (json)
		printf("{\"label\": \"%s\", \"buffer\": \"%s\", \"size\": %zu, \"depth\": %u, \"submit\": %.1f, \"complete\": %.1f, \"spread\": %.2f}\n",
		       label, kinds[kind], size, depth,
		       (double)submit[SAMPLES / 2] / depth,
		       (double)complete[SAMPLES / 2] / depth, spread);
	else if (note)
		printf("%-12s %8zu %5u  %s\n", kinds[kind], size, depth, note);
	else
		printf("%-12s %8zu %5u %10.1f %10.1f %6.2f%%\n", kinds[kind], size,
		       depth, (double)submit[SAMPLES / 2] / depth,
		       (double)complete[SAMPLES / 2] / depth, spread);
	fflush(stdout);
}

/* Returns 1 if a row failed that should not have. */
static int run_row(int file, enum kind kind, size_t size, unsigned int depth)
{
	unsigned long submit[SAMPLES], complete[SAMPLES], idle;
	unsigned int i, early = 0;
	struct dmabuf_ring ring;
	struct memory m;
	char note[128];
	int ret;

	ret = memory_alloc(&m, kind, BUF_SIZE);
	if (ret) {
		snprintf(note, sizeof(note), "no buffer: %s", strerror(-ret));
		print_row(kind, size, depth, note, NULL, NULL);
		memory_free(&m);
		return 0;
	}
	ret = dmabuf_ring_init(&ring, MAX_DEPTH, 0);
	if (!ret)
		ret = dmabuf_ring_table(ring.fd, 1);
	if (!ret)
		ret = dmabuf_ring_ctl(ring.fd, IORING_REGISTER_FILES, &file, 1);
	if (ret < 0)
		errx(1, "ring: %s", strerror(-ret));
	ret = ring_register_memory(&ring, &m, kind, BUF_SIZE, file);
	if (ret != 1) {
		snprintf(note, sizeof(note), "this kernel does not register it: %s",
			 strerror(-ret));
		print_row(kind, size, depth, note, NULL, NULL);
		dmabuf_ring_exit(&ring);
		memory_free(&m);
		return 0;
	}

	idle = measure_idle(&ring);
	/* The first two fill caches of all sorts. */
	for (i = 0, ret = 0; i < SAMPLES + 2 && !ret; i++) {
		unsigned int n = i < 2 ? 0 : i - 2;
		struct cost cost;

		ret = run_batch(&ring, &m, kind, size, depth, idle, &cost);
		submit[n] = cost.submit;
		complete[n] = cost.complete;
		early += i >= 2 && cost.early;
	}
	dmabuf_ring_exit(&ring);
	memory_free(&m);

	if (ret) {
		snprintf(note, sizeof(note), "failed: %s", strerror(-ret));
		print_row(kind, size, depth, note, NULL, NULL);
		return 1;
	}
	qsort(submit, SAMPLES, sizeof(submit[0]), compare);
	qsort(complete, SAMPLES, sizeof(complete[0]), compare);
	print_row(kind, size, depth, early > SAMPLES / 4 ?
		  "the drive is too fast: it completes while reads are submitted" :
		  NULL, submit, complete);
	return 0;
}

/* What it takes to register a buffer and to unregister it again. */
static void run_register(int file, enum kind kind, size_t size)
{
	unsigned long reg[3], unreg[3], t0, t1;
	struct dmabuf_ring ring;
	struct memory m;
	int ret, i;

	ret = memory_alloc(&m, kind, size);
	for (i = 0; i < 3 && !ret; i++) {
		ret = dmabuf_ring_init(&ring, 1, 0);
		if (!ret)
			ret = dmabuf_ring_table(ring.fd, 1);
		if (ret)
			break;
		t0 = now();
		ret = ring_register_memory(&ring, &m, kind, size, file);
		t1 = now();
		reg[i] = t1 - t0;
		ret = ret == 1 ? 0 : ret;
		if (!ret) {
			struct iovec iov = {};
			struct dmabuf_ring_update up = {
				.data = (uintptr_t)&iov,
				.nr = 1,
			};

			t0 = now();
			dmabuf_ring_ctl(ring.fd, IORING_REGISTER_BUFFERS_UPDATE,
					&up, sizeof(up));
			t1 = now();
			unreg[i] = t1 - t0;
		}
		dmabuf_ring_exit(&ring);
	}
	if (m.mem) {
		munmap(m.mem, size);
		m.mem = NULL;
	}
	memory_free(&m);
	if (ret) {
		printf(json ? "{\"label\": \"%s\", \"register\": \"%s\", \"size\": %zu, \"skip\": \"%s\"}\n" :
			      "%s%-12s %10zu  %s\n",
		       json ? label : "", kinds[kind], size, strerror(-ret));
		return;
	}
	qsort(reg, 3, sizeof(reg[0]), compare);
	qsort(unreg, 3, sizeof(unreg[0]), compare);
	printf(json ? "{\"label\": \"%s\", \"register\": \"%s\", \"size\": %zu, \"cost\": %lu, \"undo\": %lu}\n" :
		      "%s%-12s %10zu %12lu %12lu\n",
	       json ? label : "", kinds[kind], size, reg[1], unreg[1]);
}

static void usage(int code)
{
	fprintf(code ? stderr : stdout,
		"usage: dmabuf-ring-bench [OPTION]... DEVICE\n"
		"  -b BUFFER  only this one of user, fixed, fixed-huge, dmabuf,\n"
		"             dmabuf-huge, dmabuf-4k\n"
		"  -s BYTES   only reads of this size\n"
		"  -q DEPTH   reads in a batch (1)\n"
		"  -r         what registering takes, instead of reads\n"
		"  -c CPU     run on this CPU; let it get the drive's interrupts\n"
		"  -i         time is instructions: the time stamp counter is used\n"
		"  -l LABEL   put into each row of JSON\n"
		"  -j         JSON, a line per row\n"
		"DEVICE is only read. Huge pages must be there for the huge rows.\n");
	exit(code);
}

int main(int argc, char **argv)
{
	unsigned int depth = 1, i, j, only = NR_KINDS;
	bool registering = false;
	size_t only_size = 0;
	int opt, file, failed = 0;
	cpu_set_t cpus;

	while ((opt = getopt(argc, argv, "b:s:q:rc:il:jh")) != -1) {
		switch (opt) {
		case 'b':
			for (only = 0; only < NR_KINDS; only++)
				if (!strcmp(kinds[only], optarg))
					break;
			if (only == NR_KINDS)
				usage(2);
			break;
		case 's':
			only_size = strtoul(optarg, NULL, 0);
			break;
		case 'q':
			depth = strtoul(optarg, NULL, 0);
			if (!depth || depth > MAX_DEPTH)
				usage(2);
			break;
		case 'r':
			registering = true;
			break;
		case 'c':
			CPU_ZERO(&cpus);
			CPU_SET(atoi(optarg), &cpus);
			if (sched_setaffinity(0, sizeof(cpus), &cpus))
				err(1, "CPU %s", optarg);
			break;
		case 'i':
			count_instructions = true;
			break;
		case 'l':
			label = optarg;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			usage(0);
			break;
		default:
			usage(2);
		}
	}
	if (optind + 1 != argc)
		usage(2);
	file = open(argv[optind], O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (file < 0)
		err(1, "%s", argv[optind]);

	if (!json && !registering)
		printf("%-12s %8s %5s %10s %10s %7s\n", "buffer", "size", "depth",
		       "submit", "complete", "spread");
	if (!json && registering)
		printf("%-12s %10s %12s %12s\n", "buffer", "size", "register",
		       "unregister");
	for (i = 0; i < NR_KINDS; i++) {
		if (only != NR_KINDS && i != only)
			continue;
		if (registering) {
			for (j = 0; j < 6 && i != USER; j++)
				run_register(file, i, MIB(1) << (2 * j));
			continue;
		}
		for (j = 0; j < sizeof(io_sizes) / sizeof(io_sizes[0]); j++)
			if (!only_size || io_sizes[j] == only_size)
				failed |= run_row(file, i, io_sizes[j], depth);
	}
	return failed;
}
