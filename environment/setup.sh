#!/usr/bin/env bash
# Make or bring up to date .venv: locked packages, Horovod's wheel, Delta's JARs, Spark's settings, this repository, and
# an archive of Spark's classes.
set -euo pipefail
cd "$(dirname "$0")/.."

cache="${MAMDR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mamdr}"
python="$(environment/prerequisites.sh)"
mkdir -p "$cache"

# Of two targets started at the same time in one clone, one waits for the other. (.venv/.lock belongs to uv.)
if command -v flock >/dev/null; then
    exec 9<environment/setup.sh
    flock 9
fi

say() { printf 'setup: %s\n' "$1"; }

make_venv() {
    # A virtual environment whose base interpreter has gone or changed is of no use.
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        "$python" -m venv --clear .venv
    fi
}

# shellcheck source=environment/uv.sh
. environment/uv.sh

# Without byte code where Python may not write it, every process compiles torch and Spark again.
is_compiled() {
    [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || [ -d .venv/lib/python3.11/site-packages/torch/__pycache__ ]
}

install_packages() {
    # Synchronising removes what the lock does not name (Horovod among it), so it is done for a new lock only.
    if ! cmp -s environment/requirements.lock .venv/requirements.lock || ! is_compiled; then
        say 'Python packages (about 9 GB, one to three minutes)'
        rm -f .venv/requirements.lock
        install_locked .venv environment/requirements.lock
        cp environment/requirements.lock .venv/requirements.lock
    fi
}

# pyspark's own scripts look for Spark with the first python3 on PATH; ours know the path.
place_spark_settings() {
    local pyspark=".venv/lib/python3.11/site-packages/pyspark" name
    for name in spark-submit spark-sql spark-shell spark-class pyspark; do
        # Unlinked first: uv may have hard-linked the file to its cache.
        rm -f ".venv/bin/$name"
        install -m 755 environment/spark-launcher.sh ".venv/bin/$name"
    done
    install -m 755 environment/driver-python.sh .venv/bin/driver-python
    rm -rf "$pyspark/conf"
    ln -s "$PWD/environment/spark" "$pyspark/conf"
    install -m 644 environment/spark_path.py .venv/lib/python3.11/site-packages/mamdr_spark_path.py
    echo 'import mamdr_spark_path' >.venv/lib/python3.11/site-packages/mamdr_spark_path.pth
}

install_repository() {
    # "compat" is one .pth line with the repository's path: type checkers follow it, and new packages need no set-up.
    .venv/bin/uv --quiet pip install --python .venv/bin/python --no-deps --no-build-isolation \
        --config-settings editable_mode=compat --editable .
}

make_venv
install_packages
.venv/bin/python environment/build_horovod.py "$cache"
place_spark_settings
.venv/bin/python environment/spark_jars.py "$cache"
install_repository
.venv/bin/python environment/class_archive.py
touch .venv/.setup
say 'done; make doctor shows what is installed'
