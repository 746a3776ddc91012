# shellcheck shell=sh
# For the scripts that run in the guest.

# make_fs TYPE DEVICE DIR: a new file system, mounted.
make_fs() {
	case $1 in
	ext4) mkfs.ext4 -q -F "$2" ;;
	xfs) mkfs.xfs -q -f "$2" ;;
	f2fs) mkfs.f2fs -q -f "$2" > /dev/null ;;
	btrfs) mkfs.btrfs -q -f "$2" > /dev/null ;;
	*) echo "make_fs: what is $1?" >&2; return 1 ;;
	esac || return
	mkdir -p "$3" && mount -t "$1" "$2" "$3"
}

# drive N: the device of the N-th -d option of lab/vm. Namespaces are numbered in
# the order in which they are found.
drive() {
	for block in /sys/block/nvme*; do
		[ -e "$block/nsid" ] || continue
		if [ "$(tr -d ' \n' < "$block/device/serial")" = "lab$1" ] &&
		   [ "$(cat "$block/nsid")" = 1 ]; then
			echo "/dev/${block##*/}"
			return
		fi
	done
	echo "no drive $1" >&2
	return 1
}

# release_drives: take all drives from their driver. The debugging of the DMA API
# then tells of mappings that were left behind.
release_drives() {
	for device in /sys/bus/pci/drivers/nvme/*:*; do
		echo "${device##*/}" > /sys/bus/pci/drivers/nvme/unbind
	done
}

TRACING=/sys/kernel/tracing

# trace_start EVENT...: a fresh trace of these events
trace_start() {
	echo 0 > $TRACING/tracing_on
	echo > $TRACING/set_event
	echo 16384 > $TRACING/buffer_size_kb
	for event; do
		echo 1 > "$TRACING/events/$event/enable"
	done
	echo > $TRACING/trace
	echo 1 > $TRACING/tracing_on
}

trace_stop() {
	echo 0 > $TRACING/tracing_on
	echo > $TRACING/set_event
}
