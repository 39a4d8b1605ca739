# make demo and make test are all a newcomer needs; they build .venv by themselves.
PYTHON ?= python3
# The plain `torch` of PyPI brings gigabytes of CUDA on Linux. For a CPU build elsewhere:
#   make TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test slow soak gpu check lint types floors docs pictures gallery benchmarks clean

demo: .venv/installed
	$(BIN)/lmlab demo

test: .venv/developed
	$(BIN)/python -m pytest

slow: .venv/developed
	$(BIN)/python -m pytest -m slow -n 0

# 45 minutes of kills, fuzz, full disks and pairs: make soak SOAK="--minutes 2 --only fuzz/arpa --seed 1"
soak: .venv/developed
	$(BIN)/python -m tests.soak --json soak.json $(SOAK)

gpu: .venv/developed
	$(BIN)/python -m pytest -m gpu -n 0
	$(BIN)/python benchmarks/gpu.py

check: lint types floors docs test

lint: .venv/developed
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs

types: .venv/developed
	$(BIN)/mypy

floors: .venv/developed
	$(BIN)/lint-imports

docs: .venv/developed
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest -n 0 --doctest-modules src/lmlab tests/test_docs.py

pictures: .venv/developed
	$(BIN)/python docs/pictures.py

# docs/gallery.md and its pictures, on the shared corpora: some minutes
gallery: .venv/developed
	$(BIN)/python docs/gallery.py

benchmarks: .venv/developed
	$(BIN)/python benchmarks/notebooks.py
	$(BIN)/python benchmarks/decoding.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/developed: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
