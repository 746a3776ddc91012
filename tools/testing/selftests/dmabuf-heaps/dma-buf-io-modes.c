// SPDX-License-Identifier: GPL-2.0
/*
 * Who may do what with a dma-buf and a file: what the descriptors are open for
 * decides, whoever opened them, and nothing else does.
 */
#include "dma-buf-io.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SIZE	MIB(1)
#define LEN	KIB(64)
#define NOBODY	65534

FIXTURE(modes) {
	struct drive drive;
	int sockets[2];
};

FIXTURE_SETUP(modes)
{
	int ret = drive_open(&self->drive);

	if (ret == 1)
		SKIP(return, "%s", self->drive.skip);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, file_fill(self->drive.fd, 0, 2 * SIZE, SEED_DRIVE));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->sockets));
	ret = heap_alloc("system", SIZE, O_RDWR | O_CLOEXEC);
	if (ret == -ENOENT)
		SKIP(return, "no system heap");
	ASSERT_LE(0, ret);
	close(ret);
}

FIXTURE_TEARDOWN(modes)
{
	close(self->sockets[0]);
	close(self->sockets[1]);
	close(self->drive.fd);
}

static int send_fd(int socket, int fd)
{
	char byte = 0, space[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = space, .msg_controllen = sizeof(space),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	return sendmsg(socket, &msg, 0) == 1 ? 0 : -errno;
}

static int receive_fd(int socket)
{
	char byte, space[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = space, .msg_controllen = sizeof(space),
	};
	int fd;

	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&msg))
		return -EIO;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return fd;
}

/* A buffer that another process has made, and is gone now. */
static int buffer_of_other(int sockets[2], int mode)
{
	pid_t child = fork();
	int fd;

	if (child < 0)
		return -errno;
	if (!child) {
		fd = heap_alloc("system", SIZE, mode | O_CLOEXEC);
		_exit(fd < 0 || send_fd(sockets[1], fd));
	}
	fd = receive_fd(sockets[0]);
	waitpid(child, NULL, 0);
	return fd;
}

static int ring_with(struct dmabuf_ring *ring, int buf, int drive)
{
	int ret = dmabuf_ring_init(ring, 4, 0);

	if (!ret)
		ret = dmabuf_ring_table(ring->fd, 1);
	return ret ? ret : dmabuf_ring_register(ring->fd, 0, buf, drive);
}

/* Nothing may write to a buffer by a descriptor that is open for reading. */
TEST_F_TIMEOUT(modes, read_only_buffer, SLOW_TIMEOUT)
{
	int fd = buffer_of_other(self->sockets, O_RDONLY), ret;
	struct dmabuf_ring ring;
	char path[32], *map;

	ASSERT_LE(0, fd);
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(SIZE, byte_match(map, SIZE, 0));

	EXPECT_EQ(-EBADF, copy_range(self->drive.fd, 0, fd, 0, LEN));
	EXPECT_EQ(-EACCES, ring_with(&ring, fd, self->drive.fd));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&ring, IORING_OP_READ_FIXED,
					  self->drive.fd, 0, 0, LEN, 0));
	dmabuf_ring_exit(&ring);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, fd, 0));
	EXPECT_NE(0, mprotect(map, SIZE, PROT_READ | PROT_WRITE));

	/* nor by one that is made of it */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	EXPECT_GT(0, open(path, O_RDWR | O_CLOEXEC));
	ret = dup(fd);
	EXPECT_EQ(-EBADF, copy_range(self->drive.fd, 0, ret, 0, LEN));
	close(ret);
	fcntl(fd, F_SETFL, O_RDWR);
	EXPECT_EQ(-EBADF, copy_range(self->drive.fd, 0, fd, 0, LEN));
	EXPECT_EQ(SIZE, byte_match(map, SIZE, 0));

	/* It can be read. */
	EXPECT_EQ(LEN, copy_range(fd, 0, self->drive.fd, SIZE, LEN));
	munmap(map, SIZE);
	close(fd);
}

/* Nothing may read from a buffer by a descriptor that is open for writing. */
TEST_F_TIMEOUT(modes, write_only_buffer, SLOW_TIMEOUT)
{
	int fd = buffer_of_other(self->sockets, O_WRONLY);
	struct dmabuf_ring ring;

	ASSERT_LE(0, fd);
	EXPECT_EQ(LEN, copy_range(self->drive.fd, 0, fd, 0, LEN));
	EXPECT_EQ(-EBADF, copy_range(fd, 0, self->drive.fd, SIZE, LEN));
	EXPECT_EQ(-EACCES, ring_with(&ring, fd, self->drive.fd));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&ring, IORING_OP_WRITE_FIXED,
					  self->drive.fd, 0, 0, LEN, SIZE));
	dmabuf_ring_exit(&ring);
	EXPECT_EQ(SIZE, file_match(self->drive.fd, SIZE, SIZE, SEED_DRIVE));
	close(fd);
}

/* The file's descriptor decides too, and not the one of the registration. */
TEST_F_TIMEOUT(modes, read_only_file, SLOW_TIMEOUT)
{
	int fd = buffer_of_other(self->sockets, O_RDWR), drive;
	struct dmabuf_ring ring;

	ASSERT_LE(0, fd);
	drive = open(getenv("DMABUF_IO_BDEV"), O_RDONLY | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, drive);
	ASSERT_EQ(1, ring_with(&ring, fd, self->drive.fd));
	EXPECT_EQ(LEN, dmabuf_ring_rw(&ring, IORING_OP_READ_FIXED, drive, 0, 0,
				      LEN, LEN));
	EXPECT_EQ(-EBADF, dmabuf_ring_rw(&ring, IORING_OP_WRITE_FIXED, drive, 0,
					 0, LEN, SIZE));
	EXPECT_EQ(-EBADF, copy_range(fd, 0, drive, SIZE, LEN));
	EXPECT_EQ(SIZE, file_match(self->drive.fd, SIZE, SIZE, SEED_DRIVE));
	dmabuf_ring_exit(&ring);
	close(drive);
	close(fd);
}

/* Somebody without any privilege, in a user namespace of his own. */
static int unprivileged_job(int drive, int rw, int ro)
{
	struct rlimit none = {};
	struct dmabuf_ring ring, other;
	int ret;

	if (setrlimit(RLIMIT_MEMLOCK, &none) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) || unshare(CLONE_NEWUSER))
		return 1;
	if (copy_range(drive, LEN, rw, 0, LEN) != LEN)
		return 2;
	if (copy_range(rw, 0, drive, SIZE, LEN) != LEN)
		return 3;
	ret = ring_with(&ring, rw, drive);
	if (ret != 1)
		return 4;
	if (dmabuf_ring_rw(&ring, IORING_OP_READ_FIXED, drive, 0, 0, LEN, 0) != LEN)
		return 5;
	/* The namespace's root has no more rights to what is from outside. */
	if (copy_range(drive, 0, ro, 0, LEN) != -EBADF)
		return 6;
	if (ring_with(&other, ro, drive) != -EACCES)
		return 7;
	return 0;
}

TEST_F_TIMEOUT(modes, user_namespace, SLOW_TIMEOUT)
{
	struct dmabuf rw = { .size = SIZE };
	int ro, status;
	pid_t child;

	rw.fd = heap_alloc("system", SIZE, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, rw.fd);
	ro = heap_alloc("system", SIZE, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, ro);
	child = fork();
	ASSERT_LE(0, child);
	if (!child)
		_exit(unprivileged_job(self->drive.fd, rw.fd, ro));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	if (WEXITSTATUS(status) == 1)
		SKIP(return, "no user namespaces");
	EXPECT_EQ(0, WEXITSTATUS(status));
	EXPECT_EQ(LEN, dmabuf_match(&rw, 0, LEN, SEED_DRIVE, 0));
	EXPECT_EQ(LEN, file_match_at(self->drive.fd, SIZE, LEN, SEED_DRIVE, LEN));
	dmabuf_free(&rw);
	close(ro);
}

/* Neither an I/O nor a copy gets at what is behind the end of a buffer. */
TEST_F_TIMEOUT(modes, beyond_the_end, SLOW_TIMEOUT)
{
	int fd = buffer_of_other(self->sockets, O_RDWR);
	struct dmabuf_ring ring;

	ASSERT_LE(0, fd);
	ASSERT_EQ(1, ring_with(&ring, fd, self->drive.fd));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&ring, IORING_OP_WRITE_FIXED,
					  self->drive.fd, 0, SIZE - 4096, 8192, SIZE));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&ring, IORING_OP_WRITE_FIXED,
					  self->drive.fd, 0, SIZE, 4096, SIZE));
	EXPECT_EQ(-EFAULT, dmabuf_ring_rw(&ring, IORING_OP_WRITE_FIXED,
					  self->drive.fd, 0, -4096ULL, 8192, SIZE));
	EXPECT_EQ(SIZE, file_match(self->drive.fd, SIZE, SIZE, SEED_DRIVE));
	EXPECT_EQ(4096, copy_range(fd, SIZE - 4096, self->drive.fd, SIZE, 8192));
	EXPECT_EQ(0, copy_range(fd, SIZE, self->drive.fd, SIZE, 4096));
	EXPECT_EQ(SIZE - 4096, file_match(self->drive.fd, SIZE + 4096, SIZE - 4096,
					  SEED_DRIVE));
	dmabuf_ring_exit(&ring);
	close(fd);
}

TEST_HARNESS_MAIN
