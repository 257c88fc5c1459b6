#!/usr/bin/env bash
# Resolve environment/*.in into the lock files, every file with its hash and no index named.
set -euo pipefail
cd "$(dirname "$0")/.."
. environment/uv.sh

adopt_pip_index .venv
for list in bootstrap requirements airflow; do
    UV_SYSTEM_CERTS=1 .venv/bin/uv --quiet pip compile --python .venv/bin/python --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links "environment/$list.in" --output-file "environment/$list.lock"
    echo "lock: environment/$list.lock"
done
