# Sourced by Spark's scripts before they start the JVM.

# Java announces at every start the incubator module that Spark itself asks for, and has no setting against it. Through
# the same pipe the driver's Python finds the real stderr (environment/driver-python.sh). Ctrl-C is for the job alone:
# the filter ends when the last writer has gone, so that last words are not lost.
exec 2> >(
    trap '' INT
    exec grep --text --line-buffered --invert-match --line-regexp 'WARNING: Using incubator modules: jdk.incubator.vector' >&2
)
