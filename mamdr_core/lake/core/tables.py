"""The lake: Delta tables below one root, created from their declarations in schemas/."""

import json
import logging
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.declared import declared_columns, skipping_properties, table_properties
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.files import Files, reaching
from mamdr_core.lake.core.log import EMPTIED, Log
from mamdr_core.lake.core.marker import Marker
from mamdr_core.lake.core.names import Names
from mamdr_core.lake.core.retries import CONFLICTS, insist
from mamdr_core.lake.core.session import overriding
from mamdr_core.lake.core.sql import table_at
from mamdr_core.lake.settings import LakeSettings
from mamdr_core.yaml_values import shorten
from schemas import TABLES, Table, feature_vocabulary
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

_NOTE = "spark.databricks.delta.commitInfo.userMetadata"
_NUMBERED = "mamdr growth"  # the name that lakes have known since there were vocabularies


class Lake:
    """Tables of one lake.

    A table is named, or given as its declaration where features extend it. Its first write creates it, in the same
    commit, with its partitioning and CHECK constraints. Writes select exactly the declared columns, in order, and try
    again where another job's commit gets ahead (docs/concurrency.md).

    This class alone decides how a table is addressed: by its path below the root or, where `lake.catalog` is set, by
    its name in the catalog, which knows where the table is stored.

    Args:
        spark: a session with Delta.
        where: settings of the lake, or its root alone, a folder or URI.

    Raises:
        MamdrError: the root is a file, or a folder that holds something else; or as `Names`, and where managed tables
            of the lake are in another schema than `lake.catalog`. Nothing has been written then.

    Example:
        >>> Lake(spark, "lake").read("clicks").groupBy("ds").count()  # doctest: +SKIP
    """

    def __init__(self, spark: SparkSession, where: str | LakeSettings) -> None:
        settings = LakeSettings(root=where) if isinstance(where, str) else where
        self._spark = spark
        self._managed = settings.managed
        self._files = Files(spark, settings.root)
        self.root = self._files.root
        self._files.share_settings()
        self._marker = Marker(self._files)
        with reaching(self.root):
            self._marker.check_root()
            elsewhere = self._marker.schema()
        self._names: Names | None = None
        if settings.catalog:
            self._names = Names(spark, settings.catalog, self.root, bool(elsewhere))
        if elsewhere:
            self._marker.check_managed(elsewhere, self._names)

    def path(self, table: str | Table) -> str:
        """Where the table is stored."""
        name = _declared(table).name
        return self._names.location(name) if self._names else self._files.path(name)

    def sql_name(self, table: str | Table) -> str:
        """The table as SQL addresses it: its name in the catalog, or its path."""
        path = self.path(table)  # first: a table that has no name yet is given one
        return self._names.sql(_declared(table).name) if self._names else table_at(path)

    def delta(self, table: str | Table) -> DeltaTable:
        """The table, for commands of Delta.

        Raises:
            MamdrError: it does not exist.
        """
        path = self._require(table)
        if self._names:
            return DeltaTable.forName(self._spark, self.sql_name(table))
        return DeltaTable.forPath(self._spark, path)

    def path_of(self, *names: str) -> str:
        """The path of something else in the lake, such as a model package.

        Raises:
            MamdrError: a name that would lead out of it.
        """
        for name in names:
            if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
                raise MamdrError(f"{shorten(name)} is not the name of a file or folder of {self.root}")
        return self._files.path(*names)

    def log(self, table: str | Table) -> Log:
        """The log of the table, which need not exist."""
        return Log(self._spark, self.path(table))

    def exists(self, table: str | Table) -> bool:
        """Whether the table has been created."""
        return self.newest(table) >= 0

    def tables(self) -> list[Table]:
        """The tables that exist, vocabularies of features among them, sorted by name."""
        prefix = feature_vocabulary("").name
        found = {name.lower(): name for name in self._names.tables()} if self._names else {}
        found |= {name.lower(): name for name in self._files.children()}  # a catalog may write all names small
        vocabularies = {
            name: feature_vocabulary(name.removeprefix(prefix)) for name in found.values() if name.startswith(prefix)
        }
        known = TABLES | vocabularies
        return [known[name] for name in sorted(known) if self.exists(known[name])]

    def newest(self, table: str | Table) -> int:
        """The newest version; -1: the table does not exist."""
        return self.log(table).version()

    def version(self, table: str | Table) -> int:
        """The newest version.

        Raises:
            MamdrError: the table does not exist.
        """
        self._require(table)
        return self.newest(table)

    def read(self, table: str | Table, version: int | None = None) -> DataFrame:
        """The table at a version; None: the newest.

        Raises:
            MamdrError: the table does not exist.
        """
        path = self._require(table)
        reader = self._spark.read.format("delta")
        reader = reader if version is None else reader.option("versionAsOf", version)
        return reader.table(self.sql_name(table)) if self._names else reader.load(path)

    def create(self, table: str | Table) -> None:
        """Make the table, without rows, unless it exists."""
        declared = _declared(table)
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
        declared = _declared(table)
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
        self._insist(table, lambda: self._overwrite(_declared(table), rows, note))

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
        self._insist(table, lambda: self._merge(_declared(table), rows, on, update))

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
        insist(write, _declared(table).name, lambda: self.path(table))

    def _writer(self, table: str | Table, rows: DataFrame, mode: str, note: dict[str, Any] | None) -> DataFrameWriter:
        declared = _declared(table)
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
        declared = _declared(table)
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

    def _require(self, table: str | Table) -> str:
        declared = _declared(table)
        if not self.exists(declared):
            hint = f": run jobs/{declared.made_by}.py first" if declared.made_by else ""
            raise MamdrError(f"lake {self.root} has no table {declared.name} yet{hint}")
        return self.path(declared)


def _declared(table: str | Table) -> Table:
    return TABLES[table] if isinstance(table, str) else table
