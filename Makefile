# Two commands: `make book` and `make test`. Both continue where they stopped and are quick the second time.
#   make book                 run every chapter at profile smoke, build the site with the published outputs
#   make book SITE=run        the same, but the site shows what was just executed here
#   make test                 everything that is tested
#   make test-device          every chapter on a simulated GPU
# PYTHON=python3.12 chooses the interpreter for a new environment, JOBS=4 the executions at once.

PYTHON ?= python3
SITE ?= published
PROFILE ?= smoke
JOBS ?=
STRICT ?=
VENV := .venv
PY := $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# CUDA builds of torch ask for libraries that CPU builds do without.
WANTS_CUDA := from importlib.metadata import requires; \
  raise SystemExit(not any(line.startswith(("nvidia-", "cuda-", "triton")) for line in requires("torch")))

.DEFAULT_GOAL := book
.PHONY: book test test-device torture mutation site lint check venv browser lock lowest clean

book: venv
	@$(PY) -m nbpkg.cli run --profile $(PROFILE) $(if $(JOBS),--jobs $(JOBS))
	@$(PY) -m nbpkg.cli site --from $(SITE) --profile $(PROFILE) $(if $(STRICT),--strict)

site: venv
	@$(PY) -m nbpkg.cli site --from $(SITE) --profile $(PROFILE) $(if $(STRICT),--strict)

test: venv browser lint
	@$(PY) -m nbpkg.cli check
	@$(PY) -m pytest $(PYTEST)

# Every chapter at smoke on a GPU that is simulated: ten minutes of one core, twice that with DEVICE=cpu.
test-device: venv
	@$(PY) -m pytest tests/device --all-chapters $(PYTEST)

# Breaks things on purpose, ten minutes of one core; FAULTS="images disks" breaks some.
torture: venv
	@$(PY) tests/torture.py $(FAULTS)

# Changes single lines of the code and asks whether the tests see it: half an hour of one core.
mutation: venv
	@$(PY) tests/mutation.py $(MUTANTS)

lint: venv
	@$(PY) -m ruff check --quiet .
	@$(VENV)/bin/lint-imports --no-cache

check: venv
	@$(PY) -m nbpkg.cli check

# The stamp is written last and holds a checksum of what was installed: an interrupted installation starts afresh,
# a changed lock is installed over the old one.
# The lock names the process that holds it: a second make waits, and one that was killed holds up nobody.
# Torch comes first and by itself: asked with hashes, pip prefers the index's CUDA build to a CPU build at hand.
venv:
	@set -eu; \
	wanted=$$(cat requirements.lock requirements-cuda.lock pyproject.toml | cksum); \
	whole() { [ -x $(PY) ] && [ "$$(cat $(VENV)/.installed 2>/dev/null || true)" = "$$wanted" ]; }; \
	if whole; then exit 0; fi; \
	[ -w . ] || { echo "error: this folder may not be written, and $(VENV) is to be made in it" >&2; exit 2; }; \
	until ln -s $$$$ $(VENV).lock 2>/dev/null; do \
	  kill -0 "$$(readlink $(VENV).lock)" 2>/dev/null || { rm -f $(VENV).lock; continue; }; \
	  [ -n "$${waits-}" ] || echo "waiting for another make that works on $(VENV)"; \
	  waits=1; sleep 0.2; \
	done; \
	trap 'rm -f $(VENV).lock' EXIT; trap 'exit 130' INT TERM; \
	if whole; then exit 0; fi; \
	if [ ! -x $(PY) ] || [ ! -f $(VENV)/.installed ]; then \
	  '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12" >&2; exit 2; }; \
	  echo "making $(VENV)"; \
	  '$(PYTHON)' -m venv --clear $(VENV) \
	    || { echo "error: could not make $(VENV); on Debian and Ubuntu install python3-venv" >&2; exit 2; }; \
	fi; \
	rm -f $(VENV)/.installed; \
	echo "installing from requirements.lock (a few minutes the first time)"; \
	rm -rf $(VENV)/torch; mkdir -p $(VENV)/torch; \
	$(PY) -m pip download --quiet --no-deps --dest $(VENV)/torch "$$(grep -o '^torch==[^ ]*' requirements.lock)"; \
	awk '/^[a-z]/ {kept = /^torch==/} kept' requirements.lock > $(VENV)/torch/lock; \
	$(PY) -m pip install --quiet --no-deps --require-hashes --no-index --find-links $(VENV)/torch -r $(VENV)/torch/lock; \
	rm -r $(VENV)/torch; \
	$(PY) -m pip install --quiet --no-deps --require-hashes -r requirements.lock; \
	if $(PY) -c '$(WANTS_CUDA)'; then \
	  echo "installing the CUDA libraries that this build of torch asks for"; \
	  $(PY) -m pip install --quiet --no-deps --require-hashes -r requirements-cuda.lock; \
	fi; \
	$(PY) -m pip install --quiet --quiet --no-deps --no-build-isolation -e .; \
	echo "$$wanted" > $(VENV)/.installed

# The site's tests need a browser; without one they are skipped and say so.
browser:
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "installing chromium for the site's tests"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium; } >/dev/null 2>&1 \
	      || echo "chromium could not be installed: the site's browser tests will be skipped"; \
	  else \
	    echo "no chromium here: the site's browser tests will be skipped"; \
	  fi; \
	fi

# Makes the locks anew from pyproject's ranges; pins that stand are kept.
lock: venv
	@$(PY) tests/lock.py

# Installs the lowest versions that pyproject allows into .venv-lowest and tries them.
lowest:
	@'$(PYTHON)' tests/lowest.py $(if $(TORCH),--torch $(TORCH))

clean:
	rm -rf _build runs .pytest_cache .ruff_cache .hypothesis
