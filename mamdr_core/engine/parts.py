"""Parts of a batch, one per call of the model: models with weights per domain need their rows grouped by domain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.models.dropout import signed32
from mamdr_core.models.groups import GROUP, SIZES
from mamdr_core.models.tables import Table

FieldGradient = tuple[slice | Tensor, Tensor]
"""Positions in a visit, and the gradient of the embeddings that a field read there, [M, D] or [M, L, D]."""


@dataclass(frozen=True)
class Part:
    """The rows of a batch for one call of the model.

    Attributes:
        places: positions of the rows in the visit, a slice or int64 [M].
        first: positions at which tables per domain are read: one row of each domain, a slice or int64 [G].
        share: these rows over the rows of the batch.
        sizes_G: number of rows of each domain, see `mamdr_core.models.groups`; None: a single domain.
    """

    places: slice | Tensor
    first: slice | Tensor
    share: float
    sizes_G: Tensor | None = None

    def read_by(self, table: Table) -> slice | Tensor:
        """The positions at which a table is read."""
        return self.first if table.per_domain else self.places


def one_part(rows: slice) -> Part:
    """The whole batch as one part."""
    return Part(rows, slice(rows.start, rows.start + 1), 1.0)


def parts_of(visit: Visit, rows: slice, together: bool) -> list[Part]:
    """The parts of a batch for a model with tables per domain; a batch of one domain is one part, in its order.

    Args:
        visit: the batch's visit.
        rows: slice of the visit.
        together: one part with rows grouped by domain; otherwise one part per domain.
    """
    if rows.stop == rows.start:
        return []
    if visit.as_domain is not None:
        return [one_part(rows)]
    domains_B = Visit(visit.columns, visit.rows[rows]).ids("domain")
    if together:
        order_B, sizes_G = order_by_domain(domains_B)
    else:
        sorted_B, order_B = domains_B.sort(stable=True)
        sizes_G = sorted_B.unique_consecutive(return_counts=True)[1].cpu()
    if len(sizes_G) == 1:
        return [one_part(rows)]
    places = rows.start + order_B
    if together:
        return [Part(places, places[(sizes_G.cumsum(0) - sizes_G).to(places.device)], 1.0, sizes_G)]
    return [Part(own, own[:1], len(own) / len(order_B)) for own in places.split(sizes_G.tolist())]


def order_by_domain(domains_B: Tensor) -> tuple[Tensor, Tensor]:
    """Group rows by domain, domains with fewer rows first.

    Args:
        domains_B: domain of each row.

    Returns:
        The permutation, int64 [B], and the number of rows of each group, int64 [G] on the CPU.
    """
    _, domain_B, counts = domains_B.unique(return_inverse=True, return_counts=True)
    order_B = (counts[domain_B] * len(counts) + domain_B).argsort(stable=True)
    return order_B, counts.sort().values.cpu()


def group_by_domain(visit: Visit, batch_size: int) -> Visit:
    """Group the rows of each batch of a visit by domain; a visit of one domain is returned unchanged.

    Args:
        visit: the visit.
        batch_size: maximum number of rows of a batch, unless the visit sets another.
    """
    if holds_one_domain(visit):
        return visit
    domains, batches = visit.ids("domain"), visit.batches(batch_size)
    orders, groups = zip(*(order_by_domain(domains[rows]) for rows in batches), strict=True)
    places = torch.cat([rows.start + order for rows, order in zip(batches, orders, strict=True)])
    return Visit(visit.columns, visit.rows[places], None, visit.batch_size, tuple(groups))


def group_fields(sizes_G: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Fields with the domains of grouped rows, see `mamdr_core.models.groups`."""
    number_G = torch.arange(len(sizes_G))
    return {GROUP: torch.repeat_interleave(number_G, sizes_G).to(device), SIZES: sizes_G}


def holds_one_domain(visit: Visit) -> bool:
    """Whether the model reads all rows of a visit as rows of one domain."""
    return visit.as_domain is not None or len(visit.ids("domain").unique()) <= 1


def part_key(key: int, number: int) -> int:
    """Key of dropout for a part of a batch, int32: the first part has the key of the batch."""
    return signed32(key + number * 0x9E3779B1)


def join_gradients(gradients: list[FieldGradient]) -> FieldGradient:
    """Concatenate the gradients of the parts of a batch."""
    if len(gradients) == 1:
        return gradients[0]
    places = [own for own, _ in gradients if isinstance(own, Tensor)]  # a slice is the only part of its batch
    return torch.cat(places), torch.cat([gradient for _, gradient in gradients])
