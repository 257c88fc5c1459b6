"""The lake: Delta tables below one root, created from their declarations in schemas/ and written in single commits."""

import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, DataFrameWriter
from pyspark.sql import functions as F

from mamdr_core.lake.core.declared import declared_columns, skipping_properties, table_properties
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.log import EMPTIED
from mamdr_core.lake.core.reading import StoredTables, declaration
from mamdr_core.lake.core.retries import CONFLICTS, insist
from mamdr_core.lake.core.session import overriding
from schemas import Rule, Table
from schemas.spark import spark_schema

_NOTE = "spark.databricks.delta.commitInfo.userMetadata"
_NUMBERED = "mamdr growth"  # the name that lakes have known since there were vocabularies


class Lake(StoredTables):
    """Tables of one lake.

    A table is named, or given as its declaration where features extend it. Its first write creates it, in the same
    commit, with its partitioning and CHECK constraints. Writes select exactly the declared columns, in order, and try
    again where another job's commit gets ahead (docs/concurrency.md).

    Args and errors are those of `StoredTables`.

    Example:
        >>> Lake(spark, "lake").read("clicks").groupBy("ds").count()  # doctest: +SKIP
    """

    def create(self, table: str | Table) -> None:
        """Make the table, without rows, unless it exists."""
        declared = declaration(table)
        if self.exists(declared):
            return
        empty = local_frame(self._spark, [], spark_schema(declared))
        try:
            self._save(declared, self._writer(declared, empty, "append", None))
        except CONFLICTS:  # another job has made it meanwhile
            if not self.exists(declared):
                raise

    def append(self, table: str | Table, rows: DataFrame, note: dict[str, Any] | None = None) -> None:
        """Add rows. `note` is stamped on the commit (userMetadata in DESCRIBE HISTORY), here and below."""
        self._insist(table, lambda: self._save(table, self._writer(table, rows, "append", note), note))

    def append_to(self, table: str | Table, rows: DataFrame, rows_before: int) -> bool:
        """Add rows to a table that only ever grows, if it still holds `rows_before` rows; whether it did."""
        return self.write_next(table, rows, {"mark": uuid.uuid4().hex}, rows_before + 1, "")

    def write_next(
        self, table: str | Table, rows: DataFrame, note: dict[str, Any], number: int, replaced: str | None
    ) -> bool:
        """Write as the commit of a number, unless another job has written one of that number or a later one.

        Delta remembers the number with the commit: of two jobs that saw the same table only one can write.

        Args:
            table: what is written.
            rows: that are added.
            note: of this write alone.
            number: that rises with every such write, whatever is taken back.
            replaced: condition of rows that they replace; empty: none, None: all, with the columns too.

        Returns:
            Whether it was written.
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
        # Where the other job's commit was already there, Delta takes ours for a repetition and skips it in silence.
        return self.log(declared).find(note) is not None

    def overwrite(self, table: str | Table, rows: DataFrame, note: dict[str, Any] | None = None) -> None:
        """Replace all rows, and the columns of features that are no longer declared; earlier versions stay readable."""
        self._insist(table, lambda: self._overwrite(declaration(table), rows, note))

    def overwrite_where(
        self, table: str | Table, rows: DataFrame, predicate: str, note: dict[str, Any] | None = None
    ) -> None:
        """Replace exactly the rows that satisfy `predicate`; all of `rows` must satisfy it.

        Raises:
            MamdrError: other jobs kept changing what the predicate names.
        """

        def write() -> None:
            writer = self._writer(table, rows, "overwrite", note)
            self._save(table, writer.option("replaceWhere", predicate), note)

        self._insist(table, write)

    def written(self, table: str | Table, note: dict[str, Any]) -> tuple[int, int]:
        """The version that the recent write with this note made, and how many rows it wrote.

        Raises:
            LookupError: none of the newest commits has the note.
        """
        found = self.log(table).find(note)
        if found is None:
            raise LookupError(f"{self.path(table)} has no recent commit with the note {note}")
        version, commit = found
        metrics = commit["operationMetrics"]
        return version, int(metrics.get("numOutputRows", 0)) - int(metrics.get("numCopiedRows", 0))

    def undo(self, table: str | Table, note: dict[str, Any]) -> bool:
        """Take back the recent write with this note, if there was one; false where another job has written since.

        A table that the write made becomes empty.
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
        with overriding(self._spark, {_NOTE: json.dumps({EMPTIED: True})}):
            written.delete()
        return True

    def change(self, table: str | Table, change: Callable[[DeltaTable], None], note: dict[str, Any]) -> None:
        """Change rows of a table by a command of Delta, in one commit, whose text Delta's log keeps.

        Raises:
            MamdrError: the table does not exist, or other jobs kept writing what the command reads.
        """
        self._require(table)

        def write() -> None:
            with overriding(self._spark, {_NOTE: json.dumps(note)}):
                change(self.delta(table))

        self._insist(table, write)

    def merge(self, table: str | Table, rows: DataFrame, on: str, update: dict[str, str]) -> None:
        """Insert rows that match none and update those that do, in one commit.

        Args:
            table: what is merged into.
            rows: all declared columns.
            on: condition between `old` and `new`.
            update: column to expression over `old` and `new`, for matched rows.

        Raises:
            MamdrError: other jobs kept writing what it reads.
        """
        self._insist(table, lambda: self._merge(declaration(table), rows, on, update))

    def renew_rule(self, table: str | Table, rule: Rule) -> None:
        """Have Delta enforce a rule as it is declared now, where the table was made when it was another.

        Raises:
            MamdrError: other jobs kept writing the table.
        """
        declared = declaration(table)

        def renew() -> None:
            if self.exists(declared) and self.log(declared).constraints().get(rule.name) != rule.condition_sql:
                added = f"ADD CONSTRAINT {rule.name} CHECK ({rule.condition_sql})"
                self._alter(declared, (f"DROP CONSTRAINT IF EXISTS {rule.name}", added))

        self._insist(declared, renew)

    def _merge(self, declared: Table, rows: DataFrame, on: str, update: dict[str, str]) -> None:
        self.create(declared)
        target = self.delta(declared).alias("old")
        merge = (
            target.merge(declared_columns(declared, rows).alias("new"), on)
            .whenMatchedUpdate(set={name: F.expr(expression) for name, expression in update.items()})
            .whenNotMatchedInsertAll()
        )
        if not set(self.log(declared).columns()).issuperset(declared.column_names):
            merge = merge.withSchemaEvolution()  # the table is older than some of its columns
        merge.execute()

    def _insist(self, table: str | Table, write: Callable[[], None]) -> None:
        insist(write, declaration(table).name, lambda: self.path(table))

    def _writer(self, table: str | Table, rows: DataFrame, mode: str, note: dict[str, Any] | None) -> DataFrameWriter:
        declared = declaration(table)
        writer = declared_columns(declared, rows).write.format("delta").mode(mode)
        if not self.exists(declared):
            self._marker.write(self._names, self._managed)
            writer = writer.options(**table_properties(declared)).partitionBy(*declared.partition_by)
        elif not set(self.log(declared).columns()).issuperset(declared.column_names):
            writer = writer.option("mergeSchema", "true")
        if mode == "overwrite":  # of all partitions, whatever the cluster's spark.sql.sources.partitionOverwriteMode
            writer = writer.option("partitionOverwriteMode", "static")
        return writer.option("userMetadata", json.dumps(note)) if note else writer

    def _save(self, table: str | Table, writer: DataFrameWriter, note: dict[str, Any] | None = None) -> None:
        """Write what `_writer` has prepared to the table, which has a name afterwards where it should have one."""
        declared = declaration(table)
        if self._names is None:
            writer.save(self.path(declared))
        elif self.exists(declared):
            writer.saveAsTable(self.sql_name(declared))
        elif self._managed:
            self._names.make_schema()
            # Delta does not stamp the option of a table that a name makes.
            with overriding(self._spark, {_NOTE: json.dumps(note)} if note else {}), self._names.making(declared.name):
                writer.saveAsTable(self._names.sql(declared.name))
        else:
            writer.save(self.path(declared))
            self._names.add(declared.name)

    def _overwrite(self, declared: Table, rows: DataFrame, note: dict[str, Any] | None, **options: Any) -> None:
        """Replace all rows and, where others are declared, the columns with all that depends on them."""
        writer = self._writer(declared, rows, "overwrite", note).options(**options)
        exists = self.exists(declared)
        if not exists or set(self.log(declared).columns()) == set(declared.column_names):
            # By name, Spark would make another table in its place.
            whole = {"replaceWhere": "true"} if exists and self._names else {}
            self._save(declared, writer.options(**whole), note)
            return
        # The conditions of columns that go would fail; until the end of the write the table is checked for less.
        wanted = declared.constraints()
        others = [name for name, text in self.log(declared).constraints().items() if wanted.get(name) != text]
        self._alter(declared, (f"DROP CONSTRAINT {name}" for name in others))
        # Delta takes the layout from the write too when it replaces the columns.
        self._save(declared, writer.option("overwriteSchema", "true").partitionBy(*declared.partition_by), note)
        listed = ", ".join(f"'{name}' = '{value}'" for name, value in skipping_properties(declared).items())
        there = self.log(declared).constraints()
        added = (f"ADD CONSTRAINT {name} CHECK ({text})" for name, text in wanted.items() if name not in there)
        self._alter(declared, (f"SET TBLPROPERTIES ({listed})", *added))

    def _alter(self, declared: Table, changes: Iterable[str]) -> None:
        for change in changes:
            self._spark.sql(f"ALTER TABLE {self.sql_name(declared)} {change}")
