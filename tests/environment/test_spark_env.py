"""spark-env.sh hands Java the archive of classes only where every setting that it replaces can be passed on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETTINGS = Path(__file__).resolve().parents[2] / "environment/spark"


@pytest.fixture
def spark_home(tmp_path):
    """A Spark with an archive, whose conf links to a copy of our settings."""
    home = tmp_path / "spark"
    home.mkdir()
    (home / "classes.jsa").touch()
    shutil.copytree(SETTINGS, tmp_path / "settings")
    (home / "conf").symlink_to(tmp_path / "settings")
    return home


def environment_of(home, arguments="", **variables):
    """The environment in which Spark's scripts would start Java."""
    script = f'set -- org.apache.spark.deploy.SparkSubmit {arguments}; . "$SPARK_CONF_DIR/spark-env.sh"; env -0'
    given = {"PATH": os.environ["PATH"], "SPARK_HOME": str(home), "SPARK_CONF_DIR": str(home / "conf")} | variables
    done = subprocess.run(["bash", "-c", script], env=given, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def test_the_archive_is_used_with_the_same_settings(spark_home):
    found = environment_of(spark_home, SPARK_SUBMIT_OPTS="-Dmine=1")
    assert found["SPARK_CONF_DIR"] == f"{spark_home}/no-conf"
    assert (found["MASTER"], found["SPARK_DRIVER_MEMORY"]) == ("local[*]", "6g")
    options = found["SPARK_SUBMIT_OPTS"].split()
    assert options[-1] == "-Dmine=1"  # later ones win
    assert f"-XX:SharedArchiveFile={spark_home}/classes.jsa" in options
    assert f"-Dlog4j2.configurationFile=file:{spark_home}/conf/log4j2.properties" in options
    assert {"-Dspark.driver.host=127.0.0.1", "-Dspark.ui.enabled=false"} < set(options)


def test_the_last_line_counts_without_a_newline_and_the_callers_variables_win(spark_home):
    with (spark_home / "conf/spark-defaults.conf").open("a") as file:
        file.write("spark.master spark://host:7077")
    assert environment_of(spark_home)["MASTER"] == "spark://host:7077"
    found = environment_of(spark_home, MASTER="local[1]", SPARK_DRIVER_MEMORY="1g")
    assert (found["MASTER"], found["SPARK_DRIVER_MEMORY"]) == ("local[1]", "1g")


@pytest.mark.parametrize(
    "line",
    ["spark.hadoop.fs.s3a.secret.key hidden", "spark.jars.packages a:b:1", "spark.driver.memory 8g -x", "spark.master"],
)
def test_a_setting_that_cannot_be_passed_on_is_left_to_spark(spark_home, line):
    with (spark_home / "conf/spark-defaults.conf").open("a") as file:
        file.write(f"{line}\n")
    assert_unchanged(spark_home, environment_of(spark_home))


def test_other_files_and_other_folders_of_settings_are_left_to_spark(spark_home, tmp_path):
    assert_unchanged(spark_home, environment_of(spark_home, HADOOP_CONF_DIR="/etc/hadoop"))
    (spark_home / "conf/hive-site.xml").touch()
    assert_unchanged(spark_home, environment_of(spark_home))
    shutil.copytree(SETTINGS, tmp_path / "own")
    own = environment_of(spark_home, SPARK_CONF_DIR=str(tmp_path / "own"))
    assert own["SPARK_CONF_DIR"] == str(tmp_path / "own")
    assert "SPARK_SUBMIT_OPTS" not in own


@pytest.mark.parametrize(
    ("arguments", "is_quick"),
    [
        ("jobs/promote.py --config my.yaml", True),
        ("--master local[2] /opt/mamdr/jobs/report.py", True),
        ("jobs/export_model.py --config my.yaml", True),
        ("jobs/train_mamdr.py --config promote.yaml", False),
        ("jobs/gate.py", True),
        ("jobs/evaluate.py --config my.yaml", True),
        ("jobs/conflict.py --config my.yaml", True),
        ("jobs/score.py --config promote.yaml", False),
        ("jobs/ingest_clicks.py", False),
    ],
)
def test_jobs_on_few_rows_do_without_the_optimising_compiler(spark_home, arguments, is_quick):
    options = environment_of(spark_home, arguments, SPARK_SUBMIT_OPTS="-Dmine=1")["SPARK_SUBMIT_OPTS"].split()
    assert ("-XX:TieredStopAtLevel=1" in options) is is_quick
    assert options[-1] == "-Dmine=1"


def assert_unchanged(home, found):
    assert found["SPARK_CONF_DIR"] == f"{home}/conf"
    assert not {"MASTER", "SPARK_DRIVER_MEMORY", "SPARK_SUBMIT_OPTS"} & set(found)
