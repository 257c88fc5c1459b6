"""Names of a lake's tables in one schema of a Spark catalog, such as Hive's metastore or Unity: `lake.catalog`."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import SparkSession

from mamdr_core.config.yaml_values import one_line
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.log import Log
from mamdr_core.lake.core.retries import MadeMeanwhileError
from mamdr_core.lake.core.session import storage_errors
from mamdr_core.lake.core.sql import identifier, literal
from mamdr_core.runtime.errors import MamdrError

_COMMENT = "MAMDR lake "
"""Prefix of a schema's comment; the lake's root follows."""
_SESSION_CATALOG = "spark_catalog"
_NO_TABLE = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND")
_NO_FILES = ("DELTA_PATH_DOES_NOT_EXIST", "DELTA_TABLE_NOT_FOUND")


class Names:
    """The schema with the names of the tables of one lake.

    Args:
        schema: name of the schema, with or without its catalog (`mamdr`, `unity.mamdr`); created when needed.
        tables_elsewhere: whether tables of the lake may be stored outside its root.

    Attributes:
        schema: name of the schema with its catalog.

    Raises:
        MamdrError: here and in all methods, if Spark has no such catalog or rejects a name, if the schema was created
            for another lake, or if a table of this name is not a Delta table or belongs to another lake.
    """

    def __init__(self, spark: SparkSession, schema: str, root: str, tables_elsewhere: bool) -> None:
        self._spark, self._root, self.tables_elsewhere = spark, root, tables_elsewhere
        catalog, _, name = schema.rpartition(".")
        catalog = catalog or spark.catalog.currentCatalog()
        if catalog != _SESSION_CATALOG and spark.conf.get(f"spark.sql.catalog.{catalog}", None) is None:
            raise MamdrError(
                f"lake.catalog: Spark has no catalog {one_line(catalog)}: set spark.sql.catalog.{one_line(catalog)} "
                f"or name a schema of {spark.catalog.currentCatalog()} alone"
            )
        self.schema = f"{catalog}.{name}"
        self._quoted = f"{identifier(catalog)}.{identifier(name)}"
        self._locations: dict[str, str] = {}
        self._check_schema()

    def sql(self, table: str) -> str:
        """The quoted name of the table in SQL."""
        return f"{self._quoted}.{identifier(table)}"

    def location(self, table: str) -> str:
        """The location of the table; below the root if the catalog does not know the table.

        A table that is stored below the root and has no name yet is named first.
        """
        if table in self._locations:
            return self._locations[table]
        below = f"{self._root.rstrip('/')}/{table}"
        found = self._find(table)
        if found is None:
            if Log(self._spark, below).version() < 0:
                return below
            self.add(table)
            found = below
        if found != below and not self.tables_elsewhere:
            raise MamdrError(
                f"lake.catalog: {self.schema}.{table} is stored in {found}, not in lake.root, so it belongs to another "
                "lake (or lake.root lost its file _mamdr_lake): name another schema, or that lake's root"
            )
        self._locations[table] = found
        return found

    def add(self, table: str) -> None:
        """Name a table that is stored below the root."""
        self.make_schema()
        location = literal(f"{self._root.rstrip('/')}/{table}")
        self._run(f"CREATE TABLE IF NOT EXISTS {self.sql(table)} USING DELTA LOCATION {location}")

    def make_schema(self) -> None:
        """Create the schema unless it exists."""
        if not self.exists():
            self._run(f"CREATE SCHEMA IF NOT EXISTS {self._quoted} COMMENT {literal(_COMMENT + self._root)}")

    @contextmanager
    def making(self, table: str) -> Iterator[None]:
        """Wrap the creation of a managed table: translate Spark's errors about an existing table or folder.

        Raises:
            MadeMeanwhileError: another job has created the table.
        """
        try:
            yield
        except AnalysisException as error:
            if "ALREADY_EXISTS" in str(error):
                raise MadeMeanwhileError from None
            if "NON_EMPTY_LOCATION" not in str(error):
                raise
            found = one_line(str(error).rpartition("location")[2])[:200]
            raise MamdrError(
                f"lake.catalog: {table} cannot be created: its folder {found}; another job is creating it, or was "
                "killed: run again, or remove the folder when no job runs"
            ) from None

    def exists(self) -> bool:
        """Whether the schema exists."""
        return self._describe_schema() is not None

    def tables(self) -> set[str]:
        """Names of the tables of the schema."""
        if not self.exists():
            return set()
        return {row["tableName"] for row in self._spark.sql(f"SHOW TABLES IN {self._quoted}").collect()}

    def _check_schema(self) -> None:
        comment = (self._describe_schema() or {}).get("Comment") or ""
        root = comment.removeprefix(_COMMENT)
        if comment.startswith(_COMMENT) and root != self._root:
            raise MamdrError(f"lake.catalog: {self.schema} names the tables of {root}, not {self._root}")

    def _describe_schema(self) -> dict[str, str] | None:
        try:
            described = self._spark.sql(f"DESCRIBE SCHEMA {self._quoted}").collect()
        except PySparkException as error:
            if "SCHEMA_NOT_FOUND" in str(error):
                return None
            raise self._refused(error) from None
        return {row[0]: row[1] for row in described}

    def _find(self, table: str) -> str | None:
        """Location of the table in the catalog; None: the table does not exist, or its files were deleted."""
        try:
            with storage_errors():
                rows = self._spark.sql(f"DESCRIBE TABLE EXTENDED {self.sql(table)}").collect()
        except AnalysisException as error:
            if any(condition in str(error) for condition in (*_NO_TABLE, *_NO_FILES)):
                return None
            raise self._refused(error) from None
        described = {row[0]: row[1] for row in rows}  # properties of the table follow its columns
        if described.get("Provider") != "delta" or "Location" not in described:
            raise MamdrError(
                f"lake.catalog: {self.schema}.{table} is no Delta table; rename it, or name another schema"
            )
        return Files(self._spark, described["Location"]).root

    def _run(self, statement: str) -> None:
        try:
            self._spark.sql(statement)
        except PySparkException as error:
            raise self._refused(error) from None

    def _refused(self, error: PySparkException) -> MamdrError:
        return MamdrError(f"lake.catalog: {self.schema} is refused ({one_line(str(error))[:200]})")
