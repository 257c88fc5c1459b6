#!/usr/bin/env bash
# Make or bring up to date .venv-airflow, apart from .venv because Airflow's pins clash with Petastorm's.
set -euo pipefail
cd "$(dirname "$0")/.."
. environment/uv.sh

python="$(environment/prerequisites.sh)"
if ! .venv-airflow/bin/python -c '' 2>/dev/null; then "$python" -m venv --clear .venv-airflow; fi
echo 'airflow: Python packages (about a minute)'
install_locked .venv-airflow environment/airflow.lock
touch .venv-airflow/.setup
echo 'airflow: done'
