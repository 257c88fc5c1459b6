"""Opens the challenger and the champion on the test split of the examples of the challenger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.plan import domain_parts
from mamdr_core.lake.champion import find_run
from mamdr_core.lake.examples.quantiles import check_same_bounds
from mamdr_core.lake.examples.windows import read_window
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.promotion.intervals import Ints
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.training.building import make_engine
from mamdr_core.training.choices import place_columns
from mamdr_core.training.own_code import check_served
from mamdr_core.training.package import Package, load_package
from mamdr_core.training.package_shapes import check_shapes
from mamdr_core.training.trained_run import TrainedRun, config_of

SPLIT = "test"
DAY_ROWS = 1 << 24
"""Maximum number of rows whose days are read together, unless a single domain has more."""


@dataclass(frozen=True)
class OpenedModel:
    """A model with the rows of the test split in its vocabularies.

    Attributes:
        package: the parameters.
        engine: computes predictions.
        columns: the rows; ids outside the vocabularies of the model are 0.
    """

    package: Package
    engine: EagerEngine
    columns: Columns

    def unseen(self, column: str, rows: torch.Tensor) -> float:
        """Share of the selected rows with an unknown id; 0 without rows.

        Args:
            column: "user" or "item".
            rows: mask of the selected rows, [N].
        """
        ids = self.columns.ids[column].cpu()[rows]
        return float((ids == 0).double().mean()) if len(ids) else 0.0


def open_challenger(trained: TrainedRun) -> OpenedModel:
    """The challenger on the test split of its examples."""
    columns = place_columns({SPLIT: trained.share.columns(SPLIT)}, trained.device, SingleProcess())[SPLIT]
    engine = make_engine(trained.config, trained.pinned, trained.share, trained.device)
    return OpenedModel(
        trained.package, engine, trained.package.with_mixed_logits(columns, engine, trained.config.train.mixed)
    )


def open_champion(trained: TrainedRun, config: Config, run_id: str) -> OpenedModel:
    """The champion on the rows of the challenger, whose vocabularies may have grown since the champion was trained.

    Unknown users, items and values use the row for unknown ids; unknown domains use theta_S.

    Args:
        trained: the challenger.
        config: memory limits.
        run_id: run_id of the champion.

    Raises:
        MamdrError: the package is missing or damaged, needs features that the examples of the challenger lack or have
            with other bounds of quantiles, or has a plugin structure that cannot be imported.
    """
    folder = str(find_run(trained.lake, run_id)["package"])
    package = load_package(folder, trained.device)
    own_config = config_of(package.config, folder)
    check_served(own_config, package.metrics, folder)
    check_shapes(folder, own_config, package.pinned["sizes"], package.shapes)
    _check_features(run_id, own_config.features, trained.config.features)
    check_same_bounds(run_id, package.pinned.get("quantiles", {}), trained.pinned.quantiles)
    scales = {name: (float(mean), float(deviation)) for name, (mean, deviation) in package.pinned["numeric"].items()}
    pinned, sizes = replace(trained.pinned, numeric=scales), package.pinned["sizes"]
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    train = config.train
    share = Share(pinned, own_config.features, everything, train.host_memory, train.scratch, train.reader)
    columns = place_columns({SPLIT: mask_unknown_ids(share.columns(SPLIT), sizes)}, trained.device, SingleProcess())[
        SPLIT
    ]
    engine = make_engine(own_config, replace(pinned, sizes=sizes), share, trained.device)
    return OpenedModel(package, engine, package.with_mixed_logits(columns, engine, own_config.train.mixed))


def mask_unknown_ids(columns: Columns, sizes: Mapping[str, int]) -> Columns:
    """Replace ids outside the vocabularies of a model by the unknown id 0; drop them from bags and sequences.

    Args:
        columns: columns with vocabularies of the same or a later version.
        sizes: vocabulary size by id column.
    """
    ids = {name: torch.where(column <= sizes[name], column, 0) for name, column in columns.ids.items()}
    weights = dict(columns.bag_weights)
    for name, column in ids.items():
        if column.dim() == 2:  # known ids move to the front and keep their order
            order_NL = (column == 0).byte().argsort(dim=1, stable=True)
            ids[name] = column.gather(1, order_NL)
            if name in weights:
                weights[name] = weights[name].gather(1, order_NL) * (ids[name] > 0)
    return replace(columns, ids=ids, bag_weights=weights)


def days_of_rows(trained: TrainedRun, offsets: Ints) -> tuple[Ints, Ints]:
    """The days of the rows of the test split, in the order of the columns.

    Args:
        trained: the challenger.
        offsets: first row of each domain in the columns, [n + 1].

    Returns:
        The distinct days in ascending order, as days since 1970, and the index of the day of each row, int64 [N].
    """
    examples = read_window(trained.lake, trained.pinned.versions["examples"]).where(F.col("split") == SPLIT)
    rows = examples.select("domain", "key", F.unix_date("ds").alias("day"))
    parts = [np.zeros(0, dtype=np.int64)]
    # Groups of domains bound the size of a result that Spark sends to the driver.
    for first, last in domain_parts(offsets, DAY_ROWS):
        read = rows.where(F.col("domain").between(first, last - 1)).toArrow()
        domain, key, day = (read.column(name).to_numpy() for name in ("domain", "key", "day"))
        # Rows with equal keys have equal days, since the key is a hash that includes the day.
        parts.append(day[np.lexsort((key, domain))])
    days, place = np.unique(np.concatenate(parts), return_inverse=True)
    return days, place


def _check_features(run_id: str, needed: Sequence[Feature], declared: Sequence[Feature]) -> None:
    """Check that needed features are declared with the same meaning; their source may differ."""
    have = {feature.name: _meaning(feature) for feature in declared}
    for feature in needed:
        if have.get(feature.name) != _meaning(feature):
            raise MamdrError(
                f"run {run_id} needs the feature {feature.name}, which these examples lack or define differently"
            )


def _meaning(feature: Feature) -> tuple[object, ...]:
    return (
        feature.kind,
        feature.expression,
        feature.buckets,
        feature.of if feature.kind == "vector" else "",
        feature.size,
        *((feature.table, feature.separator, feature.weights, feature.length) if feature.has_several_ids else ()),
        *((feature.history_days,) if feature.history else ()),
        feature.quantiles,
    )
