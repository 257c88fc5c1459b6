"""Two runs on the same rows: the challenger on the examples that it was trained on, the champion on those too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pyspark.sql import functions as F

from mamdr_core.config import Config
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.plan import domain_parts
from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.lake.examples.quantiles import check_same_bounds
from mamdr_core.lake.examples.windows import read_window
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.promoting.intervals import Ints
from mamdr_core.shards.loading import Share
from mamdr_core.training.building import make_engine
from mamdr_core.training.choices import place_columns
from mamdr_core.training.own_code import check_served
from mamdr_core.training.package import Package, load_package
from mamdr_core.training.records import find_run
from mamdr_core.training.trained import Trained, config_of

SPLIT = "test"
DAY_ROWS = 1 << 24
"""Rows whose days are read at once, unless one domain has more."""


@dataclass(frozen=True)
class Scorer:
    """A model, and the rows of the test split as it sees them.

    Attributes:
        package: its parameters.
        engine: predicts.
        columns: the rows; ids that it does not know are 0.
    """

    package: Package
    engine: EagerEngine
    columns: Columns

    def unseen(self, column: str, rows: torch.Tensor) -> float:
        """Share of some rows whose id the model does not know; 0 of no row.

        Args:
            column: "user" or "item".
            rows: whether each row counts, [N].
        """
        ids = self.columns.ids[column].cpu()[rows]
        return float((ids == 0).double().mean()) if len(ids) else 0.0


def open_challenger(trained: Trained) -> Scorer:
    """The challenger's model on the test split of its own examples."""
    columns = place_columns({SPLIT: trained.share.columns(SPLIT)}, trained.device, SingleProcess())[SPLIT]
    engine = make_engine(trained.config, trained.pinned, trained.share, trained.device)
    return Scorer(trained.package, engine, trained.package.under_mixed(columns, engine, trained.config.train.mixed))


def open_champion(trained: Trained, config: Config, run_id: str) -> Scorer:
    """The champion's model on the challenger's rows, with vocabularies that may have grown since it was trained.

    A user, item or value that it does not know is its unknown row, a domain that it does not know has theta_S.

    Args:
        trained: the challenger.
        config: bounds memory.
        run_id: the champion.

    Raises:
        MamdrError: its package is gone or damaged, reads features that the challenger's examples do not have, or is of
            a user's own structure that cannot be imported.
    """
    folder = str(find_run(trained.lake, run_id)["package"])
    package = load_package(folder, trained.device)
    theirs = config_of(package.config, folder)
    check_served(theirs, package.metrics, folder)
    _check_features(run_id, theirs.features, trained.config.features)
    check_same_bounds(run_id, package.pinned.get("quantiles", {}), trained.pinned.quantiles)
    scales = {name: (float(mean), float(deviation)) for name, (mean, deviation) in package.pinned["numeric"].items()}
    pinned, sizes = replace(trained.pinned, numeric=scales), package.pinned["sizes"]
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    train = config.train
    share = Share(pinned, theirs.features, everything, train.host_memory, train.scratch, train.reader)
    columns = place_columns({SPLIT: known_alone(share.columns(SPLIT), sizes)}, trained.device, SingleProcess())[SPLIT]
    engine = make_engine(theirs, replace(pinned, sizes=sizes), share, trained.device)
    return Scorer(package, engine, package.under_mixed(columns, engine, theirs.train.mixed))


def known_alone(columns: Columns, sizes: Mapping[str, int]) -> Columns:
    """Columns in which ids beyond a model's vocabularies are the unknown id, and are left out of bags and sequences.

    Args:
        columns: of whatever vocabularies, which only ever grow.
        sizes: vocabulary size by id column.
    """
    ids = {name: torch.where(column <= sizes[name], column, 0) for name, column in columns.ids.items()}
    weights = dict(columns.bag_weights)
    for name, column in ids.items():
        if column.dim() == 2:  # the known ids first again, in their order
            order_NL = (column == 0).byte().argsort(dim=1, stable=True)
            ids[name] = column.gather(1, order_NL)
            if name in weights:
                weights[name] = weights[name].gather(1, order_NL) * (ids[name] > 0)
    return replace(columns, ids=ids, bag_weights=weights)


def days_of_rows(trained: Trained, offsets: Ints) -> tuple[Ints, Ints]:
    """The days of the test split's rows, in the order of its columns.

    Args:
        trained: the challenger.
        offsets: where each domain's rows begin in the columns, [n + 1].

    Returns:
        Distinct days ascending, as days since 1970, and each row's place among them, int64 [N].
    """
    examples = read_window(trained.lake, trained.pinned.versions["examples"]).where(F.col("split") == SPLIT)
    rows = examples.select("domain", "key", F.unix_date("ds").alias("day"))
    parts = [np.zeros(0, dtype=np.int64)]
    # Some domains at a time: what Spark brings to the driver at once is bounded.
    for first, last in domain_parts(offsets, DAY_ROWS):
        read = rows.where(F.col("domain").between(first, last - 1)).toArrow()
        domain, key, day = (read.column(name).to_numpy() for name in ("domain", "key", "day"))
        # Rows that share a key are of one day, which is hashed into it.
        parts.append(day[np.lexsort((key, domain))])
    days, place = np.unique(np.concatenate(parts), return_inverse=True)
    return days, place


def _check_features(run_id: str, needed: Sequence[Feature], declared: Sequence[Feature]) -> None:
    """A feature may be read from elsewhere, but must mean the same."""
    have = {feature.name: _meaning(feature) for feature in declared}
    for feature in needed:
        if have.get(feature.name) != _meaning(feature):
            raise MamdrError(f"run {run_id} reads the feature {feature.name}, which is not in these examples as it was")


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
