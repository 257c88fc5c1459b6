"""Archive the classes that Spark and Delta load in a small job, so that every later job starts faster.

    .venv/bin/python environment/class_archive.py

Java's class data sharing keeps classes parsed and verified in a file, which belongs to this Java and these JARs: with
others Java ignores it. environment/spark/spark-env.sh hands it to Java.
"""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

SECONDS = 300
JOB = """
import sys
from delta.tables import DeltaTable
from pyspark.sql import Window, functions as F
from mamdr_core.lake.core.session import make_session

root = sys.argv[1]
spark = make_session("class_archive")
rows = spark.range(100).select("id", (F.col("id") % 3).alias("key"), F.lit("2026-01-01").cast("date").alias("ds"))
rows.write.option("header", True).csv(f"{root}/csv")
read = spark.read.option("header", True).csv(f"{root}/csv", schema=rows.schema)
read.write.format("delta").partitionBy("ds").save(f"{root}/table")
read.write.format("delta").mode("append").save(f"{root}/table")
table = DeltaTable.forPath(spark, f"{root}/table")
merge = table.alias("old").merge(read.alias("new"), "old.id = new.id").whenMatchedUpdateAll().whenNotMatchedInsertAll()
merge.execute()
found = spark.read.format("delta").load(f"{root}/table")
numbered = found.withColumn("number", F.row_number().over(Window.partitionBy("key").orderBy("id")))
numbered.join(read.groupBy("key").agg(F.count("*").alias("rows")), "key", how="left").orderBy("id").collect()
spark.stop()
"""


def main() -> int:
    """Write the archive where it is missing, older than a JAR or of another Java; 0, also where that fails."""
    home = Path(str(find_spec("pyspark").origin)).parent
    archive, java = home / "classes.jsa", home / "classes.java"
    (home / "no-conf").mkdir(exist_ok=True)
    program = Path(os.environ["JAVA_HOME"]) / "bin/java" if os.environ.get("JAVA_HOME") else "java"
    version = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stderr
    newest = max(jar.stat().st_mtime for jar in (home / "jars").iterdir())
    if archive.exists() and archive.stat().st_mtime > newest and java.exists() and java.read_text() == version:
        return 0
    archive.unlink(missing_ok=True)
    print("setup: archive of Spark's classes (about half a minute)", flush=True)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        made = Path(folder) / archive.name
        environment = os.environ | {"MAMDR_ARCHIVE_CLASSES": str(made), "SPARK_HOME": str(home)}
        environment["SPARK_SUBMIT_OPTS"] = "-XX:TieredStopAtLevel=1"
        command = [sys.executable, "-c", JOB, folder]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            reason = (done.stderr.strip().splitlines() or ["no archive was written"])[-1]
        except subprocess.TimeoutExpired:
            reason = f"it took more than {SECONDS} s"
        if made.exists():
            made.rename(archive)
            java.write_text(version)
        else:
            print(f"setup: no archive of Spark's classes ({reason}); jobs work, and start some seconds later")
    return 0


if __name__ == "__main__":
    sys.exit(main())
