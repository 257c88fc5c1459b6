"""Fixed feature vectors of users and items, from their sources to user_features and item_features."""

import logging
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.lake.hashing import hash64
from mamdr_core.lake.settings import InputSettings
from mamdr_core.lake.sources import read_input, readable
from mamdr_core.lake.tables import Lake

logger = logging.getLogger(__name__)


def update_vectors(spark: SparkSession, lake: Lake, features: Sequence[Feature]) -> None:
    """Make user_features and item_features hold the declared vectors of all known ids; no commit if they do already.

    Raises:
        MamdrError: a source that cannot be read, lacks `id` or `vector`, or holds a vector of another length or with an
            element that is no number.
    """
    for of in ("user", "item"):
        declared = [feature for feature in features if feature.kind == "vector" and feature.of == of]
        table = f"{of}_features"
        if not declared:
            continue
        sources = {feature.name: _read(spark, feature) for feature in declared}
        vocabulary = None
        # A job that adds ids meanwhile writes their vectors too, and what is written here must not lack them.
        while vocabulary != lake.version(f"{of}s"):
            vocabulary = lake.version(f"{of}s")
            indices = lake.read(f"{of}s", vocabulary)
            frames = [indexed_vectors(source, indices, name) for name, source in sources.items()]
            wanted = reduce(DataFrame.unionByName, frames)
            if lake.exists(table) and _fingerprint(lake.read(table)) == _fingerprint(wanted):
                break
            lake.overwrite(table, wanted, {"job": "build_examples"})
            logger.info("%s: %s", table, ", ".join(sources))


def indexed_vectors(source: DataFrame, indices: DataFrame, name: str) -> DataFrame:
    """Vectors joined to the vocabulary by id: index, name, vector. An id without a vector has no row.

    Args:
        source: id, vector; of an id that repeats, the largest vector counts.
        indices: a vocabulary.
        name: the feature's name.
    """
    return (
        source.groupBy("id")
        .agg(F.max("vector").alias("vector"))
        .join(indices.select("id", "index"), "id", "inner")
        .select("index", F.lit(name).alias("name"), "vector")
    )


def _read(spark: SparkSession, feature: Feature) -> DataFrame:
    settings = InputSettings(path=feature.path, format=feature.format)  # type: ignore[arg-type]
    where = f"feature {feature.name}: {feature.path}"
    try:
        raw = read_input(spark, settings)
    except MamdrError as error:
        raise MamdrError(f"feature {feature.name}: {str(error).removeprefix('input.')}") from None
    missing = [name for name in ("id", "vector") if name not in raw.columns]
    if missing or not isinstance(raw.schema["vector"].dataType, T.ArrayType):
        raise MamdrError(f"{where} needs columns id and vector (an array of numbers), has {', '.join(raw.columns)}")
    source = raw.select(F.col("id").cast("string").alias("id"), F.col("vector").cast("array<float>").alias("vector"))
    source = source.where(F.col("id").isNotNull() & F.col("vector").isNotNull())
    strange = F.exists("vector", lambda element: element.isNull() | F.isnan(element))
    with readable(settings):
        bad = source.where((F.size("vector") != feature.size) | strange).first()
    if bad:
        values = bad["vector"]
        what = (
            f"{len(values)} numbers, not {feature.size}"
            if len(values) != feature.size
            else "an element that is no number"
        )
        raise MamdrError(f"{where}: the vector of {bad['id']!r} has {what}; mend it or the feature's `size`")
    return source


def _fingerprint(vectors: DataFrame) -> tuple[int, int]:
    hashed = hash64(F.col("index"), F.col("name"), F.col("vector"))
    # Summed as decimals: a sum of 64-bit hashes would overflow.
    row = vectors.agg(F.count("*"), F.sum(hashed.cast("decimal(20,0)"))).first()
    return (int(row[0]), int(row[1] or 0)) if row else (0, 0)
