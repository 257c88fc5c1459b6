"""The daily DAG: its shape, how jobs' results travel through it, what the gate stops, and one real day."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import TypeVar

import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.job_config import load_config
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.tables import Lake
from tests.session_jobs import jobs_in

ROOT = Path(__file__).resolve().parents[2]
TASKS = [
    *("ingest_clicks", "build_examples", "domain_stats", "train_mamdr", "evaluate"),
    *("gate", "passed", "promote"),
]
AT_LAST = ["report", "score"]
DAY = "2026-01-02"
DIRECTLY = "domain_stats"
"""The job of the real day that has a spark-submit of its own; tests/jobs submits ingest, build and train. The others
run in the tests' session, which has started and compiled what each would start and compile again."""
SENDER = Path(__file__).with_name("send_job.py")
RUN_DAY = ("-m", "airflow", "dags", "test", "mamdr_daily", DAY, "--conf")

pytestmark = pytest.mark.slow
Airflow = Callable[..., subprocess.CompletedProcess[str]]
T = TypeVar("T")

# Stands in for spark-submit: shows its arguments on stderr and answers as the job contract requires.
STUB = """#!/bin/bash
for argument in "$@"; do echo "argument=<$argument>" >&2; done
job="$(basename "$1" .py)"
echo "a table for people"
printf '{"job": "%s", "status": "ok", "run_id": "run-of-%s", ' "$job" "$job"
printf '"examples_version": 7, "passed": %s, "serves": %s, "reasons": ["AUC fell"]}\\n' \\
  "${PASSES:-true}" "${SERVES_BEFORE:-null}"
[ "$job" != "$FAILING_JOB" ] || exit 2
"""


@pytest.fixture
def stub_project(tmp_path: Path) -> Path:
    """A project folder whose spark-submit is the stub; its name would be cut up by careless quoting."""
    project = tmp_path / "a project; $(false)"
    submit = project / ".venv/bin/spark-submit"
    submit.parent.mkdir(parents=True)
    submit.write_text(STUB)
    submit.chmod(0o755)
    return project


DESCRIBE = """
import json, runpy
dags = runpy.run_path("airflow_dags/mamdr_daily.py")
dag, weekly = dags["mamdr_daily"](), dags["mamdr_weekly"]()
tasks = {task.task_id: sorted(task.downstream_task_ids) for task in dag.topological_sort()}
print(json.dumps({"tasks": tasks, "catchup": dag.catchup, "max_active_runs": dag.max_active_runs,
                  "weekly": weekly.task_ids, "schedules": [each.timetable.expression for each in (dag, weekly)]}))
"""


def test_the_dag_loads_without_errors_and_runs_the_jobs_in_order(airflow: Airflow, tmp_path: Path) -> None:
    errors = airflow("-m", "airflow", "dags", "list-import-errors", "--local", "--output", "json")
    assert json.loads(errors.stdout.splitlines()[-1]) == []
    (tmp_path / "describe.py").write_text(DESCRIBE)
    dag = json.loads(airflow(str(tmp_path / "describe.py")).stdout.splitlines()[-1])
    assert list(dag["tasks"])[: len(TASKS)] == TASKS
    assert list(dag["tasks"].values()) == [[name] for name in TASKS[1:]] + [AT_LAST, [], []]
    assert (dag["catchup"], dag["max_active_runs"]) == (False, 1)
    assert (dag["weekly"], dag["schedules"]) == (["maintain_lake"], ["0 0 * * *", "0 0 * * 0"])


def test_a_jobs_json_line_is_its_xcom_and_names_the_run_to_evaluate(airflow: Airflow, stub_project: Path) -> None:
    params = {"project": str(stub_project), "raw": "/raw logs", "lake": "/a lake; false", "requests": "/to score"}
    params["training"] = "3"
    done = airflow(*RUN_DAY, json.dumps(params))
    assert done.returncode == 0, done.stdout + done.stderr
    run = "run_id=run-of-train_mamdr"
    for setting in (f"input.path=/raw logs/day={DAY}", f"examples.until={DAY}", f"stats.ds={DAY}",
                    "lake.root=/a lake; false",
                    "train.examples_version=7", "train.warm_start=champion", "train.days=3", f"evaluate.{run}",
                    f"gate.{run}", f"promote.{run}", f"score.run_id=champion@{DAY}", f"score.batch={DAY}",
                    f"score.input.path=/to score/day={DAY}", f"report.{run}"):  # fmt: skip
        assert f"argument=<{setting}>" in done.stdout, setting


def test_what_the_gate_stops_is_not_promoted_and_is_reported(airflow: Airflow, stub_project: Path) -> None:
    params = json.dumps({"project": str(stub_project)})
    done = airflow(*RUN_DAY, params, PASSES="false", SERVES_BEFORE='"run-of-yesterday"')
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the gate: AUC fell" in done.stdout
    assert "jobs/promote.py" not in done.stdout
    for job in ("score", "report"):
        assert f"jobs/{job}.py" in done.stdout
    assert "argument=<score.input.path" not in done.stdout


def test_where_nothing_serves_yet_nothing_is_scored_and_the_day_ends_well(airflow: Airflow, stub_project: Path) -> None:
    done = airflow(*RUN_DAY, json.dumps({"project": str(stub_project), "training": "cold"}), PASSES="false")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "argument=<train.warm_start=>" in done.stdout
    assert "argument=<train.days" not in done.stdout
    assert "no run serves on" in done.stdout
    assert "argument=<score.run_id" not in done.stdout
    assert "jobs/report.py" in done.stdout


def test_exit_code_2_of_a_job_fails_the_run_and_notifies_a_command(
    airflow: Airflow, stub_project: Path, tmp_path: Path
) -> None:
    command = f'echo "$TASK of $DAY" > "{tmp_path}/written"'
    params = json.dumps({"project": str(stub_project)})
    done = airflow(*RUN_DAY, params, FAILING_JOB="domain_stats", MAMDR_ON_FAILURE=command)
    assert done.returncode != 0
    assert "non-zero exit code 2" in done.stdout
    assert "jobs/domain_stats.py" in done.stdout
    assert "jobs/train_mamdr.py" not in done.stdout
    assert (tmp_path / "written").read_text() == f"domain_stats of {DAY}\n"


def run_in_session(folder: str, words: list[str], spark: SparkSession) -> tuple[int, str]:
    """Run a job as a program, in a folder and in the tests' session; its exit code and stdout."""
    code, out = 0, io.StringIO()
    with jobs_in(spark) as patched, contextlib.redirect_stdout(out):
        patched.chdir(folder)
        patched.setattr(sys, "argv", words)
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:  # of one job; Airflow is to notice it
            traceback.print_exc()
            code = 1
    return code, out.getvalue()


def serve(address: str, spark: SparkSession, work: Callable[[], T]) -> T:
    """Run the jobs that work, in another thread, has SENDER send to an address; what work returns."""
    with Listener(address, "AF_UNIX") as listener, ThreadPoolExecutor(1) as pool:

        def until_its_end() -> T:
            try:
                return work()
            finally:
                with Client(address, "AF_UNIX") as client:
                    client.send(None)

        working = pool.submit(until_its_end)
        while True:
            with listener.accept() as client:
                request = client.recv()
                if request is None:
                    return working.result()
                with contextlib.suppress(OSError):  # Airflow has ended the task
                    client.send(run_in_session(*request, spark))


@pytest.fixture
def real_project(tmp_path: Path) -> Path:
    """A project folder whose spark-submit runs the real jobs: DIRECTLY by the real one, the others by SENDER."""
    project = tmp_path / "real"
    submit = project / ".venv/bin/spark-submit"
    submit.parent.mkdir(parents=True)
    (project / "jobs").symlink_to(ROOT / "jobs")
    real, python = ROOT / ".venv/bin/spark-submit", ROOT / ".venv/bin/python"
    submit.write_text(
        f'#!/bin/bash\n[[ "${{1##*/}}" != {DIRECTLY}.py ]] || exec "{real}" "$@"\n'
        f'exec "{python}" "{SENDER}" "{project}/address" "$@"\n'
    )
    submit.chmod(0o755)
    return project


def test_one_real_day_leaves_its_rows_in_every_table(
    airflow: Airflow, spark: SparkSession, real_project: Path, tmp_path: Path
) -> None:
    config_path = tmp_path / "daily.yaml"
    config = yaml.safe_load((ROOT / "conf/demo.yaml").read_text())
    config["lake"]["root"] = str(tmp_path / "lake")
    config["input"]["path"] = str(tmp_path / "raw")
    config["synthetic"] |= {"rows": 6000, "domains": 4, "users": 300, "items": 120, "days": 2, "vectors": 0}
    config["features"] = []
    config["train"] = {**config.get("train", {}), "ranks": 1, "epochs": 1}
    config_path.write_text(yaml.safe_dump(config))
    generate_logs(spark, load_config(str(config_path)))

    params = {"project": str(real_project), "config": str(config_path), "raw": str(tmp_path / "raw")}
    done = serve(str(real_project / "address"), spark, partial(airflow, *RUN_DAY, json.dumps(params)))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]

    lake = Lake(spark, str(tmp_path / "lake"))
    clicks = lake.read("clicks")
    assert clicks.count() == lake.read("examples").count() > 0
    assert clicks.where(F.col("ds") != DAY).count() == 0
    assert lake.read("domain_stats").where(F.col("ds") == DAY).count() == 4
    assert lake.read("training_runs").count() == 1
    assert lake.read("domain_metrics").count() > 0
    assert lake.read("gate_decisions").count() == 1
    assert lake.read("scores").count() > 0
