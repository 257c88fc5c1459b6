#!/usr/bin/env bash
# The driver's Python under spark-submit, with its stderr kept apart from its stdout.
#
# Spark's Python runner merges the driver's stderr into the JVM's stdout, where logs would mix with a job's result. The
# parent of this process is that JVM; its stderr, when a pipe or a terminal, can be opened again and takes its place.
stderr="/proc/$PPID/fd/2"
if [ -p "$stderr" ] || [ -c "$stderr" ]; then exec 2>>"$stderr"; fi
exec "$(dirname "$(readlink -f "$0")")/python" "$@"
