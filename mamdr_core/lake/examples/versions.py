"""The Delta versions that belong to a version of the examples: those of vocabularies and vectors."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from mamdr_core.config.features import Feature
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES, DeclaredTable, feature_vocabulary

_GONE = re.compile("FILE_NOT_EXIST|Cannot time travel Delta table to version")


def companion_tables(features: Sequence[Feature]) -> list[DeclaredTable]:
    """The other tables that readers of the examples need: vocabularies and fixed vectors."""
    vectors = sorted({f"{feature.of}_features" for feature in features if feature.kind == "vector"})
    indexed = [feature_vocabulary(f.name) for f in features if f.has_vocabulary]
    return [*(TABLES[name] for name in ("users", "items", "domains", *vectors)), *indexed]


def newest_versions(lake: Lake, features: Sequence[Feature]) -> dict[str, int]:
    """The newest versions of these tables, by name.

    Raises:
        MamdrError: a table does not exist.
    """
    return {table.name: lake.version(table) for table in companion_tables(features)}


def versions_of(lake: Lake, features: Sequence[Feature], version: int) -> dict[str, int]:
    """The versions in the note of a version of the examples, and that version itself, by name of table.

    For commits without a note, such as a change of table properties, the note of the commit before applies.

    Raises:
        MamdrError: the version does not exist, has no note, or was built without the features.
    """
    newest = lake.version("examples")
    if version > newest or not lake.log("examples").commit(version):
        raise MamdrError(
            f"train.examples_version: examples of {lake.root} has no version {version}, {newest} is newest"
        )
    found = lake.log("examples").newest_note("versions", version)
    if found is None:
        raise MamdrError(
            f"train.examples_version: examples version {version} does not record the versions of its vocabularies: "
            "run build_examples again"
        )
    noted = found[1]["versions"]
    names = [table.name for table in companion_tables(features)]
    if missing := [name for name in names if name not in noted]:
        raise MamdrError(
            f"train.examples_version: examples version {version} was built without {', '.join(missing)}: run "
            "build_examples again with these features"
        )
    return {"examples": version} | {name: int(noted[name]) for name in names}


@contextmanager
def removed_version_errors(what: str) -> Iterator[None]:
    """Turn Spark's errors about removed files or log entries of a version into MamdrError; must wrap its reads."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if not _GONE.search(str(error)):
            raise
        raise MamdrError(
            f"{what} cannot be read any more: its files were removed after maintain.retention_days, or never were in "
            "this lake"
        ) from None
