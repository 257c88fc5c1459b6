"""State of a run between two rounds: copied, written, and restored on the same or another number of ranks.

It does not depend on the objects whose state it is: see `mamdr_core.runtime.stateful`. It contains no state of random
number generators: every draw follows from the seed, the epoch and the round.

state.json              position, counters and domains of each rank
shared.safetensors, rows-<rank>.safetensors, domains-<rank>.safetensors, own-<rank>.safetensors
                        the state of all stateful objects, see `mamdr_core.training.files.state_files`
best-<rank>-<part>, now-<rank>-<part>.safetensors  the best theta_i and, where they differ, the current ones
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from mamdr_core.engine.specific_store import SpecificStore, SpecificValues
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.stateful import DomainRows, State, Stateful
from mamdr_core.training.checkpoint.position import Position
from mamdr_core.training.files.integrity import Count, report_unreadable, validate_json
from mamdr_core.training.files.manifest import read_json
from mamdr_core.training.files.specific_files import SavedSpecific, save_specific
from mamdr_core.training.files.state_files import read_state, write_state

STATE = "state.json"


@dataclass(frozen=True)
class RunState:
    """The objects of one rank that a checkpoint saves and restores.

    Attributes:
        stateful: objects whose state is saved, by name.
        owned_n: mask of the domains of this rank, bool [n].
        dense_P: dense parameters of theta_S, whose number and type theta_i share.
    """

    position: Position
    stateful: Mapping[str, Stateful]
    specific: SpecificStore
    owned_n: Tensor
    dense_P: Tensor


@dataclass(frozen=True)
class RankEntry:
    """Entry of a rank in `STATE`: its position, its counters (see `State`) and the domains that it owned."""

    position: Position
    counters: dict[str, Count]
    domains: list[Count]


@dataclass(frozen=True)
class Snapshot:
    """Copy of the state of a rank, which training does not change.

    Attributes:
        facts: entry of this rank in `STATE`.
        state: state of all stateful objects, on the CPU.
        best: the best theta_i.
        now: the current theta_i, where they differ.
        is_live: whether the state was not copied, so that it must be written before training continues.
    """

    facts: dict[str, Any]
    state: State
    best: SpecificValues
    now: SpecificValues
    is_live: bool = False


def take(run: RunState, rank: int = 0, room: float = math.inf) -> Snapshot:
    """Copy what the next round changes; theta_i are held by their store, which must be released afterwards.

    Args:
        rank: this rank; rank 0 also takes the tensors that are equal on all ranks.
        room: maximum size of the copies in bytes; if they need more, nothing is copied.
    """
    state = State.join({name: each.state_dict() for name, each in run.stateful.items()})
    same = state.same if rank == 0 else {}
    changing = [tensor for name, tensor in (same | state.rows).items() if name not in state.constant]
    is_live = sum(tensor.nbytes for tensor in (*changing, *state.own.values())) > room
    kept = frozenset((*same, *state.rows, *state.own)) if is_live else state.constant
    copied = State(
        same=_copies(same, kept),
        rows=_copies(state.rows, kept),
        domains={name: DomainRows(_copy(own.domain_R), _copy(own.values)) for name, own in state.domains.items()},
        own=_copies(state.own, kept if is_live else frozenset()),
    )
    best, now = run.specific.hold()
    domains = run.owned_n.nonzero().flatten().tolist()
    entry = RankEntry(run.position, state.counters, domains)
    return Snapshot(asdict(entry), copied, best, now, is_live)


def write(folder: Path, rank: int, snapshot: Snapshot) -> list[str]:
    """Write a rank's part of a checkpoint; returns the names of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    named = write_state(folder, rank, snapshot.state)
    names = save_specific(folder, f"best-{rank:05d}", snapshot.best)
    return [*named, *names, *save_specific(folder, f"now-{rank:05d}", snapshot.now)]


def files_to_restore(folder: Path, run: RunState, rank: int, ranks: int) -> tuple[str, ...]:
    """Prefixes of the files that `restore` reads on a rank; with an unchanged number of ranks, only its own files.

    Raises:
        MamdrError: the checkpoint is of another lake.
    """
    entries = _read_entries(folder)
    wrote = len(entries)
    rows = f"rows-{rank:05d}." if wrote == ranks else "rows-"
    holders = _holders(entries, run.owned_n)
    of_domains = [f"{of}-{holder:05d}" for holder in holders for of in ("domains", "best", "now")]
    return (STATE, "shared.", rows, f"own-{rank % wrote:05d}.", *of_domains)


def restore(folder: Path, run: RunState, rank: int, ranks: int) -> None:
    """Restore a checkpoint into newly created objects.

    If the number of ranks has changed, a rank takes the values of the domains that it owns now, its rows of sharded
    tables, and the tensors in `State.own` of one of the earlier ranks.

    Args:
        folder: an intact checkpoint; only the files of `files_to_restore` are needed.
        rank, ranks: this rank and the current number of ranks.

    Raises:
        MamdrError: the checkpoint is of another model or lake.
    """
    entries = _read_entries(folder)
    holders = _holders(entries, run.owned_n)
    with report_unreadable(folder, "checkpoint"):
        state = read_state(folder, rank, ranks, run.owned_n, [own.counters for own in entries], holders=holders)
        best, now = (_saved_specific(folder, of, holders, run.dense_P) for of in ("best", "now"))
    for name, each in run.stateful.items():
        each.load_state_dict(state.part(name))
    run.specific.load(best, now)
    run.position.load([own.position for own in entries], rank)


def _read_entries(folder: Path) -> list[RankEntry]:
    """Entries of `STATE`, one for each rank that wrote the checkpoint."""
    ranks: Any = read_json(folder / STATE).get("ranks")
    entries: list[RankEntry] = validate_json(Annotated[list[RankEntry], Field(min_length=1)], ranks, folder / STATE)
    # A key of another name would leave the default, with which training starts over.
    known = {each.name for each in fields(Position)}
    if changed := sorted({name for entry in ranks for name in known ^ set(entry["position"])}):
        raise MamdrError(f"{folder / STATE} was written by another version of this code ({', '.join(changed)})")
    return entries


def _holders(entries: Sequence[RankEntry], owned_n: Tensor) -> list[int]:
    """Ranks that wrote a checkpoint and owned domains that this rank owns now.

    Raises:
        MamdrError: there are domains beyond n.
    """
    if any(max(own.domains, default=-1) >= len(owned_n) for own in entries):
        raise MamdrError(f"the saved state is of another lake: it has a domain beyond {len(owned_n)}")
    return [number for number, own in enumerate(entries) if owned_n[own.domains].any()]


def _saved_specific(folder: Path, of: str, holders: Sequence[int], dense_P: Tensor) -> SavedSpecific:
    files = [file for holder in holders for file in sorted(folder.glob(f"{of}-{holder:05d}-*.safetensors"))]
    return SavedSpecific(files, dense_P.device, len(dense_P))


def _copies(tensors: Mapping[str, Tensor], kept: Collection[str]) -> dict[str, Tensor]:
    """Copies of all tensors except `kept`; one with two names is copied, as a file cannot contain a tensor twice."""
    found: dict[str, Tensor] = {}
    there: set[int] = set()
    for name, tensor in tensors.items():
        as_is = name in kept and tensor.data_ptr() not in there
        found[name] = tensor.detach().cpu().contiguous() if as_is else _copy(tensor)
        there.add(found[name].data_ptr())
    return found


def _copy(tensor: Tensor) -> Tensor:
    """Copy on the CPU without shared memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()
