"""Delta's and S3A's JARs: locked, checked, and copied without Maven where the cache has them."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The script with a lock of one small JAR, and an interpreter path whose pyspark cannot reach Maven."""
    (tmp_path / "environment").mkdir()
    script = (ROOT / "environment/spark_jars.py").read_text()
    (tmp_path / "environment/spark_jars.py").write_text(script)
    sha256 = hashlib.sha256(b"classes").hexdigest()
    (tmp_path / "environment/jars.lock").write_text(f"# sha256  coordinates\n{sha256}  io.delta:delta-spark_2.13:9.9\n")
    submit = tmp_path / "path/pyspark/bin/spark-submit"
    submit.parent.mkdir(parents=True)
    submit.write_text("#!/bin/sh\necho no route to Maven\nexit 1\n")
    submit.chmod(0o755)
    (tmp_path / "path/pyspark/jars").mkdir()
    (tmp_path / "path/pyspark/__init__.py").touch()
    (tmp_path / "cache/jars").mkdir(parents=True)
    return tmp_path


def place_jars(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, project / "environment/spark_jars.py", project / "cache"],
        env={"PYTHONPATH": str(project / "path")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_jars_in_the_cache_are_placed_and_those_of_another_version_removed(project: Path) -> None:
    (project / "cache/jars/delta-spark_2.13-9.9.jar").write_bytes(b"classes")
    for other in ("delta-spark_2.13-9.8.jar", "delta-spark_2.13-8.0.jar", "annotations-17.0.0.jar"):
        (project / "path/pyspark/jars" / other).write_bytes(b"old")
    done = place_jars(project)
    assert done.returncode == 0, done.stderr
    placed = {path.name: path.read_bytes() for path in (project / "path/pyspark/jars").iterdir()}
    assert placed == {"delta-spark_2.13-9.9.jar": b"classes", "annotations-17.0.0.jar": b"old"}


def test_an_altered_jar_is_never_placed_and_the_way_out_is_named(project: Path) -> None:
    (project / "cache/jars/delta-spark_2.13-9.9.jar").write_bytes(b"something else")
    done = place_jars(project)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Spark could not resolve delta-spark_2.13-9.9.jar from Maven")
    assert f"copy them to {project}/cache/jars" in done.stderr
    assert (project / "cache/jars.log").read_text() == "no route to Maven\n"
    assert list((project / "path/pyspark/jars").iterdir()) == []
