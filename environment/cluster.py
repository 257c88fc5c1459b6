"""A Spark standalone cluster on this machine: a master and workers of one core, from the pyspark package.

    make cluster-up                      # .venv/bin/python environment/cluster.py up
    make cluster-down                    # .venv/bin/python environment/cluster.py down
    .venv/bin/spark-submit --master $(cat .cluster/master) jobs/train_mamdr.py ...

Logs, files of executors and a list of processes are stored in .cluster/; `down` ends exactly the processes in that list
and their children.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from mamdr_core.runtime.processes import find_process, process_record

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cluster"
PROCESSES = FOLDER / "processes.json"
MASTER = FOLDER / "master"
START_SECONDS = 60
END_SECONDS = 10
# Daemons log at INFO that they are ready, a level that this project's settings omit.
LOG_SETTINGS = """rootLogger.level = info
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n%ex
"""
READY = {"master": r"Starting Spark master at (spark://\S+)", "worker": r"Successfully registered with master"}


def up(workers: int, cores: int, memory: str, port: int) -> None:
    """Start the master, then the workers, and wait until they are connected."""
    if _running():
        sys.exit(f"error: a cluster runs at {MASTER.read_text()}: make cluster-down ends it")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    try:
        _start("master", "master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0")
        url = _wait("master")
        for number in range(workers):
            sizes = ("--cores", str(cores), "--memory", memory, "--work-dir", str(FOLDER / "work"))
            where = ("--host", "127.0.0.1", "--webui-port", "0")
            _start(f"worker-{number}", "worker.Worker", *where, *sizes, url)
        for number in range(workers):
            _wait(f"worker-{number}")
    except BaseException:
        down()
        raise
    MASTER.write_text(url)
    print(url)


def down() -> None:
    """End what `up` has started."""
    started = _running()
    ending = [child for process in started for child in process.children(recursive=True)] + started
    for process in started:
        process.terminate()
    for process in psutil.wait_procs(ending, timeout=END_SECONDS)[1]:
        process.kill()
    psutil.wait_procs(ending, timeout=END_SECONDS)
    PROCESSES.unlink(missing_ok=True)
    MASTER.unlink(missing_ok=True)


def _start(name: str, kind: str, *arguments: str) -> None:
    command = [str(ROOT / ".venv/bin/spark-class"), f"org.apache.spark.deploy.{kind}", *arguments]
    log = (FOLDER / f"{name}.log").open("w")
    settings = FOLDER / "log4j2.properties"
    settings.write_text(LOG_SETTINGS)
    # On the loopback interface only, web pages included, so that no other machine can reach them.
    environment = os.environ | {"SPARK_DAEMON_MEMORY": "512m", "SPARK_LOCAL_IP": "127.0.0.1"}
    environment["SPARK_DAEMON_JAVA_OPTS"] = f"-Dlog4j2.configurationFile={settings} -XX:TieredStopAtLevel=1"
    # In a new session, so that it outlives the shell that make runs in.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
    )
    noted = json.loads(PROCESSES.read_text()) if PROCESSES.exists() else []
    noted.append({"name": name, **process_record(process.pid)})
    PROCESSES.write_text(json.dumps(noted, indent=1))


def _wait(name: str) -> str:
    """Wait until the log reports that it is ready; returns the group that the pattern captures."""
    log, pattern = FOLDER / f"{name}.log", READY[name.split("-")[0]]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(pattern, log.read_text()):
            return found[1] if found.groups() else ""
        if name not in {noted["name"] for noted in _noted() if find_process(noted)}:
            break
        time.sleep(0.2)
    sys.exit(f"error: the {name} did not start: see {log}")


def _noted() -> list[dict[str, object]]:
    return json.loads(PROCESSES.read_text()) if PROCESSES.exists() else []


def _running() -> list[psutil.Process]:
    return [process for noted in _noted() if (process := find_process(noted))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=1, help="of a worker")
    parser.add_argument("--memory", default="2g", help="of a worker")
    parser.add_argument("--port", type=int, default=int(os.environ.get("MAMDR_CLUSTER_PORT", "7077")))
    options = parser.parse_args()
    if options.what == "up":
        up(options.workers, options.cores, options.memory, options.port)
    else:
        down()


if __name__ == "__main__":
    main()
