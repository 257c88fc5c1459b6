#!/usr/bin/env bash
# The Dockerfile's stage that runs: system packages, the user, and the folders outside /opt/mamdr.
#
# Run as root in a fresh Debian bookworm. g++ and Python's headers are for torch.compile, which the fast engine uses.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
mkdir -p /usr/share/man/man1 # Java's package links its manual here, which slim images lack
apt-get -qq update
apt-get -qq install --no-install-recommends ca-certificates g++ libpython3-dev openjdk-17-jre-headless python3 tini >/dev/null
rm -rf /var/lib/apt/lists/*

groupadd --gid 10001 mamdr
useradd --uid 10001 --gid 10001 --create-home --shell /bin/bash mamdr
# Where volumes for the lake and for Airflow are mounted; everything else but the home and /tmp belongs to root.
install -d -o mamdr -g mamdr /data /home/mamdr/airflow
ln -s /opt/mamdr/environment/docker/entrypoint.sh /opt/entrypoint.sh
