"""forget_users: removes the rows of some users from every table.

Delta's log contains the text of every command. So rows are matched with users by a join, which leaves no ids in the
log; conditions of commands contain only indices.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.job_config import Config
from mamdr_core.config.lake import ForgetSettings
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.listing import list_first
from mamdr_core.lake.core.notes import INCOMPLETE
from mamdr_core.lake.core.session import overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.maintenance.kept import kept_runs
from mamdr_core.lake.maintenance.raw_rows import plain_column, users_of
from mamdr_core.runtime.errors import MamdrError
from schemas import SPLITS

logger = logging.getLogger(__name__)

BY_ID = {"clicks": "user", "scores": "user"}
"""Tables with raw ids of users, and the column of the ids."""
BY_INDEX = {"user_features": "index", "examples": "user"}
"""Tables with indices of users, and the column of the indices."""
_NAMED = 10
"""Maximum number of users that a message lists."""
_FORGOTTEN = "forgotten"
"""Key of a note: the number of users whose rows the commit removed."""


@dataclass(frozen=True)
class Match:
    """The rows of the users in a table: their number, the requested users that have some, and how to remove them."""

    rows: int
    users: frozenset[str]
    remove: Callable[[DeltaTable], None]


def forget_users(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Remove the rows of users from every table, and replace their ids in the vocabulary.

    Tables with ids come first, then the vocabulary, then tables with indices, from which the rows of all indices with a
    replaced id are removed. So a killed job can be run again.

    Returns:
        dry_run, users (requested), unknown_users (without rows in any table), rows_removed (by table; in users,
        replaced ids), rebuild_examples (whether examples may have rows of users without an index, which the next build
        removes by encoding all clicks), pinned_versions (by table, versions with rows of forgotten users that kept runs
        pin), pinned_by (these runs), released_runs, readable_until (last day of earlier versions).

    Raises:
        MamdrError: no user is given, or none exists and there is nothing to release.
    """
    settings, retention = config.forget, config.maintain
    lake = Lake(spark, config.lake)
    users = _read_users(spark, settings)
    matches = _find(lake, users, config)
    rows = {name: match.rows for name, match in matches.items() if match.rows}
    found = {user for match in matches.values() for user in match.users}
    unknown = [user for user in users if user not in found]
    if users and not rows and not settings.release:
        raise MamdrError(
            f"forget.users: no table of {lake.root} holds any of the {len(users)} users: {list_first(users, _NAMED)}"
        )
    if unknown:
        logger.warning("%d of %d users do not exist: %s", len(unknown), len(users), list_first(unknown, _NAMED))
    rebuild = lake.exists("examples") and bool(_users(matches, "clicks") - _users(matches, "users"))
    if rebuild:
        logger.warning("some users have no index: the next build_examples encodes all clicks to remove their rows")
    if not settings.dry_run:
        _remove(lake, {name: matches[name] for name in rows}, len(users), rebuild)
    cleaned = _cleaned_versions(lake, rows if settings.dry_run else ())
    released = _release(lake, cleaned, settings.dry_run) if settings.release else 0
    pins = _pins(kept_runs(lake, retention.keep_runs, retention.keep_champions), cleaned)
    until = datetime.now(UTC) + timedelta(days=retention.retention_days)
    return {
        "dry_run": settings.dry_run,
        "users": len(users),
        "unknown_users": unknown,
        "rows_removed": rows,
        "rebuild_examples": rebuild,
        "pinned_versions": {name: sorted(runs) for name, runs in pins.items()},
        "pinned_by": sorted({run_id for runs in pins.values() for run_ids in runs.values() for run_id in run_ids}),
        "released_runs": released,
        "readable_until": until.date().isoformat(),
    }


def _read_users(spark: SparkSession, settings: ForgetSettings) -> list[str]:
    """The distinct users of both settings."""
    users = list(settings.users)
    if settings.path:
        file = Files(spark, settings.path)
        if not file.is_file():
            raise MamdrError(f"forget.path: {settings.path} is no file")
        users += [line for line in file.lines() if line.strip()]
    if not users and not settings.release:
        raise MamdrError("forget.users and forget.path name no user: give the users whose rows are to be removed")
    return list(dict.fromkeys(users))


def _find(lake: Lake, users: Sequence[str], config: Config) -> dict[str, Match]:
    """The users' rows in each existing table, in the order of removal."""
    ids = local_frame(lake.spark, [(user,) for user in users], "_id string")
    matches = {name: _by_id(lake.read(name), column, ids) for name, column in BY_ID.items() if lake.exists(name)}
    if lake.exists("clicks_rejected"):
        matches["clicks_rejected"] = _rejected(lake.read("clicks_rejected"), users, config.input.columns.user)
    # If users are hashed to buckets, an index belongs to many users.
    if lake.exists("users") and not config.examples.users.buckets:
        vocabulary = lake.read("users")
        matches["users"] = _in_vocabulary(vocabulary, ids)
        left = vocabulary.join(F.broadcast(ids), F.col("id") == F.col("_id"), "left")
        indices = left.where((F.col("id") == _tombstone()) | F.col("_id").isNotNull()).select(
            F.col("index").alias("_id")
        )
        for name, column in BY_INDEX.items():
            if lake.exists(name):
                matches[name] = _by_index(lake.read(name), column, indices)
    return matches


def _tombstone() -> Column:
    """The text that replaces an id in the vocabulary; by the rule ids_readable no click has such an id."""
    return F.concat(F.lit("forgotten "), F.col("index").cast("string"), F.lit(" \ufffd"))


def _count(rows: DataFrame, column: str, ids: DataFrame) -> dict[Any, int]:
    """Number of rows of a table by id."""
    counted = rows.join(F.broadcast(ids), F.col(column) == F.col("_id"), "inner").groupBy("_id").count()
    return {row["_id"]: row["count"] for row in counted.collect()}


def _by_id(rows: DataFrame, column: str, ids: DataFrame) -> Match:
    counts = _count(rows, column, ids)
    theirs = f"old.`{column}` = new._id"
    return Match(sum(counts.values()), frozenset(counts), lambda table: _delete_matching(table, ids, theirs))


def _in_vocabulary(vocabulary: DataFrame, ids: DataFrame) -> Match:
    counts = _count(vocabulary, "id", ids)

    def bury(table: DeltaTable) -> None:
        merge = table.alias("old").merge(ids.alias("new"), "old.id = new._id")
        merge.whenMatchedUpdate(set={"id": _tombstone()}).execute()

    return Match(sum(counts.values()), frozenset(counts), bury)


def _by_index(rows: DataFrame, column: str, indices: DataFrame) -> Match:
    counts = _count(rows, column, indices)
    return Match(sum(counts.values()), frozenset(), lambda table: table.delete(F.col(column).isin(*counts)))


def _rejected(rejected: DataFrame, users: Sequence[str], expression: str) -> Match:
    column, wanted = plain_column(expression), frozenset(users)
    if column is None and users:
        logger.warning(
            "input.columns.user %r is not a plain column: rejected rows with an id in any column are removed",
            expression,
        )
    # A Python function, because Spark's functions for JSON need a schema, which rejected rows do not have.
    read = F.udf(lambda row: users_of(row, column, wanted), "array<string>")
    found = read("row")
    if "click" in rejected.columns:  # the id that the configured expression gave
        own = F.get_json_object("click", "$.user")
        found = F.array_union(found, F.when(own.isin(*wanted), F.array(own)).otherwise(F.array().cast("array<string>")))
    theirs = rejected.select(hash64(F.col("row")).alias("_id"), found.alias("users")).where(F.size("users") > 0)
    held = theirs.groupBy("_id").agg(F.count("*").alias("rows"), F.first("users").alias("users")).collect()
    hashes = local_frame(rejected.sparkSession, [(row["_id"],) for row in held], "_id bigint")
    return Match(
        sum(row["rows"] for row in held),
        frozenset(user for row in held for user in row["users"]),
        lambda table: _delete_matching(table, hashes, "xxhash64(old.row) = new._id"),
    )


def _delete_matching(table: DeltaTable, rows: DataFrame, on: str) -> None:
    table.alias("old").merge(rows.alias("new"), on).whenMatchedDelete().execute()


def _remove(lake: Lake, matches: Mapping[str, Match], users: int, incomplete: bool) -> None:
    """Remove the rows; notes of clicks record whether the next build of examples must encode all clicks."""
    for name, match in matches.items():
        note = {"job": "forget_users", _FORGOTTEN: users} | ({INCOMPLETE: True} if incomplete else {})
        # With one open file per split and shard, files of examples are rewritten in their order; otherwise Spark would
        # sort rows by split and shard first.
        files = len(SPLITS) * _shards(lake) if name == "examples" else 0
        with overriding(lake.spark, {"spark.sql.maxConcurrentOutputFileWriters": files}):
            lake.change(name, match.remove, note)
        logger.info("%s: %d rows removed", name, match.rows)


def _users(matches: Mapping[str, Match], table: str) -> frozenset[str]:
    """The requested users with rows in a table."""
    return matches[table].users if table in matches else frozenset()


def _shards(lake: Lake) -> int:
    last = lake.read("examples").agg(F.max("shard")).first()
    return int(last[0]) + 1 if last else 1


def _cleaned_versions(lake: Lake, to_clean: Collection[str]) -> dict[str, int]:
    """By table that runs read, its first version without rows of all users forgotten so far.

    Args:
        to_clean: tables from which a job that is not a dry run would remove rows.
    """
    cleaned = {}
    for name in ("users", *BY_INDEX):
        if name in to_clean:
            cleaned[name] = lake.version(name) + 1
        elif lake.exists(name) and (noted := lake.log(name).newest_note(_FORGOTTEN)):
            cleaned[name] = noted[0]
    return cleaned


def _pins(runs: Sequence[Row], cleaned: Mapping[str, int]) -> dict[str, dict[int, list[str]]]:
    """By table, the versions with rows of forgotten users that are inputs of runs, with the ids of these runs."""
    pins: dict[str, dict[int, list[str]]] = {}
    for run in runs:
        for name, version in run["input_versions"].items():
            if version < cleaned.get(name, 0):
                pins.setdefault(name, {}).setdefault(version, []).append(run["run_id"])
    return pins


def _release(lake: Lake, cleaned: Mapping[str, int], dry_run: bool) -> int:
    """Remove inputs with rows of forgotten users from the records of successful runs; returns the number of runs."""
    if not cleaned or not lake.exists("training_runs"):
        return 0
    held = " OR ".join(f"(name = '{name}' AND version < {version})" for name, version in cleaned.items())
    kept = F.expr(f"map_filter(input_versions, (name, version) -> NOT ({held}))")
    pinning = (F.col("status") == "ok") & (F.size(kept) < F.size("input_versions"))
    runs = lake.read("training_runs").where(pinning).count()
    if runs and not dry_run:
        note = {"job": "forget_users", "released": runs}
        lake.change("training_runs", lambda table: table.update(pinning, {"input_versions": kept}), note)
    return runs
