"""Files with the state of stateful objects, written by each rank and read on the same or another number of ranks.

<prefix>shared.safetensors         tensors that are equal on all ranks (`State.same`), from rank 0
<prefix>rows-<rank>.safetensors    rows r, r + W, ... of tables that are sharded over W ranks (`State.rows`)
<prefix>domains-<rank>.safetensors values of the rank's domains (`State.domains`): "<name>.domain" int64 [R],
                                   and "<name>.values" [R, ...]
<prefix>own-<rank>.safetensors     tensors of the rank (`State.own`)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamdr_core.engine.striping import WHOLE, Stripe, owners_of, places_of
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.stateful import DomainRows, State

CHUNK_ROWS = 1 << 20
"""Number of rows of a table that are read at a time."""


def write_state(folder: Path, rank: int, state: State, prefix: str = "") -> list[str]:
    """Write a rank's state; returns the names of its files."""
    # Copies: several values of an object may share their domains, and a file cannot contain a tensor twice.
    domains = {f"{name}.domain": rows.domain_R.clone() for name, rows in state.domains.items()}
    domains |= {f"{name}.values": rows.values for name, rows in state.domains.items()}
    groups = {"rows": state.rows, "domains": domains, "own": state.own}
    named = {f"{prefix}{group}-{rank:05d}.safetensors": tensors for group, tensors in groups.items()}
    if rank == 0:
        named[f"{prefix}shared.safetensors"] = state.same
    for name, tensors in named.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    return list(named)


def read_state(
    folder: Path,
    rank: int,
    ranks: int,
    owned_n: Tensor | None,
    counters: Sequence[Mapping[str, int]] = (),
    prefix: str = "",
    holders: Sequence[int] | None = None,
) -> State:
    """Read the state of one rank from the files of all ranks that wrote it.

    Args:
        rank, ranks: this rank and the current number of ranks.
        owned_n: mask of the domains of this rank, bool [n]; None: all domains.
        counters: counters of the ranks that wrote, which are not in the files.
        holders: ranks that may have owned a domain of this rank; None: all.

    Raises:
        MamdrError: there are values of domains beyond n.
    """
    wrote = len(counters) or len(list(folder.glob(f"{prefix}rows-*.safetensors")))
    return State(
        counters=dict(counters[rank % wrote]) if counters else {},
        same=load_file(folder / f"{prefix}shared.safetensors"),
        rows=_rows_of_rank(folder, prefix, rank, ranks, wrote),
        domains=_values_of_domains(folder, prefix, owned_n, range(wrote) if holders is None else holders),
        own=load_file(folder / f"{prefix}own-{rank % wrote:05d}.safetensors"),
    )


def read_rows(slices: Sequence[Any], stripe: Stripe = WHOLE) -> Tensor:
    """Read the rows of a table that a rank owns, in chunks.

    Args:
        slices: `safetensors.PySafeSlice` of W files, of which file r contains rows r, r + W, ...: [rows, D].
    """
    total, width = sum(own.get_shape()[0] for own in slices), slices[0].get_shape()[1]
    wanted = stripe.ids(total)
    rows_KD: Tensor = slices[0][:0].new_empty(len(wanted), width)
    for number, own in enumerate(slices):
        here = (owners_of(wanted, len(slices)) == number).nonzero().flatten()
        place = places_of(wanted[here], len(slices))
        for start in range(0, own.get_shape()[0], CHUNK_ROWS):
            low, high = torch.searchsorted(place, torch.tensor([start, start + CHUNK_ROWS])).tolist()
            rows_KD[here[low:high]] = own[start : start + CHUNK_ROWS][place[low:high] - start]
    return rows_KD


def _rows_of_rank(folder: Path, prefix: str, rank: int, ranks: int, wrote: int) -> dict[str, Tensor]:
    """Rows rank, rank + ranks, ... of sharded tables, from the files of all ranks that wrote."""
    files = [folder / f"{prefix}rows-{number:05d}.safetensors" for number in range(wrote)]
    if wrote == ranks:
        return load_file(files[rank])
    parts = [safe_open(file, "pt") for file in files]
    return {name: read_rows([part.get_slice(name) for part in parts], Stripe(rank, ranks)) for name in parts[0].keys()}  # noqa: SIM118 - not a mapping


def _values_of_domains(
    folder: Path, prefix: str, owned_n: Tensor | None, holders: Sequence[int]
) -> dict[str, DomainRows]:
    """Values of this rank's domains, from the files of the ranks that owned them."""
    found: dict[str, list[DomainRows]] = {}
    for number in holders:
        tensors = load_file(folder / f"{prefix}domains-{number:05d}.safetensors")
        for key, values in tensors.items():
            name, _, part = key.rpartition(".")
            if part != "values":
                continue
            domain_R = tensors[f"{name}.domain"]
            if domain_R.dtype != torch.int64 or domain_R.shape != values.shape[:1]:
                raise MamdrError(f"{folder} is damaged: the domains of {name} do not match its values")
            if owned_n is None:
                found.setdefault(name, []).append(DomainRows(domain_R, values))
                continue
            if ((domain_R < 0) | (domain_R >= len(owned_n))).any():
                raise MamdrError(f"the saved state is of another lake: its {name} is of a domain beyond {len(owned_n)}")
            own_R = owned_n[domain_R]
            found.setdefault(name, []).append(DomainRows(domain_R[own_R], values[own_R]))
    return {
        name: DomainRows(torch.cat([rows.domain_R for rows in parts]), torch.cat([rows.values for rows in parts]))
        for name, parts in found.items()
    }
