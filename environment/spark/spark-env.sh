# Sourced by Spark's scripts before they start the JVM.

# At every start Java warns of the incubator module that Spark requests, and has no setting against it. Through
# the same pipe the driver's Python finds the real stderr (environment/driver-python.sh). Ctrl-C is for the job alone:
# the filter ends when the last writer has gone, so that last words are not lost.
exec 2> >(
    trap '' INT
    exec grep --text --line-buffered --invert-match --line-regexp 'WARNING: Using incubator modules: jdk.incubator.vector' >&2
)

# Set-up archived the classes that a job loads (environment/class_archive.py), with which Java starts Spark in a third
# less processor time. Java refuses an archive where the class path has a folder with files in it, so an empty folder
# takes the place of this one, and its settings are passed on in other ways. Only these few can be, so that other
# settings, other files in this folder, and other folders of settings do without the archive.
use_archive() {
    local key value options="-Dlog4j2.configurationFile=file:$SPARK_CONF_DIR/log4j2.properties" master="" memory=""
    [ "$SPARK_CONF_DIR" -ef "$SPARK_HOME/conf" ] && [ -z "${HADOOP_CONF_DIR:-}${YARN_CONF_DIR:-}" ] || return 0
    [ "$(LC_ALL=C ls "$SPARK_CONF_DIR")" = $'log4j2.properties\nspark-defaults.conf\nspark-env.sh' ] || return 0
    while read -r key value || [ -n "$key" ]; do
        case "$key" in
            '' | '#'*) continue ;;
            spark.master) master="$value" ;;
            spark.driver.memory) memory="$value" ;;
            spark.driver.host | spark.driver.bindAddress | spark.ui.enabled | spark.ui.showConsoleProgress)
                options+=" -D$key=$value" ;;
            *) return 0 ;;
        esac
        case "$value" in '' | *[[:space:]\"\'\\]*) return 0 ;; esac
    done <"$SPARK_CONF_DIR/spark-defaults.conf"
    [ -z "$master" ] || export MASTER="${MASTER:-$master}"
    [ -z "$memory" ] || export SPARK_DRIVER_MEMORY="${SPARK_DRIVER_MEMORY:-$memory}"
    export SPARK_SUBMIT_OPTS="$options $1 ${SPARK_SUBMIT_OPTS:-}"
    export SPARK_CONF_DIR="$SPARK_HOME/no-conf"
}
if [ "${1:-}" = org.apache.spark.deploy.SparkSubmit ]; then
    # The JVM of these jobs reads and writes small tables, and at most counts the rows of examples: Java's optimising
    # compiler costs more than it gains. Executors on other machines have settings of their own.
    case " $* " in
        *[/\ ]promote.py\ * | *[/\ ]report.py\ * | *[/\ ]export_model.py\ * | *[/\ ]evaluate.py\ * | *[/\ ]gate.py\ * \
            | *[/\ ]conflict.py\ * | *[/\ ]feature_importance.py\ *)
            export SPARK_SUBMIT_OPTS="-XX:TieredStopAtLevel=1 ${SPARK_SUBMIT_OPTS:-}" ;;
    esac
    if [ -n "${MAMDR_ARCHIVE_CLASSES:-}" ]; then
        use_archive "-Xlog:disable -XX:ArchiveClassesAtExit=$MAMDR_ARCHIVE_CLASSES"
    elif [ -f "$SPARK_HOME/classes.jsa" ]; then
        use_archive "-Xlog:cds=off -Xlog:cds+dynamic=off -Xshare:auto -XX:SharedArchiveFile=$SPARK_HOME/classes.jsa"
    fi
fi
unset -f use_archive
