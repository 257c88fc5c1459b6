"""Explains why times cannot be read: shows a value of the log, and suggests an expression for event_time."""

import re

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.yaml_values import shorten
from mamdr_core.lake.core.sources import columns_of
from mamdr_core.lake.ingest.clicks import RAW, RULE
from schemas.clicks import EVENT_TIME_PRESENT

_SECONDS, _MILLISECONDS = re.compile(r"\d{9,10}"), re.compile(r"\d{12,13}")


def explain_times(raw: DataFrame, checked: DataFrame, expression: str) -> str:
    """Describe one of the values that failed the rule event_time_present; empty if all of them are missing.

    Args:
        checked: result of `apply_rules`.
        expression: input.columns.event_time.
    """
    used = columns_of(raw, [F.expr(expression)])
    filled = [F.when(F.trim(F.col(RAW)[column].cast("string")) != "", F.lit(column)) for column in used]
    first_filled = F.coalesce(*filled, F.lit(None).cast("string")).alias("column")
    failed = checked.where(F.col(RULE) == EVENT_TIME_PRESENT.name).select(first_filled, RAW)
    found = failed.where(F.col("column").isNotNull()).first()
    if found is None:
        return ""
    column, value = found["column"], found[RAW][found["column"]]
    return (
        f"; input.columns.event_time: {expression!r} reads no time from {column} {shorten(value)}: write the format "
        f"of the log, e.g. {_suggest(column, str(value).strip())}"
    )


def _suggest(name: str, text: str) -> str:
    column = name if name.isidentifier() else f"`{name}`"
    if _SECONDS.fullmatch(text):
        return f"timestamp(bigint({column}))"
    if _MILLISECONDS.fullmatch(text):
        return f"timestamp_millis(bigint({column}))"
    return f"to_timestamp({column}, 'dd/MM/yyyy HH:mm')"
