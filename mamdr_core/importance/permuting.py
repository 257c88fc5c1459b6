"""Permutation importance: the drop of every domain's AUC where one feature's values change rows within the domain.

Breiman 2001, "Random Forests", section 10; here values stay in their domain, so the drop measures how much the feature
helps to rank rows of one domain, as in a list shown to a user. Shape suffixes: N rows, n domains, R repeats.
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
    """What permuting one feature costs.

    Attributes:
        feature: its name.
        drops_Rn: by permutation and domain, AUC without it less AUC with it, float64; NaN without an AUC.
        means_R: of the mean AUC over domains.
        weighted_R: of the AUC weighted by rows.
    """

    feature: str
    drops_Rn: Tensor
    means_R: Tensor
    weighted_R: Tensor


def permute_feature(columns: Columns, feature: str, numeric: Sequence[str], order_N: Tensor) -> Columns:
    """Columns whose rows have the feature's values of other rows.

    Args:
        columns: the rows.
        feature: an id column, of one index a row or several ([N] or [N, L]), or a numeric feature.
        numeric: names of the numeric features, in the order of `columns.numeric`.
        order_N: the row whose value each row gets, int64.
    """
    by_name = {each.name: getattr(columns, each.name) for each in fields(columns)}
    changed: dict[str, Any] = {
        name: {**held, feature: held[feature][order_N]}
        for name, held in by_name.items()
        if isinstance(held, dict) and feature in held
    }
    if changed:
        return replace(columns, **changed)
    place = list(numeric).index(feature)
    values_NK = columns.numeric.clone()
    values_NK[:, place] = columns.numeric[order_N, place]
    return replace(columns, numeric=values_NK)


def measure_importance(
    measure: Callable[[Columns], DomainMetrics],
    columns: Columns,
    features: Sequence[str],
    numeric: Sequence[str],
    orders: Sequence[Tensor],
) -> tuple[DomainMetrics, Iterator[Importance]]:
    """Figures without permutation, and the importance of one feature after another.

    Args:
        measure: predicts rows and measures the predictions.
        columns: the rows.
        features: are permuted, each alone.
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
    """Mean and standard deviation over repeats, along the first dimension; the latter is NaN with one repeat."""
    deviation = drops_R.std(0) if len(drops_R) > 1 else torch.full_like(drops_R[0], torch.nan)
    return drops_R.mean(0), deviation


def choose_features(asked: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """The features to permute.

    Args:
        asked: names; none: all that are known.
        known: kind by name.

    Raises:
        ValueError: a name is not known.
    """
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(map(repr, unknown))}: expected some of {', '.join(known)}")
    return list(dict.fromkeys(asked)) or list(known)
