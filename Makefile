# On Debian 12 or 13, as root or with sudo, from a clean clone: `make demo` and `make test` set up all that they need.

SHELL := /bin/bash
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# The system's own python first: one below somebody's home is closed to the ordinary user that the tests run rexec as.
PYTHON := $(firstword $(wildcard /usr/bin/python3 /usr/local/bin/python3) python3)
PACKAGES := remoteio checkpoint shim
SOURCES := $(PACKAGES) tests

APT_DEMO := python3-venv openssh-client
# What makes the hosts; then what the tests run on them, as users do.
APT_TEST := $(APT_DEMO) debootstrap iproute2 util-linux \
	acl attr dbus-daemon default-jdk-headless fish gcc git ksh less libc6-dev make nodejs procps rsync sqlite3 tcsh tmux \
	uidmap vim xdotool xprintidle xvfb zsh
APT_BENCH := $(APT_TEST) fuse3 kmod libfuse2 openssh-server sshfs

# Root leaves no files of its own in the checkout; sudo passes no variables on but these.
AS_ROOT := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(if $(SUDO),HYPOTHESIS_STORAGE_DIRECTORY=/var/tmp/rexec-hypothesis) \
	$(foreach name,REXEC_DESK REXEC_DESK_CACHE REXEC_MIRROR,$(if $($(name)),$(name)=$($(name))))

.PHONY: help setup compiled demo check test test-all test-long test-pool lint fuzz bench bench-checkpoint lock clean root fresh
.DELETE_ON_ERROR:

help: ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 18

setup: .venv/dev ## .venv, with what the tests need: installs Debian packages that are missing

# Root's rights are asked for once, at the start, in a sentence.
root:
	@[ -z "$(SUDO)" ] || sudo -v || { echo "make: this needs root's rights: run it as root, or as a user who may use sudo" >&2; exit 1; }

demo: .venv/demo ## run a job on this machine, by the same path as over ssh
	@[ ! -e /dev/fuse ] || [ -r /dev/fuse -a -w /dev/fuse ] || \
		{ echo "Opening /dev/fuse to all users, as Debian has it where udev runs"; $(SUDO) chmod 666 /dev/fuse; }
	@docs/demo.sh .venv/bin/rexec

# Side by side: most tests wait most of the time. A test file alone, in one process: .venv/bin/python -m pytest tests/FILE
RUN_TESTS = $(AS_ROOT) .venv/bin/python -m pytest --no-skips -n auto --dist worksteal $(if $(SUDO),-p no:cacheprovider)

# Tests and benchmarks start rexec thousands of times, which would compile itself each time.
compiled: ## compile rexec, as an installation is
	@"$(PYTHON)" -m compileall -q $(PACKAGES)

# What needs no host: some of it mounts, as root.
check: root .venv/dev compiled lint ## lint, and the tests that need no host
	$(RUN_TESTS) tests/unit tests/property $(PYTEST)

test: root .venv/dev compiled lint ## all tests but the long matrix, against two hosts made on this machine
	$(RUN_TESTS) $(PYTEST)

test-all: root .venv/dev compiled lint ## all tests
	$(RUN_TESTS) --all $(PYTEST)

test-long: root .venv/dev compiled lint ## what test-all has beyond test but for the longest, and again what needs no host
	$(RUN_TESTS) --long $(PYTEST)

test-pool: root .venv/dev compiled ## those of test-all on HTCondor pools and a Slurm cluster, which they make, and with Parsl
	$(RUN_TESTS) --all $(patsubst %,tests/functional/test_%.py,pools pool_moves condor_pool personal_pool slurm_cluster parsl) $(PYTEST)

lint: .venv/dev ## ruff and mypy
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy

fuzz: .venv/fuzz ## fuzz each parser for FUZZ_SECONDS (600); FUZZ="NAME…": only these
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) .venv/bin/python -m tests.fuzz $(FUZZ)

bench: root .venv/bench compiled ## compare with ssh, sshfs and outrun
	$(AS_ROOT) .venv/bin/python -m tests.bench $(BENCH)

bench-checkpoint: root .venv/dev compiled ## measure moves
	$(AS_ROOT) .venv/bin/python -m tests.bench.checkpoint $(BENCH)

# Runs a command in a clone of HEAD on a machine that has nothing of ours: make fresh FRESH="--suite trixie make test"
fresh: root ## run a command in a clone on a machine that has nothing of ours
	@$(call apt,debootstrap git)
	$(AS_ROOT) "$(PYTHON)" -m tests.fresh_root $(FRESH)

COMPILE = sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-header --no-annotate --no-emit-index-url pyproject.toml -

lock: ## write .ci/requirements anew, of the newest versions that pyproject.toml allows; needs uv
	$(COMPILE) -o .ci/requirements/run.txt
	$(COMPILE) --extra dev -o .ci/requirements/dev.txt
	$(COMPILE) --extra dev --extra bench -o .ci/requirements/bench.txt
	$(COMPILE) --extra dev --extra fuzz -o .ci/requirements/fuzz.txt

clean: ## take down the hosts, and remove what was made here
	[ ! -e .venv/dev ] || $(AS_ROOT) .venv/bin/python -m tests.desk down
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

.venv/demo: APT := $(APT_DEMO)
.venv/demo: LOCKS := run
.venv/dev: APT := $(APT_TEST)
.venv/dev: LOCKS := dev
.venv/bench: APT := $(APT_BENCH)
.venv/bench: LOCKS := dev bench
.venv/fuzz: APT := $(APT_DEMO)
.venv/fuzz: LOCKS := fuzz

# All that is installed is in the lock files, by its hash, with what it depends on and what builds it.
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation

# Each of these files is a mark that .venv has that much in it.
.venv/demo .venv/dev .venv/bench .venv/fuzz: pyproject.toml Makefile $(wildcard .ci/requirements/*.txt)
	@$(call apt,$(APT))
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11, which rexec needs; say make PYTHON=/path/to/a/newer/python3" >&2; exit 1; }
	@echo "Setting up .venv"
	@"$(PYTHON)" -m venv .venv
	@for lock in $(LOCKS); do $(PIP) --require-hashes -r .ci/requirements/$$lock.txt || exit 1; done
	@$(PIP) -e .
	@touch $@

# Installs those of the Debian packages $(1) that are missing, asking nothing and, when none is, nobody.
define apt
missing=; for package in $(1); do \
	[ "$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || missing="$$missing $$package"; \
done; \
[ -z "$$missing" ] || { echo "Installing$$missing"; \
	$(SUDO) apt-get -qq update && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing >/dev/null; } || \
{ echo "make: these Debian packages could not be installed:$$missing; install them and run make again" >&2; exit 1; }
endef
