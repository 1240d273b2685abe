# Everything runs in .venv, which is made from requirements.lock: with uv where it is there, else with venv and pip.
PYTHON ?= python3
BIN := .venv/bin
# More than the processors, since most tests wait for their child processes.
WORKERS ?= 3

.PHONY: demo test soak lint format bench bench-peers docs grid lock clean

demo: .venv/ready
	$(BIN)/python examples/sweep_digits.py

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses $(WORKERS) $(PYTEST)

# Ten times as many sequences of troubles, and others each time.
soak: .venv/ready
	DOKRUN_SOAK=2000 $(BIN)/python -m pytest --numprocesses $(WORKERS) tests/test_stateful.py $(PYTEST)

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/codespell

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready
	-$(BIN)/python benchmarks/run.py

# Others too, each in an environment of its own below .bench; and the figures of the documentation.
bench-peers: .venv/ready
	-$(BIN)/python benchmarks/run.py --peers --json docs/benchmarks.json

# Into site/, which reads without a server; a link that leads nowhere fails it.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

grid: .venv/ready
	$(BIN)/python tests/grid.py

# Hashes of what is installed, for every supported Python. Needs uv.
lock:
	uv pip compile --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--no-emit-find-links --all-extras --group dev --upgrade pyproject.toml --output-file requirements.lock

.venv/ready: pyproject.toml requirements.lock
	@if command -v uv >/dev/null; then \
		uv venv --quiet --clear --python $(PYTHON) .venv && \
		VIRTUAL_ENV=.venv uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock && \
		VIRTUAL_ENV=.venv uv pip install --quiet --no-deps --no-build-isolation -e . ; \
	else \
		$(PYTHON) -m venv --clear .venv && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

clean:
	rm -rf .venv .uv .bench build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
