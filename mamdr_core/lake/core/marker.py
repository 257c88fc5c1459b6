"""The file that marks a folder as the root of a lake, and contains the location of its tables."""

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.names import Names
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES

MARKER = "_mamdr_lake"
_MADE = "The Delta tables in this folder were made by MAMDR on Spark.\n"
_MANAGED = "Tables are stored where this schema has them: "
"""Prefix of the line that names the schema of a lake with managed tables."""


class Marker:
    """The marker of one lake.

    Args:
        files: files below the root.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def check_root(self) -> None:
        """Check that the root is empty, new, or a lake.

        Raises:
            MamdrError: it is a file, or a folder with other contents.
        """
        root = self._files.root
        if self._files.is_file():
            raise MamdrError(f"lake.root: {root} is a file; name a folder for the tables")
        children = self._files.children()
        if not children or MARKER in children:
            return
        if any(name in TABLES and self._files.exists(name, "_delta_log") for name in children):
            return
        raise MamdrError(
            f"lake.root: {root} holds something else ({', '.join(sorted(children)[:3])}); "
            "name an empty or new folder, or an existing lake"
        )

    def schema(self) -> str:
        """The schema with the managed tables of this lake; empty: all tables are below the root."""
        found = (line.removeprefix(_MANAGED) for line in self._files.lines(MARKER) if line.startswith(_MANAGED))
        return next(found, "")

    def check_managed(self, schema: str, names: Names | None) -> None:
        """Check that `lake.catalog` is the schema with the managed tables.

        Raises:
            MamdrError: it is not, or Spark's catalog does not have this schema.
        """
        root = self._files.root
        if names is None or names.schema != schema:
            raise MamdrError(f"lake.catalog: tables of {root} are managed in {schema}: set lake.catalog: {schema}")
        if not names.exists():
            raise MamdrError(
                f"lake.catalog: Spark's catalog has no schema {schema}, which has the tables of {root}: is this the "
                "metastore with which they were created? (spark.sql.catalogImplementation=hive, docs/queries.md)"
            )

    def write(self, names: Names | None, manages: bool) -> None:
        """Mark the root before a table is created.

        Args:
            names: the tables' names in a catalog, if there is one.
            manages: whether the catalog stores the tables.
        """
        managed = f"{_MANAGED}{names.schema}\n" if names and manages else ""
        if not self._files.exists(MARKER) or (managed and not self.schema()):
            self._files.write_text(_MADE + managed, MARKER)
        if managed and names:
            names.tables_elsewhere = True
