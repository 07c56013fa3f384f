# Two commands: `make book` and `make test`. Both continue where they stopped and are quick the second time.
#   make book                 run every chapter at profile smoke, build the site with the published outputs
#   make book SITE=run        the same, but the site shows what was just executed here
#   make test                 everything that is tested
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

.DEFAULT_GOAL := book
.PHONY: book test site lint check venv browser clean

book: venv
	@$(PY) -m nbpkg.cli run --profile $(PROFILE) $(if $(JOBS),--jobs $(JOBS))
	@$(PY) -m nbpkg.cli site --from $(SITE) --profile $(PROFILE) $(if $(STRICT),--strict)

site: venv
	@$(PY) -m nbpkg.cli site --from $(SITE) --profile $(PROFILE) $(if $(STRICT),--strict)

test: venv browser lint
	@$(PY) -m nbpkg.cli check
	@$(PY) -m pytest $(PYTEST)

lint: venv
	@$(PY) -m ruff check --quiet .

check: venv
	@$(PY) -m nbpkg.cli check

# The stamp is written last and holds a checksum of what was installed: an interrupted installation starts afresh,
# a changed lock is installed over the old one.
venv:
	@set -eu; \
	wanted=$$(cat requirements.lock pyproject.toml | cksum); \
	if [ -x $(PY) ] && [ "$$(cat $(VENV)/.installed 2>/dev/null || true)" = "$$wanted" ]; then exit 0; fi; \
	if [ ! -x $(PY) ] || [ ! -f $(VENV)/.installed ]; then \
	  '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12" >&2; exit 2; }; \
	  echo "making $(VENV)"; \
	  '$(PYTHON)' -m venv --clear $(VENV) \
	    || { echo "error: could not make $(VENV); on Debian and Ubuntu install python3-venv" >&2; exit 2; }; \
	fi; \
	rm -f $(VENV)/.installed; \
	echo "installing from requirements.lock (a few minutes the first time)"; \
	$(PY) -m pip install --quiet -r requirements.lock; \
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .; \
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

clean:
	rm -rf _build runs .pytest_cache .ruff_cache .hypothesis
