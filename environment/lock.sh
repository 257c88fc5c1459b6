#!/usr/bin/env bash
# Resolve environment/*.in into the lock files, every file with its hash and no index named. The packages must install on
# Debian 12's Python 3.11.2, which is older than the one that resolves them.
set -euo pipefail
cd "$(dirname "$0")/.."
. environment/uv.sh

adopt_pip_index .venv
for list in bootstrap requirements airflow; do
    UV_SYSTEM_CERTS=1 .venv/bin/uv --quiet pip compile --python .venv/bin/python --python-version 3.11.2 --generate-hashes \
        --no-header --no-emit-index-url --no-emit-find-links "environment/$list.in" --output-file "environment/$list.lock"
    echo "lock: environment/$list.lock"
done
