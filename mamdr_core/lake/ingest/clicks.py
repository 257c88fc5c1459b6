"""Turns raw rows into valid and rejected clicks, from DataFrame to DataFrame."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import InputColumns
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.sources import as_id, kind_of, malformed_line, raw_columns, resolve, undeclared_columns
from mamdr_core.lake.ingest.features import declared_features, unreadable_features
from schemas import SAMPLE_WEIGHT, Rule
from schemas.clicks import NOT_ANCIENT, NOT_FUTURE, RECORD_WELL_FORMED

FIRST_DAY = "1970-01-01"
RAW, MALFORMED, SOURCE_FILE, UNREADABLE = "_raw", "_malformed", "_source_file", "_unreadable"
RULE, KEY, FILED, KNOWN = "_rule", "_key", "_filed", "_known"
EVENT = ("user", "item", "domain", "event_time")
_CHECK_COLUMNS = (RAW, MALFORMED, SOURCE_FILE, UNREADABLE, RULE, KEY, FILED, KNOWN)
"""Columns of checked rows that are not columns of clicks."""
_NEITHER = -1
# Python has no dates beyond these days; a rule rejects such rows, which are still counted.
_PLAUSIBLE_DAYS = ("0001-01-01", "9999-12-31")


def parse_rows(raw: DataFrame, columns: InputColumns, features: Sequence[Feature] = ()) -> DataFrame:
    """Evaluate the configured expressions over the raw log.

    Returns:
        One row per raw row: the columns of clicks (without `load`) and the declared features, null if a value cannot be
        read (a label other than 0, 1 and null is -1); `_raw`, the raw row; `_malformed`, the text of a malformed line;
        `_source_file`; `_unreadable`, the first feature that cannot be read.

    Raises:
        MamdrError: an expression cannot be resolved, or ids are fractional; the error names the config key.
    """
    return raw.select(
        *_declared(raw, columns, features),
        F.struct(*(F.col(f"`{name}`") for name in raw_columns(raw))).alias(RAW),
        malformed_line(raw).alias(MALFORMED),
        F.col("_metadata.file_path").alias(SOURCE_FILE),
        F.coalesce(*unreadable_features(raw, features), F.lit(None).cast("string")).alias(UNREADABLE),
    )


def find_undeclared(raw: DataFrame, columns: InputColumns, features: Sequence[Feature]) -> list[str]:
    """The log's columns that no configured expression uses, sorted."""
    return undeclared_columns(raw, _declared(raw, columns, features))


def apply_rules(parsed: DataFrame, rules: Sequence[Rule]) -> DataFrame:
    """Add the first rule that each row fails.

    Args:
        parsed: result of `parse_rows`.
        rules: result of `rules_for`: conditions over one row, in order.

    Returns:
        `parsed` with `_rule` (null: valid), `_key`, a 64-bit hash of a valid row's event (null for other rows),
        `_filed`, the day under which it is stored, and `_known`, null: the click that it repeats.
    """
    failed = [F.when(~F.coalesce(F.expr(rule.condition_sql), F.lit(False)), rule.name) for rule in rules]
    checked = parsed.withColumn(RULE, F.coalesce(*failed, F.lit(None).cast("string")))
    # A malformed line or an impossible time has no day.
    without_day = [rule.name for rule in (RECORD_WELL_FORMED, NOT_ANCIENT, NOT_FUTURE)]
    filed = F.when(F.col(RULE).isin(without_day), F.lit(None)).otherwise(F.col("ds"))
    key, known = (
        F.when(F.col(RULE).isNull(), hash64(*map(F.col, EVENT))),
        F.lit(None).cast("struct<load:bigint,ds:date>"),
    )
    return checked.withColumns({FILED: filed, KEY: key, KNOWN: known})


def select_clicks(checked: DataFrame, load: int) -> DataFrame:
    """Valid rows with the columns of clicks and the declared features."""
    valid = checked.where(F.col(RULE).isNull()).drop(*_CHECK_COLUMNS)
    return valid.withColumn("load", F.lit(load).cast("bigint"))


def select_rejected(checked: DataFrame, load: int, source: str) -> DataFrame:
    """Rejected rows with the columns of clicks_rejected."""
    return checked.where(F.col(RULE).isNotNull()).select(
        F.col(RULE).alias("rule"),
        F.coalesce(F.col(MALFORMED), raw_json()).alias("row"),
        F.lit(load).cast("bigint").alias("load"),
        F.lit(source).alias("source"),
        F.col(SOURCE_FILE).alias("source_file"),
        F.col(KEY).alias("event"),
        F.col(f"{KNOWN}.load").alias("known_load"),
        F.col(f"{KNOWN}.ds").alias("known_ds"),
        F.when(F.col(KNOWN).isNotNull(), _click_json(checked)).alias("click"),
        F.col(FILED).alias("ds"),
    )


def raw_json() -> Column:
    """The raw row as JSON, including nulls."""
    return F.to_json(RAW, {"ignoreNullFields": "false"})


def read_copies(rejected: DataFrame, clicks: T.StructType) -> DataFrame:
    """Convert rejected rows to rows of clicks by parsing the column `click`.

    Args:
        rejected: rows of clicks_rejected that repeat an event of another load.
        clicks: schema of clicks, including features.

    Returns:
        The columns of clicks, and `_click`, `_known_load` and `_known_ds` of clicks_rejected.
    """
    fields = [field for field in clicks if field.name not in ("load", "ds")]
    # Times are numbers, because JSON text would keep only milliseconds.
    kinds = [T.LongType() if field.name == "event_time" else field.dataType for field in fields]
    read = T.StructType([T.StructField(field.name, kind) for field, kind in zip(fields, kinds, strict=True)])
    parsed = rejected.withColumn("_read", F.from_json("click", read))
    values = {field.name: F.col("_read").getField(field.name) for field in fields}
    values |= {"event_time": F.timestamp_micros(values["event_time"]), "load": F.col("load"), "ds": F.col("ds")}
    kept = [F.col(name).alias(f"_{name}") for name in ("click", "known_load", "known_ds")]
    return parsed.select(*(values[name].alias(name) for name in clicks.names), *kept)


def _click_json(checked: DataFrame) -> Column:
    """A row of clicks as JSON, without its load and day."""
    names = [name for name in checked.columns if name not in (*_CHECK_COLUMNS, "ds")]
    values = (F.unix_micros("event_time") if name == "event_time" else F.col(f"`{name}`") for name in names)
    return F.to_json(F.struct(*(value.alias(name) for name, value in zip(names, values, strict=True))))


def _declared(raw: DataFrame, columns: InputColumns, features: Sequence[Feature]) -> list[Column]:
    """The columns of clicks and the declared features as expressions over the raw log."""
    keys = {name: f"input.columns.{name}" for name in ("user", "item", "domain")}
    ids = (as_id(raw, key, resolve(raw, key, getattr(columns, name))).alias(name) for name, key in keys.items())
    event_time = _optional(raw, "event_time", columns.event_time, "timestamp")
    return [
        *ids,
        _label(raw, columns.label).alias("label"),
        event_time.alias("event_time"),
        _optional(raw, "true_probability", columns.true_probability, "double").alias("true_probability"),
        _day(raw, columns, event_time).alias("ds"),
        *([_optional(raw, "split", columns.split, "string").alias("split")] if columns.split else []),
        *([_weight(raw, columns.weight).alias(SAMPLE_WEIGHT)] if columns.weight else []),
        *declared_features(raw, features),
    ]


def _label(raw: DataFrame, expression: str) -> Column:
    if not expression:
        return F.lit(1)
    label = resolve(raw, "input.columns.label", expression)
    kind = kind_of(raw, label)
    if isinstance(kind, T.BooleanType):
        return label.cast("int")
    if isinstance(kind, T.NumericType):
        return F.when(label.isin(0, 1), label.cast("int")).when(label.isNotNull(), _NEITHER)
    text = F.lower(F.trim(label.cast("string")))
    number = text.try_cast("double")
    is_click, is_none = (number == 1) | (text == "true"), (number == 0) | (text == "false")
    return F.when(text != "", F.when(is_click, 1).when(is_none, 0).otherwise(_NEITHER))


def _optional(raw: DataFrame, name: str, expression: str, kind: str) -> Column:
    if not expression:
        return F.lit(None).cast(kind)
    return resolve(raw, f"input.columns.{name}", expression).try_cast(kind)


def _weight(raw: DataFrame, expression: str) -> Column:
    """The row's weight; infinite, which a rule rejects, if it is NaN or text that is not a number."""
    found = resolve(raw, "input.columns.weight", expression)
    weight = found.try_cast("double")
    bad = F.isnan(weight)
    if isinstance(kind_of(raw, found), T.StringType):
        bad |= (F.trim(found) != "") & weight.isNull()
    return F.when(bad, F.lit(float("inf"))).otherwise(weight)


def _day(raw: DataFrame, columns: InputColumns, event_time: Column) -> Column:
    if not (columns.ds or columns.event_time):
        return F.lit(FIRST_DAY).cast("date")
    day = _optional(raw, "ds", columns.ds, "date") if columns.ds else F.to_date(event_time)
    first, last = (F.lit(limit).cast("date") for limit in _PLAUSIBLE_DAYS)
    return F.when(day.between(first, last), day)
