"""The lake: Delta tables that are created from their declarations in schemas/ and written in single commits.

`job_session` starts Spark for a job on a lake.
"""

import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.declared import declared_columns, skipping_properties, table_properties
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.log import EMPTIED
from mamdr_core.lake.core.marker import write_marker
from mamdr_core.lake.core.reading import StoredTables, declaration
from mamdr_core.lake.core.retries import CONFLICTS, TRIES
from mamdr_core.lake.core.session import overriding, spark_session
from mamdr_core.runtime.errors import MamdrError
from schemas import DeclaredTable
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

_NOTE = "spark.databricks.delta.commitInfo.userMetadata"
_NUMBERED = "mamdr growth"  # must not change: existing tables contain it


class Lake(StoredTables):
    """Reads and writes the tables of one lake.

    A table is given by its name or, if features extend it, by its declaration. The first write creates the table in the
    same commit, with its partitioning and CHECK constraints. Writes select exactly the declared columns, in order, and
    are repeated if they conflict with commits of other jobs (docs/concurrency.md).

    For arguments and errors see `StoredTables`.

    Example:
        >>> Lake(spark, "lake").read("clicks").groupBy("ds").count()  # doctest: +SKIP
    """

    def create(self, table: str | DeclaredTable) -> None:
        """Create the table without rows, unless it exists."""
        declared = declaration(table)
        if self.exists(declared):
            return
        empty = local_frame(self.spark, [], spark_schema(declared))
        try:
            self._save(declared, self._writer(declared, empty, "append", None))
        except CONFLICTS:  # another job has created it
            if not self.exists(declared):
                raise

    def append(self, table: str | DeclaredTable, rows: DataFrame, note: dict[str, Any] | None = None) -> None:
        """Add rows; `note` is attached to the commit (userMetadata in DESCRIBE HISTORY)."""
        self._insist(table, lambda: self._save(table, self._writer(table, rows, "append", note), note))

    def append_to(self, table: str | DeclaredTable, rows: DataFrame, rows_before: int) -> bool:
        """Add rows to an append-only table if it still has `rows_before` rows; returns whether they were added."""
        return self.write_next(table, rows, {"mark": uuid.uuid4().hex}, rows_before + 1, "")

    def write_next(
        self, table: str | DeclaredTable, rows: DataFrame, note: dict[str, Any], number: int, replaced: str | None
    ) -> bool:
        """Write a commit with a number, unless another job has written one with this or a higher number.

        Delta stores the number with the commit, so that only one of two jobs that read the same version can write.

        Args:
            note: unique note of the commit.
            number: higher than that of all earlier writes, undone ones included.
            replaced: condition of the rows to replace; empty: none; None: all, including the columns.

        Returns:
            Whether the commit was written.
        """
        declared = declaration(table)
        options: dict[str, str | int] = {"txnAppId": _NUMBERED, "txnVersion": number}
        try:
            if replaced is None and self.exists(declared):
                self._overwrite(declared, rows, note, **options)
            else:
                writer = self._writer(declared, rows, "overwrite" if replaced else "append", note).options(**options)
                self._save(declared, writer.option("replaceWhere", replaced) if replaced else writer, note)
        except CONFLICTS:
            return False
        # If the other job's commit came first, Delta silently skips this one as a repetition.
        return self.log(declared).find(note) is not None

    def overwrite(self, table: str | DeclaredTable, rows: DataFrame, note: dict[str, Any] | None = None) -> None:
        """Replace all rows, and remove columns that are no longer declared; earlier versions stay readable."""
        self._insist(table, lambda: self._overwrite(declaration(table), rows, note))

    def overwrite_where(
        self, table: str | DeclaredTable, rows: DataFrame, predicate: str, note: dict[str, Any] | None = None
    ) -> None:
        """Replace the rows that satisfy `predicate`; all of `rows` must satisfy it.

        Raises:
            MamdrError: other jobs kept changing these rows.
        """

        def write() -> None:
            writer = self._writer(table, rows, "overwrite", note)
            self._save(table, writer.option("replaceWhere", predicate), note)

        self._insist(table, write)

    def written(self, table: str | DeclaredTable, note: dict[str, Any]) -> tuple[int, int]:
        """The version of the recent commit with this note, and the number of rows that it wrote.

        Raises:
            LookupError: no recent commit has the note.
        """
        found = self.log(table).find(note)
        if found is None:
            raise LookupError(f"{self.path(table)} has no recent commit with the note {note}")
        version, commit = found
        metrics = commit["operationMetrics"]
        return version, int(metrics.get("numOutputRows", 0)) - int(metrics.get("numCopiedRows", 0))

    def undo(self, table: str | DeclaredTable, note: dict[str, Any]) -> bool:
        """Undo the recent commit with this note, if there is one; a table that it created becomes empty.

        Returns:
            False if another job has written since, so that the commit was not undone.
        """
        found = self.log(table).find(note)
        if found is None:
            return True
        before = found[0] - 1
        if self.newest(table) > found[0]:
            return False
        written = self.delta(table)
        if before >= 0:
            written.restoreToVersion(before)
            return True
        with overriding(self.spark, {_NOTE: json.dumps({EMPTIED: True})}):
            written.delete()
        return True

    def change(self, table: str | DeclaredTable, change: Callable[[DeltaTable], None], note: dict[str, Any]) -> None:
        """Change rows of a table by one Delta command, whose text is stored in Delta's log.

        Raises:
            MamdrError: the table does not exist, or other jobs kept writing the rows that the command reads.
        """
        self._require(table)

        def write() -> None:
            with overriding(self.spark, {_NOTE: json.dumps(note)}):
                change(self.delta(table))

        self._insist(table, write)

    def _insist(self, table: str | DeclaredTable, write: Callable[[], None]) -> None:
        """Write, and repeat the write after a random pause if it conflicts with a commit of another job."""
        for number in range(TRIES):
            try:
                return write()
            except CONFLICTS as error:
                logger.warning("%s: another job is writing it: %s", declaration(table).name, type(error).__name__)
                time.sleep(random.uniform(0, min(2**number, 20)))
        raise MamdrError(
            f"{self.path(table)}: another job is writing the same part of it; run again when that has ended"
        )

    def _writer(
        self, table: str | DeclaredTable, rows: DataFrame, mode: str, note: dict[str, Any] | None
    ) -> DataFrameWriter:
        declared = declaration(table)
        writer = declared_columns(declared, rows).write.format("delta").mode(mode)
        if not self.exists(declared):
            write_marker(self.files, self._names, self._managed)
            writer = writer.options(**table_properties(declared)).partitionBy(*declared.partition_by)
        elif not set(self.log(declared).columns()).issuperset(declared.column_names):
            writer = writer.option("mergeSchema", "true")
        if mode == "overwrite":  # of all partitions, whatever the cluster's spark.sql.sources.partitionOverwriteMode
            writer = writer.option("partitionOverwriteMode", "static")
        return writer.option("userMetadata", json.dumps(note)) if note else writer

    def _save(self, table: str | DeclaredTable, writer: DataFrameWriter, note: dict[str, Any] | None = None) -> None:
        """Execute a write that `_writer` has prepared; with a catalog, the table is named there afterwards."""
        declared = declaration(table)
        if self._names is None:
            writer.save(self.path(declared))
        elif self.exists(declared):
            writer.saveAsTable(self.sql_name(declared))
        elif self._managed:
            self._names.make_schema()
            # Delta ignores the writer's note when a table is created by its name.
            with overriding(self.spark, {_NOTE: json.dumps(note)} if note else {}), self._names.making(declared.name):
                writer.saveAsTable(self._names.sql(declared.name))
        else:
            writer.save(self.path(declared))
            self._names.add(declared.name)

    def _overwrite(self, declared: DeclaredTable, rows: DataFrame, note: dict[str, Any] | None, **options: Any) -> None:
        """Replace all rows and, if the declared columns have changed, also columns, constraints and statistics."""
        writer = self._writer(declared, rows, "overwrite", note).options(**options)
        exists = self.exists(declared)
        if not exists or set(self.log(declared).columns()) == set(declared.column_names):
            # Without a condition, Spark would replace a named table by a new one.
            condition = {"replaceWhere": "true"} if exists and self._names else {}
            self._save(declared, writer.options(**condition), note)
            return
        # Constraints on removed columns would fail, so they are dropped before the write and the new ones added after
        # it.
        wanted = declared.constraints()
        others = [name for name, text in self.log(declared).constraints().items() if wanted.get(name) != text]
        self._alter(declared, (f"DROP CONSTRAINT {name}" for name in others))
        # A write that replaces the columns also replaces the partitioning.
        self._save(declared, writer.option("overwriteSchema", "true").partitionBy(*declared.partition_by), note)
        listed = ", ".join(f"'{name}' = '{value}'" for name, value in skipping_properties(declared).items())
        kept = self.log(declared).constraints()
        added = (f"ADD CONSTRAINT {name} CHECK ({text})" for name, text in wanted.items() if name not in kept)
        self._alter(declared, (f"SET TBLPROPERTIES ({listed})", *added))

    def _alter(self, declared: DeclaredTable, changes: Iterable[str]) -> None:
        for change in changes:
            self.spark.sql(f"ALTER TABLE {self.sql_name(declared)} {change}")


@contextmanager
def job_session(name: str, config: Config) -> Iterator[SparkSession]:
    """A Spark session for a job on the lake; with `lake.catalog`, existing tables are first named in the catalog.

    Raises:
        MamdrError: see `spark_session` and `Lake`.
    """
    with spark_session(name) as spark:
        if config.lake.catalog:
            Lake(spark, config.lake).tables()
        yield spark
