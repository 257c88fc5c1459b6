"""Spark as set-up leaves it: found from anywhere, with Delta, quiet, and with the job's streams kept apart."""

import json
import shutil
import subprocess
from pathlib import Path

import pyspark
import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv/bin"

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
import pyspark
from pyspark.sql import SparkSession

spark = (
    SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.sql.shuffle.partitions", 2)
    .config("spark.databricks.delta.snapshotPartitions", 1)
    .getOrCreate()
)
spark.range(100).write.format("delta").save(sys.argv[1])
rows = spark.read.format("delta").load(sys.argv[1]).count()
workers = spark.sparkContext.parallelize([0]).map(lambda _: [sys.executable, pyspark.__file__]).collect()
print("words for people", file=sys.stderr)
java = spark._jvm.java.lang.ProcessHandle.current().pid()
archived = "pyspark/classes.jsa" in open(f"/proc/{java}/maps").read()
settings = [spark.conf.get(f"spark.{key}") for key in ("master", "driver.memory", "driver.host", "ui.enabled")]
found = {"rows": rows, "driver": [sys.executable, pyspark.__file__], "workers": workers}
print(json.dumps(found | {"archived": archived, "settings": settings}))
spark.stop()
"""


def run_script(folder: Path, command: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run a script from another folder in an environment that knows nothing of .venv."""
    script = folder / "script.py"
    script.write_text(text)
    java = Path(shutil.which("java") or "/usr/bin/java").parent
    environment = {"HOME": str(folder), "PATH": f"/usr/bin:/bin:{java}"}
    if command == "python":
        environment["PYSPARK_PYTHON"] = str(BIN / "python")  # what make_session does for a job
    return subprocess.run(
        [BIN / command, script, folder / "table"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["spark-submit", "python"])
def test_delta_works_without_activation_from_any_folder_and_prints_nothing_else(tmp_path: Path, command: str) -> None:
    done = run_script(tmp_path, command, SCRIPT)
    assert done.returncode == 0, done.stderr
    # From the package, compiled once, and not from Spark's archive of sources.
    python = [str(BIN / "python"), str(Path(pyspark.__file__).absolute())]
    found = json.loads(done.stdout)
    assert found.pop("settings") == ["local[*]", "6g", "127.0.0.1", "false"]  # of environment/spark
    assert found == {"rows": 100, "driver": python, "workers": [python], "archived": True}
    assert done.stderr == "words for people\n"


def test_a_jobs_exit_code_and_last_words_are_spark_submits(tmp_path: Path) -> None:
    done = run_script(tmp_path, "spark-submit", "import sys; print('error: no', file=sys.stderr); sys.exit(2)")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no\n")
