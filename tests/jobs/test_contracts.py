"""What outside scripts rely on: help, exit codes, the JSON line, a clean stderr, the whole line by spark-submit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mamdr_core.parallel.collective import run_simulated
from mamdr_core.training import driver

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[!_]*.py"))
SUBMIT = ROOT / ".venv/bin/spark-submit"
CIAO = ROOT.parent / "shared/data/ciao/ratings.csv.gz"


def run(*command, cwd=ROOT):
    """Run a command and return its result."""
    environment = {name: value for name, value in os.environ.items() if name != "PYSPARK_SUBMIT_ARGS"}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def figures(done):
    """The JSON object of the last line of stdout."""
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1])


# Each job as a program, one after the other in one process that cannot start Spark: importing torch takes seconds.
CALL_JOBS = """
import contextlib, io, json, runpy, sys
import pyspark.java_gateway
import pyspark.core.context

def launch_gateway(*arguments, **named):
    raise AssertionError("Spark was started")

pyspark.java_gateway.launch_gateway = pyspark.core.context.launch_gateway = launch_gateway
outcomes = []
for script in sys.argv[1:]:
    for arguments in (["--help"], ["--set", "lake.rot=x"], ["--set", "lake.root=elsewhere", "--print-config"]):
        out, err, sys.argv, code = io.StringIO(), io.StringIO(), [script, *arguments], 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as ended:
                code = ended.code or 0
        outcomes.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(outcomes))
"""


@pytest.mark.slow
def test_help_a_mistake_and_the_configuration_of_every_job_need_no_spark():
    outcomes = figures(run(sys.executable, "-c", CALL_JOBS, *(ROOT / f"jobs/{job}.py" for job in JOBS)))
    assert len(outcomes) == 3 * len(JOBS) > 30
    for job, (code, out, err), mistake, printed in zip(
        JOBS, outcomes[::3], outcomes[1::3], outcomes[2::3], strict=True
    ):
        assert code == 0, err
        assert f"spark-submit jobs/{job}.py --config" in " ".join(out.split())
        code, out, err = mistake
        assert code == 2, job
        assert err == "error: unknown config key lake.rot; did you mean lake.root?\n"
        assert json.loads(out) == {
            "job": job,
            "status": "failed",
            "error": "unknown config key lake.rot; did you mean lake.root?",
        }
        code, out, err = printed
        assert code == 0, err
        assert "root: elsewhere" in out


@pytest.mark.slow
def test_the_demo_command_trains_and_measures_a_model_by_plain_spark_submit(tmp_path, run_in_session):
    """Two ranks under Horovod, from another folder; stderr holds nothing that a user cannot act on."""
    vectors = [
        {"name": f"{of}_vector", "kind": "vector", "of": of, "size": 4, "path": f"raw_vectors/{of}s"}
        for of in ("user", "item")
    ]
    sets = {
        "lake.root": "lake",
        "input.path": "raw",
        "features": json.dumps(vectors),
        "synthetic.rows": 6000,
        "synthetic.domains": 6,
        "synthetic.users": 300,
        "synthetic.items": 100,
        "synthetic.vectors": 4,
        "train.epochs": 2,
        "train.rounds_per_epoch": 4,
    }
    arguments = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    done = run(SUBMIT, ROOT / "jobs/train_mamdr.py", "--config", ROOT / "conf/demo.yaml", *arguments, cwd=tmp_path)
    result = figures(done)
    assert (result["job"], result["status"], result["method"], result["ranks"]) == ("train_mamdr", "ok", "mixed", 2)
    assert result["domains"] == 6
    assert (tmp_path / "lake/domain_stats/_delta_log").is_dir()
    for noise in ("Traceback", "WARN", "Warning", "Exception", "\tat "):
        assert noise not in done.stderr, done.stderr
    assert "val AUC" in done.stderr
    assert "oracle" in done.stderr

    code, measured, _ = run_in_session("evaluate", "--set", f"lake.root={tmp_path}/lake")
    assert (code, measured["status"]) == (0, "ok")
    assert measured["auc"] == pytest.approx(result["test_auc"], abs=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("generated_code")  # faster for this number of rows
@pytest.mark.skipif(
    not CIAO.exists(), reason="no shared/data/ciao beside the checkout: the real set is not in the repo"
)
def test_ciao_with_ratings_as_labels_end_to_end_on_two_ranks(tmp_path, run_in_session, monkeypatch):
    """Above chance by far; the figures of full runs stand in benchmarks/README.md. Its ranks are in this process."""
    monkeypatch.setattr(driver, "run_ranks", lambda spark, task, ranks, *_: run_simulated(task, ranks))

    def run_job(name, *more):
        sets = ("--set", f"input.path={CIAO}", "--set", f"lake.root={tmp_path}/lake")
        code, result, _ = run_in_session(name, "--config", str(ROOT / "conf/ciao.yaml"), *sets, *more)
        assert code == 0
        return result

    loaded = run_job("ingest_clicks")
    assert loaded["rows_in"] == loaded["clicks"] + loaded["rejected"] == 284_086
    assert (loaded["rejected_by_rule"], loaded["days"]) == ({"unique_event": 355}, 12)
    built = run_job("build_examples")
    assert (built["users"], built["items"], built["domains"]) == (7_375, 105_114, 28)
    assert built["positives"] / built["examples"] == pytest.approx(0.80, abs=0.005)
    assert built["train_rows"] / built["examples"] == pytest.approx(0.6, abs=0.005)
    assert run_job("domain_stats")["days"] == 12
    trained = run_job("train_mamdr", "--set", "train.epochs=3")
    assert (trained["domains"], trained["ranks"]) == (28, 2)
    assert trained["test_auc"] > 0.62
    assert trained["weighted_test_auc"] > 0.66
