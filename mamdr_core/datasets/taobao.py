"""convert_taobao: converts Cloud Theme files (Du et al. 2019) to a log and vectors (docs/public_sources.md)."""

import logging
from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.job_config import Config
from mamdr_core.datasets.conversion import count_faults, count_log, describe, output_folder, publish, source_folder
from mamdr_core.datasets.paper_tables import find_paper_set
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.files import Files
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

JOB = "convert_taobao"
CLICK_LOG, ITEM_POOL = "theme_click_log.csv", "theme_item_pool.csv"
EMBEDDINGS = {"user": "user_embedding.csv", "item": "item_embedding.csv"}
VECTOR_SIZE = 128
_INFINITE = float("inf")
_SUMMARY = (
    "%(rows_in)d rows = %(clicks)d clicks + %(repeated)d repeated + %(rejected)d rejected + %(other_themes)d of other "
    "themes"
)


def convert_taobao(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Write `input.path`: user, item, domain (D1, D2, ...), event_time, theme, one row per user, item and theme.

    The embeddings of the log's users and items become `<input.path>_vectors/users` and `/items`: id, vector.

    Returns:
        rows_in = clicks + repeated + rejected + other_themes, rejected_by_fault, clicks_outside_pool (null: no
        theme_item_pool.csv), themes (by domain), user_vectors, item_vectors, path, and those of `conversion.describe`.

    Raises:
        MamdrError: a file is missing or lacks a column, no embedding can be read, there are fewer themes than
            `convert.themes`, or an output folder belongs to something else.
    """
    settings = config.convert
    source = source_folder(spark, settings)
    clicks, vectors = read_clicks(spark, source), {of: read_vectors(spark, source, of) for of in EMBEDDINGS}
    # The file of the items of each theme is optional.
    pool = read_csv(spark, source, ITEM_POOL, ("theme_id", "item_id")) if source.exists(ITEM_POOL) else None
    output = output_folder(spark, config, JOB)
    vector_outputs = {of: output_folder(spark, config, JOB, f"_vectors/{of}s") for of in EMBEDDINGS}
    with kept_frames() as keep:
        known = {of: keep(known_ids(vectors[of])) for of in EMBEDDINGS}
        vector_figures = {of: _count_vectors(vectors[of], known[of], of) for of in EMBEDDINGS}
        groups = keep(group_clicks(clicks, known["user"], known["item"]))
        themes = choose_themes(groups, settings.themes)
        domains = local_frame(spark, list(themes.items()), "domain string, theme string")
        groups = groups.join(F.broadcast(domains), "theme", "left")
        pairs = keep(groups.where("domain IS NOT NULL AND fault IS NULL").withColumn("clicks", F.lit(1)))
        counts, rows = count_log(pairs), _count_rows(groups)
        outside = None if pool is None else _count_outside(pairs, pool)
        # The log is deleted first: if the job is killed from here on, earlier output cannot be mistaken for new output.
        output.delete()
        for of in EMBEDDINGS:
            publish(_used_vectors(vectors[of], pairs, of), vector_outputs[of], JOB, settings)
        publish(pairs.select("user", "item", "domain", "event_time", "theme"), output, JOB, settings)
    figures = describe(counts, themes, find_paper_set(themes))
    result = {
        **rows,
        "repeated": rows["rows_in"] - rows["rejected"] - rows["other_themes"] - figures["clicks"],
        **figures,
        "clicks_outside_pool": outside,
        "themes": themes,
        "user_vectors": {**vector_figures["user"], "written": counts.users},
        "item_vectors": {**vector_figures["item"], "written": counts.items},
        "path": output.root,
    }
    logger.info(_SUMMARY, result)
    return result


def read_csv(spark: SparkSession, source: Files, name: str, columns: Sequence[str]) -> DataFrame:
    """Read columns of a CSV file as trimmed text.

    Raises:
        MamdrError: the file is missing, or its header lacks a column.
    """
    if not source.is_file(name):
        raise MamdrError(f"convert.path: {source.root} lacks {name}; download it (docs/public_sources.md)")
    raw = spark.read.option("header", True).csv(source.path(name))
    missing = [column for column in columns if column not in raw.columns]
    if missing:
        named = ", ".join(raw.columns)[:200]
        raise MamdrError(f"convert.path: {name} has no column {', '.join(missing)}; its header is {named}")
    return raw.select("_metadata", *(F.trim(column).alias(column) for column in columns))


def read_clicks(spark: SparkSession, source: Files) -> DataFrame:
    """Read the click log: user_id, item_id, theme_id, reach_time, as text."""
    return read_csv(spark, source, CLICK_LOG, ("user_id", "item_id", "theme_id", "reach_time"))


def read_vectors(spark: SparkSession, source: Files, of: str) -> DataFrame:
    """Read the embeddings of users or items (`of`: user, item): id, vector, valid (an id and 128 finite numbers)."""
    raw = read_csv(spark, source, EMBEDDINGS[of], (f"{of}_id", "emb"))
    vector = F.split("emb", " ").try_cast("array<float>")
    strange = F.exists("vector", lambda number: number.isNull() | F.isnan(number) | (F.abs(number) == _INFINITE))
    shaped = _present("id") & (F.size("vector") == VECTOR_SIZE)
    return raw.select(F.col(f"{of}_id").alias("id"), vector.alias("vector")).withColumn(
        "valid", F.coalesce(shaped & ~strange, F.lit(False))
    )


def known_ids(vectors: DataFrame) -> DataFrame:
    """Count embeddings: id, valid, rows."""
    return vectors.groupBy("id", "valid").agg(F.count("*").alias("rows"))


def group_clicks(clicks: DataFrame, users: DataFrame, items: DataFrame) -> DataFrame:
    """One row per theme, user and item, and one per theme and fault.

    Args:
        clicks: user_id, item_id, theme_id, reach_time.
        users: id, valid: the embeddings of users.
        items: the same for items.

    Returns:
        theme; fault (null: none); user; item; event_time of the first click; rows; place, which orders rows as in the
        file.
    """
    # Splits of a file go to tasks in any order; within a split, rows are numbered in the order of the file.
    place = F.struct("_metadata.file_block_start", F.monotonically_increasing_id())
    time = F.coalesce(
        F.try_to_timestamp("reach_time", F.lit("yyyyMMddHHmmss")), F.col("reach_time").try_cast("timestamp")
    )
    theme = F.when(_present("theme_id"), F.col("theme_id"))
    placed = clicks.select("user_id", "item_id", theme.alias("theme"), time.alias("time"), place.alias("place"))
    for of, known in (("user", users), ("item", items)):
        ids = known.where("valid").select(F.col("id").alias(f"{of}_id"), F.lit(True).alias(f"{of}_known"))
        placed = placed.join(ids, f"{of}_id", "left")
    fault = (
        F.when(F.col("theme").isNull(), "no_theme")
        .when(~_present("user_id"), "no_user")
        .when(~_present("item_id"), "no_item")
        .when(F.col("time").isNull(), "no_time")
        .when(F.col("user_known").isNull(), "no_user_embedding")
        .when(F.col("item_known").isNull(), "no_item_embedding")
    )
    checked = placed.withColumn("fault", fault)
    for of in EMBEDDINGS:
        checked = checked.withColumn(of, F.when(F.col("fault").isNull(), F.col(f"{of}_id")))
    return checked.groupBy("theme", "fault", "user", "item").agg(
        F.min("time").alias("event_time"), F.count("*").alias("rows"), F.min("place").alias("place")
    )


def choose_themes(groups: DataFrame, count: int) -> dict[str, str]:
    """The first `count` themes (0: all) with a valid click, by first appearance in the log: {"D1": theme, ...}.

    This is the order of the domains in Table 8: the released reference code numbers the themes in the same way.

    Raises:
        MamdrError: there are fewer themes, or none.
    """
    kept = F.sum(F.when(F.col("fault").isNull(), F.col("rows")))
    by_theme = groups.where("theme IS NOT NULL").groupBy("theme").agg(F.min("place").alias("place"), kept.alias("kept"))
    ordered = [row["theme"] for row in by_theme.where("kept > 0").orderBy("place").select("theme").collect()]
    if len(ordered) < max(count, 1):
        faults = count_faults(groups) or "none"
        raise MamdrError(
            f"convert.themes is {count}, but {CLICK_LOG} has {len(ordered)} themes with a valid click (rejected: "
            f"{faults})"
        )
    return {f"D{number}": theme for number, theme in enumerate(ordered[: count or None], start=1)}


def _count_vectors(vectors: DataFrame, known: DataFrame, of: str) -> dict[str, int]:
    counts = {row["valid"]: row for row in known.groupBy("valid").agg(F.sum("rows"), F.count("*")).collect()}
    if True not in counts:
        first = vectors.select(F.size("vector").alias("size")).first()
        raise MamdrError(
            f"convert.path: {EMBEDDINGS[of]} holds no embedding of {VECTOR_SIZE} numbers separated by spaces; its "
            f"first has {max(first['size'], 0) if first else 0}"
        )
    rows, ids = counts[True][1], counts[True][2]
    malformed = counts[False][1] if False in counts else 0
    return {"rows_in": rows + malformed, "malformed": malformed, "repeated": rows - ids}


def _count_rows(groups: DataFrame) -> dict[str, Any]:
    """Count rows_in, other_themes, rejected and rejected_by_fault in groups with their domain."""
    other = F.col("theme").isNotNull() & F.col("domain").isNull()
    sums = groups.agg(F.sum("rows"), F.sum(F.when(other, F.col("rows")).otherwise(0))).first()
    rows_in, other_rows = (int(sums[0]), int(sums[1])) if sums else (0, 0)
    faults = count_faults(groups.where(~other))
    return {
        "rows_in": rows_in,
        "other_themes": other_rows,
        "rejected": sum(faults.values()),
        "rejected_by_fault": faults,
    }


def _count_outside(pairs: DataFrame, pool: DataFrame) -> int:
    offered = pool.select(F.col("theme_id").alias("theme"), F.col("item_id").alias("item"))
    return pairs.join(offered, ["theme", "item"], "left_anti").count()


def _used_vectors(vectors: DataFrame, pairs: DataFrame, of: str) -> DataFrame:
    """One embedding per user or item of the log; of duplicates the largest, as in the lake."""
    used = pairs.select(F.col(of).alias("id")).distinct()
    return vectors.where("valid").join(used, "id", "left_semi").groupBy("id").agg(F.max("vector").alias("vector"))


def _present(name: str) -> Column:
    return F.coalesce(F.col(name), F.lit("")) != ""
