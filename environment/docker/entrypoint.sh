#!/usr/bin/env bash
# The image's entry point. Spark on Kubernetes starts pods with `driver ARGUMENTS...` or `executor` and describes the
# rest in environment variables; any other command runs unchanged: spark-submit, python, bash.
set -euo pipefail
root="$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)"
export PATH="$root/.venv/bin:$PATH"
export SPARK_HOME="$root/.venv/lib/python3.11/site-packages/pyspark"
export PYSPARK_PYTHON="${PYSPARK_PYTHON:-$root/.venv/bin/python}"

start_driver() {
    # Spark's service for the driver leads to the address that it sets here; the mode must not be cluster a second time.
    exec spark-submit --conf "spark.driver.bindAddress=${SPARK_DRIVER_BIND_ADDRESS:?is set by Spark on Kubernetes}" \
        --deploy-mode client "$@"
}

start_executor() {
    local options=() classpath="$SPARK_HOME/jars/*" number=0 name
    while name="SPARK_JAVA_OPT_$number" && [ -n "${!name+set}" ]; do
        options+=("${!name}")
        number=$((number + 1))
    done
    # Spark's settings come first, then the classes of spark.executor.extraClassPath and of --jars (the working directory).
    classpath="${SPARK_CONF_DIR:-$SPARK_HOME/conf}:${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}$classpath:$PWD"
    if [ -n "${SPARK_EXECUTOR_LIBRARY_PATH:-}" ]; then
        export LD_LIBRARY_PATH="$SPARK_EXECUTOR_LIBRARY_PATH${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    fi
    exec "${JAVA_HOME:+$JAVA_HOME/bin/}java" "${options[@]}" \
        "-Xms${SPARK_EXECUTOR_MEMORY:?is set by Spark on Kubernetes}" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$classpath" \
        org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
        --driver-url "${SPARK_DRIVER_URL:?is set by Spark on Kubernetes}" \
        --executor-id "${SPARK_EXECUTOR_ID:?is set by Spark on Kubernetes}" \
        --cores "${SPARK_EXECUTOR_CORES:?is set by Spark on Kubernetes}" \
        --app-id "${SPARK_APPLICATION_ID:?is set by Spark on Kubernetes}" \
        --hostname "${SPARK_EXECUTOR_POD_IP:?is set by Spark on Kubernetes}" \
        --resourceProfileId "${SPARK_RESOURCE_PROFILE_ID:?is set by Spark on Kubernetes}" \
        --podName "${SPARK_EXECUTOR_POD_NAME:?is set by Spark on Kubernetes}"
}

case "${1:-}" in
    driver) shift; start_driver "$@" ;;
    executor) start_executor ;;
    '') echo 'error: no command was given: expected spark-submit jobs/NAME.py ..., driver ..., executor or another program' >&2; exit 2 ;;
    *) exec "$@" ;;
esac
