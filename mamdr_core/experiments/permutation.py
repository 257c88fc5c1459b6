"""Permutation importance: the drop of every domain's AUC when the values of a feature are permuted within the domain.

Breiman 2001, "Random Forests", section 10. Since values stay in their domain, the drop measures the contribution of the
feature to ranking rows of one domain, as in a list shown to a user. Shape suffixes: N rows, n domains, R repeats, K
numeric features, L ids of a row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.metrics import DomainMetrics


@dataclass(frozen=True)
class Importance:
    """The drop of the AUC when one feature is permuted, for each repeat.

    Attributes:
        feature: name of the feature.
        drops_Rn: drop of each domain's AUC, float64; NaN for domains without an AUC.
        means_R: drop of the mean AUC over domains.
        weighted_R: drop of the mean AUC weighted by rows.
    """

    feature: str
    drops_Rn: Tensor
    means_R: Tensor
    weighted_R: Tensor


def permute_feature(columns: Columns, feature: str, numeric: Sequence[str], order_N: Tensor) -> Columns:
    """Columns in which one feature is permuted.

    Args:
        feature: an id column with one index or several for each row ([N] or [N, L]), or a numeric feature.
        numeric: names of the numeric features, in the order of `columns.numeric`.
        order_N: for each row, the row whose value it gets, int64.
    """
    by_name = {each.name: getattr(columns, each.name) for each in fields(columns)}
    permuted: dict[str, Any] = {
        name: {**values, feature: values[feature][order_N]}
        for name, values in by_name.items()
        if isinstance(values, dict) and feature in values
    }
    if permuted:
        return replace(columns, **permuted)
    column = list(numeric).index(feature)
    values_NK = columns.numeric.clone()
    values_NK[:, column] = columns.numeric[order_N, column]
    return replace(columns, numeric=values_NK)


def measure_importance(
    measure: Callable[[Columns], DomainMetrics],
    columns: Columns,
    features: Sequence[str],
    numeric: Sequence[str],
    orders: Sequence[Tensor],
) -> tuple[DomainMetrics, Iterator[Importance]]:
    """Metrics without permutation, and the importance of one feature after another.

    Args:
        measure: predicts rows and computes metrics of the predictions.
        numeric: names of the numeric features.
        orders: a permutation of the rows within each domain for each repeat, int64 [N].
    """
    base = measure(columns)

    def measured() -> Iterator[Importance]:
        for feature in features:
            permuted = [measure(permute_feature(columns, feature, numeric, order_N)) for order_N in orders]
            yield Importance(
                feature,
                torch.stack([base.auc - each.auc for each in permuted]),
                torch.tensor([base.mean_auc() - each.mean_auc() for each in permuted], dtype=torch.float64),
                torch.tensor([base.weighted_auc() - each.weighted_auc() for each in permuted], dtype=torch.float64),
            )

    return base, measured()


def spread(drops_R: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over repeats, the first dimension; the latter is NaN for one repeat."""
    deviation = drops_R.std(0) if len(drops_R) > 1 else torch.full_like(drops_R[0], torch.nan)
    return drops_R.mean(0), deviation


def choose_features(names: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """The features to permute: the configured ones, without duplicates, or all known ones (name to kind).

    Raises:
        ValueError: a name is unknown.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(map(repr, unknown))}: expected some of {', '.join(known)}")
    return list(dict.fromkeys(names)) or list(known)
