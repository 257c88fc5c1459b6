"""Which settings of a feature belong together: what is wrong with one, and with one next to the others."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mamdr_core.features import Feature

LONGEST = 10_000
"""Ids of a row's bag or sequence at most."""
MOST_QUANTILES = 1_000
_MULTI = ("bag", "sequence")
_KINDS = {
    "pooling": _MULTI,
    "length": _MULTI,
    "table": _MULTI,
    "separator": _MULTI,
    "weights": ("bag",),
    "history": ("sequence",),
    "history_days": ("sequence",),
    "quantiles": ("categorical",),
    "trainable": ("vector",),
    "project": ("vector",),
}
"""The kinds that a setting is for, which others leave at its default."""
_UNSET: dict[str, object] = {"pooling": "mean", "length": 50, "history_days": 30}


def wrong_kinds(feature: "Feature") -> Iterator[str]:
    """Settings that are for features of other kinds."""
    for name, kinds in _KINDS.items():
        value = getattr(feature, name)
        is_set = value != _UNSET[name] if name in _UNSET else bool(value)
        if is_set and feature.kind not in kinds:
            yield f"{name} is for {' and '.join(kinds)} features, this one is {feature.kind}"


def wrong_together(feature: "Feature") -> Iterator[str]:
    """Values out of their range, and settings that exclude one another or lack one another."""
    if feature.is_multi:
        yield from _wrong_ids(feature)
    if feature.history:
        yield from _wrong_history(feature)
    if feature.quantiles:
        if not 2 <= feature.quantiles <= MOST_QUANTILES:
            yield f"quantiles must lie in [2, {MOST_QUANTILES}], got {feature.quantiles}"
        if feature.buckets:
            yield "quantiles and buckets exclude each other: choose one"
    if not 0 <= feature.project <= feature.size:
        yield f"project must lie in [0, size], got {feature.project} of {feature.size}"


def _wrong_ids(feature: "Feature") -> Iterator[str]:
    if not 1 <= feature.length <= LONGEST:
        yield f"length must lie in [1, {LONGEST}], got {feature.length}"
    if feature.table and (feature.buckets or feature.size):
        yield f"buckets and size are those of its table {feature.table!r}: leave them out"
    if feature.table == "domain":
        yield "table is 'domain', expected user, item or a categorical feature"
    if feature.history_days != _UNSET["history_days"] and not feature.history:
        yield "history_days is for a sequence with `history: true`"
    if feature.pooling == "attention" and not (feature.kind == "sequence" and feature.table):
        yield "pooling attention needs a sequence with `table`, the id that its ids are compared with"


def _wrong_history(feature: "Feature") -> Iterator[str]:
    if feature.table != "item":
        yield f"a history is of items: set table: item (it is {feature.table!r})"
    if feature.expression or feature.separator:
        yield "a history comes from clicks: leave expression and separator out"
    if feature.history_days < 1:
        yield f"history_days must be at least 1, got {feature.history_days}"


def wrong_histories(features: Sequence["Feature"], user_buckets: int) -> Iterator[str]:
    """What is wrong with histories next to how users are read."""
    for number, feature in enumerate(features):
        if feature.history and user_buckets:
            yield (
                f"features.{number}.history and examples.users.buckets exclude each other: users of a bucket would "
                "share their clicks"
            )


def wrong_tables(features: Sequence["Feature"]) -> Iterator[str]:
    """What is wrong with the tables that bags and sequences share with others."""
    shared = {feature.name for feature in features if feature.kind == "categorical" and not feature.quantiles}
    for number, feature in enumerate(features):
        if feature.table and feature.table not in {"user", "item", *shared}:
            yield (
                f"features.{number}.table is {feature.table!r}, expected one of "
                f"{', '.join(['user', 'item', *sorted(shared)])}"
            )
