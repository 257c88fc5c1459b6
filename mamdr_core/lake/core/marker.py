"""The file that marks a folder as the root of a lake, and contains the location of its tables."""

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.names import Names
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES

MARKER = "_mamdr_lake"
_MADE = "The Delta tables in this folder were made by MAMDR on Spark.\n"
_MANAGED = "Tables are stored where this schema has them: "
"""Prefix of the line that names the schema of a lake with managed tables."""


def check_root(files: Files) -> None:
    """Check that the root of `files` is empty, new, or a lake.

    Raises:
        MamdrError: it is a file, or a folder with other contents.
    """
    if files.is_file():
        raise MamdrError(f"lake.root: {files.root} is a file; name a folder for the tables")
    children = files.children()
    if not children or MARKER in children:
        return
    if any(name in TABLES and files.exists(name, "_delta_log") for name in children):
        return
    raise MamdrError(
        f"lake.root: {files.root} contains other files ({', '.join(sorted(children)[:3])}); "
        "name an empty or new folder, or an existing lake"
    )


def managed_schema(files: Files) -> str:
    """The schema with the managed tables of this lake; empty: all tables are below the root."""
    return next((line.removeprefix(_MANAGED) for line in files.lines(MARKER) if line.startswith(_MANAGED)), "")


def check_managed(root: str, schema: str, names: Names | None) -> None:
    """Check that `lake.catalog` is the schema with the managed tables.

    Raises:
        MamdrError: it is not, or Spark's catalog does not have this schema.
    """
    if names is None or names.schema != schema:
        raise MamdrError(f"lake.catalog: tables of {root} are managed in {schema}: set lake.catalog: {schema}")
    if not names.exists():
        raise MamdrError(
            f"lake.catalog: Spark's catalog has no schema {schema}, which has the tables of {root}: is this the "
            "metastore with which they were created? (spark.sql.catalogImplementation=hive, docs/queries.md)"
        )


def write_marker(files: Files, names: Names | None, manages: bool) -> None:
    """Mark the root before a table is created; `manages`: whether the catalog with the names stores the tables."""
    managed = f"{_MANAGED}{names.schema}\n" if names and manages else ""
    if not files.exists(MARKER) or (managed and not managed_schema(files)):
        files.write_text(_MADE + managed, MARKER)
    if managed and names:
        names.tables_elsewhere = True
