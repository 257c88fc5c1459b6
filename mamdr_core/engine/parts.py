"""A batch by domain, for models with weights of each domain: what a call of such a model sees of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.models.dropout import signed32
from mamdr_core.models.groups import GROUP, SIZES
from mamdr_core.models.tables import Table

FieldGradient = tuple[slice | Tensor, Tensor]
"""Places of a visit at which a table was read, and the gradient of what was read there [M, D] or [M, L, D]."""


@dataclass(frozen=True)
class Part:
    """The rows of a batch that one call of the model sees.

    Attributes:
        places: where they stand in the visit, a slice or int64 [M].
        first: where those stand at which a table per domain is read: one of each domain of the call, likewise.
        share: of the batch's rows.
        sizes_G: rows of each domain where the call holds several, see `mamdr_core.models.groups`; None: one domain.
    """

    places: slice | Tensor
    first: slice | Tensor
    share: float
    sizes_G: Tensor | None = None

    def read_by(self, table: Table) -> slice | Tensor:
        """The places at which a table is looked up."""
        return self.first if table.per_domain else self.places


def whole(rows: slice) -> Part:
    """A batch as one part."""
    return Part(rows, slice(rows.start, rows.start + 1), 1.0)


def parts_of(visit: Visit, rows: slice, together: bool) -> list[Part]:
    """A batch as calls of a model with tables per domain see it; one that holds a single domain stays as it is.

    Args:
        visit: that it belongs to.
        rows: of the visit.
        together: one part, its rows in groups by domain, and not a part for each domain in their order.
    """
    if rows.stop == rows.start:
        return []
    if visit.as_domain is not None:
        return [whole(rows)]
    domains_B = Visit(visit.columns, visit.rows[rows]).ids("domain")
    if together:
        order_B, sizes_G = order_by_domain(domains_B)
    else:
        sorted_B, order_B = domains_B.sort(stable=True)
        sizes_G = sorted_B.unique_consecutive(return_counts=True)[1].cpu()
    if len(sizes_G) == 1:
        return [whole(rows)]
    places = rows.start + order_B
    if together:
        return [Part(places, places[(sizes_G.cumsum(0) - sizes_G).to(places.device)], 1.0, sizes_G)]
    return [Part(own, own[:1], len(own) / len(order_B)) for own in places.split(sizes_G.tolist())]


def order_by_domain(domains_B: Tensor) -> tuple[Tensor, Tensor]:
    """Places of rows in groups by domain, those with fewer rows first, int64 [B]; rows by group, int64 [G] on the CPU.

    Args:
        domains_B: the domain of each row.
    """
    _, domain_B, counts = domains_B.unique(return_inverse=True, return_counts=True)
    order_B = (counts[domain_B] * len(counts) + domain_B).argsort(stable=True)
    return order_B, counts.sort().values.cpu()


def grouped(visit: Visit, batch_size: int) -> Visit:
    """A visit with the rows of each batch in groups; one of a single domain stays as it is.

    Args:
        visit: in any order.
        batch_size: rows of a step at most, unless the visit sets another number.
    """
    if holds_one_domain(visit):
        return visit
    domains, batches = visit.ids("domain"), visit.batches(batch_size)
    orders, groups = zip(*(order_by_domain(domains[rows]) for rows in batches), strict=True)
    places = torch.cat([rows.start + order for rows, order in zip(batches, orders, strict=True)])
    return Visit(visit.columns, visit.rows[places], None, visit.batch_size, tuple(groups))


def group_fields(sizes_G: Tensor, device: torch.device) -> dict[str, Tensor]:
    """The fields that tell a model which of its rows belong to which domain, see `mamdr_core.models.groups`."""
    number_G = torch.arange(len(sizes_G))
    return {GROUP: torch.repeat_interleave(number_G, sizes_G).to(device), SIZES: sizes_G}


def holds_one_domain(visit: Visit) -> bool:
    """Whether the model is shown all rows of a visit under one domain."""
    return visit.as_domain is not None or len(visit.ids("domain").unique()) <= 1


def part_key(key: int, number: int) -> int:
    """Dropout's key of a batch's part, int32: the first part's is the batch's own, the others differ."""
    return signed32(key + number * 0x9E3779B1)


def joined(gradients: list[FieldGradient]) -> FieldGradient:
    """The gradients of a batch's parts as one."""
    if len(gradients) == 1:
        return gradients[0]
    places = [own for own, _ in gradients if isinstance(own, Tensor)]  # slices stand alone
    return torch.cat(places), torch.cat([gradient for _, gradient in gradients])
