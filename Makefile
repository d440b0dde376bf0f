# Needs make and Python 3.11, 3.12 or 3.13 as python3 (or PYTHON=...); the rest is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Twice the cores of a small machine, as the tests mostly wait.
PARALLEL := -n 4 --dist worksteal

.PHONY: demo test test-random test-live test-system test-production docs lint bench bench-smoke clean

demo: .venv/with-demo
	@$(BIN)/panda-airflow demo

# Each worker has its own Airflow, servers and ports.
test: lint
	$(BIN)/pytest $(PARALLEL)

# The property tests with other examples than make test has, and ROUNDS times as many.
ROUNDS ?= 5
test-random: .venv/with-test
	for round in $$(seq $(ROUNDS)); do HYPOTHESIS_PROFILE=random $(BIN)/pytest $(PARALLEL) -m hypothesis || exit; done

# Asks the server that PANDA_LIVE_CONN_ID or PANDA_URL_SSL names; does nothing without one.
test-live: .venv/with-test
	@$(BIN)/python -m tests.live

# Two Airflows side by side, as their tests mostly wait; the tests of a file share one.
# Needs RabbitMQ installed, not running: apt-get install rabbitmq-server
test-system: .venv/with-test
	$(BIN)/pytest -n 2 --dist loadfile -m system tests/system --ignore tests/system/test_production.py

# Needs PostgreSQL and Redis installed, not running: apt-get install postgresql redis-server
test-production: .venv/with-production-test
	$(BIN)/pytest -m system tests/system/test_production.py

docs: .venv/with-docs
	AIRFLOW_HOME=$(CURDIR)/docs/_build/airflow $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build

lint: .venv/with-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/with-test
	@$(BIN)/python -m tests.benchmarks.bench --results tests/benchmarks/results

bench-smoke: .venv/with-test
	@$(BIN)/python -m tests.benchmarks.bench --rounds 2 --calls 8 --waits 300 --minutes 1 --steps 0

clean:
	rm -rf .venv .demo docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/with-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	"Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is %d.%d; try make PYTHON=python3.12 ..." % v)'
	@echo "Installing into .venv; this takes about a minute."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@
