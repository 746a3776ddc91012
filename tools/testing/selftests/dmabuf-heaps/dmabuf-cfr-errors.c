// SPDX-License-Identifier: GPL-2.0
/*
 * copy_file_range() between a file and a dma-buf: what is refused, and with
 * which error. A call that fails changes neither side.
 */
#include "dmabuf-cfr.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <drm/drm_mode.h>
#include <linux/fs.h>

/* A buffer and a file that do not change. */
FIXTURE(errors)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_SETUP(errors)
{
	if (!open_ends(_metadata, &self->buf, &system_heap, &self->peer,
		       PEER_FILE, false))
		return;
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	ASSERT_EQ(0, file_fill(self->peer.fd, 0, KIB(64), SEED_FILE));
}

FIXTURE_TEARDOWN(errors)
{
	struct stat st;

	EXPECT_EQ(BUF_SIZE, dmabuf_match(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	EXPECT_EQ(0, fstat(self->peer.fd, &st));
	EXPECT_EQ(KIB(64), st.st_size);
	EXPECT_EQ(KIB(64), file_match(self->peer.fd, 0, KIB(64), SEED_FILE));
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

/* A copy between @fd and the dma-buf @buf gives @error either way. */
static void expect_refused(struct __test_metadata *_metadata, int fd, int buf,
			   int error)
{
	ASSERT_LE(0, fd);
	EXPECT_EQ(-error, copy_range(fd, 0, buf, 0, KIB(4)));
	EXPECT_EQ(-error, copy_range(buf, 0, fd, 0, KIB(4)));
}

TEST_F(errors, bad_fd)
{
	int closed = dup(self->peer.fd);

	close(closed);
	expect_refused(_metadata, closed, self->buf.fd, EBADF);
	expect_refused(_metadata, reopen(self->peer.fd, O_PATH), self->buf.fd, EBADF);
	expect_refused(_metadata, self->peer.fd, reopen(self->buf.fd, O_PATH), EBADF);
}

TEST_F(errors, unknown_flags)
{
	int fd = self->peer.fd, buf = self->buf.fd;
	unsigned int bit;

	for (bit = 0; bit < 32; bit++) {
		off_t in = 0, out = 0;

		EXPECT_EQ(-1, copy_file_range(fd, &in, buf, &out, 1, 1U << bit));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, copy_file_range(buf, &in, fd, &out, 1, 1U << bit));
		EXPECT_EQ(EINVAL, errno);
	}
}

TEST_F(errors, bad_offset_pointer)
{
	int fd = self->peer.fd, buf = self->buf.fd;
	off_t pos = 0, *bad = (off_t *)8;

	EXPECT_EQ(-1, copy_file_range(fd, bad, buf, &pos, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, copy_file_range(fd, &pos, buf, bad, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, copy_file_range(buf, bad, fd, &pos, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, copy_file_range(buf, &pos, fd, bad, 1, 0));
	EXPECT_EQ(EFAULT, errno);
}

TEST_F(errors, file_access_mode)
{
	int read_only = reopen(self->peer.fd, O_RDONLY);
	int write_only = reopen(self->peer.fd, O_WRONLY);
	int append = reopen(self->peer.fd, O_RDWR | O_APPEND);

	ASSERT_LE(0, read_only);
	ASSERT_LE(0, write_only);
	ASSERT_LE(0, append);
	EXPECT_EQ(-EBADF, copy_range(write_only, 0, self->buf.fd, 0, KIB(4)));
	EXPECT_EQ(-EBADF, copy_range(self->buf.fd, 0, read_only, 0, KIB(4)));
	EXPECT_EQ(-EBADF, copy_range(self->buf.fd, 0, append, 0, KIB(4)));
}

TEST_F(errors, buffer_access_mode)
{
	int read_only = heap_alloc("system", BUF_SIZE, O_RDONLY | O_CLOEXEC);
	int write_only = heap_alloc("system", BUF_SIZE, O_WRONLY | O_CLOEXEC);

	ASSERT_LE(0, read_only);
	ASSERT_LE(0, write_only);
	EXPECT_EQ(-EBADF, copy_range(self->peer.fd, 0, read_only, 0, KIB(4)));
	EXPECT_EQ(-EBADF, copy_range(write_only, 0, self->peer.fd, 0, KIB(4)));
	ASSERT_EQ(0, fcntl(self->buf.fd, F_SETFL, O_APPEND));
	EXPECT_EQ(-EBADF, copy_range(self->peer.fd, 0, self->buf.fd, 0, KIB(4)));
	/* What the modes do allow works. */
	EXPECT_EQ(KIB(4), copy_range(self->peer.fd, 0, write_only, 0, KIB(4)));
}

/* O_DIRECT is a property of files. */
TEST_F(errors, buffer_is_not_direct)
{
	EXPECT_EQ(-1, fcntl(self->buf.fd, F_SETFL, O_DIRECT));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(errors, directory)
{
	int dir = open(tmp_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	expect_refused(_metadata, dir, self->buf.fd, EISDIR);
}

TEST_F(errors, neither_file_nor_block_device)
{
	static const char * const devices[] = { "/dev/null", "/dev/zero" };
	int buf = self->buf.fd, pipes[2], sockets[2];
	unsigned int i;

	/* With space and with data, so that the other rules do not apply. */
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(8, write(pipes[1], "pipeline", 8));
	EXPECT_EQ(-EINVAL, copy_range(pipes[0], 0, buf, 0, 8));
	EXPECT_EQ(-EINVAL, copy_range(buf, 0, pipes[1], 0, 8));

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	ASSERT_EQ(8, write(sockets[1], "received", 8));
	expect_refused(_metadata, sockets[0], buf, EINVAL);

	expect_refused(_metadata, eventfd(1, 0), buf, EINVAL);
	expect_refused(_metadata, epoll_create1(0), buf, EINVAL);
	for (i = 0; i < ARRAY_SIZE(devices); i++)
		expect_refused(_metadata, open(devices[i], O_RDWR), buf, EINVAL);
}

/* A regular file, but one that is read from its start to its end only. */
TEST_F(errors, stream)
{
	int fd = open("/sys/kernel/tracing/trace_pipe", O_RDONLY | O_NONBLOCK);
	char byte;

	if (fd < 0)
		SKIP(return, "trace_pipe: %s", strerror(errno));
	ASSERT_EQ(-1, pread(fd, &byte, 1, 0));
	ASSERT_EQ(ESPIPE, errno);
	EXPECT_EQ(-EINVAL, copy_range(fd, 0, self->buf.fd, 0, KIB(4)));
}

/* A regular file, but nothing that the kernel may read or write. */
TEST_F(errors, secret_memory)
{
	int fd = syscall(__NR_memfd_secret, 0);

	if (fd < 0)
		SKIP(return, "memfd_secret: %s", strerror(errno));
	ASSERT_EQ(0, ftruncate(fd, KIB(64)));
	expect_refused(_metadata, fd, self->buf.fd, EINVAL);
}

/* hugetlbfs reads but does not write. */
TEST_F(errors, hugetlbfs)
{
	int fd = memfd_alloc(HUGE_SIZE, MFD_HUGETLB | MFD_HUGE_2MB);
	int buf = heap_alloc("system", KIB(4), O_RDWR | O_CLOEXEC);

	if (fd < 0)
		SKIP(return, "hugetlb memfd: %s", strerror(-fd));
	ASSERT_LE(0, buf);
	EXPECT_EQ(-EINVAL, copy_range(self->buf.fd, 0, fd, 0, KIB(4)));
	EXPECT_EQ(KIB(4), copy_range(fd, 0, buf, 0, KIB(4)));
}

/* As ever, files that claim to have no bytes give none. */
TEST_F(errors, proc_file)
{
	int fd = open("/proc/self/status", O_RDONLY);

	ASSERT_LE(0, fd);
	EXPECT_EQ(0, copy_range(fd, 0, self->buf.fd, 0, KIB(4)));
}

TEST_F(errors, two_buffers)
{
	int other = heap_alloc("system", BUF_SIZE, O_RDWR | O_CLOEXEC);
	struct dmabuf list;

	expect_refused(_metadata, other, self->buf.fd, EOPNOTSUPP);
	ASSERT_EQ(0, dmabuf_alloc(&list, &udmabuf_list, BUF_SIZE));
	expect_refused(_metadata, list.fd, self->buf.fd, EOPNOTSUPP);
	dmabuf_free(&list);
}

TEST_F(errors, one_buffer)
{
	int buf = self->buf.fd;

	EXPECT_EQ(-EINVAL, copy_range(buf, 0, buf, KIB(4) - 1, KIB(4)));
	EXPECT_EQ(-EINVAL, copy_range(buf, KIB(4) - 1, buf, 0, KIB(4)));
	EXPECT_EQ(-EINVAL, copy_range(buf, 0, buf, 0, KIB(4)));
	EXPECT_EQ(-EOPNOTSUPP, copy_range(buf, 0, buf, KIB(4), KIB(4)));
	EXPECT_EQ(-EOPNOTSUPP, copy_range(buf, KIB(4), buf, 0, KIB(4)));
}

/* The exporter has no pages to show. */
TEST_F(errors, vgem_buffer)
{
	struct drm_mode_create_dumb dumb = { .width = 64, .height = 64, .bpp = 32 };
	struct drm_prime_handle prime = { .flags = DRM_RDWR };
	int vgem = vgem_open();

	if (vgem < 0)
		SKIP(return, "no vgem");
	ASSERT_EQ(0, ioctl(vgem, DRM_IOCTL_MODE_CREATE_DUMB, &dumb));
	prime.handle = dumb.handle;
	ASSERT_EQ(0, ioctl(vgem, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime));
	expect_refused(_metadata, self->peer.fd, prime.fd, EOPNOTSUPP);
}

/* Memory that a confidential guest shares with its host. */
TEST_F(errors, shared_with_host)
{
	int buf = heap_alloc("system_cc_shared", KIB(64), O_RDWR | O_CLOEXEC);

	if (buf < 0)
		SKIP(return, "system_cc_shared heap: %s", strerror(-buf));
	expect_refused(_metadata, self->peer.fd, buf, EOPNOTSUPP);
}

TEST_F(errors, offset_overflow)
{
	int fd = self->peer.fd, buf = self->buf.fd;

	if (sizeof(size_t) == 8) {
		EXPECT_EQ(-EOVERFLOW, copy_range(fd, KIB(4), buf, 0, SIZE_MAX));
		EXPECT_EQ(-EOVERFLOW, copy_range(fd, 0, buf, KIB(4), SIZE_MAX));
		EXPECT_EQ(-EOVERFLOW, copy_range(buf, KIB(4), fd, 0, SIZE_MAX));
		EXPECT_EQ(-EOVERFLOW, copy_range(buf, 0, fd, KIB(4), SIZE_MAX));
	}
	EXPECT_EQ(-EOVERFLOW, copy_range(fd, -1, buf, 0, KIB(4)));
	EXPECT_EQ(-EOVERFLOW, copy_range(fd, 0, buf, -1, KIB(4)));
}

TEST_F(errors, negative_offset)
{
	int fd = self->peer.fd, buf = self->buf.fd;

	EXPECT_EQ(-EINVAL, copy_range(fd, -8192, buf, 0, KIB(4)));
	EXPECT_EQ(-EINVAL, copy_range(fd, 0, buf, -8192, KIB(4)));
	EXPECT_EQ(-EINVAL, copy_range(buf, -8192, fd, 0, KIB(4)));
	EXPECT_EQ(-EINVAL, copy_range(buf, 0, fd, -8192, KIB(4)));
}

/* The last offsets there are. */
TEST_F(errors, far_beyond_the_end)
{
	off_t far = LLONG_MAX - KIB(4);

	EXPECT_EQ(0, copy_range(self->peer.fd, far, self->buf.fd, 0, KIB(4)));
	EXPECT_EQ(0, copy_range(self->buf.fd, far, self->peer.fd, 0, KIB(4)));
	EXPECT_EQ(-ENOSPC, copy_range(self->peer.fd, 0, self->buf.fd, far, KIB(4)));
}

TEST_F(errors, nothing_to_copy)
{
	EXPECT_EQ(0, copy_range(self->peer.fd, 0, self->buf.fd, 0, 0));
	EXPECT_EQ(0, copy_range(self->buf.fd, 0, self->peer.fd, 0, 0));
	EXPECT_EQ(0, copy_range(self->peer.fd, KIB(64), self->buf.fd, 0, KIB(4)));
	EXPECT_EQ(0, copy_range(self->buf.fd, BUF_SIZE, self->peer.fd, 0, KIB(4)));
}

TEST_F(errors, immutable_file)
{
	int fd = self->peer.fd, flags, immutable;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags))
		SKIP(return, "FS_IOC_GETFLAGS: %s", strerror(errno));
	immutable = flags | FS_IMMUTABLE_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &immutable))
		SKIP(return, "FS_IOC_SETFLAGS: %s", strerror(errno));
	EXPECT_EQ(-EPERM, copy_range(self->buf.fd, 0, fd, 0, KIB(4)));
	EXPECT_EQ(0, ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

TEST_F(errors, swap_file)
{
	char path[PATH_MAX];
	int fd, ret;

	temp_path(path, tmp_dir());
	fd = mkstemp(path);
	ASSERT_LE(0, fd);
	ret = swap_start(fd, MIB(4));
	if (!ret) {
		expect_refused(_metadata, fd, self->buf.fd, ETXTBSY);
		EXPECT_EQ(0, swap_stop(fd));
	}
	unlink(path);
	if (ret)
		SKIP(return, "swapon: %s", strerror(-ret));
}

TEST_F(errors, swap_device)
{
	int fd = loop_open(MIB(4), 512), ret;

	if (fd < 0)
		SKIP(return, "loop device: %s", strerror(-fd));
	ret = swap_start(fd, MIB(4));
	if (ret)
		SKIP(return, "swapon: %s", strerror(-ret));
	expect_refused(_metadata, fd, self->buf.fd, ETXTBSY);
	EXPECT_EQ(0, swap_stop(fd));
}

TEST_F(errors, read_only_device)
{
	int fd = loop_open(MIB(4), 512), on = 1, off = 0;

	if (fd < 0)
		SKIP(return, "loop device: %s", strerror(-fd));
	ASSERT_EQ(0, file_fill(fd, 0, KIB(64), SEED_FILE));
	ASSERT_EQ(0, ioctl(fd, BLKROSET, &on));
	EXPECT_EQ(-EPERM, copy_range(self->buf.fd, 0, fd, 0, KIB(4)));
	EXPECT_EQ(KIB(64), file_match(fd, 0, KIB(64), SEED_FILE));
	/* It would outlast the file behind the device. */
	EXPECT_EQ(0, ioctl(fd, BLKROSET, &off));
}

/* What is not copy_file_range() knows nothing of dma-bufs. */
TEST_F(errors, other_calls)
{
	int fd = self->peer.fd, buf = self->buf.fd, pipes[2];
	char byte;

	EXPECT_EQ(-1, read(buf, &byte, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, write(buf, "", 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, sendfile(buf, fd, NULL, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, sendfile(fd, buf, NULL, 1));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(1, write(pipes[1], "", 1));
	EXPECT_EQ(-1, splice(pipes[0], NULL, buf, NULL, 1, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, splice(buf, NULL, pipes[1], NULL, 1, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ioctl(fd, FICLONE, buf));
	EXPECT_EQ(-1, ioctl(buf, FICLONE, fd));
}

/* Copies without a dma-buf follow the rules that they always did. */
TEST_F(errors, copies_between_files)
{
	int other = temp_file(tmp_dir()), fd = self->peer.fd, pipes[2];
	int mem = memfd_alloc(KIB(4), 0);

	ASSERT_LE(0, other);
	ASSERT_LE(0, mem);
	ASSERT_EQ(0, pipe(pipes));
	EXPECT_EQ(KIB(64), copy_all(fd, 0, other, 0, KIB(64)));
	EXPECT_EQ(KIB(64), file_match(other, 0, KIB(64), SEED_FILE));
	EXPECT_EQ(-EXDEV, copy_range(fd, 0, mem, 0, KIB(4)));
	EXPECT_EQ(-EINVAL, copy_range(fd, 0, pipes[1], 0, KIB(4)));
	EXPECT_EQ(-EINVAL, copy_range(fd, 0, open("/dev/null", O_RDWR), 0, KIB(4)));
	EXPECT_EQ(-EISDIR, copy_range(open(tmp_dir(), O_RDONLY), 0, other, 0, KIB(4)));
}

/* Errors after which a part of the copy is done. */
FIXTURE(partial)
{
	struct dmabuf buf;
};

FIXTURE_SETUP(partial)
{
	int ret = dmabuf_alloc(&self->buf, &system_heap, BUF_SIZE);

	if (ret)
		SKIP(return, "%s: %s", self->buf.step, strerror(-ret));
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
}

FIXTURE_TEARDOWN(partial)
{
	dmabuf_free(&self->buf);
}

/* The file system's own limits are not those of a buffer. */
TEST_F(partial, file_size_limit)
{
	struct rlimit limit = { .rlim_cur = KIB(8), .rlim_max = RLIM_INFINITY };
	int fd = temp_file(tmp_dir()), buf = self->buf.fd;
	struct timespec now = {};
	sigset_t set;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, file_fill(fd, 0, KIB(4), SEED_FILE));
	ASSERT_EQ(0, sigemptyset(&set));
	ASSERT_EQ(0, sigaddset(&set, SIGXFSZ));
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));

	EXPECT_EQ(KIB(4), copy_range(fd, 0, buf, KIB(6), KIB(64)));
	EXPECT_EQ(KIB(4), copy_range(fd, 0, buf, KIB(16), KIB(4)));
	EXPECT_EQ(-1, sigtimedwait(&set, NULL, &now));

	EXPECT_EQ(KIB(4), copy_range(buf, MIB(1), fd, KIB(4), KIB(64)));
	EXPECT_EQ(-1, sigtimedwait(&set, NULL, &now));
	EXPECT_EQ(-EFBIG, copy_range(buf, MIB(1), fd, KIB(8), KIB(4)));
	EXPECT_EQ(SIGXFSZ, sigtimedwait(&set, NULL, &now));

	EXPECT_EQ(KIB(4), file_match(fd, 0, KIB(8), SEED_FILE));
	EXPECT_EQ(KIB(4), file_match_at(fd, KIB(4), KIB(8), SEED_BUF, MIB(1)));
	EXPECT_EQ(KIB(4), dmabuf_match(&self->buf, KIB(6), KIB(4), SEED_FILE, 0));
	EXPECT_EQ(KIB(4), dmabuf_match(&self->buf, KIB(16), KIB(4), SEED_FILE, 0));
}

TEST_F(partial, full_file_system)
{
	int fd, ret = private_mounts();

	if (ret || mount("tmpfs", tmp_dir(), "tmpfs", 0, "size=1m"))
		SKIP(return, "mount: %s", strerror(ret ? -ret : errno));
	fd = temp_file(tmp_dir());
	umount2(tmp_dir(), MNT_DETACH);
	ASSERT_LE(0, fd);
	EXPECT_EQ(MIB(1), copy_range(self->buf.fd, 0, fd, 0, BUF_SIZE));
	EXPECT_EQ(-ENOSPC, copy_range(self->buf.fd, MIB(1), fd, MIB(1), KIB(64)));
	EXPECT_EQ(MIB(1), file_match(fd, 0, MIB(2), SEED_BUF));
}

TEST_F(partial, end_of_device)
{
	struct peer peer;
	size_t end = FILE_SIZE;
	int ret;

	ret = peer_open(&peer, PEER_LOOP, true);
	if (ret)
		SKIP(return, "%s: %s", peer.step, strerror(-ret));
	ASSERT_EQ(0, peer_fill(&peer, end, SEED_FILE));
	EXPECT_EQ(KIB(8), copy_range(peer.fd, end - KIB(8), self->buf.fd, 0, KIB(64)));
	EXPECT_EQ(0, copy_range(peer.fd, end, self->buf.fd, KIB(8), KIB(64)));
	EXPECT_EQ(KIB(8), dmabuf_match(&self->buf, 0, KIB(8), SEED_FILE, end - KIB(8)));

	EXPECT_EQ(KIB(8), copy_range(self->buf.fd, MIB(1), peer.fd, end - KIB(8), KIB(64)));
	EXPECT_EQ(-ENOSPC, copy_range(self->buf.fd, MIB(1), peer.fd, end, KIB(64)));
	EXPECT_EQ(KIB(8), peer_match(&peer, end - KIB(8), KIB(8), SEED_BUF, MIB(1)));
	EXPECT_EQ(end - KIB(8), peer_match(&peer, 0, end - KIB(8), SEED_FILE, 0));
	peer_close(&peer);
}

TEST_F(partial, media_error)
{
	size_t bad = MIB(2), pos = bad - KIB(16);
	char name[32];
	int fd, direct;
	ssize_t ret;

	dm_name(name, getpid());
	fd = dm_over_loop(name, FILE_SIZE, bad);
	if (fd < 0)
		SKIP(return, "device mapper: %s", strerror(-fd));
	ASSERT_EQ(0, file_fill(fd, 0, bad, SEED_FILE));
	ASSERT_EQ(0, file_make_cold(fd));
	direct = reopen(fd, O_RDWR | O_DIRECT);

	EXPECT_EQ(-EIO, copy_range(direct, bad, self->buf.fd, 0, KIB(64)));
	EXPECT_EQ(-EIO, copy_range(self->buf.fd, 0, direct, bad, KIB(64)));
	/* What is counted is right, and nothing beyond the range is touched. */
	ret = copy_range(direct, pos, self->buf.fd, KIB(64), KIB(32));
	if (ret != -EIO) {
		ASSERT_LT(0, ret);
		EXPECT_GE(KIB(16), ret);
		EXPECT_EQ(ret, dmabuf_match(&self->buf, KIB(64), ret, SEED_FILE, pos));
	}
	EXPECT_EQ(BUF_SIZE - KIB(96),
		  dmabuf_match(&self->buf, KIB(96), BUF_SIZE - KIB(96), SEED_BUF, KIB(96)));
	ret = copy_range(self->buf.fd, MIB(1), direct, pos, KIB(32));
	if (ret != -EIO) {
		ASSERT_LT(0, ret);
		EXPECT_GE(KIB(16), ret);
		EXPECT_EQ(ret, file_match_at(fd, pos, ret, SEED_BUF, MIB(1)));
	}
	EXPECT_EQ(pos, file_match(fd, 0, pos, SEED_FILE));
	/* And the good part works as before. */
	EXPECT_EQ(KIB(64), copy_range(direct, 0, self->buf.fd, 0, KIB(64)));
	EXPECT_EQ(KIB(64), dmabuf_match(&self->buf, 0, KIB(64), SEED_FILE, 0));
}

/*
 * A long copy is made of pieces. If one fails the pieces before it count, and
 * the error is that of the next call.
 */
TEST_F_TIMEOUT(partial, media_error_after_progress, SLOW_TIMEOUT)
{
	static const struct dm_line table[] = {
		{ .len = MIB(192) / 512, .type = "zero", .args = "" },
		{ .start = MIB(192) / 512, .len = MIB(64) / 512,
		  .type = "error", .args = "" },
	};
	struct udmabuf_create_item items[32] = {};
	int memfd, buf, fd, direct;
	unsigned int i;
	size_t done;
	char name[32];
	ssize_t ret;

	memfd = memfd_alloc(MIB(8), 0);
	ASSERT_LE(0, memfd);
	/* Huge pages, if there are any, are pinned faster. */
	memfd_collapse(memfd, MIB(8));
	for (i = 0; i < ARRAY_SIZE(items); i++) {
		items[i].memfd = memfd;
		items[i].size = MIB(8);
	}
	buf = udmabuf_alloc(items, ARRAY_SIZE(items));
	if (buf < 0)
		SKIP(return, "udmabuf: %s", strerror(-buf));
	dm_name(name, getpid());
	fd = dm_open(name, table, ARRAY_SIZE(table));
	if (fd < 0)
		SKIP(return, "device mapper: %s", strerror(-fd));
	direct = reopen(fd, O_RDWR | O_DIRECT);
	ASSERT_LE(0, direct);

	ret = copy_range(direct, 0, buf, 0, MIB(256));
	ASSERT_LT(0, ret);
	for (done = 0; ret > 0; done += ret)
		ret = copy_range(direct, done, buf, done, MIB(256));
	EXPECT_EQ(-EIO, ret);
	EXPECT_GE(MIB(192), done);
}

/*
 * Through an overlay a file that was opened O_DIRECT takes whole blocks only,
 * as it does with write(2).
 */
TEST_F(partial, overlay_tail)
{
	struct peer peer;
	int ret;

	ret = peer_open(&peer, PEER_OVERLAY, true);
	if (ret)
		SKIP(return, "%s: %s", peer.step, strerror(-ret));
	if (pwrite(peer.fd, self, 1, 0) == 1)
		SKIP(return, "this file system takes any length");
	ASSERT_EQ(0, peer_fill(&peer, MIB(2), SEED_FILE));
	EXPECT_EQ(MIB(1), copy_range(self->buf.fd, 0, peer.fd, 0, MIB(1) + 1));
	EXPECT_EQ(-EINVAL, copy_range(self->buf.fd, MIB(1), peer.fd, MIB(1), 1));
	EXPECT_EQ(MIB(1), peer_match(&peer, 0, MIB(2), SEED_BUF, 0));
	EXPECT_EQ(MIB(1), peer_match(&peer, MIB(1), MIB(1), SEED_FILE, MIB(1)));
	peer_close(&peer);
}

/* Where O_DIRECT cannot start it says so, or does it in another way. */
TEST_F(partial, misaligned_start)
{
	static const struct { size_t file, buf; } skip[] = {
		{ 1, 0 }, { 0, 1 }, { 1, 1 }, { 511, 0 }, { 0, 3 },
	};
	struct peer peer;
	unsigned int i;
	ssize_t ret;

	ret = peer_open(&peer, PEER_FILE, true);
	if (ret)
		SKIP(return, "%s: %s", peer.step, strerror(-ret));
	for (i = 0; i < ARRAY_SIZE(skip); i++) {
		size_t file = MIB(1) + skip[i].file, buf = MIB(1) + skip[i].buf;
		size_t end = MIB(1) + KIB(68);

		ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
		ASSERT_EQ(0, peer_fill(&peer, MIB(2), SEED_FILE));
		ret = copy_all(peer.fd, file, self->buf.fd, buf, KIB(64));
		if (ret != -EINVAL) {
			ASSERT_EQ(KIB(64), ret);
			EXPECT_EQ(KIB(64), dmabuf_match(&self->buf, buf, KIB(64), SEED_FILE, file));
		}
		EXPECT_EQ(buf, dmabuf_match(&self->buf, 0, buf, SEED_BUF, 0));
		EXPECT_EQ(MIB(1), dmabuf_match(&self->buf, end, MIB(1), SEED_BUF, end));

		ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
		ret = copy_all(self->buf.fd, buf, peer.fd, file, KIB(64));
		if (ret != -EINVAL) {
			ASSERT_EQ(KIB(64), ret);
			EXPECT_EQ(KIB(64), peer_match(&peer, file, KIB(64), SEED_BUF, buf));
		}
		EXPECT_EQ(file, peer_match(&peer, 0, file, SEED_FILE, 0));
		EXPECT_EQ(MIB(2) - end, peer_match(&peer, end, MIB(2) - end, SEED_FILE, end));
	}
	peer_close(&peer);
}

#define FAILSLAB "/sys/kernel/debug/failslab/ignore-gfp-wait"

/* Allocations that can wait are normally left alone. */
static bool failslab_setup(char *old, char new)
{
	int fd = open(FAILSLAB, O_RDWR | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return false;
	done = pread(fd, old, 1, 0) == 1 && pwrite(fd, &new, 1, 0) == 1;
	close(fd);
	return done;
}

/* Each allocation of a first copy fails once. */
TEST_F(partial, no_memory)
{
	int memfd = memfd_alloc(KIB(64), 0), control;
	unsigned int n, errors = 0;
	char left = '0', text[16], old;
	struct dmabuf buf;
	ssize_t ret;

	ASSERT_LE(0, memfd);
	ASSERT_EQ(0, file_fill(memfd, 0, KIB(64), SEED_FILE));
	control = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (control < 0 || !failslab_setup(&old, 'N'))
		SKIP(return, "no fault injection: %s", strerror(errno));
	/* As long as there was an allocation to fail. */
	for (n = 1; left == '0' && n < 100; n++) {
		EXPECT_EQ(0, dmabuf_alloc(&buf, &udmabuf_shuffled, KIB(64)));
		snprintf(text, sizeof(text), "%u", n);
		EXPECT_EQ(strlen(text), pwrite(control, text, strlen(text), 0));
		ret = copy_range(memfd, 0, buf.fd, 0, KIB(64));
		EXPECT_EQ(1, pread(control, &left, 1, 0));
		EXPECT_EQ(1, pwrite(control, "0", 1, 0));
		if (ret == -ENOMEM) {
			errors++;
			ret = copy_range(memfd, 0, buf.fd, 0, KIB(64));
		}
		EXPECT_EQ(KIB(64), ret);
		EXPECT_EQ(KIB(64), dmabuf_match(&buf, 0, KIB(64), SEED_FILE, 0));
		dmabuf_free(&buf);
	}
	EXPECT_TRUE(failslab_setup(&left, old));
	EXPECT_LT(0, errors);
	EXPECT_GT(100, n);
}

int main(int argc, char **argv)
{
	skip_old_kernel();
	return test_harness_run(argc, argv);
}
