"""Copy the JARs of Delta and S3A, checked against jars.lock, to those of Spark, so that no job needs a flag for them.

    .venv/bin/python environment/spark_jars.py CACHE_DIR

Files missing from CACHE_DIR/jars are resolved by Spark itself, with the user's Maven settings and proxy. On a
machine without internet access, copy them there under the names that the error message gives.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).with_name("jars.lock")
BUNDLE = "software.amazon.awssdk:bundle"
"""The whole AWS SDK, on which hadoop-aws depends; jars.lock names the few parts that it needs."""


class Jar(NamedTuple):
    """One line of jars.lock."""

    sha256: str
    group: str
    artifact: str
    version: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinates(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def any_version(self) -> str:
        """A glob of the files of its major version; other libraries share some artifact names of the AWS SDK."""
        return f"{self.artifact}-{self.version.split('.')[0]}.*.jar"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """The JARs that jars.lock names."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [Jar(sha256, *coordinates.split(":")) for sha256, coordinates in lines]


def spark_home() -> Path:
    """The pyspark package's folder, found without importing it."""
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise SystemExit("error: pyspark is not installed in this environment: run make setup")
    return Path(spec.origin).parent


def is_intact(jar: Jar, path: Path) -> bool:
    """Whether `path` exists and has the locked hash."""
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == jar.sha256


def resolve(jars: list[Jar], cache: Path) -> None:
    """Have Spark resolve the JARs from Maven and copy them to `cache`/jars."""
    ivy, log_path = cache / "ivy", cache / "jars.log"
    names = ", ".join(jar.file_name for jar in jars)
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "nothing.py"
        script.touch()
        command = [spark_home() / "bin/spark-submit", "--packages", ",".join(jar.coordinates for jar in jars),
                   "--exclude-packages", BUNDLE, "--conf", f"spark.jars.ivy={ivy}", script]  # fmt: skip
        environment = {**os.environ, "SPARK_HOME": str(spark_home()), "PYSPARK_PYTHON": sys.executable}
        with log_path.open("w") as log:
            done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"error: Spark could not resolve {names} from Maven (log: {log_path}): allow access, "
            f"or copy them to {cache}/jars"
        )
    (cache / "jars").mkdir(exist_ok=True)
    for jar in jars:
        found = ivy / "jars" / f"{jar.group}_{jar.file_name}"
        if not is_intact(jar, found):
            raise SystemExit(
                f"error: {found} is not the file of jars.lock (sha256 {jar.sha256}): delete it and run again"
            )
        place(found, cache / "jars" / jar.file_name)


def place(source: Path, target: Path) -> None:
    """Copy a file; it appears under its name only when it is complete."""
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    part.rename(target)


def main() -> None:
    cache = Path(sys.argv[1])
    jars = read_lock()
    missing = [jar for jar in jars if not is_intact(jar, cache / "jars" / jar.file_name)]
    if missing:
        resolve(missing, cache)
    target = spark_home() / "jars"
    locked = {jar.file_name for jar in jars}
    for pattern in {"delta-*.jar", *(jar.any_version for jar in jars)}:
        for stale in target.glob(pattern):
            if stale.name not in locked:
                stale.unlink()
    for jar in jars:
        if not is_intact(jar, target / jar.file_name):
            place(cache / "jars" / jar.file_name, target / jar.file_name)
    print(f"jars: {', '.join(sorted(locked))} installed")


if __name__ == "__main__":
    main()
