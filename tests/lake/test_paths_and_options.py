"""Paths, reader options and expressions that cannot be: one clear line, and no table."""

import pytest

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError

pytestmark = pytest.mark.slow
PATHS = ["nosuch://x/y", "foo:bar", "s3a://", "[", "{a", "/proc/self/mem", "file:", " ", ":", "a\nb"]
OPTIONS = [
    {"header": "perhaps"},
    {"sep": ""},
    {"encoding": "nope"},
    {"mode": "odd"},
    {"quote": "ab"},
    {"maxColumns": "x"},
]
EXPRESSIONS = [
    "count(1)",
    "explode(array(1, 2))",
    "*",
    "user AS a, item",
    "row_number() over (order by user)",
    "nosuch(1)",
    "(SELECT max(user) FROM nosuch)",
    "1 +",
    "max(user)",
    "stack(2, 1, 2)",
    "user; DROP TABLE x",
]
LOG = [("u1", "i1", "d", "1", "2026-01-01 10:00:00"), ("u2", "i1", "d", "0", "2026-01-01 10:00:01")]


def is_one_line(spark, config):
    with pytest.raises(MamdrError) as error:
        ingest_clicks(spark, config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_cannot_be(spark, make_log, make_config, path):
    is_one_line(spark, make_config(path))
    if path in ("nosuch://x/y", "s3a://"):  # others may be the name of a new folder
        is_one_line(spark, make_config(make_log(LOG), lake={"root": path}))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_that_cannot_be(spark, make_config, tmp_path, lake_root, options):
    (tmp_path / "raw.csv").write_text("user,item,domain,label,ts\nu,i,d,1,2026-01-01 10:00:00\n")
    config = make_config(str(tmp_path / "raw.csv"), input={"format": "csv", "options": {"header": "true", **options}})
    try:
        figures = ingest_clicks(spark, config)
    except MamdrError as error:
        message = str(error)
    else:
        message = ""
        assert figures["clicks"] + figures["rejected"] == figures["rows_in"] > 0
    assert "\n" not in message
    assert bool(message) != Lake(spark, lake_root).exists("clicks")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_that_cannot_be(spark, make_log, make_config, lake_root, expression):
    for column in ("user", "label"):
        message = is_one_line(spark, make_config(make_log(LOG), {column: expression}))
        assert f"input.columns.{column}" in message
    assert not Lake(spark, lake_root).exists("clicks")
