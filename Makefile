# The project's commands: `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup doctor demo test test-fast test-cluster cluster-up cluster-down lint format docs bench airflow airflow-demo \
	lock clean

SETUP := .venv/.setup
AIRFLOW := .venv-airflow/.setup
# For small jobs, whose JVM spends its time on starting.
QUICK_JVM := -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP) ## Make .venv: locked packages, Horovod, Delta (nothing to do when up to date)

$(SETUP): environment/requirements.lock environment/bootstrap.lock environment/jars.lock environment/setup.sh \
		environment/prerequisites.sh environment/uv.sh environment/build_horovod.py environment/spark_jars.py \
		environment/spark-launcher.sh environment/driver-python.sh environment/spark_path.py environment/class_archive.py \
		setup.cfg pyproject.toml
	@environment/setup.sh

doctor: ## What is installed, and what to do; with CONFIG=FILE, MASTER=URL also whether those respond
	@python=python3; if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi; \
		$$python environment/doctor.py --config "$(CONFIG)" --master "$(MASTER)"

demo: $(SETUP) ## Four methods compared on synthetic logs, then the recommended one's AUC by domain and its report
	@rm -rf .demo
	@export SPARK_SUBMIT_OPTS="$(QUICK_JVM) $${SPARK_SUBMIT_OPTS:-}"; \
		.venv/bin/spark-submit jobs/compare_methods.py --config conf/demo.yaml --set train.ranks=1; \
		.venv/bin/spark-submit jobs/train_mamdr.py --config conf/demo.yaml; \
		.venv/bin/spark-submit jobs/report.py --config conf/demo.yaml
	@printf '%s\n' "" "The comparison:    .demo/lake/reports/demo/comparison.md" "The report:        .demo/lake/reports/index.html" \
		"The Delta tables:  .demo/lake" "" "Next:" \
		"  .venv/bin/spark-submit jobs/score.py --config conf/demo.yaml           # scores of the test split, as a table" \
		"  .venv/bin/spark-submit jobs/train_mamdr.py --config conf/demo.yaml --set model.name=star" \
		"  docs/tutorial.md                                                       # the same with a CSV file of your own" >&2

# Two processes share the cores: torch's threads of one would wait for those of the other. The many processes that tests
# start keep the compiled code of this repository.
test: $(SETUP) $(AIRFLOW) ## Every test
	@env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 .venv/bin/python -m pytest -ra -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(SETUP) ## The tests that start neither Spark, Horovod nor Airflow (a minute)
	@env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 .venv/bin/python -m pytest -ra -n 2 -m "not slow"

test-cluster: $(SETUP) ## The tests that are marked for it, on a Spark standalone cluster of this machine
	@.venv/bin/python environment/cluster.py up
	@trap '.venv/bin/python environment/cluster.py down' EXIT; \
		MAMDR_TEST_MASTER="$$(cat .cluster/master)" .venv/bin/python -m pytest -ra --durations=15 -m cluster

cluster-up: $(SETUP) ## Start a Spark standalone cluster on this machine: a master and two workers of one core
	@.venv/bin/python environment/cluster.py up

cluster-down: ## End the cluster that cluster-up started
	@.venv/bin/python environment/cluster.py down

lint: $(SETUP) ## Formatting, ruff, and mypy --strict on mamdr_core and schemas
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy

format: $(SETUP) ## Format, and fix what ruff can fix
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

docs: $(SETUP) ## The documentation as a site in site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "The site is site/index.html." >&2

bench: $(SETUP) ## Every benchmark but those of quality: bench_recipe.py, bench_ranks.py, bench_steps.py, bench_peers.py
	@for script in $(filter-out %/bench_recipe.py %/bench_ranks.py %/bench_steps.py %/bench_peers.py,$(wildcard benchmarks/bench_*.py)); do echo "== $$script"; .venv/bin/python "$$script"; done

airflow: $(AIRFLOW) ## Make .venv-airflow, which runs airflow_dags/

$(AIRFLOW): environment/airflow.lock environment/bootstrap.lock environment/setup_airflow.sh environment/uv.sh
	@environment/setup_airflow.sh

airflow-demo: $(SETUP) $(AIRFLOW) ## Three days of the daily DAG on synthetic logs, the last of which the gate must stop (some 18 minutes)
	@SPARK_SUBMIT_OPTS="$(QUICK_JVM) $${SPARK_SUBMIT_OPTS:-}" .venv/bin/python environment/airflow_demo.py

lock: $(SETUP) ## Resolve the lock files anew from environment/*.in
	@environment/lock.sh

clean: ## Remove the environments and what runs left behind (the cache outside the clone stays)
	@rm -rf .venv .venv-airflow .cluster .demo .airflow-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis site *.egg-info \
		spark-warehouse
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
