"""Locates and reads the tables of a lake: paths, logs, versions and rows."""

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from mamdr_core.config.lake import LakeSettings
from mamdr_core.config.yaml_values import shorten
from mamdr_core.lake.core.files import Files, reaching
from mamdr_core.lake.core.log import Log
from mamdr_core.lake.core.marker import check_managed, check_root, managed_schema
from mamdr_core.lake.core.names import Names
from mamdr_core.lake.core.sql import identifier
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES, DeclaredTable, feature_vocabulary


class StoredTables:
    """Locates and reads the tables of one lake; `Lake` also writes them.

    A table is addressed by its path below the root or, if `lake.catalog` is set, by its name in the catalog, which has
    its location. No other class decides this.

    Args:
        where: settings of the lake, or only its root, a folder or URI.

    Attributes:
        spark: the session.
        files: the files below the root.
        root: the root as an absolute path or URI.

    Raises:
        MamdrError: the root is a file, or a folder with other contents; managed tables of the lake are in another
            schema than `lake.catalog`; see also `Names`. Nothing has been written.
    """

    def __init__(self, spark: SparkSession, where: str | LakeSettings) -> None:
        settings = LakeSettings(root=where) if isinstance(where, str) else where
        self.spark = spark
        self._managed = settings.managed
        self.files = Files(spark, settings.root)
        self.root = self.files.root
        self.files.share_settings()
        with reaching(self.root):
            check_root(self.files)
            elsewhere = managed_schema(self.files)
        self._names: Names | None = None
        if settings.catalog:
            self._names = Names(spark, settings.catalog, self.root, bool(elsewhere))
        if elsewhere:
            check_managed(self.root, elsewhere, self._names)

    def path(self, table: str | DeclaredTable) -> str:
        """The location of the table."""
        name = declaration(table).name
        return self._names.location(name) if self._names else self.files.path(name)

    def sql_name(self, table: str | DeclaredTable) -> str:
        """The table in SQL: its name in the catalog, or its path."""
        path = self.path(table)  # first, because this names a table that has no name yet
        return self._names.sql(declaration(table).name) if self._names else f"delta.{identifier(path)}"

    def delta(self, table: str | DeclaredTable) -> DeltaTable:
        """The table as an object of Delta, for its commands.

        Raises:
            MamdrError: the table does not exist.
        """
        path = self._require(table)
        if self._names:
            return DeltaTable.forName(self.spark, self.sql_name(table))
        return DeltaTable.forPath(self.spark, path)

    def path_of(self, *names: str) -> str:
        """The path of another file or folder of the lake, such as a model package.

        Raises:
            MamdrError: a name is not that of a file or folder directly below the previous one.
        """
        for name in names:
            if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
                raise MamdrError(f"{shorten(name)} is not the name of a file or folder of {self.root}")
        return self.files.path(*names)

    def log(self, table: str | DeclaredTable) -> Log:
        """The log of the table, which need not exist."""
        return Log(self.spark, self.path(table))

    def exists(self, table: str | DeclaredTable) -> bool:
        """Whether the table has been created."""
        return self.newest(table) >= 0

    def tables(self) -> list[DeclaredTable]:
        """The existing tables, including vocabularies of features, sorted by name."""
        prefix = feature_vocabulary("").name
        found = {name.lower(): name for name in self._names.tables()} if self._names else {}
        found |= {name.lower(): name for name in self.files.children()}  # a catalog may change names to lower case
        vocabularies = {
            name: feature_vocabulary(name.removeprefix(prefix)) for name in found.values() if name.startswith(prefix)
        }
        known = TABLES | vocabularies
        return [known[name] for name in sorted(known) if self.exists(known[name])]

    def newest(self, table: str | DeclaredTable) -> int:
        """The newest version; -1: the table does not exist."""
        return self.log(table).version()

    def version(self, table: str | DeclaredTable) -> int:
        """The newest version.

        Raises:
            MamdrError: the table does not exist.
        """
        self._require(table)
        return self.newest(table)

    def read(self, table: str | DeclaredTable, version: int | None = None) -> DataFrame:
        """The table at a version; None: the newest.

        Raises:
            MamdrError: the table does not exist.
        """
        path = self._require(table)
        reader = self.spark.read.format("delta")
        reader = reader if version is None else reader.option("versionAsOf", version)
        return reader.table(self.sql_name(table)) if self._names else reader.load(path)

    def has_rows(self, table: str | DeclaredTable, condition: str) -> bool:
        """Whether the table exists and has rows that satisfy a condition in SQL."""
        return self.exists(table) and not self.read(table).where(condition).isEmpty()

    def _require(self, table: str | DeclaredTable) -> str:
        declared = declaration(table)
        if not self.exists(declared):
            hint = f": run jobs/{declared.made_by}.py first" if declared.made_by else ""
            raise MamdrError(f"lake {self.root} has no table {declared.name} yet{hint}")
        return self.path(declared)


def declaration(table: str | DeclaredTable) -> DeclaredTable:
    """The declaration of a table, given by its name or by the declaration itself."""
    return TABLES[table] if isinstance(table, str) else table
