"""The data jobs: each is a command with a JSON last line, one clear line on bad input, and the same figures again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mamdr_core.config.lake import LakeSettings
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.views import create_views

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA_JOBS = ("generate_logs", "ingest_clicks", "build_examples", "domain_stats", "maintain_lake")


def demo(tmp_path: Path) -> list[str]:
    changes = {
        "lake.root": tmp_path / "lake",
        "input.path": tmp_path / "raw",
        "synthetic.rows": 2000,
        "synthetic.users": 200,
        "synthetic.items": 100,
    }
    vectors = [
        {
            "name": f"{of}_vector",
            "kind": "vector",
            "of": of,
            "size": 16,
            "path": str(tmp_path / "raw_vectors" / f"{of}s"),
        }
        for of in ("user", "item")
    ]
    changes |= {"lake.catalog": "demo_of_a_test", "lake.managed": "true"}
    pairs = [f"{key}={value}" for key, value in changes.items()] + [f"features={json.dumps(vectors)}"]
    return ["--config", str(ROOT / "conf" / "demo.yaml"), *(word for pair in pairs for word in ("--set", pair))]


def test_the_demo_goes_from_synthetic_logs_to_statistics(spark, run_in_session, request, tmp_path: Path):
    spark.sql(f"CREATE SCHEMA demo_of_a_test LOCATION '{tmp_path}/warehouse'")
    results = {}
    for name in DATA_JOBS:
        if name == "maintain_lake":
            request.getfixturevalue("generated_code")  # which Spark needs to list tables
        code, results[name], _ = run_in_session(name, *demo(tmp_path))
        assert (code, results[name]["job"], results[name]["status"]) == (0, name, "ok")
    assert results["ingest_clicks"]["clicks"] == results["generate_logs"]["rows"] == 2000
    assert results["build_examples"]["positives"] == results["generate_logs"]["clicks"]
    assert results["domain_stats"]["days"] == results["generate_logs"]["days"] == 2
    lake = Lake(spark, LakeSettings(root=str(tmp_path / "lake"), catalog="demo_of_a_test", managed=True))
    assert lake.read("user_features").count() == results["build_examples"]["users"]
    assert lake.read("examples").where("true_probability IS NULL").count() == 0
    assert spark.table("demo_of_a_test.examples").count() == 2000
    assert {path.name for path in (tmp_path / "warehouse").iterdir()} == results["maintain_lake"]["tables"].keys()
    create_views(lake)
    assert spark.sql("SELECT sum(rows) FROM domain_stats").first()[0] == 2000
    for view in spark.catalog.listTables():
        spark.catalog.dropTempView(view.name)
    spark.sql("DROP SCHEMA demo_of_a_test CASCADE")


def test_a_mistake_is_one_clear_line_and_exit_code_2(tmp_path: Path):
    raw = tmp_path / "raw.csv"
    raw.write_text("uid,pid,theme\nu1,i1,t1\n")
    source = {
        "path": str(raw),
        "format": "csv",
        "options": {"header": "true"},
        "columns": {"user": "uid", "item": "item"},
    }
    sets = ("--set", f"lake.root={tmp_path / 'lake'}", "--set", f"input={json.dumps(source)}")
    command = [sys.executable, str(ROOT / "jobs/ingest_clicks.py"), *sets]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    message = "input.columns.item: 'item' names no existing column: item; columns of the log: uid, pid, theme"
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [f"error: {message}"]
    assert json.loads(done.stdout.splitlines()[-1]) == {"job": "ingest_clicks", "status": "failed", "error": message}
    assert not (tmp_path / "lake").exists()
