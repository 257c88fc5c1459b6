"""The parent of a run, from which it starts: found by id and checked for compatibility before training."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.differences import differences
from mamdr_core.config.job_config import Config, plain_config
from mamdr_core.config.training import TrainSettings
from mamdr_core.lake.champion import CHAMPION, find_champion, find_run, package_of, resolve_run
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.quantiles import check_same_bounds
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import MODELS
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.files.metadata import PackageMetadata
from mamdr_core.training.own_code import check_served
from mamdr_core.training.package_shapes import check_shapes, read_metadata_and_shapes
from mamdr_core.training.trained_run import config_of

logger = logging.getLogger(__name__)

_COLD = "set train.warm_start to '' to start cold"
_FEATURE_FACTS = (
    "kind", "expression", "size", "buckets", "of", "table", "pooling", "weights", "history", "quantiles", "trainable",
    "project",
)  # fmt: skip
"""Properties of a feature, apart from its name and position, on which the parameters of a model depend."""


@dataclass(frozen=True)
class Parent:
    """The run from which another run starts.

    Attributes:
        package: folder of its package.
        ds: logical date of the run, if it has one.
        numeric: mean and standard deviation by numeric feature, by which the parent standardised its values.
    """

    run_id: str
    package: str
    ds: date | None
    numeric: dict[str, tuple[float, float]]


def resolve_parent(spark: SparkSession, config: Config) -> Config:
    """Resolve `train.warm_start` to the id of a run; empty: the run starts cold.

    The champion is that of the days before `examples.until`, so that a rerun of a day starts from the same parent. With
    `train.only_domains` the parent is the run in production now or, if there is none, the newest run. A run of the
    newest days (`train.days`) starts from the champion and also learns all days since the champion's; if there is no
    champion, it learns all days of the window.

    Raises:
        MamdrError: `train.only_domains` is set, and there is no run to start from.
    """
    train = config.train
    if not (train.warm_start or train.only_domains or train.days):
        return config
    lake = Lake(spark, config.lake)
    if train.only_domains:
        default = CHAMPION if find_champion(lake) else ""
        return replace(config, train=replace(train, warm_start=resolve_run(lake, train.warm_start or default)))
    wanted = train.warm_start or CHAMPION
    parent = _champion_before(lake, config) if wanted == CHAMPION else resolve_run(lake, wanted)
    return replace(config, train=_extend_days(replace(train, warm_start=parent), lake, config.examples.until))


def _extend_days(train: TrainSettings, lake: Lake, until: date | None) -> TrainSettings:
    """Extend `train.days` so that it includes all days that the parent has not learned."""
    if not train.days:
        return train
    if not train.warm_start:
        logger.warning("train.days: there is no champion to start from; learning all days of the window")
        return replace(train, days=0)
    since = find_run(lake, train.warm_start)["ds"]
    days = max(train.days, (until - since).days) if until and since else train.days
    if days > train.days:
        logger.info("parent %s is of %s: learning the newest %d days", train.warm_start, since, days)
    # The rows of a few days contain few users and items: the others keep the parent's effects.
    return replace(train, days=days, mixed=replace(train.mixed, prior="parent"))


def _champion_before(lake: Lake, config: Config) -> str:
    """The champion that a daily run starts from; empty if there is none, or if its package was deleted."""
    until = config.examples.until
    champion = find_champion(lake, before=until)
    if champion is None:
        logger.info("no run %shas been promoted: this run starts cold", f"of a day before {until} " if until else "")
        return ""
    run_id = str(champion["run_id"])
    row = lake.read("training_runs").where(F.col("run_id") == run_id).first()
    if row is None or not row["package"] or not as_path(package_of(lake, row)).exists():
        logger.warning("the package of the champion, run %s, was deleted: this run starts cold", run_id)
        return ""
    return run_id


def open_parent(lake: Lake, config: Config, pinned: PinnedExamples) -> Parent | None:
    """Open the run of `train.warm_start` and check that its package is intact and compatible; None: a cold start.

    Args:
        config: configuration of the child, from `resolve_parent`.

    Raises:
        MamdrError: there is no such run, its package is missing or damaged, its model or features differ, or its
            vocabularies are larger than those of the examples.
    """
    run_id = config.train.warm_start
    if not run_id:
        return None
    with _setting_named():
        row = find_run(lake, run_id)
        facts, shapes = read_metadata_and_shapes(str(row["package"]), config.train.scratch)
    _check_fit(run_id, config, pinned, facts)
    with _setting_named():
        check_shapes(str(row["package"]), config, facts.pinned["sizes"], shapes)
    numeric = {name: (float(mean), float(scale)) for name, (mean, scale) in facts.pinned["numeric"].items()}
    return Parent(run_id, str(row["package"]), row["ds"], numeric)


@contextmanager
def _setting_named() -> Iterator[None]:
    """Add the setting, and what to do, to errors about the package of the parent."""
    try:
        yield
    except MamdrError as error:
        raise MamdrError(f"train.warm_start: {error}; start from another run, or {_COLD}") from None


def _check_fit(run_id: str, config: Config, pinned: PinnedExamples, facts: PackageMetadata) -> None:
    with _setting_named():
        theirs = config_of(facts.config, run_id)
    differing = differences(_structure(config), _structure(theirs))
    if differing:
        raise MamdrError(f"train.warm_start: run {run_id} has another model ({'; '.join(differing[:3])}); {_COLD}")
    check_served(theirs, facts.metrics, run_id)
    _check_kind(run_id, config, theirs, facts.has_mixed)
    check_same_bounds(run_id, facts.pinned.get("quantiles", {}), pinned.quantiles)
    known = facts.pinned["sizes"]
    beyond = [f"{known[name]} {name}s, not {size}" for name, size in pinned.sizes.items() if known[name] > size]
    if beyond:
        raise MamdrError(
            f"train.warm_start: run {run_id} has larger vocabularies than examples version "
            f"{pinned.versions['examples']}: {', '.join(beyond)}; name a newer train.examples_version, or an older run"
        )


def _check_kind(run_id: str, config: Config, theirs: Config, has_mixed: bool) -> None:
    """Check that the specific parameters of the child are compatible with those of the parent.

    Raises:
        MamdrError: they are not.
    """
    kinds = [find_method(config.train.method).mixed, has_mixed]
    if config.train.only_domains and kinds[0] and not has_mixed and theirs.train.method == config.train.method:
        raise MamdrError(
            f"train.only_domains: run {run_id} kept its network without a mixed model, which was better: no domain has "
            "specific parameters to fit; start a run of all domains"
        )
    if config.train.only_domains and kinds[0] != kinds[1]:
        has = "has a mixed model" if kinds[1] else "has no mixed model"
        raise MamdrError(
            f"train.only_domains: run {run_id} {has}, which train.method {config.train.method} would not keep: "
            f"set train.method to {theirs.train.method}"
        )
    for name in ("calibration", "negative_rate"):
        own, inherited = (getattr(each.train, name) for each in (config, theirs))
        if config.train.only_domains and own != inherited:
            raise MamdrError(
                f"train.only_domains: run {run_id} has train.{name} {inherited}, which the domains that do not learn "
                f"would lose: set it too, not {own}"
            )
    products = [_products(each) for each in (config, theirs)]
    if all(kinds) and products[0] != products[1]:
        raise MamdrError(
            f"train.warm_start: run {run_id} has {products[1]} products of vectors, and train.mixed.products and "
            f"train.mixed.factors give {products[0]}: set the same, or {_COLD}"
        )
    alike = replace(config.train.mixed, alone_above=theirs.train.mixed.alone_above) == theirs.train.mixed
    if config.train.only_domains and kinds[0] and not alike:
        raise MamdrError(f"train.only_domains: run {run_id} has another train.mixed: use the same settings")


def _products(config: Config) -> int:
    """Number of products of vectors in a mixed model."""
    settings = config.train.mixed
    vectors = [feature for feature in config.features if feature.kind == "vector" and not feature.trainable]
    widths = (sum(feature.size for feature in vectors if feature.of == of) for of in ("user", "item"))
    return min(settings.factors, *widths) if settings.products else 0


def _structure(config: Config) -> Mapping[str, Any]:
    """Settings that decide the shapes and meaning of parameters: the structure with its sizes, and the features."""
    values = plain_config(config)
    model = {
        name: value
        for name, value in values["model"].items()
        if name != "dropout" and (name not in MODELS or name == config.model.name)
    }
    features = {feature["name"]: {fact: feature[fact] for fact in _FEATURE_FACTS} for feature in values["features"]}
    return {"model": model, "features": list(features), "feature": features}
