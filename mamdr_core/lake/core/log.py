"""The log of a Delta table, read without a Spark job: DeltaTable.history() and a count would each start some."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.session import storage_errors

CONSTRAINT = "delta.constraints."
"""Before a constraint's name, a property of the table."""
EMPTIED = "emptied"
"""In the note of a commit that took a table's first write back."""
RECENT = 100
"""Commits that are read one by one, the newest first; older ones by Spark."""
_COMMIT = "commitInfo struct<operation: string, operationParameters: struct<version: string>, userMetadata: string>"


class Log:
    """The log of one table.

    Args:
        spark: a session with Delta.
        path: of the table, which need not exist.

    Raises:
        MamdrError: in all methods, the log is damaged.
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        self._spark, self._path = spark, path

    def version(self) -> int:
        """The newest version; -1: there is no table."""
        return int(self._snapshot().version())

    def columns(self) -> list[str]:
        """The columns of the newest version."""
        return list(self._snapshot().schema().fieldNames())

    def find(self, note: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """The newest recent commit with a note: its version, and what its file of the log records of it."""
        for version, commit in islice(self.commits(), RECENT):
            if commit.get("userMetadata") == json.dumps(note):
                return version, commit
        return None

    def newest_note(self, key: str, version: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """The newest commit whose note has the key, of those that a version consists of: its version, and the note."""
        left = RECENT
        for number, commit in islice(self.lineage(version), RECENT):
            note = read_note(commit.get("userMetadata"))
            if key in note:
                return number, note
            left -= 1
        return None if left else self._older_note(key, number - 1)

    def _older_note(self, key: str, number: int) -> tuple[int, dict[str, Any]] | None:
        """As `newest_note`, of all commits up to a number; Spark reads them, and returns those that decide."""
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
            if commit["number"] > number:  # taken back
                continue
            if (restored := restored_version(commit)) is not None:
                number = restored
            elif EMPTIED in note:
                return None
            elif key in note:
                return commit["number"], note
        return None

    def lineage(self, version: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """The commits that a version (None: the newest) consists of, the newest first, without those taken back.

        It ends at a commit that emptied the table, and at one that is gone.
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
        """Delta's id of the table, which a table made anew in its place does not have."""
        return str(self._snapshot().metadata().id())

    def size(self) -> int:
        """Bytes of the files of the newest version; 0: there is no table."""
        snapshot = self._snapshot()
        if snapshot.version() < 0:
            return 0
        noted = snapshot.checksumOpt()  # with the commit; without it Delta adds up the log, in Spark jobs
        return int(noted.get().tableSizeBytes() if noted.isDefined() else snapshot.sizeInBytes())

    def properties(self) -> dict[str, str]:
        """The properties of the table."""
        jvm: Any = self._spark._jvm
        return dict(jvm.scala.jdk.javaapi.CollectionConverters.asJava(self._snapshot().metadata().configuration()))

    def written_at(self, version: int) -> int | None:
        """When a commit's file was written, in milliseconds since 1970; None where it is gone."""
        return Files(self._spark, self._path).modified("_delta_log", f"{version:020}.json")

    def files(self, version: int) -> DataFrame:
        """The data files of a version: `path`, as the log has it (quoted, below the table); no file is opened.

        Raises:
            AnalysisException: Delta can no longer put the version together.
        """
        table = self._spark.read.format("delta").option("versionAsOf", version).load(self._path)
        index = table._jdf.queryExecution().analyzed().collectLeaves().head().relation().location()
        return DataFrame(index.getSnapshot().allFiles().toDF(), self._spark).select("path")

    def constraints(self) -> dict[str, str]:
        """Name and condition of the table's CHECK constraints."""
        found = self.properties().items()
        return {name.removeprefix(CONSTRAINT): text for name, text in found if name.startswith(CONSTRAINT)}

    def commits(self, at: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """All commits up to a version (None: the newest), the newest first, as far back as they are there.

        Yields:
            The version, and what is recorded of it.
        """
        number = self.version() if at is None else at
        while number >= 0 and (commit := self.commit(number)):
            yield number, commit
            number -= 1

    def added_files(self, version: int) -> list[str]:
        """The files that the commit of a version added, as its file of the log names them: quoted, below the table."""
        return [action["add"]["path"] for action in self._actions(version) if "add" in action]

    def commit(self, version: int) -> dict[str, Any]:
        """What is recorded of the commit that made a version; nothing where it is gone."""
        infos = (action["commitInfo"] for action in self._actions(version) if "commitInfo" in action)
        return next(infos, {})

    def _snapshot(self) -> Any:
        jvm: Any = self._spark._jvm
        with storage_errors(self._path):
            log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(self._spark._jsparkSession, self._path)
            return log.update(False, jvm.scala.Option.empty(), jvm.scala.Option.empty())

    def _actions(self, version: int) -> Iterator[dict[str, Any]]:
        """What a commit's file holds, in order; nothing where it is gone."""
        return map(json.loads, Files(self._spark, self._path).lines("_delta_log", f"{version:020}.json"))


def read_note(text: str | None) -> dict[str, Any]:
    """The note that was stamped on a commit; empty where there is none, or another tool's."""
    try:
        note = json.loads(text or "{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def restored_version(commit: dict[str, Any]) -> int | None:
    """The version that a commit restored; None: it is no RESTORE."""
    if commit.get("operation") != "RESTORE":
        return None
    return int(commit["operationParameters"]["version"])
