"""Files with the state of stateful objects, written by each rank and read on the same or another number of ranks.

<prefix>shared.safetensors         tensors that are equal on all ranks (`State.same`), from rank 0
<prefix>rows-<rank>.safetensors    rows r, r + W, ... of tables that are sharded over W ranks (`State.rows`)
<prefix>domains-<rank>.safetensors values of the rank's domains (`State.domains`): "<name>.domain" int64 [R],
                                   and "<name>.values" [R, ...]
<prefix>own-<rank>.safetensors     tensors of the rank (`State.own`)
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamdr_core.errors import MamdrError
from mamdr_core.stateful import DomainRows, State
from mamdr_core.training.intact import check_row_parts, expect_tensor, raise_damaged, read_header

GROUPS = ("rows", "domains", "own")
"""Groups of values for which every rank writes a file."""


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
        folder: folder of the files.
        rank, ranks: this rank and the current number of ranks.
        owned_n: mask of the domains of this rank, bool [n]; None: all domains.
        counters: counters of the ranks that wrote, which are not in the files.
        prefix: prefix of the file names.
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


def check_state(folder: Path, names: Collection[str], ranks: int, prefix: str = "", kind: str = "checkpoint") -> None:
    """Check that the files of all ranks exist and that their shapes agree, without reading tensors.

    Args:
        folder: folder of the files.
        names: names of the files in its manifest.
        ranks: number of ranks that wrote.
        prefix: prefix of the file names.
        kind: what the folder is, for error messages.

    Raises:
        MamdrError: a file is missing or damaged.
    """
    files = {group: [f"{prefix}{group}-{rank:05d}.safetensors" for rank in range(ranks)] for group in GROUPS}
    shared = f"{prefix}shared.safetensors"
    if missing := sorted({shared, *(name for group in GROUPS for name in files[group])} - set(names)):
        raise MamdrError(f"{kind} {folder}: its manifest lists no {missing[0]}")
    for name in (shared, *files["own"]):
        read_header(folder / name)
    check_row_parts([folder / name for name in files["rows"]])
    _check_domain_rows([folder / name for name in files["domains"]])


def _check_domain_rows(files: Sequence[Path]) -> None:
    """Check that every name has domains and values, and that its rows have the same shape and type in all files."""
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        header = read_header(file)
        for key, (kind, shape) in header.items():
            name, _, part = key.rpartition(".")
            if part not in ("domain", "values"):
                raise_damaged(file, key)
            (rows,) = expect_tensor(file, header, f"{name}.domain", "I64", (None,))
            if part == "values" and (
                shape[:1] != (rows,) or kinds.setdefault(name, (kind, shape[1:])) != (kind, shape[1:])
            ):
                raise_damaged(file, key)
            if f"{name}.values" not in header:
                raise_damaged(file, key)


def _rows_of_rank(folder: Path, prefix: str, rank: int, ranks: int, wrote: int) -> dict[str, Tensor]:
    """Rows rank, rank + ranks, ... of sharded tables, from the files of all ranks that wrote."""
    files = [folder / f"{prefix}rows-{number:05d}.safetensors" for number in range(wrote)]
    if wrote == ranks:
        return load_file(files[rank])
    counts: dict[str, int] = {}
    for file in files:
        for name, (_, shape) in read_header(file).items():
            counts[name] = counts.get(name, 0) + shape[0]
    rows: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        for name, part in load_file(file).items():
            own = torch.arange(rank, counts[name], ranks)
            here = own % wrote == number
            if name not in rows:
                rows[name] = part.new_empty(len(own), part.shape[1])
            rows[name][here] = part[own[here] // wrote]
    return rows


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
