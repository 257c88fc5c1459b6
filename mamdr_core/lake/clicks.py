"""From raw rows to clicks and rejected rows: DataFrame to DataFrame."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.features import Feature
from mamdr_core.lake.hashing import hash64
from mamdr_core.lake.settings import InputColumns
from mamdr_core.lake.sources import resolve
from schemas import TABLES, UNIQUE_EVENT, Rule

FIRST_DAY = "1970-01-01"
RAW, SOURCE_FILE, RULE = "_raw", "_source_file", "_rule"
_EVENT = ("user", "item", "domain", "event_time")
_NEITHER = -1


def parse_rows(raw: DataFrame, columns: InputColumns, features: Sequence[Feature] = ()) -> DataFrame:
    """Evaluate the configured expressions over the raw log.

    Returns:
        One row per raw row: the columns of clicks and the declared features, null where a value cannot be read (a
        label that is there but neither 0 nor 1 is -1); `_raw`, the raw row; `_source_file`.

    Raises:
        MamdrError: an expression that cannot be resolved; the config key is named.
    """
    user, item, domain = (
        resolve(raw, f"input.columns.{name}", getattr(columns, name)).cast("string").alias(name)
        for name in ("user", "item", "domain")
    )
    event_time = _optional(raw, "event_time", columns.event_time, "timestamp")
    return raw.select(
        user,
        item,
        domain,
        _label(raw, columns.label).alias("label"),
        event_time.alias("event_time"),
        _optional(raw, "true_probability", columns.true_probability, "double").alias("true_probability"),
        _day(raw, columns, event_time).alias("ds"),
        *(_feature(raw, number, feature) for number, feature in enumerate(features) if feature.kind != "vector"),
        F.struct(*(F.col(f"`{name}`") for name in raw.columns)).alias(RAW),
        F.col("_metadata.file_path").alias(SOURCE_FILE),
    )


def rules_for(columns: InputColumns) -> tuple[Rule, ...]:
    """The rules of clicks that apply to this log, in the order in which a row is judged."""
    return tuple(rule for rule in TABLES["clicks"].rules if rule.enforced or columns.event_time)


def judge_rows(parsed: DataFrame, rules: Sequence[Rule], unique_events: bool) -> DataFrame:
    """Name the first rule that each row fails.

    Args:
        parsed: from `parse_rows`.
        rules: conditions, in order.
        unique_events: also judge repetitions: of rows with the same user, item, domain and event_time one is kept, a
            click before an impression, else the same one whatever the order of the input.

    Returns:
        `parsed` with `_rule` (null: valid), and `_raw` as JSON, kept for rejected rows only.
    """
    failed = [F.when(~F.coalesce(F.expr(rule.condition_sql), F.lit(False)), rule.name) for rule in rules]
    judged = parsed.withColumn(RULE, F.coalesce(*failed, F.lit(None).cast("string")))
    if unique_events:
        judged = judged.withColumn(RULE, _repetition())
    rejected = F.col(RULE).isNotNull()
    return judged.withColumn(RAW, F.when(rejected, F.to_json(RAW, {"ignoreNullFields": "false"}))).withColumn(
        SOURCE_FILE, F.when(rejected, F.col(SOURCE_FILE))
    )


def select_clicks(judged: DataFrame) -> DataFrame:
    """The valid rows: the columns of clicks and the declared features."""
    return judged.where(F.col(RULE).isNull()).drop(RULE, RAW, SOURCE_FILE)


def select_rejected(judged: DataFrame, source: str) -> DataFrame:
    """The rejected rows: the columns of clicks_rejected."""
    return judged.where(F.col(RULE).isNotNull()).select(
        F.col(RULE).alias("rule"),
        F.col(RAW).alias("row"),
        F.lit(source).alias("source"),
        F.col(SOURCE_FILE).alias("source_file"),
        "ds",
    )


def _repetition() -> Column:
    # Rows that failed a rule share null keys; their own hash keeps them from meeting in one partition.
    content = hash64(F.col(RAW), F.col(SOURCE_FILE))
    apart = F.when(F.col(RULE).isNotNull(), content)
    window = Window.partitionBy(*_EVENT, apart).orderBy(F.col("label").desc(), content)
    repeats = F.col(RULE).isNull() & (F.row_number().over(window) > 1)
    return F.when(repeats, UNIQUE_EVENT).otherwise(F.col(RULE))


def _label(raw: DataFrame, expression: str) -> Column:
    if not expression:
        return F.lit(1)
    text = resolve(raw, "input.columns.label", expression).cast("string")
    number = F.coalesce(text.try_cast("double"), text.try_cast("boolean").cast("double"))
    binary = F.when(number == 1, 1).when(number == 0, 0).otherwise(_NEITHER)
    return F.when(F.trim(text) != "", binary)


def _optional(raw: DataFrame, name: str, expression: str, kind: str) -> Column:
    if not expression:
        return F.lit(None).cast(kind)
    return resolve(raw, f"input.columns.{name}", expression).try_cast(kind)


def _day(raw: DataFrame, columns: InputColumns, event_time: Column) -> Column:
    if columns.ds:
        return _optional(raw, "ds", columns.ds, "date")
    return F.to_date(event_time) if columns.event_time else F.lit(FIRST_DAY).cast("date")


def _feature(raw: DataFrame, number: int, feature: Feature) -> Column:
    column = resolve(raw, f"features.{number}.expression", feature.expression or feature.name)
    kind = "string" if feature.kind == "categorical" else "double"
    return column.try_cast(kind).alias(feature.name)
