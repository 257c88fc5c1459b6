"""Runs three days of the DAG mamdr_daily on synthetic logs: a new domain on day 2, and shuffled labels on day 3.

    make airflow-demo

Tastes drift from day to day, and one domain appears on day 2. On day 3 the labels are shuffled among the rows of each
domain, as by a broken join of clicks to impressions: all counts and click-through rates are right, so that the load
passes its checks, and only a model shows the error. The gate must stop the run. Everything is stored in .airflow-demo/;
the exit code is 0 if each day had the expected outcome.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / ".airflow-demo"
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
SUBMIT = ROOT / ".venv/bin/spark-submit"
AIRFLOW = ROOT / ".venv-airflow/bin/airflow"


def main() -> int:
    shutil.rmtree(DEMO, ignore_errors=True)
    config = write_config()
    subprocess.run([SUBMIT, ROOT / "jobs/generate_logs.py", "--config", config], check=True)
    shuffle_labels(DAYS[2])
    environment = airflow_environment()
    subprocess.run([AIRFLOW, "db", "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = [run_day(day, config, environment) for day in DAYS]
    return report_days(seconds)


def write_config() -> Path:
    """conf/demo.yaml with fewer and drifting rows, and one rank."""
    config = yaml.safe_load((ROOT / "conf/demo.yaml").read_text())
    config["lake"]["root"] = str(DEMO / "lake")
    config["input"]["path"] = str(DEMO / "raw")
    config["synthetic"] |= {"rows": 90_000, "domains": 8, "days": 3, "drift": 0.1, "late_domains": 1, "conflict": 0.5}
    for feature in config["features"]:
        feature["path"] = str(DEMO / "raw_vectors" / f"{feature['of']}s")
    config["train"] |= {"ranks": 1, "epochs": 6, "rounds_per_epoch": 16, "validate_every": 8, "patience": 5}
    DEMO.mkdir()
    path = DEMO / "daily.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def shuffle_labels(day: str) -> None:
    """Shuffle the labels of a day among the rows of each domain."""
    random = np.random.default_rng(0)
    for file in sorted((DEMO / "raw" / f"day={day}").glob("*.parquet")):
        rows = pd.read_parquet(file)
        rows["label"] = rows.groupby("domain")["label"].transform(lambda labels: random.permutation(labels.to_numpy()))
        rows.to_parquet(file, index=False)
        file.with_name(f".{file.name}.crc").unlink()  # Hadoop's checksum of what was there


def airflow_environment() -> dict[str, str]:
    home = DEMO / "airflow"
    return os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "MAMDR_RETRIES": "0",
    }


def run_day(day: str, config: Path, environment: dict[str, str]) -> float:
    """Run the DAG for a day; returns its seconds."""
    print(f"airflow-demo: {day}", file=sys.stderr, flush=True)
    params = {"project": str(ROOT), "config": str(config), "raw": str(DEMO / "raw")}
    started = time.monotonic()
    with (DEMO / f"{day}.log").open("w") as log:
        command = [AIRFLOW, "dags", "test", "mamdr_daily", day, "--conf", json.dumps(params)]
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"airflow-demo: {day} failed, see {log.name}")
    return time.monotonic() - started


def report_days(seconds: list[float]) -> int:
    """Print the outcome of each day, read with Spark; returns the exit code."""
    with spark_session("airflow_demo") as spark:
        read = Lake(spark, str(DEMO / "lake")).read
        decisions = {str(row["ds"]): row for row in read("gate_decisions").collect()}
        promoted = {row["run_id"] for row in read("promotions").collect()}
    serving = ""
    print(f"{'day':<11} {'run':<31} {'gate':<8} {'serves after it':<31} {'AUC':<6} minutes")
    for day, each in zip(DAYS, seconds, strict=True):
        row = decisions[day]
        serving = row["run_id"] if row["run_id"] in promoted else serving
        gate = "passed" if row["passed"] else "stopped"
        print(f"{day:<11} {row['run_id']:<31} {gate:<8} {serving:<31} {row['auc']:.4f} {each / 60:.1f}")
    last = decisions[DAYS[2]]
    print(*(f"  {reason}" for reason in last["reasons"]), sep="\n")
    print(f"The report of the day that was stopped: {DEMO / 'lake/reports' / last['run_id']}.html")
    if [decisions[day]["passed"] for day in DAYS] == [True, True, False] and serving == decisions[DAYS[1]]["run_id"]:
        return 0
    print("airflow-demo: unexpected outcome: days 1 and 2 should serve, day 3 should be stopped", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
