# The doors of the project: `make demo`, `make test`, `make lint`. Each one prepares what it needs; running twice is fine.

# The interpreter of .venv; empty: the first candidate that is Python 3.11, 3.12 or 3.13.
PYTHON          ?=
CANDIDATES      := python3.11 python3.12 python3.13 python3 python
SYSTEM_PACKAGES := git-lfs slurm-wlm munge openssh-server rsync bubblewrap
PYTEST_ARGS     ?=

BIN   := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint format venv system-deps clean require-git

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: require-git $(STAMP)  ## record two experiments, compare them, run one again
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash experiments/digits/demo.sh

test: require-git lint  ## lint, types, import rules, then every test
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

venv: $(STAMP)  ## the virtual environment .venv, with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -c pass 2>/dev/null; then \
	    for candidate in $(or $(PYTHON),$(CANDIDATES)); do \
	        if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	            found=$$candidate; break; \
	        fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then \
	        echo "no Python 3.11, 3.12 or 3.13 here; install one (Debian: apt-get install python3 python3-venv)" >&2; \
	        echo "or name it: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.11" >&2; exit 1; \
	    fi; \
	    echo "making .venv with $$found"; \
	    "$$found" -m venv --clear .venv || { \
	        echo "$$found cannot make virtual environments (Debian: apt-get install python3-venv)" >&2; exit 1; }; \
	fi; \
	echo "installing nemo-gitexp and what it needs into .venv (minutes the first time)"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

system-deps:  ## as root on Debian: what the tests use beyond Python; the services of the packages are not started
	@set -e; \
	for package in $(SYSTEM_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$${missing:-} $$package"; \
	done; \
	if [ -z "$${missing:-}" ]; then echo "present: $(SYSTEM_PACKAGES)"; exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "not Debian: install$$missing by its own means" >&2; exit 1; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "needs root: sudo make system-deps (installs$$missing)" >&2; exit 1; fi; \
	if [ ! -e /usr/sbin/policy-rc.d ]; then \
	    trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
	    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
	fi; \
	apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

clean:  ## remove .venv and what the tools left
	rm -rf .venv build dist outputs *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

require-git:
	@command -v git >/dev/null || { echo "git is not installed (Debian: apt-get install git)" >&2; exit 1; }
	@said=$$(git rev-parse --verify 'HEAD^{commit}' 2>&1 >/dev/null) && [ -z "$$(git rev-parse --show-prefix)" ] || { \
	    case "$$said" in *"dubious ownership"*) echo "$$said" >&2; exit 1;; esac; \
	    echo "$(CURDIR) is no git repository with a commit, and experiments are commits. Type:" >&2; \
	    echo "    git init && git add -A && git commit -m import" >&2; exit 1; \
	}
