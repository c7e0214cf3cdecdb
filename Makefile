# `make demo` and `make test` set everything up themselves, in $(VENV); needed: Python >= 3.10 with pip, a C++
# compiler, make. Once set up they start at once, and rebuild what csrc/ or pyproject.toml changed.

PYTHON ?= python3
VENV ?= .venv
# One pinned release, so that everybody starts from the same numbers. Plain `torch` takes the newest that pip
# finds, which on Linux may be a CUDA build of several GB: make test TORCH=torch
TORCH ?= torch==2.13.0
ARGS ?=
# make wheel CUDA=13.0: with CUDA kernels, by the nvcc of that release; CUDA_ARCHS="80 90" for some GPUs only
CUDA ?=
CUDA_ARCHS ?=

comma := ,

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PREFIX := $(VENV)/.vdropkern
# a stamp of its own for each torch asked for
BASE := $(PREFIX)-base-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)
KERNELS := $(PREFIX)-kernels
# what only tests call: the C++ headers and, emulated, the CUDA kernels
HOST_MATH := $(PREFIX)-host-math
SOURCES := setup.py CMakeLists.txt $(shell find cmake csrc -type f)
TOOLS := $(shell command -v cmake >/dev/null || echo cmake) $(shell command -v ninja >/dev/null || echo ninja)
CXX_FILES := $(shell find csrc -name '*.h' -o -name '*.cpp')
# bayesian-torch's metadata demands torchvision, which the layers compared here never import; bnn-lab's an older torch
PEERS_WITHOUT_DEPENDENCIES := bayesian-torch==0.5.0 bnn-lab==1.0.0

.DEFAULT_GOAL := help
.PHONY: help demo estimator-study smoke-recipes test bench bench-quick bench-methods bench-binary bench-sparse lint format typecheck
.PHONY: docs-methods results wheel kernels clean distclean
.PHONY: verify-gpu gpu-check audit-wheel nightly-cuda cuda-kernels ladder sanitize

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..." is passed on, as in: make test ARGS="-k philox -x"'

demo: $(PREFIX)-demo $(KERNELS) ## train, prune and serve LeNet-300-100 on MNIST digits; ends with a report (minutes)
	$(PY) -m vdropkern train lenet-300-100 --method sparse-vd --out runs/demo \
	  $(if $(filter --resume,$(ARGS)),,--overwrite) $(ARGS)

test: $(HOST_MATH) ## run the whole test suite (20 minutes on two cores)
	$(PY) -m pytest $(ARGS)

sanitize: $(PREFIX)-test ## tests of the sparse ops on kernels under the address and undefined-behaviour sanitizers (minutes)
	$(PY) -m tests.sanitized $(ARGS)

bench: $(PREFIX)-bench $(KERNELS) ## measure against dense torch, torch.compile and the peers (long; wants a quiet machine)
	$(PY) -m bench $(ARGS)

bench-quick: $(PREFIX)-bench $(KERNELS) ## the same with few rounds, to see that it works
	$(PY) -m bench --quick $(ARGS)

estimator-study: $(PREFIX)-demo $(KERNELS) ## one step of NES, CDG and straight-through estimators; ends with a report (minutes)
	$(PY) -m vdropkern train estimator-study --out runs/estimator-study --overwrite $(ARGS)

smoke-recipes: $(PREFIX)-demo $(KERNELS) ## every recipe for seconds on real data; ARGS="--data IMAGES" for those on images (minutes)
	$(PY) -m tests.smoke_recipes $(ARGS)

bench-methods: $(PREFIX)-bench $(KERNELS) ## noise, heads, convolutions, and every method's step against the dense layer's
	$(PY) -m bench --page methods $(ARGS)

bench-binary: $(PREFIX)-bench $(KERNELS) ## binarised activations, weights and products on one thread, against eager torch and float32
	$(PY) -m bench --page binary --threads 1 $(ARGS)

bench-sparse: $(PREFIX)-bench $(KERNELS) ## sparse layers against dense ones and peers, on 1 and 2 threads, into docs/ (minutes)
	OMP_NUM_THREADS=1 $(PY) -m bench.sparse --threads 1 --docs $(ARGS)
	OMP_NUM_THREADS=2 $(PY) -m bench.sparse --threads 2 --docs $(ARGS)

lint: $(PREFIX)-lint ## ruff, mypy and clang-format, changing nothing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)
	$(PY) -m mypy

typecheck: $(PREFIX)-lint ## mypy alone
	$(PY) -m mypy

format: $(PREFIX)-lint ## let ruff and clang-format rewrite the sources
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

docs-methods: $(BASE) ## write docs/methods.md and its pages from vdropkern/methods
	$(PY) docs/generate_methods.py

results: $(PREFIX)-demo ## write the tables of docs/results.md from docs/results/; ARGS="--store NAME FOLDER" adds runs
	$(PY) docs/generate_results.py $(ARGS)

wheel: $(BASE) ## build the wheel into dist/; with CUDA kernels: make wheel CUDA=13.0
	VDROPKERN_CUDA="$(CUDA)" VDROPKERN_CUDA_ARCHS="$(CUDA_ARCHS)" $(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

verify-gpu: $(PREFIX)-verify cuda-kernels ## hold the GPU kernels right and lean, without a GPU (about 25 minutes)
	$(PY) -m gpu verify $(ARGS)

# rungs 1, 2 are among the tests
ladder: $(HOST_MATH) ## what of verify-gpu `make test` has not run and needs no nvcc: sanitizers; Triton, if it installs
	$(PIP) install --no-build-isolation -e ".[gpu-verify]" || echo "== no Triton: its kernels are not checked"
	$(PY) -m gpu verify --where-possible $(addprefix --rung=,2s 3 4) $(ARGS)

cuda-kernels: $(BASE)
	VDROPKERN_CUDA="$(or $(CUDA),13.0)" VDROPKERN_CUDA_ARCHS="$(CUDA_ARCHS)" $(PY) setup.py build_ext --inplace

gpu-check: ## on a machine with a GPU: its tests and a benchmark, with $(PYTHON) as it is, no network
	$(PYTHON) -m gpu check $(ARGS)

audit-wheel: $(PREFIX)-verify ## look over what make wheel CUDA=13.0 left in dist/, and install it in a clean environment
	$(PY) -m gpu audit dist/*+cu*.whl
	$(PY) -m pytest tests/test_cuda_wheel.py $(ARGS)

# 5.5 GB: for a nightly run
nightly-cuda: $(PY) ## load the wheel in dist/ in a torch with CUDA
	rm -rf $(VENV)-cuda && $(PYTHON) -m venv $(VENV)-cuda
	$(VENV)-cuda/bin/pip install torch==2.14.1 numpy pytest dist/*+cu*.whl
	cd / && $(abspath $(VENV))-cuda/bin/python -m vdropkern
	$(VENV)-cuda/bin/python -m pytest tests/test_cuda_wheel.py -k here --rootdir=tests -c /dev/null

kernels: $(KERNELS) ## compile csrc/ in place

clean: ## remove what was built (the environment stays)
	rm -rf build dist *.egg-info vdropkern/_C.abi3.so vdropkern/_build.json $(KERNELS) $(HOST_MATH) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "vdropkern needs Python >= 3.10; name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "== virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python -m venv failed (on Debian: apt install python3-venv)" >&2; exit 1; }

$(BASE): | $(PY)
	@echo "== $(TORCH) and build tools"
	$(PIP) install $(TORCH) numpy
	$(PIP) install "setuptools>=77" $(TOOLS)
	@touch $@

$(KERNELS): $(BASE) $(SOURCES)
	@echo "== compiled kernels"
	$(PY) setup.py build_ext --inplace
	@touch $@

$(HOST_MATH): $(KERNELS) $(shell find tests/emulator -name "*.h" -o -name "*.cpp" -o -name "*.cuh") | $(PREFIX)-test
	@echo "== modules for the tests: headers, emulated CUDA kernels"
	$(PY) setup.py build_ext --inplace
	@touch $@

# The package in place with what each task needs. The kernels were compiled before, where ninja is seen to work.
define environment
$$(PREFIX)-$(1): $$(BASE) pyproject.toml | $$(KERNELS)
	@echo "== vdropkern[$(2)]"
	$$(PIP) install --no-build-isolation -e ".[$(2)]"
	$(3)
	@touch $$@
endef
$(eval $(call environment,demo,recipes))
$(eval $(call environment,test,test))
$(eval $(call environment,verify,test$(comma)gpu-verify))
$(eval $(call environment,lint,test$(comma)lint))
$(eval $(call environment,bench,bench$(comma)peers,$$(PIP) install --no-deps $(PEERS_WITHOUT_DEPENDENCIES)))
