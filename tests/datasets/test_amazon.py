"""convert_amazon: real 5-core files give the figures of the paper; every line of generated files is counted."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.datasets import paper_tables
from mamdr_core.datasets.amazon import convert_amazon
from mamdr_core.datasets.paper_tables import PAPER_SETS, PaperSet
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data" / "amazon5"
TIME = 1441324800
LINES = (
    {
        "reviewerID": "u1",
        "asin": "i1",
        "overall": 5.0,
        "unixReviewTime": TIME,
        "reviewText": "a \n line",
        "vote": "1,234",
    },
    {"reviewerID": "u1", "asin": "i1", "overall": 4.0, "unixReviewTime": TIME - 86_400},
    {"reviewerID": "u1", "asin": "i1", "overall": 5.0, "unixReviewTime": TIME},
    {"reviewerID": "u2", "asin": "i2", "overall": 1.0, "unixReviewTime": TIME},
    {"reviewerID": "", "asin": "i1", "overall": 5.0, "unixReviewTime": TIME},
    {"reviewerID": "u3", "asin": None, "overall": 5.0, "unixReviewTime": TIME},
    {"reviewerID": "u3", "asin": "i1", "overall": 5.0},
    {"reviewerID": "u3", "asin": "i1", "overall": 5.0, "unixReviewTime": "yesterday"},
    {},
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A review file in the public format, and its path."""

    def make(name: str, rows: Any = LINES[:1]) -> Path:
        path = tmp_path / "download" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))
        return path

    return make


@pytest.fixture
def make_config(tmp_path: Path, lake_root: str) -> Callable[..., Config]:
    """A configuration from download/ to log/."""

    def make(*categories: str, path: Path | None = None, **convert: Any) -> Config:
        columns = {"event_time": "event_time", "ds": "trunc(event_time, 'year')"}
        source = {"path": str(path or tmp_path / "download"), "categories": list(categories), **convert}
        target = {"path": str(tmp_path / "log"), "columns": columns}
        return parse_config({"lake": {"root": lake_root}, "convert": source, "input": target})

    return make


def test_real_5_core_files_give_table_7_to_the_row(spark, make_config, monkeypatch, caplog):
    if not DATA.exists():
        pytest.skip(f"{DATA} is absent: the real sets are not part of this project")
    table_7 = next(paper for paper in PAPER_SETS if paper.name == "Amazon-13").domains
    small = {name: table_7[name] for name in ("Gift_Cards", "Magazine_Subscriptions")}
    assert [samples for samples, _ in small.values()] == [11_951, 13_103]
    monkeypatch.setattr(paper_tables, "PAPER_SETS", (PaperSet("two of Amazon-13", 804, 305, 25_054, small),))
    config = make_config(*small, path=DATA)
    with caplog.at_level("INFO"):
        figures = convert_amazon(spark, config)
    assert (figures["paper_set"], figures["matches_paper"], figures["differences"]) == ("two of Amazon-13", True, {})
    assert "reproduces two of Amazon-13 of the paper" in caplog.text
    assert (figures["rows_in"], figures["clicks"], figures["repeated"], figures["rejected"]) == (5_347, 5_267, 80, 0)
    assert figures["by_domain"] == {
        "Gift_Cards": {"clicks": 2_965, "users": 458, "items": 148, "paper_samples": 11_951},
        "Magazine_Subscriptions": {"clicks": 2_302, "users": 348, "items": 157, "paper_samples": 13_103},
    }
    ingested = ingest_clicks(spark, config)
    assert (ingested["clicks"], ingested["rejected"]) == (5_267, 0)


def test_every_line_is_a_click_a_repetition_or_rejected(spark, make_config, write):
    faulty = write("Gift_Cards_5.json.gz", LINES)
    faulty.write_bytes(faulty.read_bytes() + gzip.compress(b'not json\n\n{"reviewerID": "u4", "as'))
    write("Software_5.json.gz", LINES[3:4])
    figures = convert_amazon(spark, make_config("Software", "Gift_Cards"))
    assert figures["rows_in"] == 12
    assert (figures["clicks"], figures["repeated"], figures["rejected"]) == (3, 2, 7)
    assert figures["rejected_by_fault"] == {"malformed_line": 3, "no_item": 1, "no_time": 1, "no_user": 2}
    assert list(figures["by_domain"]) == ["Software", "Gift_Cards"]
    rows = spark.read.parquet(figures["path"]).selectExpr("user", "item", "domain", "unix_timestamp(event_time) time")
    assert {tuple(row) for row in rows.collect()} == {
        ("u1", "i1", "Gift_Cards", TIME - 86_400),
        ("u2", "i2", "Gift_Cards", TIME),
        ("u2", "i2", "Software", TIME),
    }


def test_only_the_5_core_is_compared_with_the_paper(spark, make_config, write, monkeypatch, caplog):
    write("Gift_Cards_5.json.gz", LINES[:4])
    write("Gift_Cards.json.gz", LINES[:4])
    paper = PaperSet("tiny", users=3, items=2, samples=8, domains={"Gift_Cards": (8, 0.5)})
    monkeypatch.setattr(paper_tables, "PAPER_SETS", (paper,))
    figures = convert_amazon(spark, make_config("Gift_Cards"))
    # u1 has two positives on one item and one item left, u2 one of each: 2 + 1 + 1 + 1.
    wanted = {"users": {"found": 2, "paper": 3}}
    wanted |= {name: {"found": 5, "paper": 8} for name in ("samples", "Gift_Cards.samples")}
    assert (figures["matches_paper"], figures["differences"]) == (False, wanted)
    assert "differs from tiny of the paper: users 2 (paper 3)" in caplog.text
    whole = convert_amazon(spark, make_config("Gift_Cards", five_core=False))
    assert (whole["clicks"], whole["paper_set"], whole["matches_paper"]) == (2, None, None)


def test_a_truncated_file_is_named_and_changes_nothing(spark, make_config, write):
    write("Software_5.json.gz")
    cut = write("Gift_Cards_5.json.gz", [{**LINES[0], "reviewerID": f"u{number}"} for number in range(2_000)])
    config = make_config("Software", "Gift_Cards")
    before = convert_amazon(spark, config)
    cut.write_bytes(cut.read_bytes()[:-2_000])
    with pytest.raises(MamdrError, match=r"convert\.path: .*Gift_Cards_5\.json\.gz cannot be read as json; it may be"):
        convert_amazon(spark, config)
    assert before["clicks"] == spark.read.parquet(config.input.path).count() == 2_001


@pytest.mark.parametrize(
    ("categories", "options", "message"),
    [
        (["Gift_Cards", "Books"], {}, r"lacks Books_5\.json\.gz; download it"),
        (
            ["Gift_Cards"],
            {"five_core": False},
            r"lacks Gift_Cards\.json\.gz but has Gift_Cards_5\.json\.gz \(.* is false\); download it",
        ),
        (["Empty"], {}, r"Empty_5\.json\.gz holds no review with reviewerID.*'no_user': 1"),
        ([], {}, r"convert\.categories is empty"),
        (["Gift_Cards"], {"path": "/nowhere"}, r"/nowhere is not a folder"),
    ],
)
def test_missing_inputs_are_named(spark, make_config, write, tmp_path: Path, categories, options, message):
    write("Gift_Cards_5.json.gz")
    write("Empty_5.json.gz", [{}])
    with pytest.raises(MamdrError, match=message):
        convert_amazon(spark, make_config(*categories, **options))
    assert not (tmp_path / "log").exists()


def test_only_output_of_the_job_is_replaced(spark, make_config, write, tmp_path: Path):
    write("Gift_Cards_5.json.gz")
    config = make_config("Gift_Cards")
    convert_amazon(spark, config)
    write("Gift_Cards_5.json.gz", LINES[3:4])
    convert_amazon(spark, config)
    assert [row["user"] for row in spark.read.parquet(config.input.path).collect()] == ["u2"]
    (tmp_path / "log" / "_convert_amazon.json").unlink()
    with pytest.raises(MamdrError, match="log holds something that convert_amazon did not write"):
        convert_amazon(spark, config)
