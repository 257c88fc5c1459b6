"""Expressions over a raw log for declared features: numbers, ids, and bags and sequences of ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.features import Feature
from mamdr_core.lake.core.id_arrays import in_pairs, newest_or_first
from mamdr_core.lake.core.sources import as_id, kind_of, lacks_columns, resolve
from mamdr_core.runtime.errors import MamdrError
from schemas.features import weights_of

_IDS, _WEIGHTS = "array<string>", "array<float>"


def declared_features(
    raw: DataFrame, features: Sequence[Feature], keep_faulty: bool = False, only: Sequence[Feature] | None = None
) -> list[Column]:
    """The columns of the declared features in clicks, as expressions over a raw log.

    Args:
        keep_faulty: whether rows are requests to score, to which no rules apply: faulty weights become null, so that
            each id has weight 1, and a history is read from the column with its name.
        only: the features to return; None: all.

    Raises:
        MamdrError: a feature that is not optional cannot be resolved, or its ids are not an array.
    """
    found: list[Column] = []
    for number, feature in enumerate(features):
        if only is not None and feature not in only:
            continue
        if feature.has_several_ids and (keep_faulty or not feature.history):
            found += _several(raw, number, feature).columns(feature, keep_faulty)
        elif not (feature.kind == "vector" or feature.has_several_ids):
            kind = "string" if feature.kind == "categorical" and not feature.quantiles else "double"
            found.append(_single(raw, number, feature, kind).alias(feature.name))
    return found


def unreadable_features(raw: DataFrame, features: Sequence[Feature]) -> Iterator[Column]:
    """Columns that are the name of a feature if its value cannot be read, and null otherwise.

    This concerns numeric features from text that is neither blank nor a number, and bags whose weights are not one
    number >= 0 for each id.
    """
    for number, feature in enumerate(features):
        if feature.weights:
            yield F.when(_several(raw, number, feature).is_faulty, feature.name)
        expression = feature.expression or feature.name
        is_number = feature.kind == "numeric" or feature.quantiles
        if not is_number or (feature.optional and lacks_columns(raw, expression)):
            continue
        found = resolve(raw, f"features.{number}.expression", expression)
        if isinstance(kind_of(raw, found), T.StringType):
            yield F.when((F.trim(found) != "") & found.try_cast("double").isNull(), feature.name)


@dataclass(frozen=True)
class _Several:
    """The ids of a bag or sequence in the log, and the weights of a bag; null if missing."""

    ids: Column
    weights: Column | None = None

    def columns(self, feature: Feature, keep_faulty: bool) -> Iterator[Column]:
        """The ids that are not blank, and their weights."""
        yield newest_or_first(feature, F.filter(self.ids, _is_there)).alias(feature.name)
        if self.weights is not None:
            weights = F.filter(in_pairs(self.ids, self.weights), lambda pair: _is_there(pair["id"]))["weight"]
            weights = F.when(~self.is_faulty, weights) if keep_faulty else weights
            yield newest_or_first(feature, weights).alias(weights_of(feature.name))

    @property
    def is_faulty(self) -> Column:
        """Whether the numbers of weights and ids differ, or a weight is missing, below 0, NaN or infinite."""
        assert self.weights is not None
        ids = F.coalesce(self.ids, F.array().cast(_IDS))
        differs = F.size(self.weights) != F.size(ids)
        wrong = F.exists(F.zip_with(ids, self.weights, _is_wrong), lambda value: value)
        return F.coalesce(self.weights.isNotNull() & (differs | wrong), F.lit(False))


def _is_there(value: Column) -> Column:
    return F.coalesce(F.trim(value) != "", F.lit(False))


def _is_wrong(value: Column, weight: Column) -> Column:
    """Whether the weight of an id that is not blank is missing or not a number >= 0."""
    is_number = F.coalesce((weight >= 0) & (weight < float("inf")), F.lit(False))  # Spark's NaN is above infinity
    return _is_there(value) & ~is_number


def _single(raw: DataFrame, number: int, feature: Feature, kind: str) -> Column:
    expression = feature.expression or feature.name
    if feature.optional and lacks_columns(raw, expression):
        return F.lit(None).cast(kind)
    return resolve(raw, f"features.{number}.expression", expression).try_cast(kind)


def _several(raw: DataFrame, number: int, feature: Feature) -> _Several:
    ids = _array(raw, number, feature, "expression")
    return _Several(ids, _array(raw, number, feature, "weights") if feature.weights else None)


def _array(raw: DataFrame, number: int, feature: Feature, name: str) -> Column:
    """The array that an expression of a feature gives, or its text split by the separator."""
    key, kind = f"features.{number}.{name}", _WEIGHTS if name == "weights" else _IDS
    expression = getattr(feature, name) or feature.name
    if feature.optional and lacks_columns(raw, expression):
        return F.lit(None).cast(kind)
    found = resolve(raw, key, expression)
    held = kind_of(raw, found)
    if isinstance(held, T.ArrayType):
        if isinstance(held.elementType, T.ArrayType | T.MapType | T.StructType):
            raise MamdrError(f"{key}: {expression!r} is {held.simpleString()}, expected an array of single values")
        if name == "expression":
            as_id(raw, key, F.get(found, F.lit(0)))  # refuses fractions
            return found.cast(kind)
        return F.transform(found, lambda value: value.try_cast("float"))
    if isinstance(held, T.NullType):
        return F.lit(None).cast(kind)
    if not feature.separator:
        raise MamdrError(
            f"{key}: {expression!r} is {held.simpleString()}, expected an array; of text, set "
            f"features.{number}.separator to what separates its values"
        )
    parts = F.split(found.cast("string"), "".join(c if c.isalnum() else f"\\{c}" for c in feature.separator))
    return F.transform(parts, lambda value: value.try_cast("float")) if name == "weights" else parts
