"""Print one line for each component: its version, and ok or what to do.

    make doctor
    make doctor CONFIG=my.yaml MASTER=spark://host:7077   # also the lake, the tracker and the cluster

Uses the standard library only and checks each component in a separate process, so that it works before set-up and when
a component is broken. Exits with code 1 if something required does not work.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import places
import spark_jars

ROOT = Path(__file__).resolve().parent.parent
SETUP = "run make setup"
REQUIRED_MEMORY_GB = 8
SETUP_DISK_GB, SPARE_DISK_GB = 10, 2
"""Free disk space that set-up needs for .venv, which takes 9 GB, and that is needed afterwards, and for the cache."""


class Finding(NamedTuple):
    """What was found of one component; an empty `todo` means that all is well."""

    found: str
    todo: str = ""
    required: bool = True


def probe(code: str) -> tuple[bool, str]:
    """Run `code` in a fresh interpreter; the last line that it prints, or of its traceback."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def check_package(distribution: str, code: str) -> Finding:
    """Whether a package is installed and `code`, which prints further facts about it, runs."""
    try:
        number = version(distribution)
    except PackageNotFoundError:
        return Finding("not installed", SETUP)
    works, printed = probe(code)
    if not works:
        return Finding(f"{number}, does not work ({printed})", f"remove .venv, then {SETUP}")
    return Finding(f"{number} {printed}".strip())


def check_python() -> Finding:
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info[:2] != (3, 11):
        return Finding(found, "install Python 3.11, then " + SETUP)
    return Finding(found, "" if sys.prefix == str(ROOT / ".venv") else SETUP)


def check_java() -> Finding:
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    try:
        words = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    except OSError:
        return Finding(f"{java} does not run", "install Java 17 or 21, or set JAVA_HOME to one")
    number = re.search(r'version "([^"]+)"', words)
    if not number:
        return Finding(f"{java} does not print its version", "install Java 17 or 21, or set JAVA_HOME to one")
    fits = number[1].split(".")[0] in ("17", "21")
    return Finding(
        f"{number[1]} ({shutil.which(java)})", "" if fits else "Spark 4.0 needs Java 17 or 21: set JAVA_HOME"
    )


def check_spark() -> Finding:
    finding = check_package("pyspark", "import pyspark.sql, delta")
    if finding.todo:
        return finding
    launcher = subprocess.run(
        [ROOT / ".venv/bin/spark-submit", "--version"], capture_output=True, text=True, check=False
    )
    if launcher.returncode != 0:
        return Finding(f"{finding.found}, but spark-submit does not start", "see the line for Java, then " + SETUP)
    foreign = os.environ.get("SPARK_HOME", "")
    if foreign and not Path(foreign).resolve().is_relative_to(ROOT):
        return finding._replace(todo=f"unset SPARK_HOME ({foreign}), which python jobs/... would use", required=False)
    return finding


def check_delta_jars() -> Finding:
    return check_jars(lambda jar: not is_for_s3(jar))


def check_s3_jars() -> Finding:
    return check_jars(is_for_s3)


def is_for_s3(jar: "spark_jars.Jar") -> bool:
    return jar.artifact == "hadoop-aws" or jar.group.startswith(("software.amazon", "org.reactivestreams"))


def check_jars(chosen: "Callable[[spark_jars.Jar], bool]") -> Finding:
    """Whether Spark has the chosen JARs of jars.lock, unaltered."""
    jars = [jar for jar in spark_jars.read_lock() if chosen(jar)]
    try:
        folder = spark_jars.spark_home() / "jars"
    except SystemExit:
        return Finding("no Spark to hold them", SETUP)
    missing = [jar.file_name for jar in jars if not spark_jars.is_intact(jar, folder / jar.file_name)]
    if missing:
        return Finding(f"missing or altered: {listed(missing)}", "run make -B setup")
    return Finding(listed([f"{jar.artifact} {jar.version}" for jar in jars]))


def listed(names: list[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_petastorm() -> Finding:
    quiet = "import warnings; warnings.simplefilter('ignore', FutureWarning); "
    return check_package(
        "petastorm", quiet + "import petastorm.reader, pyarrow; print('with pyarrow', pyarrow.__version__)"
    )


def check_torch() -> Finding:
    code = """
import torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
x = torch.ones(2, 2, requires_grad=True)
(x @ x).sum().backward()
print(f"(CUDA {torch.version.cuda or 'not built in'}; {', '.join(gpus) or 'no GPU here, training runs on the CPU'})")
"""
    return check_package("torch", code)


def check_horovod() -> Finding:
    code = """
import horovod.spark
import horovod.torch as hvd
built = {"gloo": hvd.gloo_built(), "nccl": hvd.nccl_built(), "mpi": hvd.mpi_built()}
assert built["gloo"], "built without Gloo"
print("with " + ", ".join(name if is_in else f"no {name}" for name, is_in in built.items()))
"""
    return check_package("horovod", code)


def check_memory() -> Finding:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    todo = (
        "" if gigabytes >= REQUIRED_MEMORY_GB else "lower spark.driver.memory in environment/spark/spark-defaults.conf"
    )
    return Finding(f"{gigabytes:.0f} GiB", todo, required=False)


def check_cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(
        str(cores), "" if cores >= 2 else "two ranks would share one core: set train.ranks to 1", required=False
    )


def check_disk() -> Finding:
    required = SPARE_DISK_GB if (ROOT / ".venv/.setup").exists() else SETUP_DISK_GB
    free = shutil.disk_usage(ROOT).free / 2**30
    return Finding(f"{ROOT}, {free:.0f} GiB free", "" if free >= required else f"free {required} GiB")


def check_cache() -> Finding:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("MAMDR_CACHE") or Path(home) / "mamdr")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    todo = "" if free >= SPARE_DISK_GB else f"free {SPARE_DISK_GB} GiB, or set MAMDR_CACHE to a folder on another disk"
    return Finding(f"{folder}, {free:.0f} GiB free", todo)


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": check_python,
    "Java": check_java,
    "Spark": check_spark,
    "Delta JARs": check_delta_jars,
    "S3 JARs": check_s3_jars,
    "Petastorm": check_petastorm,
    "torch": check_torch,
    "Horovod": check_horovod,
    "GPU": lambda: Finding(*places.check_gpu(probe), required=False),
    "memory": check_memory,
    "cores": check_cores,
    "disk": check_disk,
    "cache": check_cache,
}


def checks_of(config: str, master: str) -> dict[str, Callable[[], Finding]]:
    """What to check: always CHECKS, and what a config and a master name."""
    checks = dict(CHECKS)
    if master:
        checks["cluster"] = lambda: Finding(*places.check_cluster(master))
    if config:
        named, why = places.read_config(config)
        if why:
            return {**checks, "config": lambda: Finding(f"{config} cannot be read", why)}
        defaults = Path(os.environ.get("SPARK_CONF_DIR", ROOT / "environment/spark")) / "spark-defaults.conf"
        checks["lake"] = lambda: Finding(*places.check_lake(named["lake"], defaults))
        checks["tracker"] = lambda: Finding(*places.check_tracker(named["tracker"]), required=False)
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(description="Report what is installed, and what to do about what is not.")
    parser.add_argument("--config", default="", help="also check the lake and the tracker that this file names")
    parser.add_argument("--master", default="", help="also check this Spark master")
    options = parser.parse_args()
    broken = False
    for name, check in checks_of(options.config, options.master).items():
        finding = check()
        print(f"{name:<11} {finding.found}: {finding.todo or 'ok'}", flush=True)
        broken |= bool(finding.todo) and finding.required
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
