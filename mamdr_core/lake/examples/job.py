"""build_examples: encodes clicks and writes them as examples in shards."""

import logging
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.caching import Keep, kept_frames
from mamdr_core.lake.core.features import declared_examples
from mamdr_core.lake.core.few import bytes_of, local_frame
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import (
    FEW,
    FEW_BYTES,
    FEW_HELD,
    ROW_BYTES,
    overriding,
    settings_for,
    settings_for_many,
)
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.counts import (
    NOTHING,
    add_counts,
    count_added,
    count_examples,
    counts_in,
    read_counts,
    rows_by_shard,
    write_counts,
)
from mamdr_core.lake.examples.increments import STATE, Increment, built_with, find_increment
from mamdr_core.lake.examples.layout import assign_shards, lay_out, writer_settings
from mamdr_core.lake.examples.new_clicks import (
    NewClicks,
    bytes_of_vocabularies,
    check_new_clicks,
    encode_new_clicks,
    find_ids,
    grow_vocabularies,
    select_clicks,
)
from mamdr_core.lake.examples.packing import pack_domains, pack_more
from mamdr_core.lake.examples.plans import DomainPlan
from mamdr_core.lake.examples.quantiles import QUANTILES, cut_features, cut_numbers, kept_bounds, learn_bounds
from mamdr_core.lake.examples.vectors import update_vectors
from mamdr_core.lake.examples.versions import newest_versions
from mamdr_core.lake.examples.vocabularies import Growth
from mamdr_core.lake.examples.windows import Window, window_of
from mamdr_core.runtime.errors import MamdrError
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

TRIES = 5
"""Maximum number of attempts of a build, which is repeated if another build commits first."""


@dataclass(frozen=True)
class _Built:
    """Result of a build: the version of examples that it wrote or found, with its counts and window, and figures."""

    version: int
    counts: pa.Table
    window: Window
    growth: Mapping[str, Growth]
    shards: int
    missing: int = 0


def build_examples(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Encode the clicks that examples lack, extend the vocabularies and update the feature vectors.

    Loads that were added or changed since the last build are added or replaced. If the result would differ from
    encoding all clicks, all clicks are encoded, with a warning (docs/data.md). If nothing is new, there is no commit.

    Returns:
        Of the window: examples, rows by split, positives, negatives, one_class_domains, one_row_domains. Of this build:
        encoded_rows, negatives_missing, rebuilt (why all clicks were encoded; empty: they were not), users, items,
        domains and the numbers of new ones, shards, clicks_version, examples_version.

    Raises:
        MamdrError: there are no clicks (on the declared days); clicks lacks a declared feature; negatives are to be
            sampled for a log with impressions; a source of vectors is faulty; the number of written rows differs from
            the plan; all clicks would have to be encoded, and examples.rebuild is false; other jobs kept building. The
            examples are unchanged, or an empty table if there was none.
    """
    lake = Lake(spark, config.lake)
    for _ in range(TRIES):
        clicks_version = lake.version("clicks")
        clicks = select_clicks(lake, clicks_version, config)
        increment = find_increment(lake, config, clicks_version)
        _warn_or_refuse(increment, config)
        chosen = [clicks.where(condition) for condition in increment.wanted]
        with progress(spark, "build_examples"), kept_frames() as keep:
            if chosen:
                encoded = reduce(DataFrame.union, chosen)
                with overriding(spark, _settings_of_first_query(lake, encoded, config)):
                    new_clicks = NewClicks(increment, find_ids(lake, encoded, config, keep), clicks)
            else:
                new_clicks = NewClicks(increment, None, clicks)
            check_new_clicks(new_clicks, lake, config)
            with overriding(spark, settings_for(spark, new_clicks.rows, _bytes_read(lake, new_clicks, config))):
                built = _build(lake, config, clicks_version, new_clicks, keep)
            if built is not None:
                figures = _figures(new_clicks, built)
                break
        logger.info("examples: another build committed first; trying again")
    else:
        raise MamdrError("examples: other jobs kept building them; run again when they have ended")
    logger.info("%(encoded_rows)d rows encoded; %(examples)d examples, %(shards)d shards, %(domains)d domains", figures)
    return {**figures, "clicks_version": clicks_version, "examples_version": built.version}


def _settings_of_first_query(lake: Lake, clicks: DataFrame, config: Config) -> Mapping[str, str | int]:
    """Settings of the first query, which runs before any row is counted."""
    held = bytes_of_vocabularies(lake, config)
    if lake.log("clicks").size() <= FEW_BYTES and held <= FEW_HELD:
        return FEW
    return settings_for_many(lake.spark, max(bytes_of(clicks), held) // ROW_BYTES)


def _bytes_read(lake: Lake, new_clicks: NewClicks, config: Config) -> int:
    """Maximum size in bytes of the tables that are counted or joined with the new rows."""
    if not new_clicks.rows and new_clicks.increment.replaced == "" and new_clicks.increment.counted_by:
        return 0
    return bytes_of_vocabularies(lake, config) + lake.log("examples").size()


def _warn_or_refuse(increment: Increment, config: Config) -> None:
    if increment.is_expected:
        return
    if config.examples.rebuild is False:
        raise MamdrError(f"examples.rebuild is false, and all clicks would have to be encoded: {increment.reason}")
    logger.warning("all clicks are encoded again: %s", increment.reason)


def _build(lake: Lake, config: Config, clicks_version: int, new_clicks: NewClicks, keep: Keep) -> _Built | None:
    """Encode and write what is new; None: another build committed first."""
    increment, newest = new_clicks.increment, new_clicks.newest(lake)
    window = window_of(config.examples, newest)
    kept = _count_kept(lake, increment, window)
    growth, domains = grow_vocabularies(lake, new_clicks, config, keep)
    update_vectors(lake, config.features, growth)
    has_weight = bool(config.input.columns.weight)
    table = declared_examples(config.features, not window.decides_split, has_weight)
    shards, bounds = increment.state.get("shards", 0), kept_bounds(increment, config)
    rows, plans = local_frame(lake.spark, [], spark_schema(table)), list[DomainPlan]()
    if new_clicks.ids and new_clicks.domains:
        encoded, plans = encode_new_clicks(new_clicks, new_clicks.ids.rows, growth, domains, config, keep)
        new_n = {plan.domain: plan.rows for plan in plans}
        held_n = rows_by_shard(kept)
        if increment.replaced is None:
            packing = pack_domains(new_n, config.examples.shards.rows, config.examples.shards.count)
        else:
            target = sys.maxsize if config.examples.shards.count else config.examples.shards.rows
            packing = pack_more(shards, held_n, new_n, target)
        shards = packing.count
        rows_n = {domain: rows + sum(held_n.get(domain, {}).values()) for domain, rows in new_n.items()}
        placed = assign_shards(encoded, rows_n, packing, config.examples, window)
        if cut := cut_features(config.features):
            if lacking := [feature for feature in cut if feature.name not in bounds]:
                bounds |= learn_bounds(placed, lacking, window)
            placed = cut_numbers(placed, cut, bounds)
        rows = lay_out(placed, shards, table)
    # All vocabularies have been extended and are append-only, so their newest versions contain every index of the rows.
    note: dict[str, Any] = {
        "job": "build_examples",
        "versions": newest_versions(lake, config.features),
        "window": window.noted(),
    }
    state = {"newest": newest.isoformat(), "shards": shards, "clicks_id": lake.log("clicks").table_id()}
    state |= {QUANTILES: bounds} if bounds else {}
    note |= {"clicks_version": clicks_version, STATE: state | _state(new_clicks, growth["user"], config)}
    if not plans and not increment.replaced and _has_nothing_to_note(note, increment.before):
        return _Built(increment.base, kept, window, growth, shards)
    note["build"] = uuid.uuid4().hex  # identifies the commit among those of concurrent builds
    with overriding(lake.spark, writer_settings(config.examples.shards, shards)):
        if not lake.write_next(table, rows, note, increment.number, increment.replaced):
            return None
    version = _verify(lake, note, plans)
    if increment.replaced == "" and version == increment.base + 1:
        counts = add_counts(kept, count_added(lake, table, version, window))
    elif increment.replaced is None:  # nothing was kept
        counts = count_added(lake, table, version, window)
    else:  # rows were removed by this build, or possibly by a commit of another job in between
        counts = count_examples(lake.read("examples", version), window)
    write_counts(lake, note["build"], counts, window, increment.before.get("build", ""))
    return _Built(version, counts, window, growth, shards, sum(plan.missing for plan in plans))


def _count_kept(lake: Lake, increment: Increment, window: Window) -> pa.Table:
    """Count the examples that a build keeps."""
    if increment.replaced is None:
        return NOTHING
    counts = None if increment.replaced else read_counts(lake, increment.counted_by, window)
    if counts is not None:
        return counts
    examples = lake.read("examples", increment.base)
    return count_examples(examples.where(~F.expr(increment.replaced)) if increment.replaced else examples, window)


def _state(new_clicks: NewClicks, users: Growth, config: Config) -> dict[str, Any]:
    """The part of the build's state that does not depend on its rows (see `increments.STATE`)."""
    settings, before = config.examples, new_clicks.increment.before.get(STATE, {})
    # The first day of a user is wrong or missing for ever if the user's first rows are not read.
    all_read = not (settings.users.buckets or settings.since or settings.retired) and settings.users.min_count == 1
    return {
        "number": new_clicks.increment.number,
        "built_with": built_with(config),
        "until": settings.until.isoformat() if settings.until else None,
        "knows_users": all_read and before.get("knows_users", users.new == users.total),
    }


def _verify(lake: Lake, note: dict[str, Any], plans: list[DomainPlan]) -> int:
    """Check that as many rows were written as planned, and undo the commit otherwise; returns its version.

    Raises:
        MamdrError: the numbers differ.
    """
    version, written = lake.written("examples", note)
    planned = sum(plan.rows for plan in plans)
    if written != planned:
        undone = lake.undo("examples", note)
        outcome = "that version was undone" if undone else f"do not use version {version}"
        raise MamdrError(f"examples: {planned} rows were planned and {written} written; {outcome}")
    return version


def _figures(new_clicks: NewClicks, built: _Built) -> dict[str, Any]:
    """The figures of a build and of the examples in its window."""
    splits = counts_in(built.counts, built.window)
    domains = pa.concat_tables(splits.values()).group_by("domain").aggregate([("rows", "sum"), ("positives", "sum")])
    rows, positives = domains["rows_sum"].to_numpy(), domains["positives_sum"].to_numpy()
    return {
        "examples": int(rows.sum()),
        **{f"{split}_rows": pc.sum(counts["rows"]).as_py() or 0 for split, counts in splits.items()},
        "positives": int(positives.sum()),
        "negatives": int((rows - positives).sum()),
        "negatives_missing": built.missing,
        "one_class_domains": int(((positives == 0) | (positives == rows)).sum()),
        "one_row_domains": int((rows == 1).sum()),
        "encoded_rows": new_clicks.rows,
        "rebuilt": new_clicks.increment.reason,
        **{f"{name}s": grown.total for name, grown in built.growth.items()},
        **{f"new_{name}s": grown.new for name, grown in built.growth.items()},
        "shards": built.shards,
    }


def _has_nothing_to_note(note: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the note of a build without rows would equal that of the last build, except for its number."""
    number = {"number": before.get(STATE, {}).get("number")}
    same = all(note[key] == before.get(key) for key in ("versions", "window"))
    return same and note[STATE] | number == before[STATE]
