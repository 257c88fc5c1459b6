"""Broken files stop a load in one line that names the file; broken rows are kept apart, and strange ones are data."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError

pytestmark = pytest.mark.slow

HEADER = "user,item,domain,label,ts\n"
GOOD = "u1,i1,d1,1,2026-01-01 10:00:00\nu2,i1,d1,0,2026-01-01 10:00:01\n"
STRANGE = ["9223372036854775808", "😀", "'; DROP TABLE clicks; --", 'a "quoted" b', "it's", "\\'", "null", "1e5", "a,b"]


@pytest.fixture
def csv_config(make_config, tmp_path):
    def make(**options):
        source = {"path": str(tmp_path / "raw"), "format": "csv", "options": {"header": True, **options}}
        return make_config(input=source)

    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "good.csv").write_text(HEADER + GOOD)
    return make


def stops_at(spark, config, *messages):
    """The load stops in one line, and makes no table of clicks."""
    with pytest.raises(MamdrError) as error:
        ingest_clicks(spark, config)
    assert all(message in str(error.value) for message in messages), str(error.value)
    assert "\n" not in str(error.value)
    assert not Lake(spark, config.lake.root).exists("clicks")
    assert not Lake(spark, config.lake.root).exists("clicks_rejected")


def halved(content):
    return content[: len(content) // 2]


def test_broken_csv_files_among_good_ones_are_named(spark, csv_config, tmp_path: Path):
    rows = "".join(f"u{n},i{n * 7919 % 1000},d,1,2026-01-01 10:00:00\n" for n in range(20000))
    bad = tmp_path / "raw" / "not good.csv.gz"
    bad.write_bytes(halved(gzip.compress((HEADER + rows).encode())))
    stops_at(spark, csv_config(), f"{tmp_path}/raw/not good.csv.gz cannot be read as csv; repair or remove the file")
    bad.unlink()
    for header in ("item,user,domain,label,ts\n", "user,item,domain,label,ts,device\n"):
        (tmp_path / "raw" / "other.csv").write_text(header + GOOD)
        stops_at(
            spark, csv_config(), f"input.path: the header of file://{tmp_path}/raw/", ".csv differs from another file's"
        )
    stops_at(
        spark, csv_config(mode="DROPMALFORMED"), "input.options.mode: DROPMALFORMED drops rows without counting them"
    )


def test_options_that_a_csv_log_needs_are_named(spark, csv_config, tmp_path: Path):
    stops_at(spark, csv_config(header=False), "names no existing column", "_c4; they have no names", "header: true")
    stops_at(spark, csv_config(sep=";"), "if ',' separates the fields, set input.options.sep: ','")
    broken = HEADER + 'short\n"a\nb",i1,d1,1,2026-01-01 10:00:00\n'
    (tmp_path / "raw" / "it's broken.csv").write_bytes(broken.replace("\n", "\r\n").encode())
    spans = "raw/it's broken.csv has records that span several lines, which would be read in pieces: set input.options"
    stops_at(spark, csv_config(), spans)
    assert ingest_clicks(spark, csv_config(multiLine=True))["clicks"] == 3


def test_broken_parquet_files_among_good_ones_are_named(spark, make_log, make_config, tmp_path):
    path = tmp_path / "written by Spark. x"
    log = make_log([(f"u{n}", "i", "d", "1", "2026-01-01 10:00:00") for n in range(1000)])
    spark.read.parquet(log).write.parquet(str(path))
    good = next(path.glob("*.parquet")).read_bytes()
    middle = len(good) // 3
    for name, content in (
        ("halved.parquet", halved(good)),
        ("empty.parquet", b""),
        ("garbled.parquet", good[:middle] + bytes(200) + good[middle + 200 :]),
    ):
        (path / name).write_bytes(content)
        stops_at(spark, make_config(str(path)), f"{path}/{name} cannot be read as parquet; repair or remove the file")
        (path / name).unlink()
    # Another tool wrote over a file, and left Hadoop's checksums of what was there.
    file = next(path.glob("*.parquet"))
    file.write_bytes(
        next(Path(make_log([("u", "i", "d", "1", "2026-01-02 10:00:00")], "other")).glob("*.parquet")).read_bytes()
    )
    stops_at(spark, make_config(str(path)), f"{path}/{file.name} cannot be read as parquet; repair or remove the file")


def test_malformed_csv_lines_are_kept_as_they_are(spark, csv_config, tmp_path, lake_root):
    """Two quotes that are not closed are no record that spans lines."""
    lost = '"u6,i1,d1,1,2026-01-01 10:00:03'
    lines = [lost, "u3,i1,d1", "u4,i1,d1,1,2026-01-01 10:00:02,more", '"u5,i1,d1,1,2026-01-01 10:00:03']
    (tmp_path / "raw" / "mixed.csv").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    (tmp_path / "raw" / "empty.csv").write_text("")
    (tmp_path / "raw" / "empty.csv.gz").write_bytes(b"")
    latin = HEADER + "é,i1,d1,1,2026-01-01 10:00:04\n"
    (tmp_path / "raw" / "latin.csv").write_bytes(latin.encode("latin-1"))
    (tmp_path / "raw" / "long.csv").write_text(HEADER + "x" * 10_000_000 + ",i1,d1,1,2026-01-01 10:00:05\n")
    figures = ingest_clicks(spark, csv_config())
    assert (figures["rows_in"], figures["clicks"]) == (8, 2)
    assert figures["rejected_by_rule"] == {"ids_readable": 1, "ids_short": 1, "record_well_formed": 4}
    assert figures["undeclared_columns"] == []
    rejected = Lake(spark, lake_root).read("clicks_rejected").collect()
    malformed = [row for row in rejected if row["rule"] == "record_well_formed"]
    assert sorted(row["row"] for row in malformed) == sorted(lines)
    assert {(row["source_file"], row["ds"]) for row in malformed} == {(f"file:{tmp_path}/raw/mixed.csv", None)}
    long = next(json.loads(row["row"]) for row in rejected if row["rule"] == "ids_short")
    assert long["user"] == "x" * 10_000_000
    assert set(long) == {"user", "item", "domain", "label", "ts"}


def test_a_time_that_cannot_be_read_is_shown_with_the_expression_to_write(spark, csv_config, tmp_path):
    lines = ["u1,i1,d1,1,31/12/2025 10:00", "u1,i1,d1,1,", "u2,i1,d1,1,x"]
    (tmp_path / "raw" / "good.csv").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    with pytest.raises(MamdrError) as error:
        ingest_clicks(spark, csv_config())
    written = "to_timestamp(ts, 'dd/MM/yyyy HH:mm')"
    assert str(error.value).endswith(
        "rows failed event_time_present 3; see input.columns; input.columns.event_time: 'timestamp(ts)' reads no time "
        f"from ts '31/12/2025 10:00': write the format of the log, e.g. {written}"
    )
    config = csv_config()
    columns = replace(config.input.columns, event_time=written)
    assert ingest_clicks(spark, replace(config, input=replace(config.input, columns=columns)))["clicks"] == 1


def test_a_declared_encoding_is_read(spark, csv_config, tmp_path, lake_root):
    latin = HEADER + "é,i1,d1,1,2026-01-01 10:00:04\n"
    (tmp_path / "raw" / "good.csv").write_bytes(latin.encode("latin-1"))
    ingest_clicks(spark, csv_config(encoding="ISO-8859-1"))
    assert [row["user"] for row in Lake(spark, lake_root).read("clicks").collect()] == ["é"]


def test_malformed_json_lines_are_kept_as_they_are(spark, make_config, tmp_path: Path, lake_root):
    def line(user):
        return json.dumps({"user": user, "item": "i", "domain": "d", "label": 1, "ts": "2026-01-01 10:00:00"})

    bad = ['{"user": "u2", bad', "[1, 2]", line("cut")[:-7]]
    raw = tmp_path / "raw.json"
    raw.write_bytes("\n".join([line("u1"), *bad, ""]).encode() + line("é").replace("\\u00e9", "é").encode("latin-1"))
    figures = ingest_clicks(spark, make_config(str(raw), input={"format": "json"}))
    assert (figures["rows_in"], figures["clicks"]) == (5, 1)
    assert figures["rejected_by_rule"] == {"record_well_formed": 4}
    lines = [row["row"] for row in Lake(spark, lake_root).read("clicks_rejected").collect()]
    assert set(bad) < set(lines)


def test_json_without_a_malformed_line_and_a_truncated_file(spark, make_config, tmp_path: Path, lake_root):
    (tmp_path / "raw").mkdir()
    rows = [{"user": 2**63, "item": f"i{n * 7919 % 1000}", "domain": "d", "label": 1, "ts": n} for n in range(5000)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "raw" / "good.json").write_text(text)
    (tmp_path / "raw" / "bad.json.gz").write_bytes(halved(gzip.compress(text.encode())))
    columns = {"event_time": "timestamp_seconds(1767261600 + ts)"}
    config = make_config(str(tmp_path / "raw"), columns, input={"format": "json"})
    stops_at(spark, config, f"{tmp_path}/raw/bad.json.gz cannot be read as json")
    (tmp_path / "raw" / "bad.json.gz").unlink()
    assert ingest_clicks(spark, config)["clicks"] == 5000
    assert Lake(spark, lake_root).read("clicks").select("user").distinct().first()["user"] == "9223372036854775808"


def test_ids_are_data_whatever_they_hold(spark, make_log, make_config, lake_root):
    log = [(text, text, text, "1", "2026-01-01 10:00:00") for text in STRANGE]
    for _ in range(2):
        ingest_clicks(spark, make_config(make_log([*log, log[0]], "strange ' log")))
    lake = Lake(spark, lake_root)
    kept = [(row["user"], row["item"], row["domain"]) for row in lake.read("clicks").collect()]
    assert sorted(kept) == sorted((text, text, text) for text in STRANGE)
    assert json.loads(lake.read("clicks_rejected").first()["row"])["user"] == STRANGE[0]


def test_an_overflow_in_an_expression_is_one_line_with_a_way_out(spark, make_log, make_config, lake_root):
    good, bad = ("u", "i", "d", "1", "1767261600"), ("v", "i", "d", "1", str(2**62))
    path = make_log([good, bad])
    stops_at(spark, make_config(path, {"event_time": "timestamp_seconds(bigint(ts))"}), "write timestamp(x)")
    figures = ingest_clicks(spark, make_config(path, {"event_time": "timestamp(bigint(ts))"}))
    assert figures["rejected_by_rule"] == {"event_time_not_future": 1}
    assert str(Lake(spark, lake_root).read("clicks").first()["ds"]) == "2026-01-01"


def test_a_delta_table_is_a_source_like_another(spark, make_log, make_config, tmp_path: Path, lake_root):
    rows = [("u", "i", "d", "1", "2026-01-01 10:00:00"), (None, "i", "d", "1", "2026-01-01 10:00:00")]
    log = spark.read.parquet(make_log(rows)).selectExpr("*", "date(timestamp(ts)) day")
    log.write.format("delta").partitionBy("day").save(str(tmp_path / "delta"))
    figures = ingest_clicks(spark, make_config(str(tmp_path / "delta"), input={"format": "delta"}))
    assert (figures["clicks"], figures["rejected"], figures["undeclared_columns"]) == (1, 1, [])
    assert Lake(spark, lake_root).read("clicks_rejected").first()["source_file"].endswith(".parquet")
