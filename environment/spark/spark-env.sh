# Sourced by Spark's scripts before they start the JVM.

# Java announces at every start the incubator module that Spark itself asks for, and has no setting against it. Through
# the same pipe the driver's Python finds the real stderr (environment/driver-python.sh). Ctrl-C is for the job alone:
# the filter ends when the last writer has gone, so that last words are not lost.
exec 2> >(
    trap '' INT
    exec grep --text --line-buffered --invert-match --line-regexp 'WARNING: Using incubator modules: jdk.incubator.vector' >&2
)

# Set-up archived the classes that a job loads (environment/class_archive.py), with which Java starts Spark in a third
# less processor time. Java refuses an archive where the class path has a folder with files in it, so an empty folder
# takes the place of this one, and the settings that are here are passed as properties. Whoever names other folders of
# settings does without the archive, as does a Java other than set-up's.
pass_settings() {
    local key value options="-Dlog4j2.configurationFile=file:$SPARK_CONF_DIR/log4j2.properties"
    while read -r key value; do
        case "$key" in
            spark.driver.memory) export SPARK_DRIVER_MEMORY="${SPARK_DRIVER_MEMORY:-$value}" ;;
            spark.*) options+=" -D$key=$value" ;;
        esac
    done <"$SPARK_CONF_DIR/spark-defaults.conf"
    export SPARK_SUBMIT_OPTS="$options $1 ${SPARK_SUBMIT_OPTS:-}"
    export SPARK_CONF_DIR="$SPARK_HOME/no-conf"
}
if [ "${1:-}" = org.apache.spark.deploy.SparkSubmit ] && [ -z "${HADOOP_CONF_DIR:-}${YARN_CONF_DIR:-}" ]; then
    if [ -n "${MAMDR_ARCHIVE_CLASSES:-}" ]; then
        pass_settings "-Xlog:disable -XX:ArchiveClassesAtExit=$MAMDR_ARCHIVE_CLASSES"
    elif [ -f "$SPARK_HOME/classes.jsa" ]; then
        pass_settings "-Xlog:cds=off -Xlog:cds+dynamic=off -Xshare:auto -XX:SharedArchiveFile=$SPARK_HOME/classes.jsa"
    fi
fi
unset -f pass_settings
