# The front door: `make run` and `make test` are what people need.
# Each target does its own set-up. `make help` lists them.

LAB = lab
export BUILD LINUX

.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^#? //p' Makefile

#? make run [FILE=path]   load FILE into a dma-buf on ext4 and xfs, verify it
.PHONY: run
run:
	@FILE='$(subst ','\'',$(value FILE))' $(LAB)/run

#? make test [T=name]     build both kernels and run the tests, or those in T
.PHONY: test
test:
	@$(LAB)/test $(T)

#? make shell             a prompt in the guest, with drives and tools
.PHONY: shell
shell: build
	@$(LAB)/vm -d size=1G -d size=1G

#? make build             fetch, patch and build the release kernel and the tools
.PHONY: build
build:
	@$(LAB)/build release

#? make tree              only fetch and patch the kernel, in build/linux
.PHONY: tree
tree:
	@$(LAB)/setup && $(LAB)/tree

#? make bench [ROW=name]  measure in guest instructions, against the base kernel
.PHONY: bench
bench:
	@ROW='$(subst ','\'',$(value ROW))' $(LAB)/bench

#? make fuzz [SECONDS=n]  random calls on the debug kernel; SEED=n repeats a run
.PHONY: fuzz
fuzz:
	@$(LAB)/build debug && $(LAB)/fuzz $(or $(SECONDS),60) $(SEED)

#? make check [C=name]    static checks: checkpatch, sparse, clang, other configurations
.PHONY: check
check:
	@$(LAB)/check $(C)

#? make series [VANILLA=1] the patches as mails, in build/series
.PHONY: series
series:
	@VANILLA='$(subst ','\'',$(value VANILLA))' $(LAB)/series

#? make bisect            each patch builds; each series boots and passes a test
.PHONY: bisect
bisect:
	@$(LAB)/bisect

#? make deb [CONFIG=path] the patched kernel as Debian packages, in build/deb
.PHONY: deb
deb:
	@$(LAB)/deb '$(subst ','\'',$(value CONFIG))'

#? make clean             remove build/; downloads and ccache stay
.PHONY: clean
clean:
	@$(LAB)/clean

#?
#? LINUX=path             use this unpacked 7.3 tree instead of Debian's package
#? BUILD=path             build there instead of in build/

.DEFAULT:
	@echo "error: no target '$@'; 'make help' lists them" >&2; exit 2
