"""A run's state between two rounds: taken, written, and restored on as many ranks or on another number of them.

It knows none of the objects whose state it is: see `mamdr_core.stateful`. Nothing random is in it: every draw follows
from the seed, the epoch and the round.

state.json                   by rank, its position and its counters
shared.safetensors           tensors that are the same on all ranks (`State.same`), from rank 0
rows-<rank>.safetensors      of tables that are sharded by row, the rank's rows r, r + W, ... of W ranks (`State.rows`)
domains-<rank>.safetensors   values that belong to the rank's domains (`State.domains`): "<name>.domain" int64 [R], and
                             "<name>.values" [R, ...]
own-<rank>.safetensors       tensors of the rank (`State.own`)
best-<rank>-<part>, now-<rank>-<part>.safetensors  theta_i, the best and, where it differs, the present one
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamdr_core.engine.specific_store import SpecificStore, Stored
from mamdr_core.errors import MamdrError
from mamdr_core.stateful import DomainRows, State, Stateful
from mamdr_core.training.intact import Dense, check_specific, read_header
from mamdr_core.training.position import Position
from mamdr_core.training.specific_files import SavedSpecific, save_specific

STATE = "state.json"


@dataclass(frozen=True)
class RunState:
    """What a checkpoint of a run holds of one rank, as live objects.

    Attributes:
        position: where the run is.
        stateful: by name, the objects whose state is saved.
        specific: theta_i, which its store holds and streams.
        owned_n: by domain, whether this rank owns it, bool [n].
        dense_P: dense parameters of theta_S: their number and type are also theta_i's.
    """

    position: Position
    stateful: Mapping[str, Stateful]
    specific: SpecificStore
    owned_n: Tensor
    dense_P: Tensor


@dataclass(frozen=True)
class Snapshot:
    """A rank's state at a moment, which training does not change any more.

    Attributes:
        facts: for `STATE`, of this rank.
        state: of all stateful objects, on the CPU.
        best: theta_i of the best.
        now: theta_i where it is another.
    """

    facts: dict[str, Any]
    state: State
    best: Stored
    now: Stored


def take(run: RunState) -> Snapshot:
    """Copy what the next round changes; theta_i is held in its store, which must be released."""
    state = State.join({name: each.state_dict() for name, each in run.stateful.items()})
    copied = State(
        same=_copies(state.same),
        rows=_copies(state.rows),
        domains={name: DomainRows(_copy(own.domain_R), _copy(own.values)) for name, own in state.domains.items()},
        own=_copies(state.own),
    )
    best, now = run.specific.hold()
    return Snapshot({"position": run.position.plain(), "counters": state.counters}, copied, best, now)


def write(folder: Path, rank: int, snapshot: Snapshot) -> list[str]:
    """Write a rank's part of a checkpoint; returns the names of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    state = snapshot.state
    domains = {f"{name}.domain": rows.domain_R for name, rows in state.domains.items()}
    domains |= {f"{name}.values": rows.values for name, rows in state.domains.items()}
    files = {"rows": state.rows, "domains": domains, "own": state.own}
    named = {f"{group}-{rank:05d}.safetensors": tensors for group, tensors in files.items()}
    if rank == 0:
        named["shared.safetensors"] = state.same
    for name, tensors in named.items():
        save_file(tensors, folder / name)
    names = save_specific(folder, f"best-{rank:05d}", snapshot.best)
    return [*named, *names, *save_specific(folder, f"now-{rank:05d}", snapshot.now)]


def restore(folder: Path, run: RunState, rank: int, ranks: int) -> None:
    """Put a checkpoint's state into objects that have just been made.

    With another number of ranks than wrote it, each takes the values of the domains that it owns now, its rows of
    sharded tables, and what is a rank's own of one of the ranks that were.

    Args:
        folder: a checkpoint, checked before.
        run: of this rank.
        rank, ranks: this rank, and how many there are now.

    Raises:
        MamdrError: it is of another model.
    """
    facts = json.loads((folder / STATE).read_text(encoding="utf-8"))["ranks"]
    wrote = len(facts)
    state = State(
        counters=facts[rank % wrote]["counters"],
        same=load_file(folder / "shared.safetensors"),
        rows=_rows_of_rank(folder, rank, ranks, wrote),
        domains=_values_of_domains(folder, run.owned_n, wrote),
        own=load_file(folder / f"own-{rank % wrote:05d}.safetensors"),
    )
    for name, each in run.stateful.items():
        each.load_state_dict(state.part(name))
    run.specific.load(*(_saved_specific(folder, of, run.dense_P) for of in ("best", "now")))
    run.position.load([own["position"] for own in facts], rank)


def _rows_of_rank(folder: Path, rank: int, ranks: int, wrote: int) -> dict[str, Tensor]:
    """This rank's rows rank, rank + ranks, ... of sharded tables, from the files of the ranks that wrote them."""
    files = [folder / f"rows-{number:05d}.safetensors" for number in range(wrote)]
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


def _values_of_domains(folder: Path, owned_n: Tensor, wrote: int) -> dict[str, DomainRows]:
    """The values of this rank's domains, from the files of the ranks that owned them."""
    found: dict[str, list[DomainRows]] = {}
    for number in range(wrote):
        tensors = load_file(folder / f"domains-{number:05d}.safetensors")
        for key, values in tensors.items():
            name, _, part = key.rpartition(".")
            if part != "values":
                continue
            domain_R = tensors[f"{name}.domain"]
            if ((domain_R < 0) | (domain_R >= len(owned_n))).any():
                raise MamdrError(f"the checkpoint is of another lake: its {name} is of a domain beyond {len(owned_n)}")
            own_R = owned_n[domain_R]
            found.setdefault(name, []).append(DomainRows(domain_R[own_R], values[own_R]))
    return {
        name: DomainRows(torch.cat([rows.domain_R for rows in parts]), torch.cat([rows.values for rows in parts]))
        for name, parts in found.items()
    }


def _saved_specific(folder: Path, of: str, dense_P: Tensor) -> SavedSpecific:
    files = sorted(folder.glob(f"{of}-*.safetensors"))
    for file in files:
        check_specific(file, Dense({torch.float32: "F32", torch.float64: "F64"}[dense_P.dtype], len(dense_P)))
    return SavedSpecific(files, dense_P.device)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _copy(tensor) for name, tensor in tensors.items()}


def _copy(tensor: Tensor) -> Tensor:
    """On the CPU, and sharing no memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()
