"""Reads the log of a Delta table without Spark jobs, unlike DeltaTable.history() and counting queries."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.java import java_class
from mamdr_core.lake.core.session import storage_errors

CONSTRAINT = "delta.constraints."
"""Prefix of the table properties that are constraints."""
EMPTIED = "emptied"
"""Key in the note of a commit that undid the first write of a table."""
RECENT = 100
"""Number of newest commits that are read one by one; older ones are read by Spark."""
_COMMIT = "commitInfo struct<operation: string, operationParameters: struct<version: string>, userMetadata: string>"


class Log:
    """The log of one table, which need not exist.

    Raises:
        MamdrError: in all methods, if the log is damaged.
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        self._spark, self._path = spark, path

    def version(self) -> int:
        """The newest version; -1: the table does not exist."""
        return int(self._snapshot().version())

    def columns(self) -> list[str]:
        """The columns of the newest version."""
        return list(self._snapshot().schema().fieldNames())

    def find(self, note: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """The newest of the recent commits with this note: its version and its commitInfo."""
        for version, commit in islice(self.commits(), RECENT):
            if commit.get("userMetadata") == json.dumps(note):
                return version, commit
        return None

    def newest_note(self, key: str, version: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """The newest commit in the `lineage` of a version whose note has the key: its version and the note."""
        left = RECENT
        for number, commit in islice(self.lineage(version), RECENT):
            note = read_note(commit.get("userMetadata"))
            if key in note:
                return number, note
            left -= 1
        return None if left else self._older_note(key, number - 1)

    def _older_note(self, key: str, number: int) -> tuple[int, dict[str, Any]] | None:
        """The same as `newest_note` for commits up to a number, which Spark reads and filters."""
        if not self.commit(number):
            return None
        files = self._spark.read.schema(_COMMIT).option("pathGlobFilter", "*.json")
        infos = files.json(Files(self._spark, self._path).path("_delta_log")).select(
            F.regexp_extract("_metadata.file_name", r"^(\d{20})\.json$", 1).cast("bigint").alias("number"),
            "commitInfo.*",
        )
        notes = infos.where(
            F.col("operation").eqNullSafe("RESTORE")
            | F.contains("userMetadata", F.lit(f'"{key}"'))
            | F.contains("userMetadata", F.lit(EMPTIED))
        )
        for row in notes.where(F.col("number") <= number).orderBy(F.desc("number")).collect():
            commit = row.asDict(recursive=True)
            note = read_note(commit["userMetadata"])
            if commit["number"] > number:  # undone by a later RESTORE
                continue
            if (restored := restored_version(commit)) is not None:
                number = restored
            elif EMPTIED in note:
                return None
            elif key in note:
                return commit["number"], note
        return None

    def lineage(self, version: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """The commits that a version (None: the newest) is based on, newest first, without those that were undone.

        It ends at a commit that emptied the table, and at a commit whose log file was deleted.
        """
        number = self.version() if version is None else version
        while number >= 0 and (commit := self.commit(number)):
            restored = restored_version(commit)
            if restored is not None:
                number = restored
                continue
            if EMPTIED in read_note(commit.get("userMetadata")):
                return
            yield number, commit
            number -= 1

    def table_id(self) -> str:
        """Delta's id of the table; a table that replaces it has another id."""
        return str(self._snapshot().metadata().id())

    def size(self) -> int:
        """Total size in bytes of the files of the newest version; 0: the table does not exist."""
        snapshot = self._snapshot()
        if snapshot.version() < 0:
            return 0
        checksum = snapshot.checksumOpt()  # without it, Delta sums up the log by Spark jobs
        return int(checksum.get().tableSizeBytes() if checksum.isDefined() else snapshot.sizeInBytes())

    def properties(self) -> dict[str, str]:
        """Names and values of the table properties."""
        converters = java_class(self._spark, "scala.jdk.javaapi.CollectionConverters")
        return dict(converters.asJava(self._snapshot().metadata().configuration()))

    def written_at(self, version: int) -> int | None:
        """Modification time of a commit's log file in milliseconds since 1970; None if it was deleted."""
        return Files(self._spark, self._path).modified("_delta_log", f"{version:020}.json")

    def files(self, version: int) -> DataFrame:
        """The data files of a version: `path`, percent-encoded, relative to the table; no file is opened.

        Raises:
            AnalysisException: Delta can no longer reconstruct the version.
        """
        table = self._spark.read.format("delta").option("versionAsOf", version).load(self._path)
        index = table._jdf.queryExecution().analyzed().collectLeaves().head().relation().location()
        return DataFrame(index.getSnapshot().allFiles().toDF(), self._spark).select("path")

    def constraints(self) -> dict[str, str]:
        """Name and condition of the table's CHECK constraints."""
        found = self.properties().items()
        return {name.removeprefix(CONSTRAINT): text for name, text in found if name.startswith(CONSTRAINT)}

    def commits(self, at: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Versions and commitInfos up to a version (None: the newest), newest first, back to the first deleted file."""
        number = self.version() if at is None else at
        while number >= 0 and (commit := self.commit(number)):
            yield number, commit
            number -= 1

    def added_files(self, version: int) -> list[str]:
        """Paths of the files that the commit of a version added, percent-encoded, relative to the table."""
        return [action["add"]["path"] for action in self._actions(version) if "add" in action]

    def commit(self, version: int) -> dict[str, Any]:
        """The commitInfo of a version; empty if its log file was deleted."""
        infos = (action["commitInfo"] for action in self._actions(version) if "commitInfo" in action)
        return next(infos, {})

    def _snapshot(self) -> Any:
        none = java_class(self._spark, "scala.Option").empty()
        with storage_errors(self._path):
            log = java_class(self._spark, "org.apache.spark.sql.delta.DeltaLog").forTable(
                self._spark._jsparkSession, self._path
            )
            return log.update(False, none, none)

    def _actions(self, version: int) -> Iterator[dict[str, Any]]:
        """The actions in a commit's log file, in order; none if it was deleted."""
        return map(json.loads, Files(self._spark, self._path).lines("_delta_log", f"{version:020}.json"))


def read_note(text: str | None) -> dict[str, Any]:
    """Parse the note of a commit; empty if there is none, or if another tool wrote it."""
    try:
        note = json.loads(text or "{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def restored_version(commit: dict[str, Any]) -> int | None:
    """The version that a commit restored; None: it is not a RESTORE."""
    if commit.get("operation") != "RESTORE":
        return None
    return int(commit["operationParameters"]["version"])
