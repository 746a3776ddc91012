// SPDX-License-Identifier: GPL-2.0
/*
 * Random calls around file I/O with dma-bufs, from several threads. Many of them
 * make no sense. What can be known is checked: each result is a length that is
 * possible or an errno that is documented, a buffer that is open for reading only
 * never changes, and a buffer that only one thread writes to has what was read,
 * and nothing else changed.
 *
 *	dmabuf-fuzz [-s SEED] [-t SECONDS] [-j THREADS] [-n CALLS] [-v]
 *
 * The calls depend on the seed and the number of the thread alone: one thread
 * with the same seed makes the same calls. -n ends each thread after so many of
 * them, -v prints them.
 *
 * Environment:
 * DMABUF_IO_BDEV	block device to use, which LOSES ITS DATA (none)
 * TMPDIR		directory for files (/tmp)
 */
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <time.h>
#include <sys/uio.h>

#include "kselftest.h"
#include "dmabuf-util.h"
#include "dmabuf-ring.h"
#include "../../../../drivers/dma-buf/dma-buf-io-test-uapi.h"

#define NR_BUFS		12	/* that anybody replaces at any time */
#define NR_FILES	8
#define NR_ODD		4	/* descriptors of the wrong kind */
#define NR_RO		2
#define NR_SLOTS	4	/* of a ring; the first is its thread's own */
#define MAX_THREADS	16
#define SIZE		MIB(1)	/* of a buffer */
#define FILE_SIZE	MIB(4)
/* The start of the drive has a pattern, and is not written to. */
#define PATTERN_SIZE	MIB(8)
#define SEED_DRIVE	21
#define POISON		0x5a

enum op {
	OP_COPY, OP_FILL_OWN, OP_READ_OWN, OP_IO, OP_REGISTER, OP_CLASSIC,
	OP_UNREGISTER, OP_CREATE, OP_OPEN, OP_CLOSE, OP_DUP, OP_REOPEN, OP_SETFL,
	OP_LSEEK, OP_MMAP, OP_SYNC, OP_MOVE, OP_REVOKE, OP_TRUNCATE,
	NR_OPS,
};

static const struct {
	const char *name;
	unsigned int weight;
	bool must_work;		/* or the run has shown nothing */
	int errors[20];
} ops[NR_OPS] = {
	[OP_COPY] = { "copy", 20, true, {
		EBADF, EFBIG, EINTR, EINVAL, EIO, EISDIR, ENOMEM, ENOSPC,
		EOPNOTSUPP, EOVERFLOW, EPERM, ETXTBSY, EFAULT } },
	[OP_FILL_OWN] = { "fill-own", 8, true, { EINTR, ENOMEM } },
	[OP_READ_OWN] = { "read-own", 12, false, { EAGAIN, ENOMEM } },
	[OP_IO] = { "io", 25, false, {
		EINVAL, EFAULT, EOPNOTSUPP, EAGAIN, EBUSY, ENODEV, ENOMEM, EBADF, EINTR,
		ENOSPC, EFBIG, EISDIR, ESPIPE, EOVERFLOW, ECANCELED, EPERM } },
	[OP_REGISTER] = { "register", 15, false, {
		EINVAL, EBADF, EACCES, EOPNOTSUPP, ENODEV, ENOSPC, ENOMEM, EINTR,
		EBUSY, EFAULT, ENXIO, EOVERFLOW } },
	[OP_CLASSIC] = { "register-classic", 5, false, {
		EINVAL, EFAULT, ENOMEM, EOVERFLOW, ENXIO, EOPNOTSUPP } },
	[OP_UNREGISTER] = { "unregister", 5, false, {
		EINVAL, ENXIO, ENOMEM, EBUSY } },
	[OP_CREATE] = { "create", 8, true, {
		ENOENT, ENOMEM, EINVAL, ENODEV, EINTR } },
	[OP_OPEN] = { "open", 4, true, { ENOMEM, EINVAL, EINTR } },
	[OP_CLOSE] = { "close", 3, false, { EBADF, EIO } },
	[OP_DUP] = { "dup", 3, true, { EBADF } },
	[OP_REOPEN] = { "reopen", 3, false, {
		ENOENT, EACCES, ENXIO, EINVAL, EPERM, ELOOP } },
	[OP_SETFL] = { "setfl", 5, true, { EBADF, EINVAL } },
	[OP_LSEEK] = { "lseek", 3, true, {
		EBADF, EINVAL, ENXIO, ESPIPE, EOVERFLOW } },
	[OP_MMAP] = { "mmap", 6, true, {
		EBADF, EACCES, EINVAL, ENODEV, ENOMEM, EPERM, EFAULT, EOVERFLOW } },
	[OP_SYNC] = { "sync", 6, true, { EBADF, EINVAL, ENOTTY, EINTR } },
	[OP_MOVE] = { "move", 6, false, {
		EBADF, EINVAL, EBUSY, ENODEV, ENOENT, EINTR, ENOMEM } },
	[OP_REVOKE] = { "revoke", 3, false, {
		EBADF, EINVAL, EBUSY, ENODEV, ENOENT, EINTR, ENOMEM } },
	[OP_TRUNCATE] = { "truncate", 2, false, {
		EBADF, EINVAL, EFBIG, ENOSPC, EPERM, ETXTBSY } },
};

struct thread {
	pthread_t thread;
	unsigned int nr;
	uint64_t random;
	uint64_t hash;		/* of the calls */
	unsigned long calls;
	unsigned long done[NR_OPS], good[NR_OPS];
	uint64_t ns[NR_OPS];	/* that they took */
	struct dmabuf_ring ring;
	struct dmabuf own;	/* nobody else knows it */
	bool exporter;		/* of own */
	bool registered;
	char *memory;		/* for ordinary registered buffers */
	int scratch;		/* file that nobody else knows */
};

static struct {
	uint64_t seed;
	unsigned long seconds, nr_threads, calls;
	bool verbose;
	int exporter;
	int bdev;		/* O_DIRECT, and nobody changes that */
	bool has_ring;		/* registered dma-bufs */
	uint64_t bdev_size;
	const char *bdev_path, *dir;
	int devices[2];
	int odd[NR_ODD];
	struct dmabuf ro[NR_RO];
	unsigned char *ro_was[NR_RO];
	int shared_ring;
	struct thread threads[MAX_THREADS];
} fuzz = { .bdev = -1, .exporter = -1, .shared_ring = -1 };

static atomic_int bufs[NR_BUFS], files[NR_FILES];
static atomic_bool stop;
static atomic_uint failures;

__attribute__((format(printf, 3, 4)))
static void wrong(struct thread *t, enum op op, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	atomic_fetch_add(&failures, 1);
	atomic_store(&stop, true);
	ksft_print_msg("seed %llu thread %u call %lu: %s: %s\n",
		       (unsigned long long)fuzz.seed, t->nr, t->calls,
		       ops[op].name, text);
}

static uint32_t draw(struct thread *t)
{
	t->random = t->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return t->random >> 33;
}

/* Less than @n. */
static uint32_t below(struct thread *t, uint32_t n)
{
	return draw(t) % n;
}

static bool one_in(struct thread *t, uint32_t n)
{
	return !below(t, n);
}

/* What a call is made with; the descriptors by the place that they are in. */
static void note(struct thread *t, enum op op, uint64_t a, uint64_t b, uint64_t c)
{
	const uint64_t words[] = { op, a, b, c };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(words); i++)
		t->hash = (t->hash ^ words[i]) * 0x100000001b3ULL;
	if (fuzz.verbose)
		ksft_print_msg("%u.%lu %s %#llx %#llx %#llx\n", t->nr, t->calls,
			       ops[op].name, (unsigned long long)a,
			       (unsigned long long)b, (unsigned long long)c);
}

/* @ret: what became of it, a negative errno or a result of up to @max. */
static void result(struct thread *t, enum op op, long long ret, long long max)
{
	unsigned int i;

	t->done[op]++;
	if (ret >= 0) {
		t->good[op] += ret > 0 || !max;
		if (ret > max)
			wrong(t, op, "%lld, which is more than %lld", ret, max);
		return;
	}
	for (i = 0; i < ARRAY_SIZE(ops[op].errors) && ops[op].errors[i]; i++)
		if (ret == -ops[op].errors[i])
			return;
	wrong(t, op, "%s", strerror(-ret));
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static long sys(long ret)
{
	return ret < 0 ? -errno : ret;
}

/*
 * Choices
 */

/* Places of descriptors: buffers, files, those of the wrong kind, and none. */
enum { PLACE_BUF, PLACE_RO = 100, PLACE_FILE = 200, PLACE_ODD = 300, PLACE_NONE = 400 };

static unsigned int pick_buf(struct thread *t)
{
	if (one_in(t, 4))
		return PLACE_RO + below(t, NR_RO);
	return PLACE_BUF + below(t, NR_BUFS);
}

static unsigned int pick_file(struct thread *t)
{
	return PLACE_FILE + below(t, NR_FILES);
}

static unsigned int pick(struct thread *t)
{
	switch (below(t, 16)) {
	case 0:
		return PLACE_NONE + below(t, 2);
	case 1:
		return PLACE_ODD + below(t, NR_ODD);
	case 2 ... 8:
		return pick_file(t);
	default:
		return pick_buf(t);
	}
}

static int fd_at(unsigned int place)
{
	if (place >= PLACE_NONE)
		return place == PLACE_NONE ? -1 : 1 << 20;
	if (place >= PLACE_ODD)
		return fuzz.odd[place - PLACE_ODD];
	if (place >= PLACE_FILE)
		return atomic_load(&files[place - PLACE_FILE]);
	if (place >= PLACE_RO)
		return fuzz.ro[place - PLACE_RO].fd;
	return atomic_load(&bufs[place]);
}

static void put_at(atomic_int *place, int fd)
{
	int old = atomic_exchange(place, fd);

	if (old >= 0)
		close(old);
}

static uint64_t pick_huge(struct thread *t)
{
	static const uint64_t huge[] = {
		~0ULL, 1ULL << 63, LLONG_MAX, LLONG_MAX - 4095, 1ULL << 32,
		1ULL << 31, INT_MAX, UINT_MAX, 1ULL << 40, SIZE, SIZE - 1, SIZE - 512,
	};

	return huge[below(t, ARRAY_SIZE(huge))];
}

static uint64_t pick_len(struct thread *t)
{
	switch (below(t, 8)) {
	case 0:
		return pick_huge(t);
	case 1:
		return below(t, SIZE);
	case 2:
		return 512 * below(t, 64);
	default:
		return 4096 * (1 + below(t, 64));
	}
}

static uint64_t pick_offset(struct thread *t)
{
	switch (below(t, 8)) {
	case 0:
		return pick_huge(t);
	case 1:
		return below(t, SIZE);
	case 2:
		return 512 * below(t, SIZE / 512);
	default:
		return 4096 * below(t, SIZE / 4096);
	}
}

/*
 * Where nobody writes to the pattern of a drive, should it be one. A position of
 * -1 is where the file is, which may be there.
 */
static uint64_t pick_write_pos(struct thread *t)
{
	uint64_t pos = pick_offset(t);

	if (pos == ~0ULL)
		return PATTERN_SIZE;
	return pos < PATTERN_SIZE ? pos + PATTERN_SIZE : pos;
}

/*
 * Copies
 */
static void op_copy(struct thread *t)
{
	unsigned int in = pick(t), out = pick(t);
	loff_t from = pick_offset(t), to = pick_offset(t);
	uint64_t len = pick_len(t);
	unsigned int flags = one_in(t, 20) ? 1 + below(t, 4) : 0;
	bool bad_pointer = one_in(t, 40);

	/* This is about buffers; most of the rest is for others to test. */
	if (in >= PLACE_FILE && out >= PLACE_FILE) {
		if (one_in(t, 2))
			in = pick_buf(t);
		else
			out = pick_buf(t);
	}
	if (out >= PLACE_FILE && to < (loff_t)PATTERN_SIZE && to >= 0)
		to += PATTERN_SIZE;
	note(t, OP_COPY, in << 16 | out, from ^ to, len);
	result(t, OP_COPY,
	       sys(syscall(__NR_copy_file_range, fd_at(in),
			   bad_pointer ? (void *)8 : &from, fd_at(out), &to, len,
			   flags)),
	       len > LLONG_MAX ? LLONG_MAX : (long long)len);
}

/* What is outside of the range is as before, and what was read is right. */
static void check_own(struct thread *t, enum op op, size_t pos, size_t len,
		      ssize_t done, uint64_t from)
{
	char *map = t->own.map;
	size_t good;

	if (dmabuf_sync(t->own.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ)) {
		wrong(t, op, "DMA_BUF_SYNC_START");
		return;
	}
	if (byte_match(map, pos, POISON) != pos)
		wrong(t, op, "written before %#zx", pos);
	if (byte_match(map + pos + len, SIZE - pos - len, POISON) != SIZE - pos - len)
		wrong(t, op, "written behind %#zx", pos + len);
	if (done > 0) {
		good = pattern_match(map + pos, done, SEED_DRIVE, from);
		if (good != (size_t)done)
			wrong(t, op, "%zd from %#llx at %#zx: good to %#zx, the drive to %#zx",
			      done, (unsigned long long)from, pos, good,
			      file_match(fuzz.bdev, from & ~4095ULL, MIB(1), SEED_DRIVE));
	}
	dmabuf_sync(t->own.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
}

static void poison_own(struct thread *t)
{
	dmabuf_sync(t->own.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
	memset(t->own.map, POISON, SIZE);
	dmabuf_sync(t->own.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
}

static void op_fill_own(struct thread *t)
{
	size_t pos = 512 * below(t, SIZE / 1024);
	size_t len = 1 + below(t, SIZE / 2);
	uint64_t from = 512 * below(t, (PATTERN_SIZE - SIZE) / 512);
	ssize_t ret;

	note(t, OP_FILL_OWN, pos, len, from);
	if (fuzz.bdev < 0 || t->exporter)
		return;
	poison_own(t);
	ret = copy_range(fuzz.bdev, from, t->own.fd, pos, len);
	result(t, OP_FILL_OWN, ret, len);
	check_own(t, OP_FILL_OWN, pos, len, ret, from);
}

/*
 * Rings
 */

/* Wait for @nr completions. A lost one is a failure. */
static bool reap(struct thread *t, enum op op, unsigned int nr, int *res,
		 unsigned long long len)
{
	struct io_uring_cqe cqe;

	while (nr--) {
		if (dmabuf_ring_wait(&t->ring, &cqe)) {
			wrong(t, op, "io_uring_enter: %s", strerror(errno));
			return false;
		}
		result(t, op, cqe.res, len);
		if (res)
			*res = cqe.res;
	}
	return true;
}

static void op_read_own(struct thread *t)
{
	size_t pos = 512 * below(t, SIZE / 1024);
	size_t len = 512 * (1 + below(t, SIZE / 1024));
	uint64_t from = 512 * below(t, (PATTERN_SIZE - SIZE) / 512);
	struct dma_buf_io_test_move move = { .delay_ms = below(t, 3) };
	bool do_move = one_in(t, 2), async = one_in(t, 4);
	struct io_uring_sqe *sqe;
	int res;

	note(t, OP_READ_OWN, pos, len, from);
	if (!t->registered)
		return;
	poison_own(t);
	sqe = dmabuf_ring_sqe(&t->ring);
	if (!sqe) {
		wrong(t, OP_READ_OWN, "the ring is full");
		return;
	}
	dmabuf_ring_prep(sqe, IORING_OP_READ_FIXED, fuzz.bdev, 0, pos, len, from);
	sqe->flags = async ? IOSQE_ASYNC : 0;
	if (dmabuf_ring_submit(&t->ring) != 1) {
		wrong(t, OP_READ_OWN, "submit");
		return;
	}
	if (do_move && t->exporter) {
		move.fd = t->own.fd;
		while (ioctl(fuzz.exporter, DMA_BUF_IO_TEST_MOVE, &move)) {
			if (errno == EINTR)
				continue;
			wrong(t, OP_READ_OWN, "move: %s", strerror(errno));
			break;
		}
	}
	if (!reap(t, OP_READ_OWN, 1, &res, len))
		return;
	/* The data of a move with a delay is not there yet. */
	if (do_move && move.delay_ms)
		poll(NULL, 0, move.delay_ms + 20);
	check_own(t, OP_READ_OWN, pos, len, res == (int)len ? res : 0, from);
}

static void op_io(struct thread *t)
{
	static const unsigned char opcodes[] = {
		IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED,
		IORING_OP_READV_FIXED, IORING_OP_WRITEV_FIXED,
	};
	unsigned int nr = 1 + below(t, 4), i;
	struct iovec iov[4][2];

	for (i = 0; i < nr; i++) {
		unsigned int slot = 1 + below(t, NR_SLOTS), place = pick_file(t);
		unsigned char opcode = opcodes[below(t, ARRAY_SIZE(opcodes))];
		uint64_t offset = pick_offset(t), pos = pick_write_pos(t);
		uint32_t len = pick_len(t);
		bool memory = one_in(t, 4), nowait = one_in(t, 8);
		bool on_bdev = !one_in(t, 3);
		int fd;
		struct io_uring_sqe *sqe = dmabuf_ring_sqe(&t->ring);

		if (!sqe) {
			wrong(t, OP_IO, "the ring is full");
			return;
		}
		if (one_in(t, 16))
			place = PLACE_ODD + below(t, NR_ODD);
		/* Slots that may have memory of the process. */
		if (memory)
			offset = (uintptr_t)t->memory + offset % SIZE;
		note(t, OP_IO, opcode << 24 | slot << 16 | place,
		     memory ? 0 : offset, pos ^ len);
		fd = on_bdev && fuzz.bdev >= 0 ? fuzz.bdev : fd_at(place);
		dmabuf_ring_prep(sqe, opcode, fd, slot, offset, len, pos);
		if (opcode == IORING_OP_READV_FIXED || opcode == IORING_OP_WRITEV_FIXED) {
			len %= SIZE;
			iov[i][0] = (struct iovec){ (void *)offset, len };
			iov[i][1] = (struct iovec){ (char *)offset + len, 4096 };
			sqe->addr = (uintptr_t)iov[i];
			sqe->len = 1 + below(t, 2);
		}
		if (nowait)
			sqe->rw_flags = RWF_NOWAIT;
		sqe->flags = one_in(t, 4) ? IOSQE_ASYNC : 0;
	}
	if (dmabuf_ring_submit(&t->ring) != (int)nr)
		wrong(t, OP_IO, "submit");
	else
		reap(t, OP_IO, nr, NULL, INT_MAX);
}

/* A ring, and a slot of it that is not its thread's own. */
static int pick_ring(struct thread *t)
{
	uint32_t nr = below(t, fuzz.nr_threads + 1);

	if (one_in(t, 2))
		return t->ring.fd;
	return nr < fuzz.nr_threads ? fuzz.threads[nr].ring.fd : fuzz.shared_ring;
}

static void op_register(struct thread *t)
{
	unsigned int place = pick(t), target = pick_file(t), nr = 1 + below(t, 3), i;
	unsigned int slot = 1 + below(t, NR_SLOTS);
	struct io_uring_regbuf_desc descs[3] = {};
	bool on_bdev = !one_in(t, 4);
	int ring = pick_ring(t);

	if (!one_in(t, 4))
		place = pick_buf(t);
	for (i = 0; i < nr; i++) {
		descs[i].type = IO_REGBUF_TYPE_DMABUF;
		descs[i].dmabuf_fd = fd_at(place);
		descs[i].target_fd = on_bdev && fuzz.bdev >= 0 ? fuzz.bdev : fd_at(target);
		switch (below(t, 16)) {
		case 0:
			descs[i].flags = draw(t);
			break;
		case 1:
			descs[i].type = draw(t);
			break;
		case 2:
			descs[i].size = pick_len(t);
			descs[i].uaddr = pick_offset(t);
			break;
		case 3:
			descs[i].__resv[below(t, 6)] = draw(t);
			break;
		case 4:
			descs[i] = (struct io_uring_regbuf_desc){
				.type = IO_REGBUF_TYPE_UADDR,
				.uaddr = (uintptr_t)t->memory, .size = pick_len(t),
			};
			break;
		case 5:
			descs[i] = (struct io_uring_regbuf_desc){};
			break;
		}
	}
	note(t, OP_REGISTER, place << 16 | target, slot, nr);
	result(t, OP_REGISTER,
	       dmabuf_ring_update(ring, slot, one_in(t, 40) ? (void *)8 : descs, nr), nr);
}

static void op_classic(struct thread *t)
{
	uint64_t len = pick_len(t), skip = pick_offset(t) % SIZE;
	unsigned int slot = 1 + below(t, NR_SLOTS);
	struct iovec iov = { t->memory + skip, len };
	struct dmabuf_ring_update up = {
		.offset = slot, .data = (uintptr_t)&iov, .nr = 1,
	};

	if (one_in(t, 4))
		iov = (struct iovec){};
	note(t, OP_CLASSIC, slot, skip, len);
	result(t, OP_CLASSIC,
	       dmabuf_ring_ctl(pick_ring(t), IORING_REGISTER_BUFFERS_UPDATE, &up,
			       sizeof(up)), 1);
}

static void op_unregister(struct thread *t)
{
	unsigned int slot = 1 + below(t, NR_SLOTS), what = below(t, 4);
	long ret;

	note(t, OP_UNREGISTER, what, slot, 0);
	switch (what) {
	case 0:		/* the table of the ring that belongs to nobody */
		ret = dmabuf_ring_ctl(fuzz.shared_ring, IORING_UNREGISTER_BUFFERS,
				      NULL, 0);
		break;
	case 1:
		ret = dmabuf_ring_table(fuzz.shared_ring, NR_SLOTS);
		break;
	default:
		ret = dmabuf_ring_unregister(pick_ring(t), slot);
	}
	result(t, OP_UNREGISTER, ret, 1);
}

/*
 * Descriptors
 */
static int create_exported(struct thread *t, uint32_t flags, size_t size)
{
	struct dma_buf_io_test_create arg = {
		.size = size, .chunk = one_in(t, 2) ? 4096 : 12288, .flags = flags,
	};

	if (size % arg.chunk)
		arg.chunk = 4096;
	return ioctl(fuzz.exporter, DMA_BUF_IO_TEST_CREATE, &arg) ? -errno : arg.fd;
}

static int create(struct thread *t, uint32_t what, size_t size)
{
	struct dmabuf_kind kind = { .shuffle = one_in(t, 2) };
	struct dmabuf buf;
	int ret;

	switch (what) {
	case 0:
		return heap_alloc("system", size, O_RDWR | O_CLOEXEC);
	case 1:
		return heap_alloc("system", size, O_RDONLY | O_CLOEXEC);
	case 2:
		return heap_alloc("system", size, O_WRONLY | O_CLOEXEC);
	case 3:
		return create_exported(t, 0, size);
	case 4:
		return create_exported(t, DMA_BUF_IO_TEST_PAGELESS, size);
	case 5:
		return create_exported(t, DMA_BUF_IO_TEST_MOVE_ON_MAP, size);
	case 6:
		return create_exported(t, draw(t), size);
	default:
		ret = dmabuf_alloc(&buf, &kind, size);
		if (ret)
			return ret;
		ret = fcntl(buf.fd, F_DUPFD_CLOEXEC, 0);
		if (ret < 0)
			ret = -errno;
		dmabuf_free(&buf);
		return ret;
	}
}

static void op_create(struct thread *t)
{
	unsigned int place = below(t, NR_BUFS), what = below(t, 9);
	size_t size = one_in(t, 8) ? pick_len(t) % (4 * SIZE) : SIZE;
	int ret;

	note(t, OP_CREATE, place, what, size);
	if (fuzz.exporter < 0 && what >= 3 && what <= 6)
		what = 0;
	ret = create(t, what, size);
	result(t, OP_CREATE, ret, INT_MAX);
	if (ret >= 0)
		put_at(&bufs[place], ret);
}

static int open_file(struct thread *t, unsigned int what, int flags)
{
	char path[PATH_MAX];
	int fd, ret;

	(void)t;
	switch (what) {
	case 0:
	case 1:
		if (fuzz.bdev >= 0)
			return sys(open(fuzz.bdev_path, flags));
		__attribute__((fallthrough));
	case 2:
	case 3:
		snprintf(path, sizeof(path), "%s/dmabuf-fuzz.XXXXXX", fuzz.dir);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd < 0)
			return -errno;
		ret = file_fill(fd, 0, SIZE, 1);
		if (!ret)
			ret = sys(open(path, flags));
		unlink(path);
		close(fd);
		return ret;
	default:
		fd = memfd_create("dmabuf-fuzz", MFD_CLOEXEC);
		if (fd >= 0 && ftruncate(fd, SIZE)) {
			close(fd);
			return -errno;
		}
		return sys(fd);
	}
}

static void op_open(struct thread *t)
{
	static const int modes[] = { O_RDWR, O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_APPEND };
	unsigned int place = below(t, NR_FILES), what = below(t, 5);
	int flags = modes[below(t, ARRAY_SIZE(modes))] | O_CLOEXEC, ret;

	if (!one_in(t, 3))
		flags |= O_DIRECT;
	note(t, OP_OPEN, place, what, flags);
	ret = open_file(t, what, flags);
	result(t, OP_OPEN, ret, INT_MAX);
	if (ret >= 0)
		put_at(&files[place], ret);
}

static void op_close(struct thread *t)
{
	bool buf = one_in(t, 2);
	atomic_int *place = buf ? &bufs[below(t, NR_BUFS)] : &files[below(t, NR_FILES)];
	int fd;

	note(t, OP_CLOSE, buf, buf ? place - bufs : place - files, 0);
	fd = atomic_exchange(place, -1);
	if (fd >= 0)
		result(t, OP_CLOSE, sys(close(fd)), 0);
}

static void op_dup(struct thread *t)
{
	unsigned int from = pick_buf(t), to = below(t, NR_BUFS);
	int ret;

	note(t, OP_DUP, from, to, 0);
	ret = sys(fcntl(fd_at(from), F_DUPFD_CLOEXEC, 0));
	result(t, OP_DUP, ret, INT_MAX);
	if (ret >= 0)
		put_at(&bufs[to], ret);
}

/* A buffer can't be opened for more than it was made for. */
static void op_reopen(struct thread *t)
{
	unsigned int from = pick_buf(t), to = below(t, NR_BUFS);
	int flags = one_in(t, 2) ? O_RDWR : O_RDONLY, ret;
	char path[32];

	note(t, OP_REOPEN, from, to, flags);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd_at(from));
	ret = sys(open(path, flags | O_CLOEXEC));
	result(t, OP_REOPEN, ret, INT_MAX);
	if (ret >= 0)
		put_at(&bufs[to], ret);
}

static void op_setfl(struct thread *t)
{
	unsigned int place = pick(t);
	int flags = one_in(t, 2) ? O_DIRECT : 0;

	note(t, OP_SETFL, place, flags, 0);
	result(t, OP_SETFL, sys(fcntl(fd_at(place), F_SETFL, flags)), 0);
}

static void op_lseek(struct thread *t)
{
	unsigned int place = pick(t);
	loff_t pos = one_in(t, 2) ? 0 : (loff_t)pick_offset(t);
	int whence = below(t, 6);
	off_t ret;

	note(t, OP_LSEEK, place, pos, whence);
	ret = lseek(fd_at(place), pos, whence);
	result(t, OP_LSEEK, ret < 0 ? -errno : ret, LLONG_MAX);
}

/* Touched by the kernel, so that it is an errno what else would be a signal. */
static void op_mmap(struct thread *t)
{
	unsigned int place = pick_buf(t);
	size_t len = one_in(t, 4) ? pick_len(t) % (4 * SIZE) : SIZE;
	off_t pos = one_in(t, 4) ? 4096 * below(t, 512) : 0;
	int prot = one_in(t, 2) ? PROT_READ | PROT_WRITE : PROT_READ;
	char *map;
	long ret;

	note(t, OP_MMAP, place, len, pos | prot);
	map = mmap(NULL, len, prot, MAP_SHARED, fd_at(place), pos);
	if (map == MAP_FAILED) {
		result(t, OP_MMAP, -errno, 0);
		return;
	}
	if (prot & PROT_WRITE)
		ret = pread(t->scratch, map, len, 0);
	else
		ret = pwrite(t->scratch, map, len, 0);
	result(t, OP_MMAP, sys(ret), len);
	munmap(map, len);
}

static void op_sync(struct thread *t)
{
	unsigned int place = one_in(t, 8) ? pick(t) : pick_buf(t);
	struct dma_buf_sync sync = { .flags = one_in(t, 8) ? draw(t) : below(t, 8) };

	note(t, OP_SYNC, place, sync.flags, 0);
	result(t, OP_SYNC, sys(ioctl(fd_at(place), DMA_BUF_IOCTL_SYNC, &sync)), 0);
}

static void op_move(struct thread *t)
{
	struct dma_buf_io_test_move arg = { .delay_ms = one_in(t, 4) ? below(t, 5) : 0 };
	unsigned int place = one_in(t, 16) ? pick(t) : below(t, NR_BUFS);

	note(t, OP_MOVE, place, arg.delay_ms, 0);
	arg.fd = fd_at(place);
	if (fuzz.exporter >= 0)
		result(t, OP_MOVE,
		       sys(ioctl(fuzz.exporter, DMA_BUF_IO_TEST_MOVE, &arg)), 0);
}

static void op_revoke(struct thread *t)
{
	struct dma_buf_io_test_move arg = {};
	bool give_back = !one_in(t, 3);
	unsigned int place = below(t, NR_BUFS);

	note(t, OP_REVOKE, place, give_back, 0);
	arg.fd = fd_at(place);
	if (fuzz.exporter >= 0)
		result(t, OP_REVOKE,
		       sys(ioctl(fuzz.exporter, give_back ? DMA_BUF_IO_TEST_UNREVOKE :
				 DMA_BUF_IO_TEST_REVOKE, &arg)), 0);
}

static void op_truncate(struct thread *t)
{
	unsigned int place = pick(t);
	off_t len = below(t, FILE_SIZE);

	note(t, OP_TRUNCATE, place, len, 0);
	result(t, OP_TRUNCATE, sys(ftruncate(fd_at(place), len)), 0);
}

static void (*const calls[NR_OPS])(struct thread *t) = {
	[OP_COPY] = op_copy, [OP_FILL_OWN] = op_fill_own,
	[OP_READ_OWN] = op_read_own, [OP_IO] = op_io,
	[OP_REGISTER] = op_register, [OP_CLASSIC] = op_classic,
	[OP_UNREGISTER] = op_unregister, [OP_CREATE] = op_create,
	[OP_OPEN] = op_open, [OP_CLOSE] = op_close, [OP_DUP] = op_dup,
	[OP_REOPEN] = op_reopen, [OP_SETFL] = op_setfl, [OP_LSEEK] = op_lseek,
	[OP_MMAP] = op_mmap, [OP_SYNC] = op_sync, [OP_MOVE] = op_move,
	[OP_REVOKE] = op_revoke, [OP_TRUNCATE] = op_truncate,
};

static bool needs_ring(enum op op)
{
	return op >= OP_READ_OWN && op <= OP_UNREGISTER;
}

static void *thread_main(void *arg)
{
	unsigned int total = 0, i;
	struct thread *t = arg;
	uint64_t start;

	for (i = 0; i < NR_OPS; i++)
		total += ops[i].weight;
	while (!atomic_load(&stop) && (!fuzz.calls || t->calls < fuzz.calls)) {
		uint32_t at = below(t, total);

		for (i = 0; at >= ops[i].weight; i++)
			at -= ops[i].weight;
		start = now_ns();
		if (fuzz.has_ring || !needs_ring(i))
			calls[i](t);
		t->ns[i] += now_ns() - start;
		t->calls++;
	}
	return NULL;
}

/*
 * Start and end
 */
static void setup_thread(struct thread *t, unsigned int nr)
{
	static const struct dmabuf_kind heap = { .heap = "system" }, udmabuf = { .shuffle = true };
	int ret;

	t->nr = nr;
	t->random = fuzz.seed * 0x9e3779b97f4a7c15 + nr;
	t->hash = 0xcbf29ce484222325;
	t->ring.fd = -1;
	draw(t);
	t->memory = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (t->memory == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	t->scratch = memfd_create("dmabuf-fuzz", MFD_CLOEXEC);
	if (t->scratch < 0 || ftruncate(t->scratch, 4 * SIZE))
		ksft_exit_fail_msg("memfd: %s\n", strerror(errno));
	/* Every second thread has a buffer that it moves, the others copy. */
	t->exporter = nr % 2 && fuzz.exporter >= 0;
	if (t->exporter) {
		t->own = (struct dmabuf){ .fd = create_exported(t, 0, SIZE), .size = SIZE };
		ret = t->own.fd < 0 ? t->own.fd : 0;
	} else {
		ret = dmabuf_alloc(&t->own, &heap, SIZE);
		if (ret)
			ret = dmabuf_alloc(&t->own, &udmabuf, SIZE);
	}
	if (ret || dmabuf_map(&t->own))
		ksft_exit_skip("no buffer: %s\n", strerror(-ret));
	if (!fuzz.has_ring)
		return;
	if (dmabuf_ring_init(&t->ring, 16, nr % 3 ? IORING_SETUP_COOP_TASKRUN : 0) ||
	    dmabuf_ring_table(t->ring.fd, NR_SLOTS))
		ksft_exit_fail_msg("no ring\n");
	t->registered = fuzz.bdev >= 0 &&
		dmabuf_ring_register(t->ring.fd, 0, t->own.fd, fuzz.bdev) == 1;
}

/* Buffers that are open for reading, and what is in them. */
static void setup_read_only(void)
{
	struct dma_buf_io_test_create arg = {
		.size = SIZE, .chunk = 4096, .flags = DMA_BUF_IO_TEST_RDONLY,
	};
	unsigned int i;

	for (i = 0; i < NR_RO; i++) {
		struct dmabuf *buf = &fuzz.ro[i];

		*buf = (struct dmabuf){ .size = SIZE, .fd = -1 };
		if (!i)
			buf->fd = heap_alloc("system", SIZE, O_RDONLY | O_CLOEXEC);
		else if (fuzz.exporter >= 0 &&
			 !ioctl(fuzz.exporter, DMA_BUF_IO_TEST_CREATE, &arg))
			buf->fd = arg.fd;
		if (buf->fd < 0)
			continue;
		buf->map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, buf->fd, 0);
		if (buf->map == MAP_FAILED && i) {
			/* An exporter need not allow it. */
			buf->map = NULL;
			continue;
		}
		fuzz.ro_was[i] = malloc(SIZE);
		if (buf->map == MAP_FAILED || !fuzz.ro_was[i])
			ksft_exit_fail_msg("cannot map read-only buffer %u: %s\n", i,
					   strerror(errno));
		memcpy(fuzz.ro_was[i], buf->map, SIZE);
	}
}

static void check_read_only(void)
{
	unsigned int i;

	for (i = 0; i < NR_RO; i++) {
		struct dmabuf *buf = &fuzz.ro[i];

		if (!buf->map)
			continue;
		dmabuf_sync(buf->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
		if (memcmp(fuzz.ro_was[i], buf->map, SIZE)) {
			ksft_print_msg("seed %llu: read-only buffer %u has changed\n",
				       (unsigned long long)fuzz.seed, i);
			atomic_fetch_add(&failures, 1);
			atomic_store(&stop, true);
		}
		dmabuf_sync(buf->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	}
}

static void setup(void)
{
	struct thread first = { .random = fuzz.seed };
	unsigned int i;
	int pipes[2];

	fuzz.dir = getenv("TMPDIR");
	if (!fuzz.dir || !*fuzz.dir)
		fuzz.dir = "/tmp";
	fuzz.has_ring = dmabuf_ring_known();
	fuzz.exporter = open("/dev/dma_buf_io_test", O_RDWR | O_CLOEXEC);
	fuzz.bdev_path = getenv("DMABUF_IO_BDEV");
	if (fuzz.bdev_path && *fuzz.bdev_path) {
		fuzz.bdev = open(fuzz.bdev_path, O_RDWR | O_DIRECT | O_CLOEXEC);
		if (fuzz.bdev < 0 || file_fill(fuzz.bdev, 0, PATTERN_SIZE, SEED_DRIVE))
			ksft_exit_fail_msg("%s: %s\n", fuzz.bdev_path, strerror(errno));
	}
	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK))
		ksft_exit_fail_msg("pipe: %s\n", strerror(errno));
	fuzz.odd[0] = pipes[0];
	fuzz.odd[1] = pipes[1];
	fuzz.odd[2] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fuzz.odd[3] = open("/dev/null", O_RDWR | O_CLOEXEC);
	setup_read_only();
	if (fuzz.has_ring) {
		struct dmabuf_ring ring;

		if (dmabuf_ring_init(&ring, 1, 0) || dmabuf_ring_table(ring.fd, NR_SLOTS))
			ksft_exit_fail_msg("no ring\n");
		fuzz.shared_ring = ring.fd;
	}
	for (i = 0; i < NR_FILES; i++)
		atomic_store(&files[i], open_file(&first, i % 5, O_RDWR | O_CLOEXEC |
						  (i % 2 ? 0 : O_DIRECT)));
	for (i = 0; i < NR_BUFS; i++)
		atomic_store(&bufs[i], create(&first, fuzz.exporter < 0 ? 0 : i % 8, SIZE));
	for (i = 0; i < fuzz.nr_threads; i++)
		setup_thread(&fuzz.threads[i], i);
}

static void on_alarm(int sig)
{
	static const char text[] = "not ok 1 - a call did not return\n";

	(void)sig;
	if (write(1, text, sizeof(text) - 1) < 0)
		_exit(2);
	_exit(1);
}

static unsigned long number(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!*text || *end)
		ksft_exit_fail_msg("'%s' is no number\n", text);
	return n;
}

static void parse(int argc, char **argv)
{
	int opt;

	fuzz.seed = time(NULL);
	fuzz.seconds = 5;
	fuzz.nr_threads = 4;
	while ((opt = getopt(argc, argv, "s:t:j:n:v")) != -1) {
		switch (opt) {
		case 's':
			fuzz.seed = number(optarg);
			break;
		case 't':
			fuzz.seconds = number(optarg);
			break;
		case 'j':
			fuzz.nr_threads = number(optarg);
			break;
		case 'n':
			fuzz.calls = number(optarg);
			break;
		case 'v':
			fuzz.verbose = true;
			break;
		default:
			ksft_exit_fail_msg("usage: %s [-s SEED] [-t SECS] [-j N] [-n CALLS] [-v]\n",
					   argv[0]);
		}
	}
	if (!fuzz.nr_threads || fuzz.nr_threads > MAX_THREADS)
		ksft_exit_fail_msg("1 to %d threads\n", MAX_THREADS);
}

static void report(void)
{
	unsigned long done, good, total = 0;
	unsigned int i, nr;
	uint64_t ns;

	for (nr = 0; nr < fuzz.nr_threads; nr++) {
		total += fuzz.threads[nr].calls;
		ksft_print_msg("thread %u: %lu calls, hash %016llx\n", nr,
			       fuzz.threads[nr].calls,
			       (unsigned long long)fuzz.threads[nr].hash);
	}
	if (!total) {
		ksft_print_msg("no call was made\n");
		atomic_fetch_add(&failures, 1);
	}
	for (i = 0; i < NR_OPS; i++) {
		done = 0;
		good = 0;
		ns = 0;
		for (nr = 0; nr < fuzz.nr_threads; nr++) {
			done += fuzz.threads[nr].done[i];
			good += fuzz.threads[nr].good[i];
			ns += fuzz.threads[nr].ns[i];
		}
		ksft_print_msg("%-16s %8lu calls %8lu worked %8llu ms\n", ops[i].name,
			       done, good, (unsigned long long)ns / 1000000);
		if (total < 2000 || good)
			continue;
		if ((ops[i].must_work && fuzz.bdev >= 0) ||
		    (needs_ring(i) && fuzz.has_ring && fuzz.bdev >= 0)) {
			ksft_print_msg("%s never worked\n", ops[i].name);
			atomic_fetch_add(&failures, 1);
		}
	}
}

int main(int argc, char **argv)
{
	unsigned long ms;
	unsigned int i;

	ksft_print_header();
	ksft_set_plan(1);
	parse(argc, argv);
	ksft_print_msg("seed %llu, %lu s, %lu threads\n", (unsigned long long)fuzz.seed,
		       fuzz.seconds, fuzz.nr_threads);
	fflush(stdout);
	/* Writing to a pipe without readers, and files of any length. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	signal(SIGALRM, on_alarm);
	setup();
	if (!fuzz.has_ring || fuzz.bdev < 0)
		ksft_print_msg("no registered dma-bufs, or no DMABUF_IO_BDEV\n");
	/* A move waits for a minute at most. */
	alarm(fuzz.seconds + 150);
	for (i = 0; i < fuzz.nr_threads; i++)
		if (pthread_create(&fuzz.threads[i].thread, NULL, thread_main,
				   &fuzz.threads[i]))
			ksft_exit_fail_msg("no thread\n");
	for (ms = 0; ms < fuzz.seconds * 1000 && !fuzz.calls && !atomic_load(&stop); ms += 500) {
		poll(NULL, 0, 500);
		check_read_only();
	}
	if (!fuzz.calls)
		atomic_store(&stop, true);
	for (i = 0; i < fuzz.nr_threads; i++)
		pthread_join(fuzz.threads[i].thread, NULL);
	check_read_only();
	report();
	ksft_test_result(!atomic_load(&failures), "random calls, seed %llu\n",
			 (unsigned long long)fuzz.seed);
	ksft_finished();
}
