// SPDX-License-Identifier: GPL-2.0
/*
 * copy_file_range() between a file and a dma-buf: fences, signals, other users
 * of the buffer and of the file, and what is left when the buffer is gone.
 */
#include "dmabuf-cfr.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include <linux/fs.h>

/* Long enough to see that something waits, on any machine. */
#define BLOCKED_MS	200
#define DONE_MS		60000	/* hung: a loaded machine may need ten seconds */

/* A copy in a thread. */
struct job {
	pthread_t thread;
	int in;
	off_t in_pos;
	int out;
	off_t out_pos;
	size_t len;
	ssize_t ret;
	bool done;
};

static void *job_run(void *data)
{
	struct job *job = data;

	job->ret = copy_range(job->in, job->in_pos, job->out, job->out_pos,
			      job->len);
	__atomic_store_n(&job->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void job_start(struct __test_metadata *_metadata, struct job *job)
{
	job->done = false;
	ASSERT_EQ(0, pthread_create(&job->thread, NULL, job_run, job));
}

static bool job_done(struct job *job, unsigned int ms)
{
	for (; ms; ms--) {
		if (__atomic_load_n(&job->done, __ATOMIC_ACQUIRE))
			return true;
		usleep(1000);
	}
	return false;
}

static void job_join(struct __test_metadata *_metadata, struct job *job)
{
	ASSERT_TRUE(job_done(job, DONE_MS));
	ASSERT_EQ(0, pthread_join(job->thread, NULL));
	ASSERT_EQ(job->len, job->ret);
}

/*
 * Fences, by way of sw_sync: its ioctls are not in the uapi headers.
 */
struct sw_sync_fence {
	__u32 value;
	char name[32];
	__s32 fd;
};

#define SW_SYNC			"/sys/kernel/debug/sync/sw_sync"
#define SW_SYNC_CREATE_FENCE	_IOWR('W', 0, struct sw_sync_fence)
#define SW_SYNC_INC		_IOW('W', 1, __u32)

FIXTURE(fence)
{
	struct dmabuf buf;
	struct peer peer;
	int timeline;
	struct job fill;
	struct job drain;
};

FIXTURE_VARIANT(fence)
{
	const struct dmabuf_kind *kind;
};

FIXTURE_VARIANT_ADD(fence, system) { &system_heap };
FIXTURE_VARIANT_ADD(fence, udmabuf) { &udmabuf };

FIXTURE_SETUP(fence)
{
	self->timeline = open(SW_SYNC, O_RDWR | O_CLOEXEC);
	if (self->timeline < 0)
		SKIP(return, "sw_sync: %s", strerror(errno));
	if (!open_ends(_metadata, &self->buf, variant->kind, &self->peer,
		       PEER_FILE, true))
		return;
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_POISON, 0));
	ASSERT_EQ(0, peer_fill(&self->peer, FILE_SIZE, SEED_FILE));
	self->fill = (struct job){
		.in = self->peer.fd,
		.out = self->buf.fd,
		.len = MIB(1),
	};
	self->drain = (struct job){
		.in = self->buf.fd,
		.out = self->peer.fd,
		.len = MIB(1),
	};
}

FIXTURE_TEARDOWN(fence)
{
	close(self->timeline);
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

/* @flags: DMA_BUF_SYNC_READ or _WRITE, what the device does with the buffer. */
static void add_fence(struct __test_metadata *_metadata, int timeline, int buf,
		      __u32 flags)
{
	struct sw_sync_fence fence = { .value = 1, .name = "dmabuf-cfr" };
	struct dma_buf_import_sync_file import = { .flags = flags };

	ASSERT_EQ(0, ioctl(timeline, SW_SYNC_CREATE_FENCE, &fence));
	import.fd = fence.fd;
	ASSERT_EQ(0, ioctl(buf, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &import));
	close(fence.fd);
}

static void signal_fence(struct __test_metadata *_metadata, int timeline)
{
	__u32 one = 1;

	ASSERT_EQ(0, ioctl(timeline, SW_SYNC_INC, &one));
}

/* Without a bracket, which would wait for the fence as well. */
static void expect_buf(struct __test_metadata *_metadata, struct dmabuf *buf,
		       __u64 seed)
{
	EXPECT_EQ(MIB(1), pattern_match(buf->map, MIB(1), seed, 0));
}

/* A device that writes to the buffer, or reads it, goes first. */
TEST_F(fence, writer_delays_fill)
{
	add_fence(_metadata, self->timeline, self->buf.fd, DMA_BUF_SYNC_WRITE);
	job_start(_metadata, &self->fill);
	EXPECT_FALSE(job_done(&self->fill, BLOCKED_MS));
	expect_buf(_metadata, &self->buf, SEED_POISON);
	signal_fence(_metadata, self->timeline);
	job_join(_metadata, &self->fill);
	expect_buf(_metadata, &self->buf, SEED_FILE);
}

TEST_F(fence, reader_delays_fill)
{
	add_fence(_metadata, self->timeline, self->buf.fd, DMA_BUF_SYNC_READ);
	job_start(_metadata, &self->fill);
	EXPECT_FALSE(job_done(&self->fill, BLOCKED_MS));
	expect_buf(_metadata, &self->buf, SEED_POISON);
	signal_fence(_metadata, self->timeline);
	job_join(_metadata, &self->fill);
	expect_buf(_metadata, &self->buf, SEED_FILE);
}

/* What the device writes until then is what arrives in the file. */
TEST_F(fence, writer_delays_drain)
{
	add_fence(_metadata, self->timeline, self->buf.fd, DMA_BUF_SYNC_WRITE);
	job_start(_metadata, &self->drain);
	EXPECT_FALSE(job_done(&self->drain, BLOCKED_MS));
	pattern_fill(self->buf.map, MIB(1), SEED_BUF, 0);
	signal_fence(_metadata, self->timeline);
	job_join(_metadata, &self->drain);
	EXPECT_EQ(MIB(1), peer_match(&self->peer, 0, MIB(1), SEED_BUF, 0));
}

TEST_F(fence, reader_does_not_delay_drain)
{
	add_fence(_metadata, self->timeline, self->buf.fd, DMA_BUF_SYNC_READ);
	EXPECT_EQ(MIB(1), copy_range(self->buf.fd, 0, self->peer.fd, 0, MIB(1)));
	EXPECT_EQ(MIB(1), peer_match(&self->peer, 0, MIB(1), SEED_POISON, 0));
}

static unsigned int signals;

static void count_signal(int sig __always_unused)
{
	__atomic_add_fetch(&signals, 1, __ATOMIC_RELAXED);
}

static void on_signal(struct __test_metadata *_metadata, int sig, int flags)
{
	struct sigaction action = {
		.sa_handler = count_signal,
		.sa_flags = flags,
	};

	ASSERT_EQ(0, sigaction(sig, &action, NULL));
}

TEST_F(fence, wait_is_interrupted)
{
	struct itimerval soon = { .it_value = { .tv_usec = 1000 * BLOCKED_MS } };

	on_signal(_metadata, SIGALRM, 0);
	add_fence(_metadata, self->timeline, self->buf.fd, DMA_BUF_SYNC_WRITE);
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &soon, NULL));
	EXPECT_EQ(-EINTR, copy_range(self->peer.fd, 0, self->buf.fd, 0, MIB(1)));
	EXPECT_EQ(1, signals);
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &soon, NULL));
	EXPECT_EQ(-EINTR, copy_range(self->buf.fd, 0, self->peer.fd, 0, MIB(1)));
	EXPECT_EQ(2, signals);
	expect_buf(_metadata, &self->buf, SEED_POISON);
	EXPECT_EQ(MIB(1), peer_match(&self->peer, 0, MIB(1), SEED_FILE, 0));
}

TEST_F(fence, wait_is_restarted)
{
	on_signal(_metadata, SIGUSR1, SA_RESTART);
	add_fence(_metadata, self->timeline, self->buf.fd, DMA_BUF_SYNC_WRITE);
	job_start(_metadata, &self->fill);
	EXPECT_FALSE(job_done(&self->fill, BLOCKED_MS));
	ASSERT_EQ(0, pthread_kill(self->fill.thread, SIGUSR1));
	EXPECT_FALSE(job_done(&self->fill, BLOCKED_MS));
	EXPECT_EQ(1, signals);
	signal_fence(_metadata, self->timeline);
	job_join(_metadata, &self->fill);
	expect_buf(_metadata, &self->buf, SEED_FILE);
}

static bool child_done(pid_t child, int *status, unsigned int ms)
{
	for (; ms; ms--) {
		if (waitpid(child, status, WNOHANG) == child)
			return true;
		usleep(1000);
	}
	return false;
}

TEST_F(fence, wait_is_killed)
{
	int status = 0;
	pid_t child;

	add_fence(_metadata, self->timeline, self->buf.fd, DMA_BUF_SYNC_WRITE);
	child = fork();
	if (!child)
		_exit(copy_range(self->peer.fd, 0, self->buf.fd, 0, MIB(1)));
	EXPECT_FALSE(child_done(child, &status, BLOCKED_MS));
	ASSERT_EQ(0, kill(child, SIGKILL));
	EXPECT_TRUE(child_done(child, &status, DONE_MS));
	EXPECT_TRUE(WIFSIGNALED(status));
	expect_buf(_metadata, &self->buf, SEED_POISON);
	/* Should it have to be, let it end. */
	signal_fence(_metadata, self->timeline);
}

/* A device that does not answer for as long as we like. */
FIXTURE(blocked)
{
	struct dmabuf buf;
	struct peer peer;	/* the device */
	char name[32];
	struct job job;
};

FIXTURE_VARIANT(blocked)
{
	const struct dmabuf_kind *kind;
	bool drain;
};

FIXTURE_VARIANT_ADD(blocked, system_fill) { &system_heap, false };
FIXTURE_VARIANT_ADD(blocked, system_drain) { &system_heap, true };
FIXTURE_VARIANT_ADD(blocked, udmabuf_fill) { &udmabuf, false };
FIXTURE_VARIANT_ADD(blocked, udmabuf_drain) { &udmabuf, true };

FIXTURE_SETUP(blocked)
{
	dm_name(self->name, getpid());
	if (!open_ends(_metadata, &self->buf, variant->kind, &self->peer,
		       PEER_DM, true))
		return;
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	ASSERT_EQ(0, peer_fill(&self->peer, FILE_SIZE, SEED_FILE));
	self->job = (struct job){
		.in = variant->drain ? self->buf.fd : self->peer.fd,
		.out = variant->drain ? self->peer.fd : self->buf.fd,
		.len = MIB(1),
	};
}

/* In the parent, as nothing ends a process that waits for the device. */
FIXTURE_TEARDOWN_PARENT(blocked)
{
	dm_suspend(self->name, false);
}

static void block_copy(struct __test_metadata *_metadata, const char *name,
		       struct job *job)
{
	ASSERT_EQ(0, dm_suspend(name, true));
	job_start(_metadata, job);
	ASSERT_FALSE(job_done(job, BLOCKED_MS));
}

static void check_blocked_copy(struct __test_metadata *_metadata,
			       struct peer *peer, const char *name,
			       struct job *job)
{
	/* Still waiting, so what came before did not wait for it. */
	EXPECT_FALSE(job_done(job, 1));
	ASSERT_EQ(0, dm_suspend(name, false));
	job_join(_metadata, job);
	if (job->out == peer->fd)
		EXPECT_EQ(MIB(1), peer_match(peer, 0, MIB(1), SEED_BUF, 0));
}

/* Nobody else has to wait for the copy. */
TEST_F(blocked, buffer_can_be_used)
{
	int file = temp_file(tmp_dir()), vgem = vgem_open();
	struct dmabuf *buf = &self->buf;
	__u32 handle;

	block_copy(_metadata, self->name, &self->job);
	if (vgem >= 0) {
		EXPECT_EQ(0, vgem_import(vgem, buf->fd, &handle));
		EXPECT_EQ(0, vgem_release(vgem, handle));
	}
	EXPECT_EQ(0, dmabuf_fill(buf, MIB(2), MIB(1), SEED_POISON, 0));
	EXPECT_EQ(MIB(1), dmabuf_match(buf, MIB(2), MIB(1), SEED_POISON, 0));
	dmabuf_unmap(buf);
	EXPECT_EQ(MIB(1), copy_range(buf->fd, MIB(2), file, 0, MIB(1)));
	EXPECT_EQ(MIB(1), file_match(file, 0, MIB(1), SEED_POISON));
	EXPECT_EQ(MIB(1), copy_range(file, 0, buf->fd, MIB(1), MIB(1)));
	EXPECT_EQ(MIB(1), dmabuf_match(buf, MIB(1), MIB(1), SEED_POISON, 0));
	EXPECT_EQ(0, lseek(buf->fd, 0, SEEK_SET));

	check_blocked_copy(_metadata, &self->peer, self->name, &self->job);
	if (!variant->drain)
		EXPECT_EQ(MIB(1), dmabuf_match(buf, 0, MIB(1), SEED_FILE, 0));
}

/* The copy goes on although its buffer has no file descriptor any more. */
TEST_F(blocked, buffer_can_be_closed)
{
	struct dmabuf *buf = &self->buf;

	block_copy(_metadata, self->name, &self->job);
	dmabuf_unmap(buf);
	close(buf->fd);
	buf->fd = -1;
	check_blocked_copy(_metadata, &self->peer, self->name, &self->job);
	if (!variant->drain && buf->nr_memfds)
		EXPECT_EQ(MIB(1), file_match(buf->memfd[0], 0, MIB(1), SEED_FILE));
}

/* Nor does the peer. */
TEST_F(blocked, peer_can_be_closed)
{
	block_copy(_metadata, self->name, &self->job);
	close(self->peer.fd);
	self->peer.fd = -1;
	EXPECT_FALSE(job_done(&self->job, 1));
	ASSERT_EQ(0, dm_suspend(self->name, false));
	job_join(_metadata, &self->job);
	EXPECT_EQ(MIB(1), variant->drain ?
		  peer_match(&self->peer, 0, MIB(1), SEED_BUF, 0) :
		  dmabuf_match(&self->buf, 0, MIB(1), SEED_FILE, 0));
}

/*
 * A file system that is being frozen. Not the one that the output goes to.
 */
FIXTURE(freeze)
{
	struct dmabuf buf;
	struct peer peer;
	bool stop;
};

static int freeze(int cmd)
{
	int fd = open(tmp_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = ioctl(fd, cmd, 0) ? -errno : 0;
	close(fd);
	return ret;
}

FIXTURE_SETUP(freeze)
{
	struct stat root, dir, out;

	ASSERT_EQ(0, stat("/", &root));
	ASSERT_EQ(0, stat(tmp_dir(), &dir));
	ASSERT_EQ(0, fstat(STDOUT_FILENO, &out));
	if (dir.st_dev == root.st_dev || dir.st_dev == out.st_dev)
		SKIP(return, "TMPDIR is on a file system that others use");
	if (!open_ends(_metadata, &self->buf, &system_heap, &self->peer,
		       PEER_FILE, true))
		return;
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_BUF, 0));
	ASSERT_EQ(0, peer_fill(&self->peer, FILE_SIZE, SEED_POISON));
}

/* In the parent, as nothing ends a process that waits for the thaw. */
FIXTURE_TEARDOWN_PARENT(freeze)
{
	freeze(FITHAW);
}

TEST_F(freeze, drain_waits)
{
	struct job job = {
		.in = self->buf.fd,
		.out = self->peer.fd,
		.len = MIB(1),
	};
	int ret = freeze(FIFREEZE);

	if (ret)
		SKIP(return, "FIFREEZE: %s", strerror(-ret));
	job_start(_metadata, &job);
	EXPECT_FALSE(job_done(&job, BLOCKED_MS));
	EXPECT_EQ(MIB(1), dmabuf_match(&self->buf, 0, MIB(1), SEED_BUF, 0));
	/* A fill only reads, apart from the time of that. */
	EXPECT_EQ(KIB(4), copy_range(self->peer.fd, 0, self->buf.fd, MIB(2), KIB(4)));
	ASSERT_EQ(0, freeze(FITHAW));
	job_join(_metadata, &job);
	EXPECT_EQ(MIB(1), peer_match(&self->peer, 0, MIB(1), SEED_BUF, 0));
}

/* Nothing is held back by a drain that has not come to the file yet. */
TEST_F(freeze, fence_first)
{
	int timeline = open(SW_SYNC, O_RDWR | O_CLOEXEC), status = -1;
	struct job job = {
		.in = self->buf.fd,
		.out = self->peer.fd,
		.len = MIB(1),
	};
	pid_t child;

	if (timeline < 0)
		SKIP(return, "sw_sync: %s", strerror(errno));
	add_fence(_metadata, timeline, self->buf.fd, DMA_BUF_SYNC_WRITE);
	job_start(_metadata, &job);
	EXPECT_FALSE(job_done(&job, BLOCKED_MS));
	child = fork();
	if (!child)
		_exit(-freeze(FIFREEZE));
	EXPECT_TRUE(child_done(child, &status, DONE_MS));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, freeze(FITHAW));
	signal_fence(_metadata, timeline);
	job_join(_metadata, &job);
	EXPECT_EQ(MIB(1), peer_match(&self->peer, 0, MIB(1), SEED_BUF, 0));
}

static void *drain_until_stopped(void *data)
{
	FIXTURE_DATA(freeze) * self = data;
	ssize_t ret = 0;

	while (ret >= 0 && !__atomic_load_n(&self->stop, __ATOMIC_RELAXED))
		ret = copy_all(self->buf.fd, 0, self->peer.fd, 0, MIB(1));
	return (void *)ret;
}

/* Freezing gets its turn, and does not meet a drain half way. */
TEST_F(freeze, drains_give_way)
{
	unsigned int i;
	pthread_t thread;
	void *ret;

	if (freeze(FIFREEZE) || freeze(FITHAW))
		SKIP(return, "cannot freeze");
	ASSERT_EQ(0, pthread_create(&thread, NULL, drain_until_stopped, self));
	for (i = 0; i < 5; i++) {
		usleep(20000);
		EXPECT_EQ(0, freeze(FIFREEZE));
		EXPECT_EQ(0, freeze(FITHAW));
	}
	__atomic_store_n(&self->stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, &ret));
	EXPECT_EQ(MIB(1), (ssize_t)ret);
	EXPECT_EQ(MIB(1), peer_match(&self->peer, 0, MIB(1), SEED_BUF, 0));
}

/* Other users of the same buffer or file, at the same time. */
FIXTURE(shared)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_VARIANT(shared)
{
	const struct dmabuf_kind *kind;
};

FIXTURE_VARIANT_ADD(shared, system) { &system_heap };
FIXTURE_VARIANT_ADD(shared, cma) { &cma_heap };
FIXTURE_VARIANT_ADD(shared, udmabuf) { &udmabuf };
FIXTURE_VARIANT_ADD(shared, shuffled) { &udmabuf_shuffled };

FIXTURE_SETUP(shared)
{
	if (!open_ends(_metadata, &self->buf, variant->kind, &self->peer,
		       PEER_FILE, true))
		return;
	ASSERT_EQ(0, dmabuf_fill(&self->buf, 0, BUF_SIZE, SEED_POISON, 0));
	ASSERT_EQ(0, peer_fill(&self->peer, FILE_SIZE, SEED_FILE));
}

FIXTURE_TEARDOWN(shared)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

/* Fill the first MiB and drain it to the second MiB of the file. */
static void copy_twice(struct __test_metadata *_metadata, struct dmabuf *buf,
		       struct peer *peer)
{
	ASSERT_EQ(MIB(1), copy_all(peer->fd, 0, buf->fd, 0, MIB(1)));
	ASSERT_EQ(MIB(1), dmabuf_match(buf, 0, MIB(1), SEED_FILE, 0));
	ASSERT_EQ(MIB(1), copy_all(buf->fd, 0, peer->fd, MIB(1), MIB(1)));
	ASSERT_EQ(MIB(1), peer_match(peer, MIB(1), MIB(1), SEED_FILE, 0));
}

TEST_F(shared, attached)
{
	int vgem = vgem_open();
	__u32 handle;

	if (vgem < 0)
		SKIP(return, "no vgem");
	ASSERT_EQ(0, vgem_import(vgem, self->buf.fd, &handle));
	copy_twice(_metadata, &self->buf, &self->peer);
	ASSERT_EQ(0, vgem_release(vgem, handle));
}

TEST_F(shared, cpu_access_open)
{
	ASSERT_EQ(0, dmabuf_sync(self->buf.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ));
	copy_twice(_metadata, &self->buf, &self->peer);
	ASSERT_EQ(0, dmabuf_sync(self->buf.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ));
}

#define NR_JOBS		4
#define JOB_SIZE	(BUF_SIZE / NR_JOBS)

/* Also the first copies of a buffer, which find out where its pages are. */
TEST_F_TIMEOUT(shared, parallel, SLOW_TIMEOUT)
{
	struct job jobs[NR_JOBS];
	struct dmabuf buf;
	unsigned int i, n;

	for (n = 0; n < 10; n++) {
		ASSERT_EQ(0, dmabuf_alloc(&buf, variant->kind, BUF_SIZE));
		ASSERT_EQ(0, peer_fill(&self->peer, BUF_SIZE, SEED_FILE));
		for (i = 0; i < NR_JOBS; i++) {
			jobs[i] = (struct job){
				.in = self->peer.fd,
				.in_pos = i * JOB_SIZE,
				.out = buf.fd,
				.out_pos = i * JOB_SIZE,
				.len = JOB_SIZE,
			};
			job_start(_metadata, &jobs[i]);
		}
		for (i = 0; i < NR_JOBS; i++)
			job_join(_metadata, &jobs[i]);
		ASSERT_EQ(BUF_SIZE, dmabuf_match(&buf, 0, BUF_SIZE, SEED_FILE, 0));

		ASSERT_EQ(0, peer_fill(&self->peer, BUF_SIZE, SEED_POISON));
		for (i = 0; i < NR_JOBS; i++) {
			jobs[i].in = buf.fd;
			jobs[i].out = self->peer.fd;
			job_start(_metadata, &jobs[i]);
		}
		for (i = 0; i < NR_JOBS; i++)
			job_join(_metadata, &jobs[i]);
		ASSERT_EQ(BUF_SIZE, peer_match(&self->peer, 0, BUF_SIZE, SEED_FILE, 0));
		dmabuf_free(&buf);
	}
}

/* Threads that disturb the main one until it is done. */
struct storm {
	pthread_t thread;
	int fd;
	bool *stop;
	bool failed;
	char seen;	/* so that reading is not for nothing */
};

static void *storm_of_syncs(void *data)
{
	static const __u64 how[] = {
		DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE, DMA_BUF_SYNC_RW,
	};
	struct storm *storm = data;
	unsigned int i;

	for (i = 0; !__atomic_load_n(storm->stop, __ATOMIC_RELAXED); i++)
		if (dmabuf_sync(storm->fd, DMA_BUF_SYNC_START | how[i % 3]) ||
		    dmabuf_sync(storm->fd, DMA_BUF_SYNC_END | how[i % 3]))
			storm->failed = true;
	return NULL;
}

static void *storm_of_attachments(void *data)
{
	struct storm *storm = data;
	int vgem = vgem_open();
	__u32 handle;

	while (!__atomic_load_n(storm->stop, __ATOMIC_RELAXED) && vgem >= 0)
		if (vgem_import(vgem, storm->fd, &handle) ||
		    vgem_release(vgem, handle))
			storm->failed = true;
	return NULL;
}

static void *storm_of_mmaps(void *data)
{
	struct storm *storm = data;
	char *map;

	while (!__atomic_load_n(storm->stop, __ATOMIC_RELAXED)) {
		map = mmap(NULL, KIB(64), PROT_READ, MAP_SHARED, storm->fd, 0);
		if (map == MAP_FAILED) {
			storm->failed = true;
			continue;
		}
		storm->seen += map[KIB(4)];
		munmap(map, KIB(64));
	}
	return NULL;
}

/* With the first access of each kind among them. */
TEST_F_TIMEOUT(shared, storm, SLOW_TIMEOUT)
{
	void *(*const storms[])(void *) = {
		storm_of_syncs, storm_of_syncs, storm_of_attachments,
		storm_of_mmaps,
	};
	struct storm storm[ARRAY_SIZE(storms)];
	unsigned int i, n;
	bool stop;

	for (n = 0; n < 4; n++) {
		struct dmabuf buf;

		stop = false;
		ASSERT_EQ(0, dmabuf_alloc(&buf, variant->kind, BUF_SIZE));
		for (i = 0; i < ARRAY_SIZE(storms); i++) {
			storm[i] = (struct storm){ .fd = buf.fd, .stop = &stop };
			ASSERT_EQ(0, pthread_create(&storm[i].thread, NULL,
						    storms[i], &storm[i]));
		}
		copy_twice(_metadata, &buf, &self->peer);
		__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
		for (i = 0; i < ARRAY_SIZE(storms); i++) {
			ASSERT_EQ(0, pthread_join(storm[i].thread, NULL));
			EXPECT_FALSE(storm[i].failed) {
				TH_LOG("storm %u", i);
			}
		}
		dmabuf_free(&buf);
	}
}

static void *storm_of_setfl(void *data)
{
	struct storm *storm = data;

	while (!__atomic_load_n(storm->stop, __ATOMIC_RELAXED))
		if (fcntl(storm->fd, F_SETFL, 0) ||
		    fcntl(storm->fd, F_SETFL, O_DIRECT))
			storm->failed = true;
	return NULL;
}

/* Each copy is of one kind, whatever becomes of the flag meanwhile. */
TEST_F_TIMEOUT(shared, direct_flag_changes, SLOW_TIMEOUT)
{
	bool stop = false;
	struct storm storm = { .fd = self->peer.fd, .stop = &stop };
	unsigned int n;

	ASSERT_EQ(0, pthread_create(&storm.thread, NULL, storm_of_setfl, &storm));
	for (n = 0; n < 10; n++)
		copy_twice(_metadata, &self->buf, &self->peer);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(storm.thread, NULL));
	EXPECT_FALSE(storm.failed);
}

/* The pages of a udmabuf belong to a memfd too. */
FIXTURE(memfd)
{
	struct dmabuf buf;
	struct peer peer;
};

FIXTURE_SETUP(memfd)
{
	if (!open_ends(_metadata, &self->buf, &udmabuf, &self->peer, PEER_FILE,
		       true))
		return;
	ASSERT_EQ(0, peer_fill(&self->peer, BUF_SIZE, SEED_FILE));
}

FIXTURE_TEARDOWN(memfd)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
}

/* A fill cannot break a seal, as there can be none. */
TEST_F(memfd, no_write_seal)
{
	int memfd = self->buf.memfd[0];

	EXPECT_EQ(-1, fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(BUF_SIZE, copy_all(self->peer.fd, 0, self->buf.fd, 0, BUF_SIZE));
	EXPECT_EQ(BUF_SIZE, file_match(memfd, 0, BUF_SIZE, SEED_FILE));
	close(self->buf.fd);
	self->buf.fd = -1;
	EXPECT_EQ(0, fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(BUF_SIZE, file_match(memfd, 0, BUF_SIZE, SEED_FILE));
}

/* The buffer keeps pages that the memfd has lost. */
TEST_F(memfd, punched)
{
	int memfd = self->buf.memfd[0];
	char byte = 1;

	ASSERT_EQ(0, fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       0, BUF_SIZE));
	EXPECT_EQ(BUF_SIZE, copy_all(self->peer.fd, 0, self->buf.fd, 0, BUF_SIZE));
	EXPECT_EQ(BUF_SIZE, dmabuf_match(&self->buf, 0, BUF_SIZE, SEED_FILE, 0));
	EXPECT_EQ(1, pread(memfd, &byte, 1, 4096));
	EXPECT_EQ(0, byte);
}

/* Both ends are the same pages, which is no reason to wait for oneself. */
TEST_F(memfd, own_buffer)
{
	int memfd = self->buf.memfd[0], buf = self->buf.fd;

	ASSERT_EQ(0, file_fill(memfd, 0, BUF_SIZE, SEED_BUF));
	EXPECT_EQ(MIB(1), copy_range(memfd, 0, buf, MIB(1), MIB(1)));
	EXPECT_EQ(MIB(1), copy_range(buf, 0, memfd, MIB(2), MIB(1)));
	EXPECT_EQ(MIB(1), file_match_at(memfd, 0, MIB(1), SEED_BUF, 0));
	EXPECT_EQ(MIB(1), file_match_at(memfd, MIB(1), MIB(1), SEED_BUF, 0));
	EXPECT_EQ(MIB(1), file_match_at(memfd, MIB(2), MIB(1), SEED_BUF, 0));
	/* Each page to itself; and one over another, which has no right result. */
	EXPECT_EQ(MIB(1), copy_range(memfd, 0, buf, 0, MIB(1)));
	EXPECT_EQ(MIB(1), copy_range(buf, 0, memfd, 0, MIB(1)));
	EXPECT_EQ(MIB(1), file_match_at(memfd, 0, MIB(1), SEED_BUF, 0));
	EXPECT_EQ(MIB(1), copy_range(memfd, 0, buf, 100, MIB(1)));
	EXPECT_EQ(MIB(1), copy_range(buf, 0, memfd, 100, MIB(1)));
	EXPECT_EQ(KIB(4), file_match_at(memfd, MIB(2), KIB(4), SEED_BUF, 0));
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* Memory that is short, in a cgroup of our own with swap space. */
FIXTURE(reclaim)
{
	struct dmabuf buf;
	struct peer peer;
	int swap;
	char cgroup[64];
};

static int cgroup_write(const char *cgroup, const char *file, const char *text)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", cgroup, file);
	return write_text(path, text);
}

#define CGROUP_ROOT "/sys/fs/cgroup"

FIXTURE_SETUP(reclaim)
{
	int ret;

	snprintf(self->cgroup, sizeof(self->cgroup), CGROUP_ROOT "/dmabuf-cfr-%d",
		 getpid());
	cgroup_write(CGROUP_ROOT, "cgroup.subtree_control", "+memory");
	if (mkdir(self->cgroup, 0755))
		SKIP(return, "memory cgroup: %s", strerror(errno));
	ret = cgroup_write(self->cgroup, "cgroup.procs", "0");
	if (ret)
		SKIP(goto no_cgroup, "memory cgroup: %s", strerror(-ret));
	self->swap = loop_open(MIB(16), 512);
	if (self->swap < 0)
		SKIP(goto no_swap, "loop device: %s", strerror(-self->swap));
	ret = swap_start(self->swap, MIB(16));
	if (ret)
		SKIP(goto no_swap, "swapon: %s", strerror(-ret));
	if (open_ends(_metadata, &self->buf, &udmabuf, &self->peer, PEER_FILE, true))
		return;
	swap_stop(self->swap);
no_swap:
	cgroup_write(CGROUP_ROOT, "cgroup.procs", "0");
no_cgroup:
	rmdir(self->cgroup);
}

FIXTURE_TEARDOWN(reclaim)
{
	peer_close(&self->peer);
	dmabuf_free(&self->buf);
	EXPECT_EQ(0, swap_stop(self->swap));
	cgroup_write(CGROUP_ROOT, "cgroup.procs", "0");
	rmdir(self->cgroup);
}

/*
 * The device has written the pages, the CPU has not: nobody but the exporter
 * can tell that they are dirty.
 */
TEST_F(reclaim, fill_survives_the_buffer)
{
	int memfd = self->buf.memfd[0];
	unsigned int tries;
	long pages;

	ASSERT_EQ(0, peer_fill(&self->peer, BUF_SIZE, SEED_FILE));
	ASSERT_EQ(BUF_SIZE, copy_all(self->peer.fd, 0, self->buf.fd, 0, BUF_SIZE));
	close(self->buf.fd);
	self->buf.fd = -1;
	pages = file_cached_pages(memfd, 0, BUF_SIZE);
	ASSERT_LT(0, pages);
	for (tries = 0; tries < 10; tries++)
		if (cgroup_write(self->cgroup, "memory.reclaim", "16M") == -EINVAL)
			break;
	if (file_cached_pages(memfd, 0, BUF_SIZE) == pages)
		SKIP(return, "no page was reclaimed");
	EXPECT_EQ(BUF_SIZE, file_match(memfd, 0, BUF_SIZE, SEED_FILE));
}

/* What the trace event says of a copy. */
FIXTURE(trace)
{
	struct dmabuf buf;
	struct peer peer;
	char instance[64];
};

FIXTURE_VARIANT(trace)
{
	bool direct;
};

FIXTURE_VARIANT_ADD(trace, buffered) { .direct = false };
FIXTURE_VARIANT_ADD(trace, direct) { .direct = true };

FIXTURE_SETUP(trace)
{
	char path[PATH_MAX];
	int ret;

	snprintf(self->instance, sizeof(self->instance),
		 "/sys/kernel/tracing/instances/dmabuf-cfr-%d", getpid());
	if (mkdir(self->instance, 0700))
		SKIP(return, "trace instance: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s/events/dma_buf/dma_buf_copy/enable",
		 self->instance);
	ret = write_text(path, "1");
	if (ret) {
		SKIP(rmdir(self->instance), "trace event: %s", strerror(-ret));
	} else if (open_ends(_metadata, &self->buf, &system_heap, &self->peer,
			     PEER_FILE, variant->direct)) {
		ASSERT_EQ(0, peer_fill(&self->peer, FILE_SIZE, SEED_FILE));
	} else {
		rmdir(self->instance);
	}
}

FIXTURE_TEARDOWN_PARENT(trace)
{
	rmdir(self->instance);
}

/* Does O_DIRECT do what it says on this file system? */
static bool read_is_direct(struct __test_metadata *_metadata, struct peer *peer)
{
	char *mem = aligned_alloc(KIB(64), KIB(64));
	bool cold;

	/* btrfs falls back where it would have to fault in memory. */
	memset(mem, 0, KIB(64));
	ASSERT_EQ(KIB(64), pread(peer->fd, mem, KIB(64), 0));
	free(mem);
	cold = !file_cached_pages(peer->plain, 0, 0);
	ASSERT_EQ(0, file_make_cold(peer->plain));
	return cold;
}

static void expect_event(struct __test_metadata *_metadata, const char *instance,
			 const char *expected)
{
	char path[PATH_MAX], line[512];
	bool seen = false;
	FILE *trace;

	snprintf(path, sizeof(path), "%s/trace", instance);
	trace = fopen(path, "r");
	ASSERT_NE(NULL, trace);
	while (fgets(line, sizeof(line), trace))
		if (strstr(line, " dma_buf_copy: ") && strstr(line, expected))
			seen = true;
	fclose(trace);
	EXPECT_TRUE(seen) {
		TH_LOG("no '%s' in the trace", expected);
	}
}

/* To the very end of a file that ends within a block. */
TEST_F(trace, fill)
{
	size_t len = MIB(1) + 1234, cached;
	char expected[128];

	if (variant->direct && !read_is_direct(_metadata, &self->peer))
		SKIP(return, "O_DIRECT goes through the page cache");
	ASSERT_EQ(0, ftruncate(self->peer.plain, len));
	ASSERT_EQ(0, file_make_cold(self->peer.plain));
	ASSERT_EQ(len, copy_range(self->peer.fd, 0, self->buf.fd, KIB(8), BUF_SIZE));
	cached = file_cached_pages(self->peer.plain, 0, 0);
	EXPECT_EQ(variant->direct, !cached);
	snprintf(expected, sizeof(expected),
		 "offset=%zu len=%zu fill asked_direct=%zu ret=%zu",
		 KIB(8), len, variant->direct ? len : 0, len);
	expect_event(_metadata, self->instance, expected);
}

/* The last part of a block can be written through the page cache only. */
TEST_F(trace, drain)
{
	size_t len = MIB(1) + 1234, tail = 1234 % self->peer.align.pos;
	size_t direct = variant->direct ? len - tail : 0;
	char expected[128];

	if (variant->direct && !read_is_direct(_metadata, &self->peer))
		SKIP(return, "O_DIRECT goes through the page cache");
	ASSERT_EQ(len, copy_range(self->buf.fd, KIB(8), self->peer.fd, 0, len));
	snprintf(expected, sizeof(expected),
		 "offset=%zu len=%zu drain asked_direct=%zu ret=%zu",
		 KIB(8), len, direct, len);
	expect_event(_metadata, self->instance, expected);
}

int main(int argc, char **argv)
{
	skip_old_kernel();
	return test_harness_run(argc, argv);
}
