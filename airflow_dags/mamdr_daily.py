"""Daily run: ingests the clicks of a day, retrains the model, promotes it if it passes the gate, scores and reports.

    make airflow
    AIRFLOW__CORE__DAGS_FOLDER=$PWD/airflow_dags .venv-airflow/bin/airflow dags test mamdr_daily 2026-01-01

Each task is one spark-submit of a job. Airflow runs in its own environment and calls the project's spark-submit with
BashOperator. The last line of a job's stdout is one JSON object, and the last line of a BashOperator's output is its
XCom, so the XCom of a task is the parsed result of its job. Later tasks read the id of the trained run from it.

Values from params, the calendar and XComs are passed to bash as environment variables, never as text of the command.

There are two checks. The quality check of ingest_clicks (`quality.*`) fails the task instead of publishing a bad load.
The promotion gate (`gate.*`) rejects a model that is worse than the champion: promote is then skipped, the champion
continues to serve, and the report states the reasons. A day can be run again: it trains on the examples that
build_examples made for it, does not replace a champion of a later day, and is scored with the run that served then, as
long as maintain_lake keeps it. The report does not wait for scores.

A second DAG, mamdr_weekly, runs maintain_lake, which removes files that the lake no longer needs (`maintain.*`),
independently of the daily runs.
"""

import json
import logging
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import CronDataIntervalTimetable, Param, TriggerRule, dag

logger = logging.getLogger(__name__)

PARAMS = {
    "project": Param(
        os.environ.get("MAMDR_PROJECT", str(Path(__file__).resolve().parent.parent)),
        type="string",
        minLength=1,
        description="Folder of the project, in which make setup has been run. Relative paths in the config start here.",
    ),
    "config": Param(
        os.environ.get("MAMDR_CONFIG", "conf/demo.yaml"),
        type="string",
        minLength=1,
        description="YAML file of the configuration.",
    ),
    "raw": Param(
        os.environ.get("MAMDR_RAW", ".demo/raw"),
        type="string",
        minLength=1,
        description="Folder of the raw logs, with a subfolder day=YYYY-MM-DD for each day.",
    ),
    "lake": Param(
        os.environ.get("MAMDR_LAKE"),
        type=["null", "string"],
        description="Root of the lake; empty: lake.root of the config file.",
    ),
    "training": Param(
        os.environ.get("MAMDR_TRAINING", "warm"),
        type="string",
        pattern="^(warm|cold|[1-9][0-9]*)$",
        description="warm: learn all days of the window, starting from the champion's parameters; cold: starting from "
        "initial parameters; a number N: learn only the newest N days, starting from the champion's (train.days).",
    ),
    "requests": Param(
        os.environ.get("MAMDR_REQUESTS"),
        type=["null", "string"],
        description="Folder of the rows to score, with a subfolder day=YYYY-MM-DD for each day; empty: the test split.",
    ),
}
ENVIRONMENT = {
    "PROJECT": "{{ params.project }}",
    "CONFIG": "{{ params.config }}",
    "RAW": "{{ params.raw }}",
    "LAKE": "{{ params.lake or '' }}",
    "REQUESTS": "{{ params.requests or '' }}",
    "DAY": "{{ ds }}",
    "WARM_START": "{{ '' if params.training == 'cold' else 'champion' }}",
    "TRAIN_DAYS": "{{ '' if params.training in ('warm', 'cold') else params.training }}",
    "EXAMPLES": "{{ (ti.xcom_pull(task_ids='build_examples') or {}).get('examples_version', '') }}",
    "RUN": "{{ (ti.xcom_pull(task_ids='train_mamdr') or {}).get('run_id', '') }}",
    "SERVES": "{{ (ti.xcom_pull(task_ids='gate') or {}).get('serves') or '' }}",
    "PROMOTED": "{{ (ti.xcom_pull(task_ids='promote') or {}).get('run_id', '') }}",
}
# Logs of Spark and the job go to the log of the task through stderr; of stdout, only the last line is kept.
COMMAND = (
    "set -o pipefail; "
    '"$PROJECT/.venv/bin/spark-submit" "$PROJECT/jobs/{job}.py" --config "$CONFIG" {settings} '
    '${{LAKE:+--set "lake.root=$LAKE"}} | tail -n 1'
)
IF_A_RUN_SERVES = '[ -n "$SERVES$PROMOTED" ] || { echo "no run serves on $DAY: nothing to score with" >&2; exit 99; }; '
"""Commands that make Airflow skip the task if no run up to the day has passed the gate."""
HOURS = {"train_mamdr": 6}
"""Timeouts of long tasks in hours; all others have one hour."""


def submit(job: str, *settings: str, before: str = "", after_skipped: bool = False) -> BashOperator:
    """Create the task that runs jobs/<job>.py.

    Args:
        job: name of the job.
        settings: bash words that set its keys; they may expand `ENVIRONMENT`.
        before: bash commands to run first; exit code 99 skips the task.
        after_skipped: whether it also runs if the previous task was skipped.
    """
    return BashOperator(
        task_id=job,
        bash_command=before + COMMAND.format(job=job, settings=" ".join(settings)),
        env=ENVIRONMENT,
        append_env=True,
        cwd="{{ params.project }}",
        output_processor=json.loads,
        execution_timeout=timedelta(hours=HOURS.get(job, 1)),
        trigger_rule=TriggerRule.NONE_FAILED if after_skipped else TriggerRule.ALL_SUCCESS,
    )


def passed(ti: Any) -> bool:
    """Whether the run passed the gate; logs the reasons if not."""
    decision = ti.xcom_pull(task_ids="gate")
    for reason in decision.get("reasons", ()):
        logger.warning("the gate: %s", reason)
    return bool(decision["passed"])


def alert(context: Any) -> None:
    """Report a task that has failed after all retries: in the log, and with the command $MAMDR_ON_FAILURE if it is set.

    The command gets the task, the day and the URL of the log in TASK, DAY and LOG.
    """
    ti = context["ti"]
    facts = {"TASK": ti.task_id, "DAY": str(context.get("ds", "")), "LOG": str(getattr(ti, "log_url", ""))}
    logger.error("mamdr_daily: %(TASK)s of %(DAY)s has failed, see %(LOG)s", facts)
    command = os.environ.get("MAMDR_ON_FAILURE")
    if command:
        subprocess.run(["/bin/sh", "-c", command], env=os.environ | facts, timeout=60, check=False)


COMMON: dict[str, Any] = {
    "start_date": datetime(2020, 1, 1, tzinfo=UTC),
    "catchup": False,
    "default_args": {
        # User errors are also retried: the log of the day may be late.
        "retries": int(os.environ.get("MAMDR_RETRIES", "2")),
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "on_failure_callback": alert,
    },
    "params": PARAMS,
    "tags": ["mamdr"],
    "doc_md": __doc__,
}


@dag(
    # With a data interval, the logical date is the day that has just ended. Since Airflow 3, a plain "@daily" means the
    # day that has just started, which has no clicks yet.
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    max_active_runs=1,  # a day starts from the champion of the day before
    **COMMON,
)
def mamdr_daily() -> None:
    """Ingest, build examples, count, train, measure, decide, promote, score and report, for the logical date."""
    promote = submit("promote", '--set "promote.run_id=$RUN"')
    (
        submit("ingest_clicks", '--set "input.path=$RAW/day=$DAY"')
        >> submit("build_examples", '--set "examples.until=$DAY"')
        >> submit("domain_stats", '--set "stats.ds=$DAY"')
        >> submit(
            "train_mamdr",
            "--resume",
            '--set "examples.until=$DAY" --set "train.examples_version=$EXAMPLES" --set "train.warm_start=$WARM_START" '
            '${TRAIN_DAYS:+--set "train.days=$TRAIN_DAYS"}',
        )
        >> submit("evaluate", '--set "evaluate.run_id=$RUN"')
        >> submit("gate", '--set "gate.run_id=$RUN"')
        >> ShortCircuitOperator(task_id="passed", python_callable=passed, ignore_downstream_trigger_rules=False)
        >> promote
    )
    promote >> submit(
        "score",
        '--set "score.run_id=champion@$DAY" --set "score.batch=$DAY" '
        '${REQUESTS:+--set "score.input.path=$REQUESTS/day=$DAY"}',
        before=IF_A_RUN_SERVES,
        after_skipped=True,
    )
    promote >> submit("report", '--set "report.run_id=$RUN"', after_skipped=True)


@dag(schedule=CronDataIntervalTimetable("@weekly", timezone="UTC"), max_active_runs=1, **COMMON)
def mamdr_weekly() -> None:
    """Compact small files and remove files that the lake no longer needs."""
    submit("maintain_lake")


mamdr_daily()
mamdr_weekly()
