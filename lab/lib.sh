# shellcheck shell=bash
# Shared by the scripts in lab/: where things are and how to say what went wrong.

# What a person's shell or an outer make has set must not get into our builds.
unset CDPATH MAKEFLAGS MFLAGS MAKEOVERRIDES ARCH CROSS_COMPILE KBUILD_OUTPUT O
export LC_ALL=C.UTF-8

# QEMU, which gets the terminal's ^C too, ends in order then; the scripts above it
# have to end as well, and not to go on with what comes next.
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '== %s\n' "$*" >&2; }

# die MESSAGE [WHAT TO DO]
die() {
	printf 'error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf '       %s\n' "$2" >&2
	exit 1
}

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A kernel's make runs elsewhere, so that no path may be relative.
BUILD=$(realpath -m -- "${BUILD:-$REPO/build}")
[ -z "${LINUX:-}" ] || LINUX=$(realpath -m -- "$LINUX")
# shellcheck disable=SC2034 # used by the scripts that source this file
CACHE=$(realpath -m -- "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}")/dmabuf-file-io
# shellcheck disable=SC2034 # used by the scripts that source this file
JOBS=$(nproc)

case $BUILD in
*[[:space:]:]*)
	die "the kernel cannot be built in '$BUILD', for its spaces or colons" \
	    "name another folder: make BUILD=/path/to/folder" ;;
esac
[ ! -e "$BUILD" ] || [ -w "$BUILD" ] ||
	die "no permission to write to $BUILD" "is it of a run as root? remove it, or name another BUILD"

# need_space DIR GIB WHAT
need_space() {
	local free

	mkdir -p "$1" || die "cannot create $1"
	free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge "$2" ] ||
		die "$3 needs $2 GiB in $1, which has $free GiB free" \
		    "make room, or set BUILD or XDG_CACHE_HOME to a larger disk"
}

# own_build: build/ is to be filled by us, and by make clean removed, if it is new
# or was ours before.
own_build() {
	[ -e "$BUILD/.tree.lock" ] || [ -z "$(ls -A "$BUILD" 2>/dev/null)" ] ||
		die "BUILD=$BUILD has files that are not the lab's" "name a folder that is empty, or a new one"
	mkdir -p "$BUILD" || die "cannot create $BUILD"
	: >> "$BUILD/.tree.lock"
}

# lock_build: one of us at a time makes things in build/. Those that a script with
# the lock starts have it too.
lock_build() {
	[ "${LAB_LOCKED:-}" != "$BUILD" ] || return 0
	exec 9> "$BUILD/.tree.lock"
	flock -n 9 || { say "waiting for the other run that builds in $BUILD"; flock 9; }
	export LAB_LOCKED=$BUILD
}

# as_root COMMAND...
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# need_root WHAT
need_root() {
	[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
		die "$1 needs root" "run it as root, or install sudo"
}
