"""The daily run: the day's clicks in, a retrained and evaluated model out, each step one spark-submit of a job.

    make airflow
    AIRFLOW__CORE__DAGS_FOLDER=$PWD/airflow_dags .venv-airflow/bin/airflow dags test mamdr_daily 2026-01-01

Airflow lives in an environment of its own and calls the project's spark-submit through BashOperator. The last line of a
job's stdout is one JSON object, and the last line of a BashOperator's output is its XCom: so a job's result is the
task's XCom, parsed, and the evaluation finds the run that the training made.

Values from params and the calendar reach bash as environment variables, never as text of the command.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronDataIntervalTimetable, Param, dag

PARAMS = {
    "project": Param(
        os.environ.get("MAMDR_PROJECT", str(Path(__file__).resolve().parent.parent)),
        type="string",
        minLength=1,
        description="The project's folder, where make setup has been run. Relative paths in the config start here.",
    ),
    "config": Param(
        os.environ.get("MAMDR_CONFIG", "conf/demo.yaml"),
        type="string",
        minLength=1,
        description="The YAML file of the run.",
    ),
    "raw": Param(
        os.environ.get("MAMDR_RAW", ".demo/raw"),
        type="string",
        minLength=1,
        description="The folder of the raw logs, with a subfolder day=YYYY-MM-DD for each day.",
    ),
    "lake": Param(
        os.environ.get("MAMDR_LAKE"),
        type=["null", "string"],
        description="The lake's root; empty for the config file's own.",
    ),
}
ENVIRONMENT = {
    "PROJECT": "{{ params.project }}",
    "CONFIG": "{{ params.config }}",
    "RAW": "{{ params.raw }}",
    "LAKE": "{{ params.lake or '' }}",
    "DAY": "{{ ds }}",
}
# Spark's and the job's logs go through stderr to the task's log; of stdout only the result, after all else has ended.
COMMAND = (
    "set -o pipefail; "
    '"$PROJECT/.venv/bin/spark-submit" "$PROJECT/jobs/{job}.py" --config "$CONFIG"{setting} '
    '${{LAKE:+--set "lake.root=$LAKE"}} | tail -n 1'
)


def submit(job: str, setting: str = "", **variables: str) -> BashOperator:
    """The task that runs jobs/<job>.py, with `setting` given by --set and `variables` for bash to expand in it."""
    return BashOperator(
        task_id=job,
        bash_command=COMMAND.format(job=job, setting=f' --set "{setting}"' if setting else ""),
        env=ENVIRONMENT | variables,
        append_env=True,
        cwd="{{ params.project }}",
        output_processor=json.loads,
    )


@dag(
    # A data interval makes the logical date the day that has just ended; plain "@daily" means, since Airflow 3, the day
    # that is just beginning, of which there are no clicks yet.
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": int(os.environ.get("MAMDR_RETRIES", "2")),
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "execution_timeout": timedelta(hours=6),
    },
    params=PARAMS,
    tags=["mamdr"],
    doc_md=__doc__,
)
def mamdr_daily() -> None:
    """Ingest, build examples, count, train, evaluate, for the logical date."""
    run_id = "{{ ti.xcom_pull(task_ids='train_mamdr')['run_id'] }}"
    (
        submit("ingest_clicks", "input.path=$RAW/day=$DAY")
        >> submit("build_examples", "examples.until=$DAY")
        >> submit("domain_stats", "stats.ds=$DAY")
        >> submit("train_mamdr", "examples.until=$DAY")
        >> submit("evaluate", "evaluate.run_id=$RUN", RUN=run_id)
    )


mamdr_daily()
