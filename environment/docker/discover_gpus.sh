#!/usr/bin/env bash
# The GPUs of this container, as Spark asks for them (spark.executor.resource.gpu.discoveryScript): one JSON object.
set -euo pipefail
indices="$(nvidia-smi --query-gpu=index --format=csv,noheader)"
printf '{"name": "gpu", "addresses": ["%s"]}\n' "${indices//$'\n'/\", \"}"
