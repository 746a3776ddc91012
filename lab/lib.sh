# shellcheck shell=bash
# Shared by the scripts in lab/: where things are and how to say what went wrong.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$REPO/build}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/dmabuf-file-io
# shellcheck disable=SC2034 # used by the scripts that source this file
JOBS=$(nproc)

say() { printf '== %s\n' "$*" >&2; }

# die MESSAGE [WHAT TO DO]
die() {
	printf 'error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf '       %s\n' "$2" >&2
	exit 1
}

# need_space DIR GIB WHAT
need_space() {
	local free

	mkdir -p "$1" || die "cannot create $1"
	free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge "$2" ] ||
		die "$3 needs $2 GiB in $1, which has $free GiB free" \
		    "make room, or set BUILD or XDG_CACHE_HOME to a larger disk"
}

# as_root COMMAND...
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "'$*' needs root" "run it as root, or install sudo"
	fi
}
