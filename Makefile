# make demo   the show: two unmodified web applications on uringloop, checked and compared
# make test   the test suite
# make test-glib  most of it once more, inside GLib's main loops
# make test-in-interpreter  the behaviour tests inside a sub-interpreter (Python 3.13 and newer)
# make test-free-threaded  the tests without a GIL; make python-free-threaded compiles the Pythons
# make test-thread-sanitizer  loops in threads that call each other, under ThreadSanitizer
# make fuzz-parsers  bytes from outside under libFuzzer and sanitizers
# make test-valgrind  small programs under valgrind's memcheck
# make simulate  servers and clients on a simulated kernel, with faults from fresh seeds
# make fuzz  random programs, compared with stock asyncio
# make soak  millions of messages, connections, files; hours, goes on where it was interrupted
# make kernels  the tests on Debian's kernels, each in QEMU
# make mutants  plants bugs in a copy, one at a time, and shows that the tests notice each
# make test-integrations  web servers, frameworks and clients on it, each in an environment of its own
# They prepare everything themselves (Debian packages where missing, a virtual environment, the build) and are
# quick the second time. Variables: PYTHON (3.11 or newer), VENV, DEMO_ARGS, PYTEST_ARGS, BENCH_ARGS, and PROCESSES:
# how many the tests run in (a number, or auto: one per CPU; 0 is pytest itself, for a debugger).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
PYTEST_ARGS ?=
INTEGRATIONS_ARGS ?=
FUZZ_PARSERS_ARGS ?=
VALGRIND_ARGS ?=
SIMULATE_ARGS ?=
FUZZ_ARGS ?=
SOAK_ARGS ?= --json build/soak.json
KERNELS ?= 5.10 6.1 6.12 newest
KERNELS_ARGS ?=
MUTANTS_ARGS ?=
BENCH_ARGS ?= --quick
GATE_ARGS ?=
PROCESSES ?= auto

STAMPS := $(VENV)/.stamps
VPYTHON := $(VENV)/bin/python
PIP := $(VPYTHON) -m pip --disable-pip-version-check
PYTEST := $(VPYTHON) -m pytest --numprocesses $(PROCESSES) --maxprocesses 8

# What the compiled modules are made of. The install is editable, so other Python files need no new build; those
# in liburing/ do, because they may be what generates the cffi module.
SOURCES := setup.py pyproject.toml $(shell find building third_party -type f -not -name '*.pyc') $(shell find uringloop -type f \
	\( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -path 'uringloop/liburing/*.py' \))

.PHONY: help wheels build drivers demo test test-glib test-in-interpreter test-free-threaded test-thread-sanitizer \
	python-free-threaded fuzz fuzz-parsers test-valgrind simulate soak kernels mutants test-integrations check-all lint docs \
	bench gate clean

help:
	@echo "make demo    two unmodified web applications on uringloop, checked, and compared with asyncio and uvloop"
	@echo "make test    the test suite (PYTEST_ARGS='-k tcp')"
	@echo "make test-glib  most tests of what users see once more, with GLib (PyGObject) as the outer loop"
	@echo "make test-in-interpreter  the behaviour tests inside a sub-interpreter (Python 3.13 and newer)"
	@echo "make test-free-threaded  the tests without a GIL (FREE_THREADED='3.13 3.14'); make python-free-threaded compiles these"
	@echo "make test-thread-sanitizer  loops in threads that call each other, without a GIL, under ThreadSanitizer"
	@echo "make fuzz-parsers  what reads bytes from outside, with coverage (FUZZ_PARSERS_ARGS='--seconds 600 tls')"
	@echo "make test-valgrind  small programs under valgrind's memcheck, half a minute each (VALGRIND_ARGS='echo --monitor poll')"
	@echo "make simulate  hours of traffic on a simulated kernel, with faults from fresh seeds (SIMULATE_ARGS='--runs 1000')"
	@echo "make fuzz  random programs that must see the same as on stock asyncio (FUZZ_ARGS='--minutes 10 --machine tls')"
	@echo "make soak  millions of messages, connections, loops, files, children (SOAK_ARGS='--scale 0.01 --json soak.json')"
	@echo "make kernels  the tests on other kernels, in QEMU, minutes each (KERNELS='6.1 6.12-arm64' KERNELS_ARGS=--record)"
	@echo "make mutants  bugs planted in a copy, one at a time: the tests must notice each (MUTANTS_ARGS='--only early-release')"
	@echo "make test-integrations  frameworks on uringloop: docs/integrations.md (INTEGRATIONS_ARGS='--only fastapi')"
	@echo "make check-all  lint, both of these, the tests of four other builds (LANES) and without a GIL: two hours"
	@echo "make lint    ruff, cython-lint, mypy, codespell, the forms of workflows"
	@echo "make docs    the documentation site, in build/site"
	@echo "make bench   quick benchmarks against asyncio and uvloop (BENCH_ARGS=...)"
	@echo "make gate    count instructions of a dozen paths, compare them with benchmarks/gate/reference.json"
	@echo "make drivers  compile the tests' own modules, for those who start pytest themselves"
	@echo "make wheels  wheels for other machines into dist/, by every Python from 3.11 on that is here, made twice"
	@echo "make build   only compile and install into $(VENV)"
	@echo "make clean   remove $(VENV) and everything that was built"

build: $(STAMPS)/package

# WHEELS='--python python3.13 --target x86_64': only these; see tools/wheels.py.
wheels:
	@"$(PYTHON)" tools/wheels.py --check $(WHEELS)

drivers: $(STAMPS)/drivers

demo: $(STAMPS)/package $(STAMPS)/demo
	@$(VPYTHON) examples/demo.py $(DEMO_ARGS)

test: $(STAMPS)/drivers $(STAMPS)/test
	@mkdir -p build
	@$(PYTEST) --junitxml=build/tests.xml $(PYTEST_ARGS)

# GLib.MainLoop.run() as what runs the loop; then, inside GLib's contexts, what is about run_forever() itself.
GLIB_INNER := $(addprefix tests/behaviour/,loop/test_running.py loop/test_interrupted_runs.py \
	streams/test_interrupted_callbacks.py nested/test_nested.py $(addprefix nested/test_nested_,cancellation.py \
	deadlocks.py ends.py io.py misuse.py mode.py order.py programs.py))

test-glib: $(STAMPS)/drivers $(STAMPS)/test
	@mkdir -p build
	@$(PYTEST) --glib-outer --junitxml=build/tests-glib-outer.xml --monitor uringloop $(PYTEST_ARGS) \
		tests/behaviour $(addprefix --ignore=,$(GLIB_INNER))
	@$(PYTEST) --glib --junitxml=build/tests-glib.xml --monitor uringloop $(PYTEST_ARGS) $(GLIB_INNER)

# The behaviour tests inside a sub-interpreter with a GIL of its own, from Python 3.13 on. Those of signals, daemon
# threads and preexec_fn fail there, with stock asyncio as well.
test-in-interpreter: $(STAMPS)/drivers $(STAMPS)/test
	@$(VPYTHON) tests/in_interpreter.py -q -p no:cacheprovider --continue-on-collection-errors $(PYTEST_ARGS) \
		tests/behaviour

# Pythons without a GIL, from Debian's sources: minutes each, once. PYTHON_FREE_THREADED=/path/to/python3.14t: that one.
FREE_THREADED ?= 3.13 3.14
PYTHON_FREE_THREADED ?= $(foreach version,$(FREE_THREADED),$(CURDIR)/build/free-threaded/$(version)t/bin/python$(version)t)

python-free-threaded:
	@$(if $(filter environment command,$(origin PYTHON_FREE_THREADED)),,for version in $(FREE_THREADED); do \
		tools/free_threaded_python.sh $$version build/free-threaded/$${version}t; done)

test-free-threaded: python-free-threaded
	@for python in $(PYTHON_FREE_THREADED); do \
		PYTHON_FREE_THREADED=$$python PROCESSES=$(PROCESSES) tools/lane.sh free-threaded $(PYTEST_ARGS); done

# The same under ThreadSanitizer, which the Python needs as well: compiled with it, as above.
PYTHON_SANITIZED ?= $(CURDIR)/build/free-threaded/3.14t-sanitized/bin/python3.14t

test-thread-sanitizer: $(STAMPS)/package
	@$(if $(filter environment command,$(origin PYTHON_SANITIZED)),,PYTHON_CONFIGURE=--with-thread-sanitizer \
		tools/free_threaded_python.sh 3.14 build/free-threaded/3.14t-sanitized)
	@PYTHON_FREE_THREADED=$(PYTHON_SANITIZED) tools/lane.sh thread-sanitizer

# A minute for each target of tests/fuzz, on a build by clang; what it finds new goes to build/fuzz.
fuzz-parsers: $(STAMPS)/drivers $(STAMPS)/fuzz
	@tools/system_packages.sh "$(PYTHON)" fuzz
	@tools/lane.sh fuzz $(FUZZ_PARSERS_ARGS)

test-valgrind: $(STAMPS)/drivers $(STAMPS)/test
	@tools/system_packages.sh "$(PYTHON)" gate
	@$(VPYTHON) -m tests.stress.memcheck $(VALGRIND_ARGS)

# The fixed set of seeds is a part of `make test`.
simulate: $(STAMPS)/package
	@$(VPYTHON) -m tests.simulation $(SIMULATE_ARGS)

# A fixed set of programs is a part of `make test`.
fuzz: $(STAMPS)/package $(STAMPS)/test
	@$(VPYTHON) -m tests.differential $(FUZZ_ARGS)

soak: $(STAMPS)/package
	@mkdir -p build
	@$(VPYTHON) -m tests.stress.soak $(SOAK_ARGS)

# Kernels and a root file system from Debian's mirror, in build/kernels. The drivers' stamp brings what a wheel needs.
kernels: $(STAMPS)/drivers $(STAMPS)/test
	@tools/system_packages.sh "$(PYTHON)" kernels $(KERNELS)
	@$(VPYTHON) tools/kernels --kernels $(KERNELS) $(KERNELS_ARGS)

# One module is compiled and a few tests are run for each: ten minutes in all.
mutants: $(STAMPS)/drivers $(STAMPS)/test
	@$(VPYTHON) -m tests.mutants $(MUTANTS_ARGS)

# Each framework in an environment below build/integrations, with a wheel of this checkout; downloads a lot.
test-integrations: $(STAMPS)/package
	@$(VPYTHON) -m tests.integrations $(INTEGRATIONS_ARGS)

# The tests against other builds, see tools/lane.sh: `make lane-debug PYTEST_ARGS=tests/unit`.
LANES ?= debug sanitized without-liburing wheel sub-interpreters

check-all: lint test test-glib $(addprefix lane-,$(LANES)) test-free-threaded test-thread-sanitizer

lane-%: $(STAMPS)/drivers $(STAMPS)/test
	@PROCESSES=$(PROCESSES) tools/lane.sh $* $(PYTEST_ARGS)

# From 3.51 on it needs girepository-2.0, which came with GLib 2.80 (Debian 13).
PYGOBJECT = $(if $(shell pkg-config --exists girepository-2.0 && echo yes),'PyGObject>=3.51','PyGObject>=3.42,<3.51')

# cython-lint starts pycodestyle from PATH.
lint: $(STAMPS)/dev
	$(VPYTHON) -m ruff check .
	$(VPYTHON) -m ruff format --check .
	PATH="$(VENV)/bin:$$PATH" cython-lint uringloop
	$(VENV)/bin/codespell
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(VENV)/bin/zizmor --offline --quiet .github/workflows
	if grep -q '^\[tool\.mypy\]' pyproject.toml; then $(VPYTHON) -m mypy; fi

# The reference comes from the docstrings of the package. A warning is an error: a link that leads nowhere, too.
docs: $(STAMPS)/package $(STAMPS)/docs
	@$(VPYTHON) -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/site
	@echo "build/site/index.html"

bench: $(STAMPS)/drivers $(STAMPS)/bench
	@$(VPYTHON) -m benchmarks run $(BENCH_ARGS)

# Instructions, not time: it runs on a busy machine, too. The drivers' stamp brings what the reference's build needs.
gate: $(STAMPS)/drivers
	@tools/system_packages.sh "$(PYTHON)" gate
	@$(VPYTHON) -m benchmarks gate $(GATE_ARGS)

clean:
	if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find uringloop tests -type f -name '*.so' -delete
	find . -path ./.git -prune -o -type d -name __pycache__ -exec rm -rf {} +

$(STAMPS)/python:
	@tools/system_packages.sh "$(PYTHON)" build
	"$(PYTHON)" -m venv "$(VENV)"
	@mkdir -p $(STAMPS) && touch $@

# -v, because the log is where Cython's warnings and performance hints are looked for.
$(STAMPS)/package: $(SOURCES) | $(STAMPS)/python
	@tools/system_packages.sh "$(PYTHON)" build
	@tools/quietly.sh build/build.log "building uringloop" $(PIP) install -v --editable .
	@touch $@

# Built with the Cython that the package is built with, and the headers of the package that is installed.
$(STAMPS)/drivers: $(STAMPS)/package $(wildcard tests/drivers/*.py*)
	@$(VPYTHON) tools/requirements.py build > build/requirements-build.txt
	@tools/quietly.sh build/drivers.log "building the tests' drivers" sh -c '$(PIP) install -r build/requirements-build.txt \
		&& $(VPYTHON) tests/drivers/setup.py build_ext --inplace'
	@touch $@

$(STAMPS)/demo $(STAMPS)/bench $(STAMPS)/dev $(STAMPS)/docs $(STAMPS)/fuzz: $(STAMPS)/%: pyproject.toml tools/requirements.py | $(STAMPS)/python
	@mkdir -p build && $(VPYTHON) tools/requirements.py $* > build/requirements-$*.txt
	@tools/quietly.sh build/install-$*.log "installing what $* needs" \
		$(PIP) install -r build/requirements-$*.txt
	@touch $@

$(STAMPS)/test: pyproject.toml tools/requirements.py tools/system_packages.sh | $(STAMPS)/python
	@tools/system_packages.sh "$(PYTHON)" test
	@$(VPYTHON) tools/show_gi.py "$(PYTHON)"
	@mkdir -p build && $(VPYTHON) tools/requirements.py test > build/requirements-test.txt
	@tools/quietly.sh build/install-test.log "installing what test needs" \
		$(PIP) install -r build/requirements-test.txt
	@$(VPYTHON) tools/requirements.py examples > build/requirements-examples.txt
	@tools/quietly.sh build/install-examples.log "installing what the examples need" \
		$(PIP) install --only-binary :all: -r build/requirements-examples.txt \
		|| echo "tests of examples whose packages are missing are skipped"
	@$(VPYTHON) -c 'import gi' 2>/dev/null || tools/quietly.sh build/install-gi.log "compiling PyGObject" \
		$(PIP) install $(PYGOBJECT) || echo "without PyGObject the GLib tests are skipped"
	@touch $@
