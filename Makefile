# Targets a person types; each does its own set-up, so that a fresh clone needs nothing before.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= $(shell tests/lab/find_python.sh)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv packages demo test test-all lint build bench clean
help:
	@echo "make demo      the main job on three real clients, an S3 server and playbooks (root; at most 5 minutes)"
	@echo "make test      all that CI runs"
	@echo "make test-all  also what is slow: other Pythons, molecule, ansible-test sanity"
	@echo "make lint      ruff, yamllint, ansible-lint (production)"
	@echo "make build     the collection's tarball, with the engine's wheel and agent.pyz inside"
	@echo "make bench     measures beside tar and restic, writes docs/benchmarks.md"
	@echo "make bench-schedule  all families of the scheduler against their goals; pictures and table of docs/scheduler.md"
	@echo "make venv      only the virtual environment; the command is then .venv/bin/stowage"

venv: $(VENV)/.stamp
$(VENV)/.stamp: pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . -r requirements-dev.txt
	$(BIN)/python -m compileall -q backupcore hookspecs
	touch $@

packages:
	@tests/lab/packages.sh

demo: packages venv
	$(BIN)/python tests/lab/demo.py

# The S3 server's packages come while pip installs; a test that finds them missing installs them, while others wait.
test: packages
	$(MAKE) -j2 s3-packages lint-quick
	tests/run.sh quick

.PHONY: s3-packages
s3-packages:
	-@[ "$$(id -u)" != 0 ] || tests/lab/packages.sh radosgw ceph-mon ceph-osd ceph-base ceph-common

test-all: packages venv lint
	tests/run.sh all

.PHONY: lint-quick
lint-quick: venv
	$(BIN)/ruff check .

lint: venv lint-quick
	$(BIN)/yamllint -s .
	tests/ansible_lint.sh

build: venv
	$(BIN)/python tests/build.py dist

bench: packages venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	$(BIN)/python bench/run.py docs/benchmarks.md

.PHONY: bench-schedule
bench-schedule: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	$(BIN)/python -m pytest tests/unit/bench
	$(BIN)/python bench/schedule/page.py docs

clean:
	rm -rf dist build *.egg-info
