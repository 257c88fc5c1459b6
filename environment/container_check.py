"""Build the Dockerfile's stages in clean Debian roots, without Docker, and run the jobs in the result as its user.

    python3 environment/container_check.py [--target airflow] [--work FOLDER] [--keep] [--mirror URL]
        [--apt-conf FILE] [--pip-conf FILE] [--ca FILE]

Needs root, debootstrap and 25 GB in FOLDER, which is removed at the end; takes some 15 minutes on two cores. The files
of this machine that are named are mounted while RUN instructions run, as secrets are by Docker. What is not checked:
layers, the image's metadata, Docker's own networks and limits.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dockerfile import Builder, Image, read_dockerfile, run_in

ROOT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
"""What Debian's slim images never install."""
CONFIG = """
lake: {root: /data/lake}
input:
  path: /data/raw
  format: parquet
  columns: {label: label, event_time: event_time}
synthetic: {rows: 6000, domains: 6, users: 300, items: 150, days: 2}
model: {embedding_dim: 8, hidden: [16]}
train: {ranks: 1, epochs: 1, batch_size: 256}
"""
IMPORTS = """
import importlib, json, pkgutil
import mamdr_core, schemas
found = [each for package in (mamdr_core, schemas)
         for each in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
names = [each.name for each in found if not each.name.endswith(".__main__")]
for name in names:
    importlib.import_module(name)
print(json.dumps({"modules": len(names)}))
"""
JOBS: dict[str, tuple[str, ...]] = {
    "generate_logs": ("jobs/generate_logs.py",),
    "ingest_clicks": ("jobs/ingest_clicks.py",),
    "build_examples": ("jobs/build_examples.py",),
    "train, one rank": ("jobs/train_mamdr.py",),
    "train, compiled": ("jobs/train_mamdr.py", "--set", "train.engine=fast"),
    "train, two Horovod ranks": ("jobs/train_mamdr.py", "--set", "train.ranks=2"),
    "train, two torch ranks": ("jobs/train_mamdr.py", "--set", "train.ranks=2", "--set", "train.launcher=torch"),
    "evaluate": ("jobs/evaluate.py",),
}
SHOWN = ("rows", "clicks", "examples", "run_id", "ranks", "engine", "test_auc")
T = TypeVar("T")


def timed(step: str, work: Callable[[], T]) -> T:
    """Do a step and print how long it took."""
    print(f"== {step}", flush=True)
    start = time.monotonic()
    found = work()
    print(f"   {step}: {time.monotonic() - start:.0f} s", flush=True)
    return found


def bootstrap(root: Path, mirror: str) -> None:
    """A root like Debian's slim image: required packages, the archives of updates and security, no manuals."""
    with (root.parent / "debootstrap.log").open("w") as log:
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, root, mirror], check=True, stdout=log)
    security = mirror.rstrip("/") + "-security"
    sources = [
        f"deb {mirror} {SUITE} main",
        f"deb {mirror} {SUITE}-updates main",
        f"deb {security} {SUITE}-security main",
    ]
    (root / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
    excludes = "".join(f"path-exclude {pattern}\n" for pattern in EXCLUDED)
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(excludes)
    for pattern in EXCLUDED:
        shutil.rmtree(root / pattern.strip("/*"), ignore_errors=True)
    subprocess.run(["chroot", root, "apt-get", "clean"], check=True)


def megabytes(folder: Path) -> int:
    """Disk space of a folder in MB."""
    return int(subprocess.run(["du", "-sm", folder], check=True, capture_output=True, text=True).stdout.split()[0])


def check_user(image: Image) -> None:
    """Process 1 is tini, the user is not root, and the project's files are not the user's to change."""
    script = "cat /proc/1/comm; id -u; test -w /data; find /opt/mamdr -writable ! -type l"
    printed = run_in(image, [*image.entrypoint, "bash", "-ec", script], capture=True).split()
    if printed != ["tini", "10001"]:
        raise SystemExit(
            f"error: expected process 1, the user and no writable file of the project, found {printed[:9]}"
        )


def run_job(image: Image, arguments: tuple[str, ...]) -> None:
    """A job ends with status ok; print some of its figures."""
    command = [*image.entrypoint, "spark-submit", *arguments[:1], "--config", "/data/check.yaml", *arguments[1:]]
    result = json.loads(run_in(image, command, capture=True).splitlines()[-1])
    if result["status"] != "ok":
        raise SystemExit(f"error: {arguments[0]} ended with {result}")
    print("  ", json.dumps({name: result[name] for name in SHOWN if name in result}), flush=True)


def check_airflow(image: Image) -> None:
    """Airflow of the image reads the DAGs."""
    prepare = "airflow db migrate && airflow dags reserialize"
    script = f"{{ {prepare}; }} >/data/airflow.log 2>&1 || {{ cat /data/airflow.log; exit 1; }}; "
    script += "airflow dags list-import-errors; airflow dags list"
    printed = run_in(image, [*image.entrypoint, "bash", "-ec", script], capture=True)
    if "No data found" not in printed or "mamdr_daily" not in printed:
        raise SystemExit(f"error: Airflow does not read the DAGs:\n{printed}")


def check(options: argparse.Namespace, work: Path) -> None:
    """Build the stages below `work`, then `verify`."""
    base = work / "base"
    timed("debootstrap", lambda: bootstrap(base, options.mirror))
    secrets = {"pip.conf": options.pip_conf, "ca.crt": options.ca}
    extra = {"/etc/apt/apt.conf.d/99check": options.apt_conf}
    builder = Builder(
        read_dockerfile((ROOT / "Dockerfile").read_text()), ROOT, work, base,
        {name: path for name, path in secrets.items() if path}, {name: path for name, path in extra.items() if path},
    )  # fmt: skip
    timed("stage build", lambda: builder.build("build"))
    image = timed(f"stage {options.target}", lambda: builder.build(options.target))
    verify(image, work, base, options.target)


def verify(image: Image, work: Path, base: Path, target: str) -> None:
    """Print the sizes of an image and run everything in it."""
    packages = image.root / "opt/mamdr/.venv/lib/python3.11/site-packages"
    parts = [packages / name for name in ("nvidia", "torch", "triton", "pyspark")]
    for folder in (base, image.root, image.root / "opt/mamdr/.venv"):
        print(f"   {folder.relative_to(work)}: {megabytes(folder)} MB")
    for part in parts:
        print(f"   of which {part.name}: {megabytes(part)} MB")
    (image.root / "data/check.yaml").write_text(CONFIG)
    timed("user and entry point", lambda: check_user(image))
    imports = [*image.entrypoint, "python", "-c", IMPORTS]
    print("  ", timed("every module is imported", lambda: run_in(image, imports, capture=True).strip()))
    if target == "airflow":
        timed("Airflow reads the DAGs", lambda: check_airflow(image))
    for step, arguments in JOBS.items():
        timed(step, lambda arguments=arguments: run_job(image, arguments))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build the Dockerfile's stages in clean Debian roots and run the jobs."
    )
    parser.add_argument("--work", type=Path, help="an empty or new folder (default: one in the temporary folder)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="Debian's archive")
    parser.add_argument("--apt-conf", type=Path, help="settings of apt that this machine needs")
    parser.add_argument("--pip-conf", type=Path, help="pip's settings: the secret pip.conf")
    parser.add_argument("--ca", type=Path, help="certificate of an authority: the secret ca.crt")
    parser.add_argument("--target", default="mamdr", help="the stage to build: mamdr or airflow")
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    options = parser.parse_args()
    if options.work:
        options.work.mkdir(parents=True)
    work = options.work or Path(tempfile.mkdtemp(prefix="mamdr-container-"))
    try:
        check(options, work)
    finally:
        if options.keep:
            print(f"the roots are in {work}")
        elif str(work) in Path("/proc/mounts").read_text():
            print(f"error: {work} has mounts, so it is left: unmount them, then remove it")
        else:
            shutil.rmtree(work)
    print("every check passed")


if __name__ == "__main__":
    main()
