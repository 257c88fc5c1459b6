"""The log of a Delta table, read without a Spark job: DeltaTable.history() and a count would each start some."""

import json
from collections.abc import Iterator
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.lake.files import Files
from mamdr_core.lake.session import storage_errors

CHECK = "delta.constraints."
"""Before a constraint's name, a property of the table."""
_RECENT = 100


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
        for version, commit in self.commits():
            if commit.get("userMetadata") == json.dumps(note):
                return version, commit
        return None

    def newest_note(self, key: str, version: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """The newest recent commit whose note has the key, up to a version: its own version, and the note."""
        for number, commit in self.commits(version):
            note = read_note(commit.get("userMetadata"))
            if key in note:
                return number, note
        return None

    def commits_after(self, version: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The commits after a version, the oldest first: version, and what is recorded of it."""
        for number in range(version + 1, self.version() + 1):
            yield number, self.commit(number)

    def constraints(self) -> dict[str, str]:
        """Name and condition of the table's CHECK constraints."""
        jvm: Any = self._spark._jvm
        properties = jvm.scala.jdk.javaapi.CollectionConverters.asJava(self._snapshot().metadata().configuration())
        return {name.removeprefix(CHECK): text for name, text in properties.items() if name.startswith(CHECK)}

    def note_at(self, version: int) -> str | None:
        """The text of a commit's note."""
        return self.commit(version).get("userMetadata")

    def commits(self, newest: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """The recent commits up to a version, the newest first: version, and what is recorded of it."""
        newest = self.version() if newest is None else newest
        for version in range(newest, max(newest - _RECENT, -1), -1):
            yield version, self.commit(version)

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
