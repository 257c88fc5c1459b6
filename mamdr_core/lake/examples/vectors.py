"""Updates user_features and item_features from the sources of fixed vectors."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import InputSettings
from mamdr_core.config.yaml_values import shorten
from mamdr_core.lake.core.few import bytes_of, gathered, is_few, small
from mamdr_core.lake.core.session import FEW_BYTES, memory_of
from mamdr_core.lake.core.sources import as_id, malformed_line, read_input, state_of
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.core.unreadable import readable
from mamdr_core.lake.examples.vocabularies import BROADCAST_BYTES, Growth, unchanged_vocabulary
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES

logger = logging.getLogger(__name__)


TRIES = 5
"""Maximum number of attempts of an update, which is repeated if other jobs add ids or rows in the meantime."""


@dataclass(frozen=True)
class Source:
    """The source of a declared vector.

    Attributes:
        vectors: id, vector; malformed, the text of a malformed line.
        state: a text that changes with the files, the declared size and the declared schema.
    """

    feature: Feature
    settings: InputSettings
    vectors: DataFrame
    state: str

    @property
    def is_small(self) -> bool:
        """Whether one task is faster than several."""
        return bytes_of(self.vectors) <= FEW_BYTES


def update_vectors(lake: Lake, features: Sequence[Feature], vocabularies: Mapping[str, Growth]) -> None:
    """Bring user_features and item_features up to date: the declared vectors of all ids with an index.

    If no source has changed, only the vectors of new ids are added, if any. Otherwise the table is rewritten.

    Args:
        vocabularies: by "user" and "item".

    Raises:
        MamdrError: a source cannot be read, lacks `id` or `vector`, or has a vector with another length or with an
            element that is not a number; other jobs kept writing.
    """
    for of in ("user", "item"):
        declared = [feature for feature in features if feature.kind == "vector" and feature.of == of]
        if declared:
            _update(lake, of, vocabularies[of], [_open(lake.spark, feature) for feature in declared])


def _update(lake: Lake, of: str, vocabulary: Growth, sources: Sequence[Source]) -> None:
    table, states = f"{of}_features", {source.feature.name: source.state for source in sources}
    for number in range(TRIES):
        base, known = lake.newest(table), _known_ids(lake, table, states)
        if number and known is None:  # another job wrote the table, possibly with ids that it added itself
            vocabulary = unchanged_vocabulary(lake, TABLES[f"{of}s"])
        if known is not None and known >= vocabulary.total:
            return
        wanted = F.col("index").between(known or 0, vocabulary.total - 1)
        indices, ids = vocabulary.indices.where(wanted), vocabulary.total - (known or 0)
        rows = reduce(DataFrame.unionByName, (_indexed(source, indices, ids) for source in sources))
        note = {"job": "build_examples", "sources": states, "ids": vocabulary.total, "base": base}
        if known is None:
            _check(sources)
        if known is None and base >= 0:
            lake.overwrite(table, rows, note)
        else:
            lake.append(table, rows, note)
        logger.info("%s: %s of %d ids", table, ", ".join(states), vocabulary.total)
    raise MamdrError(f"{table}: other jobs kept writing it; run again when they have ended")


def _known_ids(lake: Lake, table: str, states: dict[str, str]) -> int | None:
    """Number of ids with which the table was joined, given the states of the sources; None: it must be rewritten."""
    found = lake.log(table).newest_note("sources")
    if found is None or found[1]["sources"] != states:
        return None
    version, note = found
    # Otherwise another job wrote between the version that the commit is based on and the commit itself.
    return int(note["ids"]) if version == note["base"] + 1 else None


def _indexed(source: Source, indices: DataFrame, ids: int) -> DataFrame:
    """Join vectors with a vocabulary: index, name, vector; for duplicate ids the largest vector counts."""
    spark = indices.sparkSession
    vectors, indices = source.vectors, indices.select("id", "index")
    if source.is_small:
        vectors, indices = gathered(vectors), small(indices) if is_few(spark) else indices
    elif ids * BROADCAST_BYTES <= memory_of(spark):
        indices = F.broadcast(indices)  # with few clicks, a shuffle may have a single task
    return (
        vectors.where("id IS NOT NULL AND vector IS NOT NULL")
        .join(indices, "id", "inner")
        .groupBy("index")
        .agg(F.max("vector").alias("vector"))
        .select("index", F.lit(source.feature.name).alias("name"), "vector")
    )


def _open(spark: SparkSession, feature: Feature) -> Source:
    source: Any = {"path": feature.path, "format": feature.format, "schema": feature.schema}  # any Spark format
    settings = InputSettings(**source)
    try:
        state = state_of(spark, settings)  # before reading, so that a build notices files that change in the meantime
        raw = read_input(spark, settings)
    except MamdrError as error:
        raise MamdrError(f"feature {feature.name}: {str(error).removeprefix('input.')}") from None
    missing = [name for name in ("id", "vector") if name not in raw.columns]
    if missing or not isinstance(raw.schema["vector"].dataType, T.ArrayType):
        raise MamdrError(
            f"feature {feature.name}: {feature.path} needs columns id and vector (an array of numbers), has "
            f"{', '.join(raw.columns)}"
        )
    ids = as_id(raw, f"feature {feature.name}: id", F.col("id"))
    vectors = raw.select(
        ids.alias("id"), F.col("vector").cast("array<float>").alias("vector"), malformed_line(raw).alias("malformed")
    )
    declared = f"{feature.size} {feature.schema} " if feature.schema else f"{feature.size} "
    return Source(feature, settings, vectors, declared + state)


def _check(sources: Sequence[Source]) -> None:
    """Check every vector of the sources.

    Raises:
        MamdrError: a vector has another length than declared or a faulty number, or a line is malformed.
    """
    strange = F.exists("vector", lambda element: element.isNull() | F.isnan(element))
    for source in sources:
        size = source.feature.size
        with readable(source.settings):
            is_used = F.expr("id IS NOT NULL AND vector IS NOT NULL")
            wrong = is_used & ((F.size("vector") != size) | strange)
            faulty = source.vectors.where(wrong | F.col("malformed").isNotNull())
            bad = (gathered(faulty) if source.is_small else faulty).first()
        if bad and bad["malformed"] is not None:
            raise MamdrError(
                f"feature {source.feature.name}: {source.feature.path}: {shorten(bad['malformed'])} is not a whole "
                f"record{f' of {source.feature.schema}' if source.feature.schema else ''}; repair it"
            )
        if bad:
            length = len(bad["vector"])
            what = f"{length} numbers, not {size}" if length != size else "an element that is no number"
            raise MamdrError(
                f"feature {source.feature.name}: {source.feature.path}: the vector of {bad['id']!r} has {what}; repair "
                "it or the feature's `size`"
            )
