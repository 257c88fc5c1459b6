"""A batch by domain, for models with weights of each domain: a call of such a model sees rows of one domain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.models.tables import Table

FieldGradient = tuple[slice | Tensor, Tensor]
"""Places of a visit at which a table was read, and the gradient of what was read there [M, D] or [M, L, D]."""


@dataclass(frozen=True)
class Part:
    """The rows of a batch that one call of the model sees.

    Attributes:
        places: where they stand in the visit, a slice or int64 [M].
        first: the first of them alone, likewise.
        share: of the batch's rows.
    """

    places: slice | Tensor
    first: slice | Tensor
    share: float

    def read_by(self, table: Table) -> slice | Tensor:
        """The places at which a table is looked up."""
        return self.first if table.per_domain else self.places


def whole(rows: slice) -> Part:
    """A batch as one part."""
    return Part(rows, slice(rows.start, rows.start + 1), 1.0)


def by_domain(visit: Visit, rows: slice) -> list[Part]:
    """A batch in parts of one domain each, in the order of domains; one that holds a single domain stays as it is.

    Args:
        visit: that it belongs to.
        rows: of the visit.
    """
    if rows.stop == rows.start:
        return []
    if visit.as_domain is not None:
        return [whole(rows)]
    domains_B = Visit(visit.columns, visit.rows[rows]).ids("domain")
    sorted_B, order_B = domains_B.sort(stable=True)
    counts = sorted_B.unique_consecutive(return_counts=True)[1].tolist()
    if len(counts) == 1:
        return [whole(rows)]
    places = (rows.start + order_B).split(counts)
    return [Part(own, own[:1], len(own) / len(order_B)) for own in places]


def holds_one_domain(visit: Visit) -> bool:
    """Whether the model is shown all rows of a visit under one domain."""
    return visit.as_domain is not None or len(visit.ids("domain").unique()) <= 1


def part_key(key: int, number: int) -> int:
    """Dropout's key of a batch's part, int32: the first part's is the batch's own, the others differ."""
    shifted = key + number * 0x9E3779B1
    return ((shifted + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def joined(gradients: list[FieldGradient]) -> FieldGradient:
    """The gradients of a batch's parts as one."""
    if len(gradients) == 1:
        return gradients[0]
    places = [own for own, _ in gradients if isinstance(own, Tensor)]  # slices stand alone
    return torch.cat(places), torch.cat([gradient for _, gradient in gradients])
