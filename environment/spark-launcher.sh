#!/usr/bin/env bash
# Run Spark's command of this name in the virtual environment that contains this script, activated or not.
#
# Set-up copies it to .venv/bin/spark-submit and its siblings. It always starts this environment's Spark, since only
# that has Delta's JARs; a PYSPARK_PYTHON that is already set is kept (on a cluster it names the executors' Python).
bin="$(cd "$(dirname "$(readlink -f "$0")")" && pwd)"
export SPARK_HOME="${bin%/bin}/lib/python3.11/site-packages/pyspark"
export PYSPARK_PYTHON="${PYSPARK_PYTHON:-$bin/python}"
case "${0##*/}" in
    spark-submit) export PYSPARK_DRIVER_PYTHON="${PYSPARK_DRIVER_PYTHON:-$bin/driver-python}" ;;
    *) export PYSPARK_DRIVER_PYTHON="${PYSPARK_DRIVER_PYTHON:-$bin/python}" ;;
esac
exec "$SPARK_HOME/bin/${0##*/}" "$@"
