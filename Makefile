# Every target works in a fresh clone: what it needs is installed into .venv first.
# A working C compiler makes treering faster; without one everything runs in pure Python.
#   TREERING_NATIVE=require   a failed native build is an error     TREERING_NATIVE=0   do not build it
#   ARGS='...'                passed on to pytest or the script
#   SCALE=20                  how many times longer than in `make test` the stores' batteries run in `make crash`

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
LOG    := $(VENV)/install.log
CORE   := src/treering/_core
# One process of tests for each processor. For one at a time: ALONG=
ALONG  ?= -n auto --dist worksteal
NATIVE  = $(wildcard $(CORE)/_codec_c.*.so)
say     = @printf '==> %s\n'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: demo test test-pure check format bench crash fuzz soak build clean help FORCE

demo: build ## show what treering does, in a minute
	@$(PY) demo/demo.py $(ARGS)

test: build $(VENV)/extra-test ## run all tests against the build at hand
	$(say) 'running the tests'
	@$(PY) -m pytest -q $(ALONG) $(ARGS)

test-pure: build $(VENV)/extra-test ## run the suites again in pure Python
	$(say) 'running the tests in pure Python'
	@TREERING_PURE=1 $(PY) -m pytest -q -m 'not slow' --ignore=tests/house $(ALONG) $(ARGS)

check: $(VENV)/extra-check ## lint, formatting, types, layers
	$(say) 'checking lint, formatting, types and layers'
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet . || { echo 'not formatted: run make format'; exit 1; }
	@$(PY) -m mypy
	@PYTHONPATH=src $(VENV)/bin/lint-imports --no-logo --cache-dir .cache/importlinter \
	    >$(VENV)/layers.log || { cat $(VENV)/layers.log; exit 1; }

format: $(VENV)/extra-check ## format the code and mend what can be mended
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

bench: build $(VENV)/extra-test $(VENV)/extra-bench ## compare with raw calls and peers (QUICK=1: a short run)
	@$(PY) bench/run.py $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

crash: build $(VENV)/extra-test ## power cuts, kills and failing disks, at length
	@$(PY) -m tests.battery.crash $(ARGS)
	$(say) 'the stores, at length'
	@TREERING_SCALE=$(or $(SCALE),20) $(PY) -m pytest -q -rP -k 'crash or model or processes' tests/stores

fuzz: build $(VENV)/extra-test $(VENV)/extra-fuzz ## hostile bytes, at length
	@$(PY) -m tests.battery.fuzz $(ARGS)

soak: build $(VENV)/extra-test ## many processes on one log, at length
	@$(PY) -m tests.battery.soak $(ARGS)

build: $(VENV)/core ## install treering into .venv, native if possible

clean: ## remove everything that was built or installed
	rm -rf $(VENV) .cache .hypothesis build dist src/*.egg-info $(CORE)/_codec_c.*.so
	find src tests bench demo -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- what the targets stand on -------------------------------------------------------------------

# The core is installed again when its native sources, the build files, or the compiler changed.
$(VENV)/core: pyproject.toml setup.py $(wildcard $(CORE)/*.pyx $(CORE)/*.pxd $(CORE)/*.h) \
              $(VENV)/settings | $(PY)
	$(say) 'building treering'
	@rm -f $(NATIVE)
	@$(PIP) install -v -e . >$(LOG) 2>&1 || { tail -n 25 $(LOG); exit 1; }
	@sed -n 's/^ *\(treering: .*\)/    \1/p' $(LOG) | tail -n 1
	@touch $@

# An extra's packages, without building treering once more.
$(VENV)/extra-%: pyproject.toml | $(PY)
	$(say) 'installing what "$*" needs'
	@$(PY) -c 'import sys, tomllib; \
	    project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    print(*project["optional-dependencies"][sys.argv[1]], sep="\n")' $* >$(VENV)/$*.txt
	@$(PIP) install -q -r $(VENV)/$*.txt
	@touch $@

$(PY):
	$(say) 'creating $(VENV)'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "treering needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

# A file that changes only when a setting of the native build does: the mode and the compiler found.
compiler := $(if $(filter default undefined,$(origin CC)),gcc,$(CC))
settings := $(filter 0,$(TREERING_NATIVE)) $(compiler) $(shell command -v $(firstword $(compiler))) $(CFLAGS)
$(VENV)/settings: FORCE | $(PY)
	@echo '$(settings)' | cmp -s - $@ || echo '$(settings)' >$@

# An earlier build that fell back to pure Python does not satisfy TREERING_NATIVE=require.
ifeq ($(TREERING_NATIVE)$(NATIVE),require)
$(VENV)/core: FORCE
endif
