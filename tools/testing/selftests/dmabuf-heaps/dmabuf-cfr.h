/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the copy_file_range() tests for dma-bufs share: the kinds of buffers and
 * of files to copy to and from. Files, mounts and devices go away with the
 * process that made them, even if that is killed.
 *
 * Environment:
 * TMPDIR		directory on the file system to test (/tmp)
 * DMABUF_CFR_BDEV	block device to test, which LOSES ITS DATA (none)
 */
#ifndef DMABUF_CFR_H
#define DMABUF_CFR_H

#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>

#include <linux/dm-ioctl.h>
#include <linux/loop.h>

#include "kselftest_harness.h"
#include "dmabuf-util.h"

#define BUF_SIZE	MIB(3)	/* a third of it is a multiple of the page size */
#define FILE_SIZE	MIB(4)

/* Tests with many I/Os, on slow machines with all debugging on. */
#define SLOW_TIMEOUT	180

/* Seeds of what is in the files, in the buffers, and in a destination before. */
enum {
	SEED_FILE = 1,
	SEED_BUF,
	SEED_POISON,
};

static const struct dmabuf_kind system_heap = { .heap = "system" };
static const struct dmabuf_kind cma_heap = { .heap = "default_cma_region" };
static const struct dmabuf_kind udmabuf = { .memfds = 1 };
static const struct dmabuf_kind udmabuf_shuffled = { .shuffle = true };
static const struct dmabuf_kind udmabuf_list = { .memfds = 3 };
/* Buffers that start and end inside of a huge page. */
static const struct dmabuf_kind udmabuf_thp = {
	.thp = true,
	.skip = KIB(20),
};

static const struct dmabuf_kind udmabuf_hugetlb = {
	.memfd_flags = MFD_HUGETLB | MFD_HUGE_2MB,
	.skip = KIB(1036),
};

/* The other end of a copy. */
enum peer_type {
	PEER_FILE,
	PEER_OVERLAY,
	PEER_TMPFS,
	PEER_BDEV,
	PEER_LOOP,
	PEER_DM,
};

struct peer {
	enum peer_type type;
	int fd;			/* the end of the copies, O_DIRECT if asked for */
	int plain;		/* the same data through the page cache */
	struct dio_align align;	/* of fd */
	const char *step;	/* what failed in peer_open() */
};

static inline bool peer_is_bdev(const struct peer *peer)
{
	return peer->type >= PEER_BDEV;
}

static inline const char *tmp_dir(void)
{
	const char *dir = getenv("TMPDIR");

	return dir && *dir ? dir : "/tmp";
}

/* Another file description of the file, which need not have a name. */
static inline int reopen(int fd, int flags)
{
	char path[32];
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ret = open(path, flags | O_CLOEXEC);
	return ret < 0 ? -errno : ret;
}

static inline void temp_path(char path[static PATH_MAX], const char *dir)
{
	snprintf(path, PATH_MAX, "%s/dmabuf-cfr.XXXXXX", dir);
}

/* A file without a name in @dir. */
static inline int temp_file(const char *dir)
{
	char path[PATH_MAX];
	int fd;

	temp_path(path, dir);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

/* A mount namespace for this process, which takes its mounts with it. */
static inline int private_mounts(void)
{
	if (unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	return 0;
}

/* A file in an overlay whose layers are in the directory to test. */
static inline int overlay_file(void)
{
	static const char opts[] = "upperdir=upper,lowerdir=lower,workdir=work";
	/* The last one is the overlay's own, and not removed by it. */
	static const char * const dirs[] = {
		"upper", "lower", "merged", "work", "work/work",
	};
	char top[PATH_MAX];
	unsigned int i;
	int fd;

	fd = private_mounts();
	if (fd)
		return fd;
	temp_path(top, tmp_dir());
	if (!mkdtemp(top) || chdir(top))
		return -errno;
	for (i = 0; i < ARRAY_SIZE(dirs); i++)
		mkdir(dirs[i], 0700);
	if (mount("overlay", "merged", "overlay", 0, opts)) {
		fd = -errno;
	} else {
		fd = temp_file("merged");
		/* The open file keeps the overlay, no name has to stay. */
		umount2("merged", MNT_DETACH);
	}
	while (i--)
		rmdir(dirs[i]);
	rmdir(top);
	return fd;
}

/*
 * A loop device of @size bytes over a file in the directory to test. It goes
 * away with the last file descriptor.
 */
static inline int loop_open(size_t size, unsigned int block_size)
{
	struct loop_config config = {
		.block_size = block_size,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};
	int control, file, fd, ret;
	unsigned int tries;
	char path[32];

	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return -errno;
	file = temp_file(tmp_dir());
	ret = file;
	if (file < 0)
		goto close_control;
	config.fd = file;
	if (ftruncate(file, size)) {
		ret = -errno;
		goto close_file;
	}
	/* Others look for a free device as well. */
	for (tries = 0; tries < 8; tries++) {
		snprintf(path, sizeof(path), "/dev/loop%d",
			 ioctl(control, LOOP_CTL_GET_FREE));
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && !ioctl(fd, LOOP_CONFIGURE, &config)) {
			ret = fd;
			break;
		}
		ret = -errno;
		if (fd >= 0)
			close(fd);
		if (ret != -EBUSY)
			break;
	}
close_file:
	close(file);
close_control:
	close(control);
	return ret;
}

/* One line of a device mapper table, in sectors. */
struct dm_line {
	__u64 start;
	__u64 len;
	const char *type;
	const char *args;
};

static inline int dm_call(unsigned long cmd, const char *name, __u32 flags,
			  const struct dm_line *table, unsigned int nr,
			  struct dm_ioctl *result)
{
	union {
		struct dm_ioctl io;
		char mem[2048];
	} data = { .io = {
		.version = { DM_VERSION_MAJOR },
		.data_size = sizeof(data),
		.data_start = sizeof(data.io),
		.target_count = nr,
		.flags = flags,
	} };
	struct dm_target_spec *spec = (void *)(data.mem + sizeof(data.io));
	int control, len, ret;

	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return -errno;
	snprintf(data.io.name, sizeof(data.io.name), "%s", name);
	for (; nr; nr--, table++) {
		spec->sector_start = table->start;
		spec->length = table->len;
		snprintf(spec->target_type, sizeof(spec->target_type), "%s",
			 table->type);
		len = snprintf((char *)(spec + 1), 64, "%s", table->args);
		spec->next = sizeof(*spec) + ((len + 8) & ~7);
		spec = (void *)((char *)spec + spec->next);
	}
	ret = ioctl(control, cmd, &data) ? -errno : 0;
	if (result)
		*result = data.io;
	close(control);
	return ret;
}

/*
 * Make a device mapper device. It goes away with the last file descriptor.
 * @name can be used to suspend it.
 */
static inline int dm_open(const char *name, const struct dm_line *table,
			  unsigned int nr)
{
	struct dm_ioctl result;
	char path[32];
	int fd, ret;

	ret = dm_call(DM_DEV_CREATE, name, 0, NULL, 0, &result);
	if (ret)
		return ret;
	ret = dm_call(DM_TABLE_LOAD, name, 0, table, nr, NULL);
	if (!ret)
		ret = dm_call(DM_DEV_SUSPEND, name, 0, NULL, 0, NULL);
	if (!ret) {
		snprintf(path, sizeof(path), "/dev/dm-%u", minor(result.dev));
		fd = open(path, O_RDWR | O_CLOEXEC);
		ret = fd < 0 ? -errno : fd;
	}
	dm_call(DM_DEV_REMOVE, name, DM_DEFERRED_REMOVE, NULL, 0, NULL);
	return ret;
}

static inline void dm_name(char name[static 32], pid_t pid)
{
	snprintf(name, 32, "dmabuf-cfr-%d", pid);
}

static inline int dm_suspend(const char *name, bool suspend)
{
	return dm_call(DM_DEV_SUSPEND, name,
		       suspend ? DM_SUSPEND_FLAG | DM_NOFLUSH_FLAG : 0,
		       NULL, 0, NULL);
}

/*
 * A device mapper device of @size bytes over a loop device. Sectors from
 * @bad on fail, if that is not 0.
 */
static inline int dm_over_loop(const char *name, size_t size, size_t bad)
{
	struct dm_line table[2] = {
		{ .len = (bad ? bad : size) / 512, .type = "linear" },
		{ .start = bad / 512, .len = (size - bad) / 512,
		  .type = "error", .args = "" },
	};
	char args[64];
	struct stat st;
	int loop, fd;

	loop = loop_open(size, 512);
	if (loop < 0)
		return loop;
	fstat(loop, &st);
	snprintf(args, sizeof(args), "%u:%u 0", major(st.st_rdev),
		 minor(st.st_rdev));
	table[0].args = args;
	fd = dm_open(name, table, bad ? 2 : 1);
	close(loop);
	return fd;
}

/* Make a file, which must have a name, or a block device swap space. */
static inline int swap_start(int fd, size_t size)
{
	static const char magic[10] = "SWAPSPACE2";
	struct {
		char boot[1024];
		__u32 version;
		__u32 last_page;
		char rest[1016];
	} header = { .version = 1 };
	size_t page = sysconf(_SC_PAGESIZE);
	char path[32];

	header.last_page = size / page - 1;
	if (file_fill(fd, 0, size, 0) ||
	    pwrite(fd, &header, sizeof(header), 0) != sizeof(header) ||
	    pwrite(fd, magic, sizeof(magic), page - sizeof(magic)) != sizeof(magic) ||
	    fsync(fd))
		return -EIO;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return swapon(path, 0) ? -errno : 0;
}

static inline int swap_stop(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return swapoff(path) ? -errno : 0;
}

static inline int peer_open_plain(struct peer *peer)
{
	const char *path;
	char name[32];
	int fd;

	switch (peer->type) {
	case PEER_FILE:
		peer->step = "file in TMPDIR";
		return temp_file(tmp_dir());
	case PEER_OVERLAY:
		peer->step = "overlay in TMPDIR";
		return overlay_file();
	case PEER_TMPFS:
		peer->step = "memfd";
		fd = memfd_create("dmabuf-cfr", MFD_CLOEXEC);
		return fd < 0 ? -errno : fd;
	case PEER_BDEV:
		peer->step = "DMABUF_CFR_BDEV";
		path = getenv("DMABUF_CFR_BDEV");
		if (!path)
			return -ENOENT;
		fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	case PEER_LOOP:
		/* With large blocks, and the other one with small blocks. */
		peer->step = "loop device";
		return loop_open(FILE_SIZE, 4096);
	case PEER_DM:
		peer->step = "device mapper over a loop device";
		dm_name(name, getpid());
		return dm_over_loop(name, FILE_SIZE, 0);
	}
	return -EINVAL;
}

static inline void peer_close(struct peer *peer)
{
	if (peer->fd >= 0)
		close(peer->fd);
	if (peer->plain >= 0)
		close(peer->plain);
}

/* An empty file, or a block device of at least FILE_SIZE bytes. */
static inline int peer_open(struct peer *peer, enum peer_type type, bool direct)
{
	int ret;

	*peer = (struct peer){
		.type = type,
		.fd = -1,
		.align = { .mem = 1, .pos = 1, .read_pos = 1 },
	};
	peer->plain = peer_open_plain(peer);
	if (peer->plain < 0)
		return peer->plain;
	if (direct)
		peer->step = "O_DIRECT";
	peer->fd = reopen(peer->plain, O_RDWR | (direct ? O_DIRECT : 0));
	ret = peer->fd < 0 ? peer->fd : 0;
	if (!ret && direct)
		ret = file_dio_align(peer->fd, &peer->align);
	if (ret)
		peer_close(peer);
	return ret;
}

/* For FIXTURE_SETUP(): a buffer and a peer. If not, the test is skipped. */
static inline bool open_ends(struct __test_metadata *_metadata,
			     struct dmabuf *buf, const struct dmabuf_kind *kind,
			     struct peer *peer, enum peer_type type, bool direct)
{
	int ret = dmabuf_alloc(buf, kind, BUF_SIZE);

	if (ret)
		SKIP(return false, "%s: %s", buf->step, strerror(-ret));
	ret = peer_open(peer, type, direct);
	if (ret)
		SKIP(return false, "%s: %s", peer->step, strerror(-ret));
	return true;
}

/* Give a file, or the start of a device, the pattern and no page cache. */
static inline int peer_fill(struct peer *peer, size_t size, __u64 seed)
{
	int ret = file_fill(peer->plain, 0, size, seed);

	if (ret || peer->type == PEER_TMPFS)
		return ret;
	return file_make_cold(peer->plain);
}

/* The number of leading bytes of [pos, pos + len) that are on the disk. */
static inline ssize_t peer_match(struct peer *peer, off_t pos, size_t len,
				 __u64 seed, __u64 offset)
{
	int ret = peer->type == PEER_TMPFS ? 0 : file_make_cold(peer->plain);

	return ret ? ret : file_match_at(peer->plain, pos, len, seed, offset);
}

/*
 * Kernels that cannot do it say EINVAL to everything, and there is nothing to
 * test. A machine without any kind of buffer gives no answer.
 */
static inline void skip_old_kernel(void)
{
	struct dmabuf buf;
	ssize_t ret;
	int fd;

	if (dmabuf_alloc(&buf, &system_heap, KIB(64)) &&
	    dmabuf_alloc(&buf, &udmabuf, KIB(64))) {
		ksft_print_header();
		ksft_exit_skip("neither a system heap nor udmabuf\n");
	}
	fd = temp_file(tmp_dir());
	if (fd < 0) {
		ksft_print_header();
		ksft_exit_skip("cannot make a file in %s: %s\n", tmp_dir(),
			       strerror(-fd));
	}
	if (file_fill(fd, 0, KIB(4), SEED_FILE))
		ksft_exit_fail_msg("cannot write to %s\n", tmp_dir());
	ret = copy_range(fd, 0, buf.fd, 0, KIB(4));
	if (ret == -EINVAL) {
		ksft_print_header();
		ksft_exit_skip("this kernel has no copy_file_range() for dma-bufs\n");
	}
	close(fd);
	dmabuf_free(&buf);
}

#endif /* DMABUF_CFR_H */
