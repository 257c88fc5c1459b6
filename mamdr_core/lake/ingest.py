"""ingest_clicks: the raw log becomes clicks and clicks_rejected, day by day."""

import logging
from collections import Counter
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.caching import kept_frames
from mamdr_core.lake.clicks import RULE, judge_rows, parse_rows, rules_for, select_clicks, select_rejected
from mamdr_core.lake.features import declared_clicks
from mamdr_core.lake.sources import read_input, readable
from mamdr_core.lake.tables import Lake

logger = logging.getLogger(__name__)

MANY_DAYS = 400
FEW_ROWS_A_DAY = 1000

Counts = dict[tuple[date | None, str | None], int]
"""Rows by day and failed rule (None: valid)."""


def ingest_clicks(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Read `input`, judge every row, and replace exactly the days that the input holds.

    Returns:
        rows_in, clicks, rejected, rejected_by_rule, days, clicks_version; clicks + rejected = rows_in.

    Raises:
        MamdrError: an input that cannot be read or holds no valid row, an expression that names no column, a lake root
            that holds something else. The tables are as they were then.
    """
    table = declared_clicks(config.features)
    lake = Lake(spark, config.lake.root)
    parsed = parse_rows(read_input(spark, config.input), config.input.columns, config.features)
    columns = config.input.columns
    judged = judge_rows(parsed, rules_for(columns), unique_events=bool(columns.event_time))
    with kept_frames() as keep:
        judged = keep(judged)
        with readable(config.input):
            counts = count_rows(judged)
        _check(counts, config.input.path)
        days = sorted({day for day, _ in counts if day})
        _warn_of_many_days(counts, len(days))
        note = {"job": "ingest_clicks", "source": config.input.path}
        rejected = select_rejected(judged, config.input.path)
        lake.overwrite_where("clicks_rejected", rejected, _predicate(days, config.input.path), note)
        by_day = select_clicks(judged).hint("rebalance", "ds")
        lake.overwrite_where(table, by_day, _predicate(days), note)
    figures = _figures(counts)
    logger.info("%(rows_in)d rows in = %(clicks)d clicks + %(rejected)d rejected, %(days)d days", figures)
    return {**figures, "clicks_version": lake.version("clicks")}


def count_rows(judged: DataFrame) -> Counts:
    """Rows by day and failed rule, in one pass over the input."""
    return {(row["ds"], row[RULE]): row["count"] for row in judged.groupBy("ds", RULE).count().collect()}


def _figures(counts: Counts) -> dict[str, Any]:
    by_rule = Counter[str]()
    for (_, rule), rows in counts.items():
        if rule:
            by_rule[rule] += rows
    rows_in = sum(counts.values())
    return {
        "rows_in": rows_in,
        "clicks": rows_in - by_rule.total(),
        "rejected": by_rule.total(),
        "rejected_by_rule": dict(sorted(by_rule.items())),
        "days": len({day for day, rule in counts if rule is None}),
    }


def _check(counts: Counts, path: str) -> None:
    figures = _figures(counts)
    if not figures["rows_in"]:
        raise MamdrError(f"input.path: {path} holds no rows")
    if not figures["clicks"]:
        by_rule = ", ".join(f"{rule} {rows}" for rule, rows in figures["rejected_by_rule"].items())
        raise MamdrError(f"input.path: {path} holds no valid row; rows failed {by_rule}; see input.columns")


def _predicate(days: list[date], source: str | None = None) -> str:
    """What a load replaces: its days, and of rows without a day those of the same source."""
    dates = ", ".join(f"DATE'{day.isoformat()}'" for day in days)
    listed = f"ds IN ({dates})" if days else "false"
    return listed if source is None else f"({listed}) OR (ds IS NULL AND source = {_sql_string(source)})"


def _sql_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _warn_of_many_days(counts: Counts, days: int) -> None:
    rows = sum(counts.values())
    if days > MANY_DAYS and rows < FEW_ROWS_A_DAY * days:
        logger.warning(
            "%d days of about %d rows make %d small files: file them by month or year with input.columns.ds, "
            "e.g. trunc(event_time, 'month')",
            days,
            rows // days,
            days,
        )
