"""Every query of docs/queries.md runs on a real lake, and those with a known answer give it."""

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path

import pytest
import torch

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.engine.metrics import DetailedMetrics, DomainMetrics
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.load_counts import LoadCounts
from mamdr_core.lake.ingest.loads import Load, record_load
from mamdr_core.lake.stats import domain_stats
from mamdr_core.lake.views import VIEWS, create_views, view_statements
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.records import record_metrics
from schemas import TABLES, feature_vocabulary
from tests.lake.stored import commit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "queries.md").read_text()
SECTIONS = [section.partition("\n") for section in DOCS.split("\n### ")[1:]]
QUERIES = {question: text.partition("```sql\n")[2].partition("```")[0] for question, _, text in SECTIONS}
"""SQL by the question above it."""
DOMAINS = ("d0", "d1", "d2", "d3", "d4")
CLICKS = [
    # Day, domain, rows, clicks. d0 jumps, d3 vanishes, fresh is new, the 3rd is empty.
    ("2026-01-01", "d0", 200, 20),
    ("2026-01-01", "d1", 40, 4),
    ("2026-01-01", "d3", 10, 5),
    ("2026-01-02", "d0", 200, 20),
    ("2026-01-02", "d1", 42, 4),
    ("2026-01-04", "d0", 200, 60),
    ("2026-01-04", "d1", 41, 4),
    ("2026-01-04", "fresh", 7, 1),
]
REJECTED = (("2026-01-04", "user_present", 3), ("2026-01-04", "label_binary", 1), (None, "ds_present", 2))
AUCS = {"joint": (0.6, 0.7, 0.8, 0.5, None), "mamdr": (0.7, 0.65, 0.8, 0.6, None)}
"""Test AUC of d0..d4 in two runs, the second a day later; d4 cannot be measured."""


def clicks_rows():
    """Rows of CLICKS: users u0.. of a domain; those of fresh and d1 are d0's too."""
    for ds, domain, rows, clicks in CLICKS:
        prefix = "v" if domain == "d3" else "u"
        at = {
            "domain": domain,
            "event_time": datetime.fromisoformat(f"{ds}T00:00Z"),
            "ds": date.fromisoformat(ds),
            "load": 7,
        }
        for n in range(rows):
            yield {"user": f"{prefix}{n % 30}", "item": f"i{n % 9}", "label": int(n < clicks), **at}


def metrics(aucs):
    """Figures of a run on the test split: 100, 200, ... rows, a tenth of them clicks, 0.15 predicted."""
    rows = torch.arange(1, len(aucs) + 1) * 100
    auc = torch.tensor([float("nan") if value is None else value for value in aucs], dtype=torch.float64)
    fields = {name: torch.full_like(auc, 0.15) for name in ("logloss", "mean_prediction", "oracle_auc")}
    detail = DetailedMetrics(MetricsSettings(), torch.full((8, len(aucs)), 0.5, dtype=torch.float64))
    return DomainMetrics(rows=rows, clicks=rows // 10, auc=auc, **fields, detail=detail)


def record_loads(lake):
    """The load of CLICKS and REJECTED, stopped at first, and published when it was run again."""
    counts = LoadCounts()
    for ds, _, rows, clicks in CLICKS:
        counts.add((date.fromisoformat(ds), None), rows, clicks)
    for ds, rule, rows in REJECTED:
        counts.add((date.fromisoformat(ds) if ds else None, rule), rows)
    load = Load(7, "raw")
    record_load(lake, load, counts, datetime(2026, 1, 5, 3, tzinfo=UTC), reason="too few rows")
    record_load(lake, load, counts, datetime(2026, 1, 5, 4, tzinfo=UTC), clicks_version=1)


@pytest.fixture(scope="module")
def lake(spark, trained_config, tmp_path_factory):
    """The trained lake's examples and vocabularies, with days of clicks and two runs made by hand."""
    root = str(tmp_path_factory.mktemp("queries") / "lake")
    made_here = ("clicks", "clicks_rejected", "loads", "domain_stats", "training_runs", "domain_metrics", "packages")
    shutil.copytree(trained_config.lake.root, root, ignore=shutil.ignore_patterns(*made_here))
    lake = Lake(spark, root)
    commit(root, TABLES["clicks"], list(clicks_rows()))
    rejected = [
        {"rule": rule, "row": "{}", "load": 7, "source": "raw", "source_file": "raw/part-0"}
        | {"ds": date.fromisoformat(ds) if ds else None}
        for ds, rule, rows in REJECTED
        for _ in range(rows)
    ]
    commit(root, TABLES["clicks_rejected"], rejected)
    record_loads(lake)
    domain_stats(spark, replace(trained_config, lake=replace(trained_config.lake, root=root)))
    runs = []
    for day, method in enumerate((*AUCS, "failed"), start=5):
        run = {"run_id": method, "status": "ok", "method": method, "model": "mlp", "config": "", "code_version": "abc"}
        run |= {"input_versions": [("examples", 0), ("domains", 0)], "started_at": datetime(2026, 1, day, tzinfo=UTC)}
        run |= (
            {"status": "failed", "error": "no slots"}
            if method == "failed"
            else {"seconds": [("ranks", 9.0), ("pin", 1.0)]}
        )
        runs.append(run)
    commit(root, TABLES["training_runs"], runs)
    for method, aucs in AUCS.items():
        record_metrics(lake, method, DOMAINS, {"test": metrics(aucs)})
    return lake


@pytest.fixture(scope="module")
def ask(spark, lake):
    """The rows that answer a question of the docs, under ANSI SQL as in spark-sql; each is asked once."""
    create_views(lake)
    spark.conf.set("spark.sql.ansi.enabled", "true")
    yield cache(lambda question: [row.asDict() for row in spark.sql(QUERIES[question]).collect()])
    spark.conf.set("spark.sql.ansi.enabled", "false")
    for name in [*(view.name for view in VIEWS), *(table.name for table in lake.tables())]:
        spark.catalog.dropTempView(name)


def test_every_question_of_the_docs_was_found():
    assert len(QUERIES) == DOCS.count("```sql") > 20
    assert all(QUERIES.values())


def test_the_docs_list_the_views():
    for view in VIEWS:
        assert f"| `{view.name}` | {view.description} |" in DOCS


NO_ANSWER_HERE = {"Which domains were added since a version?"}


@pytest.mark.parametrize("question", QUERIES)
def test_a_question_can_be_asked(ask, question):
    assert bool(ask(question)) == (question not in NO_ANSWER_HERE)


def test_the_largest_domains_come_with_their_ctr_and_the_latest_runs_auc(spark, ask):
    found = ask("Which domains are the largest, and what is their CTR?")
    assert [(row["domain"], row["rows"], row["ctr"]) for row in found] == [
        ("d0", 200, 0.3),
        ("d1", 41, 4 / 41),
        ("d3", 10, 0.5),
        ("fresh", 7, 1 / 7),
    ]
    aucs = {row["domain"]: row["test_auc"] for row in spark.table("domains_now").collect()}
    assert aucs == {"d0": 0.7, "d1": 0.65, "d3": 0.6, "fresh": None}


def test_drift_is_that_of_the_domain_that_jumped(ask):
    found = ask("Which domains drift?")
    assert [row["domain"] for row in found] == ["d0"]
    assert found[0]["ctr_difference"] is None, "the day before is empty"
    assert found[0]["week_ctr_difference"] == pytest.approx(0.2)
    drifted = ask("Did the AUC drop in domains that drift?")
    assert [(row["domain"], row["difference"]) for row in drifted] == [("d0", pytest.approx(0.1))]


def test_new_and_vanished_domains_and_empty_days_are_named(ask):
    assert [row["domain"] for row in ask("Which domains are new?")] == ["fresh"]
    assert [(row["domain"], row["rows_in_the_week"]) for row in ask("Which domains vanished?")] == [("d3", 10)]
    few = ask("Are there days without clicks, or with few?")
    assert [(row["ds"], row["rows"]) for row in few] == [(date(2026, 1, 3), 0)]


def test_ctr_beyond_doubt_is_distinguished_from_chance(ask):
    found = ask("Which domains' CTR is significantly above or below that of the whole day?")
    assert [(row["domain"], row["side"]) for row in found] == [("d1", "below")]
    assert found[0]["day_ctr"] == 65 / 248


def test_shared_users_are_counted(ask):
    pairs = {(row["domain"], row["other_domain"]): row["shared_users"] for row in ask(
        "Which pairs of domains share the most users on the newest day?"
    )}  # fmt: skip
    assert pairs == {("d0", "d1"): 30, ("d0", "fresh"): 7, ("d1", "fresh"): 7}
    alone = ask("Which domains share users with others, and which do not?")
    assert [row["domain"] for row in alone] == ["d3", "d0", "d1", "fresh"]
    new = {(row["ds"].day, row["domain"]): row["new_users"] for row in ask("Which domains have the most new users?")}
    assert {key: count for key, count in new.items() if count} == {(1, "d0"): 30, (1, "d1"): 30, (1, "d3"): 10}


def test_rejected_rows_are_shares_of_their_day(ask):
    found = ask("How many rows does each rule reject?")
    day = sum(rows for ds, _, rows, _ in CLICKS if ds == "2026-01-04") + 4
    assert [(row["rule"], row["rows"], row["share"]) for row in found] == [
        ("user_present", 3, 3 / day),
        ("label_binary", 1, 1 / day),
        ("ds_present", 2, 1.0),
    ]
    assert Counter({row["rule"]: row["rows"] for row in ask(
        "What do rejected rows look like, and where do they come from?"
    )}) == Counter({rule: rows for _, rule, rows in REJECTED})  # fmt: skip


def test_a_load_is_its_newest_attempt_and_names_the_rows_of_a_day(ask):
    rows, clicks = (sum(row[column] for row in CLICKS) for column in (2, 3))
    loads = ask("What did each load bring?")
    found = [(row["source"], row["status"], row["rows_in"], row["clicks"], row["reason"]) for row in loads]
    assert found == [("raw", "published", rows + 6, rows, None)]
    assert loads[0]["ctr"] == clicks / rows
    days = ask("Which loads hold the rows of a day?")
    assert {(str(row["ds"]), row["source"], row["rows"]) for row in days} == {
        ("2026-01-01", "raw", 250),
        ("2026-01-02", "raw", 242),
        ("2026-01-04", "raw", 248),
    }


def test_runs_are_compared_on_the_same_examples(ask):
    found = ask("Which method is best on the same examples?")
    assert [(row["method"], row["domains"], row["best_in"]) for row in found] == [("mamdr", 4, 3), ("joint", 4, 2)]
    assert found[0]["mean_auc"] == pytest.approx((0.7 + 0.65 + 0.8 + 0.6) / 4)
    assert found[0]["weighted_auc"] == pytest.approx((0.7 + 0.65 * 2 + 0.8 * 3 + 0.6 * 4) / 10)
    found = ask("In which domains did the AUC change since the run before?")
    changes = {row["domain"]: row["difference"] for row in found}
    assert changes == {"d1": pytest.approx(-0.05), "d2": 0.0, "d0": pytest.approx(0.1), "d3": pytest.approx(0.1)}
    lowest = ask("In which domains does the latest run have the lowest AUC?")
    assert [row["domain"] for row in lowest] == ["d3", "d1", "d0", "d2"]


def test_calibration_is_the_prediction_per_click(ask):
    found = ask("In which domains does the latest run predict too many or too few clicks?")
    assert [row["predicted_per_click"] for row in found] == [pytest.approx(1.5)] * 4


def test_versions_lead_back_to_what_a_run_was_trained_on(ask, lake):
    inputs = ask("What exactly was the latest run trained on?")
    assert [(row["run_id"], row["input"], row["version"]) for row in inputs] == [
        ("mamdr", "domains", 0),
        ("mamdr", "examples", 0),
    ]
    then = {row["split"]: row["rows"] for row in ask("What did the examples of that version contain?")}
    assert then == {row["split"]: row["count"] for row in lake.read("examples", 0).groupBy("split").count().collect()}
    grown = ask("How did the vocabularies grow?")
    assert grown[-1]["domains"] == 5
    failed = ask("Which runs failed, and why?")
    assert [(row["run_id"], row["error"]) for row in failed] == [("failed", "no slots")]


@pytest.mark.usefixtures("generated_code")  # which Spark needs to list tables
def test_views_whose_tables_are_missing_are_left_out(spark, lake_root, make_clicks):
    lake = Lake(spark, f"{lake_root} of mine")
    with pytest.raises(MamdrError, match=r"holds no table yet: run jobs/ingest_clicks.py first"):
        view_statements(lake)
    lake.append("clicks", make_clicks([("u", "i", "d")]))
    lake.create(feature_vocabulary("city"))
    session = spark.newSession()
    create_views(Lake(session, lake.root))
    assert {table.name for table in session.catalog.listTables()} == {"clicks", "vocabulary_city"}
    assert session.table("clicks").count() == 1


def test_the_script_for_spark_sql_is_the_views_statements(lake):
    command = [sys.executable, "-m", "mamdr_core.lake.views", lake.root]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split(";\n") == [*view_statements(lake), ""]
