"""Whatever lies in a raw log: one clear error and no table, or a load that files every row once."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamdr_core.config.job_config import parse_config
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError
from tests.fuzzing.examples import examples

pytestmark = pytest.mark.slow

NAMES = ["user", "item", "domain", "label", "ts"]
ODD = ["", " ", "u", "x" * 3000, "é😀", "'; DROP TABLE clicks; --", '"', "\\", "a,b", "null", "NaN", "-1", "1e400"]
ids = (
    st.sampled_from(ODD)
    | st.text(max_size=4).filter(lambda text: text.isprintable())
    | st.integers().map(str)
    | st.none()
)
labels = st.sampled_from(["0", "1", "true", "2", "", "NaN", "1.0", "-", None])
times = st.sampled_from(
    ["2026-01-01 10:00:00", "2026-01-02", "1970-01-01", "9999-12-31 23:59:59", "+12345-01-01", "yesterday", "", None]
)
rows = st.lists(st.tuples(ids, ids, ids, labels, times), min_size=1, max_size=6)


def as_csv(names, table):
    lines = [names, *table]
    return "\n".join(",".join(_quoted(value) for value in line) for line in lines).encode() + b"\n"


def _quoted(value):
    return "" if value is None else '"' + str(value).replace('"', '""') + '"'


def as_json(names, table):
    return b"".join(json.dumps(dict(zip(names, row, strict=False))).encode() + b"\n" for row in table)


def as_parquet(names, table):
    sink = pa.BufferOutputStream()
    columns = {name: pa.array([row[at] for row in table], pa.string()) for at, name in enumerate(names)}
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


FORMATS = {"csv": as_csv, "json": as_json, "parquet": as_parquet}


@st.composite
def logs(draw):
    """A format, and files by name: a good one or none, and one that is odd, damaged, or short of columns."""
    kind = draw(st.sampled_from(sorted(FORMATS)))
    write = FORMATS[kind]
    files = {f"good.{kind}": write(NAMES, draw(rows))} if draw(st.booleans()) else {}
    names = draw(st.sampled_from([NAMES, NAMES[:-1], NAMES[1:], list(reversed(NAMES)), [*NAMES, "more"], ["a"]]))
    table = [(*row, "m") for row in draw(rows)]
    content = write(names, [row[: len(names)] for row in table])
    damaged = draw(st.sampled_from(["no", "cut", "flipped", "empty", "utf-16", "garbage", "gzip", "gzip cut", "nul"]))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    content = {
        "no": content,
        "cut": content[:at],
        "flipped": content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :],
        "empty": b"",
        "utf-16": content.decode("latin-1").encode("utf-16"),
        "garbage": draw(st.binary(max_size=50)),
        "gzip": gzip.compress(content),
        "gzip cut": gzip.compress(content)[: max(1, at // 2)],
        "nul": content + bytes(9),
    }[damaged]
    files[f"odd.{kind}" + (".gz" if damaged.startswith("gzip") else "")] = content
    return kind, files


@examples(6)
@given(log=logs())
def test_every_row_is_filed_once_or_nothing_is_written(spark, tmp_path_factory, log):
    kind, files = log
    base = tmp_path_factory.getbasetemp() / "fuzzed raw"
    shutil.rmtree(base, ignore_errors=True)
    (base / "raw").mkdir(parents=True)
    for name, content in files.items():
        (base / "raw" / name).write_bytes(content)
    source = {"path": str(base / "raw"), "format": kind, "options": {"header": "true"} if kind == "csv" else {}}
    columns = {"label": "label", "event_time": "try_cast(ts AS timestamp)"}
    config = parse_config(
        {
            "lake": {"root": str(base / "lake")},
            "input": {**source, "columns": columns},
            "quality": {"max_rejected": 1.0},
        }
    )
    message, figures = "", {"clicks": 0, "rejected": 0, "rows_in": 0}
    try:
        figures = ingest_clicks(spark, config)
    except MamdrError as error:
        message = str(error)
    lake = Lake(spark, config.lake.root)
    counts = [lake.read(name).count() if lake.exists(name) else 0 for name in ("clicks", "clicks_rejected")]
    assert counts == [figures["clicks"], figures["rejected"]]
    assert "\n" not in message
    assert sum(counts) == figures["rows_in"]
    if kind == "parquet" and not message:
        assert figures["rows_in"] == sum(
            pq.ParquetFile(Path(file)).metadata.num_rows for file in (base / "raw").iterdir()
        )
