// SPDX-License-Identifier: GPL-2.0
/*
 * I/O from an NVMe drive to the memory of another PCI device and back: memory
 * without pages, exported by vfio-pci, which takes it back when the device is
 * reset, its memory decoding is switched off, or it is closed.
 *
 * Environment:
 * DMABUF_IO_BDEV	NVMe block device to test, which LOSES ITS DATA
 * DMABUF_IO_VFIO	/dev/vfio/devices/vfioN of a device that is bound to
 *			vfio-pci and has plain memory behind a BAR
 * DMABUF_IO_VFIO_BAR	number of the BAR (2)
 *
 * The last test leaves the start of the drive in the BAR, for whoever can look
 * at it from the outside.
 */
#include "dma-buf-io.h"

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#define DEPTH	8
#define SLICE	KIB(512)

struct peer {
	int fd;
	int iommu;
	unsigned int bar;
	size_t size;
	off_t config;		/* of the config space in @fd */
	unsigned char *mem;	/* the device's own mapping of its memory */
	int dmabuf;
	const char *skip;
};

static int peer_region(struct peer *peer, unsigned int index, off_t *offset,
		       size_t *size)
{
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = index,
	};

	if (ioctl(peer->fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		return -errno;
	*offset = info.offset;
	*size = info.size;
	return 0;
}

static int peer_export(struct peer *peer)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf dmabuf;
		struct vfio_region_dma_range range;
	} arg = {
		.feature = {
			.argsz = sizeof(arg),
			.flags = VFIO_DEVICE_FEATURE_GET |
				 VFIO_DEVICE_FEATURE_DMA_BUF,
		},
		.dmabuf = {
			.region_index = peer->bar,
			.open_flags = O_RDWR | O_CLOEXEC,
			.nr_ranges = 1,
		},
		.range = { .length = peer->size },
	};
	int fd = ioctl(peer->fd, VFIO_DEVICE_FEATURE, &arg);

	return fd < 0 ? -errno : fd;
}

/* Memory decoding, as the device's driver would switch it. */
static int peer_decode(struct peer *peer, bool on)
{
	__u16 command;

	if (pread(peer->fd, &command, sizeof(command),
		  peer->config + PCI_COMMAND) != sizeof(command))
		return -EIO;
	if (on)
		command |= PCI_COMMAND_MEMORY;
	else
		command &= ~PCI_COMMAND_MEMORY;
	if (pwrite(peer->fd, &command, sizeof(command),
		   peer->config + PCI_COMMAND) != sizeof(command))
		return -EIO;
	return 0;
}

/* Sets peer->skip and returns 1 if there is nothing to test. */
static int peer_open(struct peer *peer)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	const char *path = getenv("DMABUF_IO_VFIO");
	const char *bar = getenv("DMABUF_IO_VFIO_BAR");
	size_t size;
	off_t mem;
	int ret;

	*peer = (struct peer) { .fd = -1, .iommu = -1, .dmabuf = -1 };
	if (!path || !*path) {
		peer->skip = "DMABUF_IO_VFIO names no device";
		return 1;
	}
	peer->bar = bar ? atoi(bar) : VFIO_PCI_BAR2_REGION_INDEX;
	peer->fd = open(path, O_RDWR | O_CLOEXEC);
	peer->iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (peer->fd < 0 || peer->iommu < 0)
		return -errno;
	bind.iommufd = peer->iommu;
	if (ioctl(peer->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return -errno;
	ret = peer_region(peer, VFIO_PCI_CONFIG_REGION_INDEX, &peer->config,
			  &size);
	if (!ret)
		ret = peer_decode(peer, true);
	if (!ret)
		ret = peer_region(peer, peer->bar, &mem, &peer->size);
	if (ret)
		return ret;
	peer->mem = mmap(NULL, peer->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			 peer->fd, mem);
	if (peer->mem == MAP_FAILED)
		return -errno;
	peer->dmabuf = peer_export(peer);
	return peer->dmabuf < 0 ? peer->dmabuf : 0;
}

static void peer_close_device(struct peer *peer)
{
	munmap(peer->mem, peer->size);
	close(peer->fd);
	close(peer->iommu);
	peer->fd = -1;
}

/*
 * Attachments of registered buffers of vfio-pci, which debugfs lists after the
 * line of each buffer.
 */
static long attachments(void)
{
	char line[1024];
	bool ours = false;
	long nr = 0;
	FILE *file = fopen("/sys/kernel/debug/dma_buf/io", "re");

	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file)) {
		if (line[0] != ' ')
			ours = strstr(line, "vfio");
		else if (ours)
			nr++;
	}
	fclose(file);
	return nr;
}

FIXTURE(p2p) {
	struct drive drive;
	struct peer peer;
	struct dmabuf_ring ring;
};

FIXTURE_SETUP(p2p)
{
	int ret = drive_open(&self->drive);

	if (ret > 0)
		SKIP(return, "%s", self->drive.skip);
	ASSERT_EQ(0, ret);
	ret = peer_open(&self->peer);
	if (ret > 0)
		SKIP(return, "%s", self->peer.skip);
	ASSERT_EQ(0, ret);
	ASSERT_LE((size_t)DEPTH * SLICE, self->peer.size);
	ASSERT_EQ(0, dmabuf_ring_init(&self->ring, 2 * DEPTH, 0));
	ASSERT_EQ(0, dmabuf_ring_table(self->ring.fd, 1));
	ASSERT_EQ(1, dmabuf_ring_register(self->ring.fd, 0, self->peer.dmabuf,
					  self->drive.fd));
}

FIXTURE_TEARDOWN(p2p)
{
	unsigned int i;

	dmabuf_ring_exit(&self->ring);
	if (self->peer.fd >= 0)
		peer_close_device(&self->peer);
	/* What was registered is let go of soon. */
	for (i = 0; i < 500 && attachments() > 0; i++)
		sleep_ms(10);
	EXPECT_GE(0, attachments());
	close(self->peer.dmabuf);
	close(self->drive.fd);
}

static const struct {
	size_t offset;
	size_t len;
} ranges[] = {
	{ 0, 512 }, { 512, 4096 }, { 4096, 4096 }, { 8192, KIB(64) },
	{ 1024, KIB(128) }, { KIB(60), MIB(1) }, { 0, MIB(4) },
	{ MIB(1) + 1536, MIB(2) - 512 },
};

static size_t peer_poisoned(struct peer *peer, size_t from, size_t to)
{
	return byte_match(peer->mem + from, to - from, POISON);
}

/* Each byte that the drive wrote is looked at through the other device. */
TEST_F_TIMEOUT(p2p, read, SLOW_TIMEOUT)
{
	struct peer *peer = &self->peer;
	unsigned int i;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(8), SEED_DRIVE));
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		size_t offset = ranges[i].offset, len = ranges[i].len;
		size_t pos = i * KIB(16);

		memset(peer->mem, POISON, MIB(8));
		ASSERT_EQ((int)len, dmabuf_ring_rw(&self->ring,
						   IORING_OP_READ_FIXED,
						   self->drive.fd, 0, offset,
						   len, pos));
		EXPECT_EQ(len, pattern_match(peer->mem + offset, len,
					     SEED_DRIVE, pos));
		EXPECT_EQ(offset, peer_poisoned(peer, 0, offset));
		EXPECT_EQ(MIB(8) - offset - len,
			  peer_poisoned(peer, offset + len, MIB(8)));
	}
}

TEST_F_TIMEOUT(p2p, write, SLOW_TIMEOUT)
{
	struct peer *peer = &self->peer;
	unsigned int i;

	pattern_fill(peer->mem, MIB(8), SEED_BUF, 0);
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		size_t offset = ranges[i].offset, len = ranges[i].len;
		size_t pos = MIB(1);

		ASSERT_EQ(0, file_fill(self->drive.fd, 0, MIB(8), SEED_OLD));
		ASSERT_EQ((int)len, dmabuf_ring_rw(&self->ring,
						   IORING_OP_WRITE_FIXED,
						   self->drive.fd, 0, offset,
						   len, pos));
		EXPECT_EQ((ssize_t)len, file_match_at(self->drive.fd, pos, len,
						      SEED_BUF, offset));
		EXPECT_EQ((ssize_t)pos, file_match(self->drive.fd, 0, pos,
						   SEED_OLD));
		EXPECT_EQ(MIB(8) - pos - len,
			  file_match(self->drive.fd, pos + len,
				     MIB(8) - pos - len, SEED_OLD));
	}
}

static int submit_reads(struct dmabuf_ring *ring, int fd)
{
	unsigned int i;

	for (i = 0; i < DEPTH; i++)
		dmabuf_ring_prep(dmabuf_ring_sqe(ring), IORING_OP_READ_FIXED,
				 fd, 0, i * SLICE, SLICE, i * SLICE);
	return dmabuf_ring_submit(ring);
}

/* What may become of I/O when the memory goes. */
static bool is_outcome(int res)
{
	return res == (int)SLICE || res == -ENODEV;
}

static int reap_any(struct dmabuf_ring *ring, unsigned int *failed)
{
	struct io_uring_cqe cqe;
	unsigned int i;

	for (i = 0; i < DEPTH; i++) {
		int ret = dmabuf_ring_wait(ring, &cqe);

		if (ret)
			return ret;
		if (!is_outcome(cqe.res))
			return cqe.res < 0 ? cqe.res : -EIO;
		*failed += cqe.res < 0;
	}
	return 0;
}

static int read_one(struct dmabuf_ring *ring, int fd)
{
	return dmabuf_ring_rw(ring, IORING_OP_READ_FIXED, fd, 0, 0, SLICE, 0);
}

TEST_F_TIMEOUT(p2p, decoding_off, SLOW_TIMEOUT)
{
	struct peer *peer = &self->peer;
	unsigned int i, failed = 0;
	int ret;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, DEPTH * SLICE, SEED_DRIVE));
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd));
		ASSERT_EQ(0, peer_decode(peer, false));
		ASSERT_EQ(0, reap_any(&self->ring, &failed));

		ret = read_one(&self->ring, self->drive.fd);
		EXPECT_EQ(-ENODEV, ret);

		ASSERT_EQ(0, peer_decode(peer, true));
		memset(peer->mem, POISON, SLICE);
		ASSERT_EQ((int)SLICE, read_one(&self->ring, self->drive.fd));
		ASSERT_EQ(SLICE, pattern_match(peer->mem, SLICE, SEED_DRIVE, 0));
	}
	TH_LOG("%u of %u reads found the memory gone", failed, 20 * DEPTH);
}

/* The memory comes and goes while I/O is being submitted, too. */
struct toggler {
	struct peer *peer;
	pthread_t thread;
	bool stop;
	int ret;
};

static void *toggle(void *data)
{
	struct toggler *t = data;
	__u64 random = 1;

	while (!t->ret && !__atomic_load_n(&t->stop, __ATOMIC_ACQUIRE)) {
		t->ret = peer_decode(t->peer, false);
		usleep(next_random(&random) % 3000);
		if (!t->ret)
			t->ret = peer_decode(t->peer, true);
		usleep(next_random(&random) % 3000);
	}
	return NULL;
}

TEST_F_TIMEOUT(p2p, decoding_storm, SLOW_TIMEOUT)
{
	struct toggler toggler = { .peer = &self->peer };
	unsigned int i, failed = 0;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, DEPTH * SLICE, SEED_DRIVE));
	ASSERT_EQ(0, pthread_create(&toggler.thread, NULL, toggle, &toggler));
	for (i = 0; i < 200; i++) {
		ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd));
		ASSERT_EQ(0, reap_any(&self->ring, &failed));
	}
	__atomic_store_n(&toggler.stop, true, __ATOMIC_RELEASE);
	ASSERT_EQ(0, pthread_join(toggler.thread, NULL));
	ASSERT_EQ(0, toggler.ret);
	TH_LOG("%u of %u reads found the memory gone", failed, 200 * DEPTH);
	EXPECT_LT(0, failed);
	EXPECT_GT(200 * DEPTH, failed);

	memset(self->peer.mem, POISON, SLICE);
	ASSERT_EQ((int)SLICE, read_one(&self->ring, self->drive.fd));
	ASSERT_EQ(SLICE, pattern_match(self->peer.mem, SLICE, SEED_DRIVE, 0));
}

TEST_F_TIMEOUT(p2p, reset, SLOW_TIMEOUT)
{
	struct peer *peer = &self->peer;
	unsigned int i, failed = 0;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, DEPTH * SLICE, SEED_DRIVE));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd));
		if (ioctl(peer->fd, VFIO_DEVICE_RESET)) {
			reap_any(&self->ring, &failed);
			SKIP(return, "the device can't be reset: %s",
			     strerror(errno));
		}
		ASSERT_EQ(0, reap_any(&self->ring, &failed));

		ASSERT_EQ(0, peer_decode(peer, true));
		memset(peer->mem, POISON, SLICE);
		ASSERT_EQ((int)SLICE, read_one(&self->ring, self->drive.fd));
		ASSERT_EQ(SLICE, pattern_match(peer->mem, SLICE, SEED_DRIVE, 0));
	}
	TH_LOG("%u of %u reads found the memory gone", failed, 5 * DEPTH);
}

TEST_F_TIMEOUT(p2p, closed, SLOW_TIMEOUT)
{
	unsigned int failed = 0;
	int ret;

	ASSERT_EQ(DEPTH, submit_reads(&self->ring, self->drive.fd));
	peer_close_device(&self->peer);
	ASSERT_EQ(0, reap_any(&self->ring, &failed));
	ret = read_one(&self->ring, self->drive.fd);
	EXPECT_EQ(-ENODEV, ret);
	ASSERT_EQ(1, dmabuf_ring_unregister(self->ring.fd, 0));
	ret = dmabuf_ring_register(self->ring.fd, 0, self->peer.dmabuf,
				   self->drive.fd);
	EXPECT_EQ(-ENODEV, ret);
}

TEST_F_TIMEOUT(p2p, the_drive_in_the_bar, SLOW_TIMEOUT)
{
	struct peer *peer = &self->peer;
	size_t pos;

	ASSERT_EQ(0, file_fill(self->drive.fd, 0, peer->size, SEED_DRIVE));
	memset(peer->mem, POISON, peer->size);
	for (pos = 0; pos < peer->size; pos += MIB(1))
		ASSERT_EQ((int)MIB(1), dmabuf_ring_rw(&self->ring,
						      IORING_OP_READ_FIXED,
						      self->drive.fd, 0, pos,
						      MIB(1), pos));
	EXPECT_EQ(peer->size, pattern_match(peer->mem, peer->size, SEED_DRIVE,
					    0));
}

TEST_HARNESS_MAIN
