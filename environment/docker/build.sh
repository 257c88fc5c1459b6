#!/usr/bin/env bash
# The Dockerfile's first stage: install what set-up needs, run set-up, and leave an environment for running only.
#
#     environment/docker/build.sh            # .venv
#     environment/docker/build.sh airflow    # then .venv-airflow
#
# Run as root in a fresh Debian bookworm. Docker itself passes HTTP_PROXY and similar variables.
set -euo pipefail
cd "$(dirname "$0")/../.."
secrets=/run/secrets

export MAMDR_CACHE="${MAMDR_CACHE:-/var/cache/mamdr}"
export UV_CACHE_DIR="$MAMDR_CACHE/uv"
export UV_LINK_MODE=copy # the cache is another file system, and the environment must not depend on it
# The user of the image cannot write byte code, so it is written here.
export UV_COMPILE_BYTECODE=1

install_system_packages() {
    export DEBIAN_FRONTEND=noninteractive
    mkdir -p /usr/share/man/man1 # Java's package links its manual here, which slim images lack
    apt-get -qq update
    apt-get -qq install --no-install-recommends ca-certificates g++ git make openjdk-17-jre-headless \
        python3 python3-dev python3-venv >/dev/null
}

# For this stage only: neither file is copied to the next one.
adopt_secrets() {
    if [ -s "$secrets/ca.crt" ]; then
        cp "$secrets/ca.crt" /usr/local/share/ca-certificates/build.crt
        update-ca-certificates >/dev/null
    fi
    export PIP_CERT=/etc/ssl/certs/ca-certificates.crt
    if [ -s "$secrets/pip.conf" ]; then export PIP_CONFIG_FILE="$secrets/pip.conf"; fi
}

install_system_packages
adopt_secrets
if [ "${1:-}" = airflow ]; then
    environment/setup_airflow.sh
else
    environment/setup.sh
    .venv/bin/python environment/docker/remove_unused.py
    .venv/bin/python -m compileall -q airflow_dags jobs mamdr_core schemas
fi
rm -f .venv/.lock .venv-airflow/.lock # uv's, which everyone may write
