# The targets a newcomer needs: demo, test. The ones a developer needs: check, lock.
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; assert (3, 11) <= sys.version_info < (3, 14)' 2>/dev/null \
	&& command -v $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
# One thread: small networks are slower with more.
export OMP_NUM_THREADS := 1

.PHONY: demo demo-short install test learning metaworld thirdparty docs docs-test release check lint types lock clean

demo: install  ## meta-train two agents, evaluate them on held-out tasks
	$(BIN)/python scripts/train.py
	$(BIN)/python scripts/train.py maml-ppo --env navigation --iterations 20 --num-adaptations 1 \
		--validation-tasks 20 --evaluation-tasks 40

demo-short: install
	$(BIN)/python scripts/train.py --iterations 20
	$(BIN)/python scripts/train.py maml-ppo --env navigation --iterations 2 --evaluation-tasks 20

install: .venv/.installed

.venv/.installed: pyproject.toml requirements.lock
ifeq ($(PYTHON),)
	@echo "error: found no Python 3.11, 3.12 or 3.13 with venv (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2
endif
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' requirements.lock)"
	$(PIP) -e '.[dev]'
	touch $@

test: install  ## the unit tier
	$(BIN)/python -m pytest -n auto --dist loadfile --durations=15

learning: install  ## the tier that trains: a minute or so a test
	$(BIN)/python -m pytest -m learning -n auto --dist worksteal

metaworld: install  ## compare every Meta-World class with the official one: minutes
	$(BIN)/python -m pytest -m metaworld -n auto --dist worksteal

# An environment of its own: these packages are nobody's dependency here.
THIRDPARTY := ale-py dm-control flappy-bird-gymnasium "gymnasium[box2d]" gymnasium-robotics \
	gym-pusht highway-env minigrid opencv-python-headless panda-gym pettingzoo pygame shimmy
OWN := .venv-thirdparty/bin/python

thirdparty:  ## check environments of ten packages that nobody here wrote: minutes, not in CI
	test -x $(OWN) || $(PYTHON) -m venv .venv-thirdparty
	$(OWN) -m pip install -q --disable-pip-version-check -c requirements.lock "$$(grep '^torch==' requirements.lock)"
	$(OWN) -m pip install -q --disable-pip-version-check -c requirements.lock -e '.[dev]' $(THIRDPARTY)
	$(OWN) -m pytest -m thirdparty tests/thirdparty

docs: install  ## the pages as HTML, in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

docs-test: install  ## run every command, Python block and example of the pages, cut to two iterations
	$(BIN)/python -m pytest -m docs -n auto --dist worksteal

release: install  ## run all of them as they stand, and the learning tier with every seed: hours
	METARL_FULL=1 $(BIN)/python -m pytest -m "docs or learning" --timeout 0 --durations=0

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

check: lint types test  ## everything before a commit

lock: install  ## write requirements.lock from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf .venv build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache
