"""ingest_clicks: turns a raw log into rows of clicks and clicks_rejected, load by load."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.features import check_types, declared_clicks
from mamdr_core.lake.core.few import bytes_of
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import FEW, FEW_BYTES, overriding
from mamdr_core.lake.core.sources import read_input
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.core.unreadable import readable
from mamdr_core.lake.ingest.clicks import apply_rules, find_undeclared, parse_rows
from mamdr_core.lake.ingest.corrections import begin_correction, find_correction, finish_correction
from mamdr_core.lake.ingest.deduplicate import deduplicate, in_spans
from mamdr_core.lake.ingest.load_counts import LoadCounts
from mamdr_core.lake.ingest.loads import (
    Load,
    clicks_of_others,
    days_held,
    identify_load,
    record_load,
    rows_by_day,
)
from mamdr_core.lake.ingest.pieces import refuse_pieces
from mamdr_core.lake.ingest.publish import Publication, publish
from mamdr_core.lake.ingest.quality import WEEK, failed_checks
from mamdr_core.lake.ingest.rules import rules_for
from mamdr_core.lake.ingest.scan import Scan, scan_rows
from mamdr_core.lake.ingest.unparsed import explain_times
from mamdr_core.runtime.errors import MamdrError
from schemas import DeclaredTable
from schemas.clicks import RECORD_WELL_FORMED

logger = logging.getLogger(__name__)

MANY_DAYS = 400
FEW_ROWS_A_DAY = 1000
TRIES = 5
"""Maximum number of comparisons of a load with other loads, repeated if other jobs publish events of the same time."""


def ingest_clicks(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Read `input`, apply the rules to every row, and replace the rows of an earlier load of the same path (or days).

    Returns:
        rows_in, clicks, rejected, rejected_by_rule, days, clicks_version, undeclared_columns; restored, the number of
        events that this load no longer contains and that were restored from rejected rows of other loads; restorable
        (0, for scripts that read it); clicks + rejected = rows_in.

    Raises:
        MamdrError: the input cannot be read, changed during the job, has no valid row or fails the quality check; an
            expression names no column; the lake root has other contents; other jobs keep writing the same days. The
            tables are unchanged, except that `loads` records a stopped load, and that the load is published if other
            jobs kept publishing events of the same time.
    """
    started_at = datetime.now(UTC)
    table = _declared_table(config)
    lake = Lake(spark, config.lake)
    if lake.exists("clicks"):
        check_types(lake.read("clicks"), config.features)
    raw = read_input(spark, config.input)
    load = identify_load(spark, config.input.path)
    parsed = parse_rows(raw, config.input.columns, config.features)
    undeclared = find_undeclared(raw, config.input.columns, config.features)
    _warn_of_undeclared(undeclared)
    rules = rules_for(config.input, config.features, started_at)
    rows = apply_rules(parsed, rules)
    few = FEW if bytes_of(raw) <= FEW_BYTES else {}
    with kept_frames() as keep, readable(config.input), overriding(spark, few):
        with progress(spark, "counting"):
            scan = scan_rows(rows, rules, bool(config.input.columns.event_time), keep, bool(few))
        _warn_of_many_days(scan.counts)
        if RECORD_WELL_FORMED.name in scan.counts.by_rule:
            refuse_pieces(spark, config.input, raw, rows)
        whole_days = config.input.replace == "days"
        tasks = raw._jdf.queryExecution().toRdd().getNumPartitions()
        correction = None
        for number in range(TRIES):
            seen = lake.version("clicks") if lake.exists("clicks") else None
            others = _overlapping(config, lake, load, scan, seen)
            with progress(spark, "duplicate events"):
                checked = deduplicate(rows, scan, others, keep)
            counts = checked.counts
            held = days_held(lake, "clicks", load)
            is_recorded = False  # also later, when only an attempt's own commits are undone: the load stays published
            if not number:  # later attempts only compare the published load with what other jobs have published since
                times = partial(explain_times, raw, rows, config.input.columns.event_time)
                _check_quality(config, lake, load, counts, held, started_at, times)
                correction = find_correction(lake, load, whole_days, held, counts)
                is_recorded = correction is not None and begin_correction(lake, correction, counts, started_at)
            to = Publication(lake, load, table, whole_days, held.keys(), tasks, started_at, is_recorded)
            version = publish(to, checked)
            # Rows that another job published between the two versions have not been compared: the later job does so.
            is_next = version == (0 if seen is None else seen + 1)
            if is_next or _files(_overlapping(config, lake, load, scan, version)) <= _files(others):
                break
            logger.info("another load of the same time was published in the meantime; its events are compared too")
        else:
            raise MamdrError(
                f"input.path: {load.source}: other jobs kept publishing events of the same time. The load is "
                "published, but clicks may contain some of its events twice: ingest it again"
            )
    restored = finish_correction(lake, correction, counts) if correction else 0
    # Last, so that an arriving file is loaded again if the job is killed before.
    record_load(lake, load, counts, started_at, clicks_version=version)
    figures = _figures(counts)
    logger.info("%(rows_in)d rows in = %(clicks)d clicks + %(rejected)d rejected, %(days)d days", figures)
    more = {"undeclared_columns": undeclared, "restored": restored, "restorable": 0}
    return {**figures, "clicks_version": lake.version("clicks") if restored else version, **more}


def _declared_table(config: Config) -> DeclaredTable:
    if config.examples.split.kind == "given" and not config.input.columns.split:
        raise MamdrError("examples.split.kind is given: set input.columns.split to the expression that gives it")
    columns = config.input.columns
    for number, feature in enumerate(config.features):
        if feature.history and not (columns.event_time or columns.ds):
            raise MamdrError(f"features.{number}.history: set input.columns.event_time or ds, from which it is built")
    return declared_clicks(config.features, bool(columns.split), bool(columns.weight))


def _overlapping(config: Config, lake: Lake, load: Load, scan: Scan, version: int | None) -> DataFrame | None:
    """Clicks of other loads, in a version, from the times of this load; None if statistics exclude all files."""
    days = list(scan.counts.valid_by_day)
    others = clicks_of_others(lake, load, days if config.input.replace == "days" else [], version)
    if others is None or not scan.times:
        return None
    others = others.where(in_spans(scan.times.values()))
    return others if others.inputFiles() else None


def _files(clicks: DataFrame | None) -> set[str]:
    return set() if clicks is None else set(clicks.inputFiles())


def _check_quality(
    config: Config,
    lake: Lake,
    load: Load,
    counts: LoadCounts,
    held: dict[date | None, int],
    started_at: datetime,
    explain: Callable[[], str],
) -> None:
    """Record the load as stopped, and raise MamdrError, if a quality check fails."""
    days = list(counts.valid_by_day)
    others = rows_by_day(clicks_of_others(lake, load), days[0] - timedelta(days=WEEK), days[-1]) if days else {}
    vanished = {day: rows for day, rows in held.items() if day and day not in counts.days}
    shared_days, has_label = config.input.replace == "load", bool(config.input.columns.label)
    failed = failed_checks(counts, config.quality, has_label, others, shared_days, vanished, explain)
    if failed:
        reason = "; ".join(failed)
        record_load(lake, load, counts, started_at, reason=reason)
        raise MamdrError(f"input.path: {config.input.path} is not published: {reason}")


def _figures(counts: LoadCounts) -> dict[str, Any]:
    return {
        "rows_in": counts.rows_in,
        "clicks": counts.valid,
        "rejected": counts.rejected,
        "rejected_by_rule": counts.by_rule,
        "days": len(counts.valid_by_day),
    }


def _warn_of_undeclared(columns: list[str]) -> None:
    if columns:
        logger.warning(
            "the log's columns %s are not used: to keep one, declare it under `features`, e.g. "
            "{name: %s, kind: categorical, optional: true}",
            *(", ".join(columns), columns[0]),
        )


def _warn_of_many_days(counts: LoadCounts) -> None:
    days, rows = len(counts.valid_by_day), counts.rows_in
    if days > MANY_DAYS and rows < FEW_ROWS_A_DAY * days:
        logger.warning(
            "%d days of about %d rows make %d small files: file them by month or year with input.columns.ds, "
            "e.g. trunc(event_time, 'month')",
            *(days, rows // days, days),
        )
