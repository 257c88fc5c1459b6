"""What a rank must know to go on where a run was, taken between two rounds and put back, on as many ranks or others.

Nothing random is in it: every draw follows from the seed, the epoch and the round.

state.json                  position, early stop, number of ranks, counters, and rank 0's curve
shared.safetensors          dense parameters [P] and whole tables of theta_S ("now"), of the best one ("best"), and of
                            the outer optimizer's momenta ("first", "second"): "<of>.dense", "<of>.table.<name>"
shared-<rank>.safetensors   of sharded tables the rank's rows r, r + W, ... of W ranks: "<of>.table.<name>"
rank-<rank>.safetensors     what is a rank's own: Adam's moments of theta_S, the weighted loss's log variances, and rows
                            dealt since DR's last pass, as places within their domain
best-<rank>-<part>, now-<rank>-<part>.safetensors  theta_i, the best and, where it differs, the present one
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamdr_core.engine.optimizers import AdamMoments, AdamState, Momenta
from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.specific_store import Stored
from mamdr_core.errors import MamdrError
from mamdr_core.learning.learner import Learner
from mamdr_core.training.curve import Validation
from mamdr_core.training.early_stop import EarlyStop
from mamdr_core.training.specific_files import SavedSpecific, save_specific

STATE = "state.json"


@dataclass
class Position:
    """Where a run is.

    Attributes:
        phase: 0, or 1 for passes of DR once theta_S has settled.
        done: rounds of the phase, or passes.
        stop: the phase's early stop.
        rounds: of the phases before.
        best_round: of the phases before.
        inner_seconds: in inner loops, of all attempts.
        seconds: of this rank since it began, of all attempts.
        curve: on rank 0, the validations so far.
    """

    stop: EarlyStop
    phase: int = 0
    done: int = 0
    rounds: int = 0
    best_round: int = 0
    inner_seconds: float = 0.0
    seconds: float = 0.0
    curve: list[Validation] = field(default_factory=list)


@dataclass(frozen=True)
class Taken:
    """A rank's state at a moment, which training does not change any more.

    Attributes:
        facts: for `STATE`, of this rank.
        whole: tensors that are the same on all ranks.
        parts: of sharded tables, this rank's rows.
        own: tensors of this rank.
        best: theta_i of the best.
        now: theta_i where it is another.
    """

    facts: dict[str, Any]
    whole: dict[str, Tensor]
    parts: dict[str, Tensor]
    own: dict[str, Tensor]
    best: Stored
    now: Stored


def take(learner: Learner, at: Position) -> Taken:
    """Copy what the next round changes; theta_i is held in its store, which must be released."""
    outer = learner.outer
    bundles: dict[str, Shared | Momenta | None] = {
        "now": learner.shared, "best": at.stop.shared, "first": outer.first, "second": outer.second,
    }  # fmt: skip
    whole: dict[str, Tensor] = {}
    parts: dict[str, Tensor] = {}
    for of, bundle in bundles.items():
        if bundle is None:
            continue
        whole[f"{of}.dense"] = _copy(bundle.dense)
        for name, table in bundle.tables.items():
            sharded = not isinstance(learner.shared.tables[name], Tensor)
            rows = table if isinstance(table, Tensor) else table.own
            (parts if sharded else whole)[f"{of}.table.{name}"] = _copy(rows)
    best, now = learner.specific.hold()
    facts = {
        "phase": at.phase,
        "done": at.done,
        "rounds": at.rounds,
        "best_round": at.best_round,
        "stop": {"best": _known(at.stop.best), "best_round": at.stop.best_round, "waited": at.stop.waited},
        "inner_seconds": at.inner_seconds,
        "seconds": at.seconds,
        "curve": [validation.plain() for validation in at.curve],
        "waited_seconds": learner.engine.waited,
        "rows_descended": learner.rows_descended,
        "skipped_steps": learner.engine.skipped,
        "outer_steps": outer.step_count,
        "adam_steps": learner.adam.step if learner.adam else None,
        "rounds_since_dr": learner.rounds_since_dr,
    }
    return Taken(facts, whole, parts, {name: _copy(tensor) for name, tensor in _own(learner).items()}, best, now)


def write(folder: Path, rank: int, taken: Taken) -> list[str]:
    """Write a rank's part of a checkpoint; returns the names of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"shared-{rank:05d}.safetensors": taken.parts, f"rank-{rank:05d}.safetensors": taken.own}
    if rank == 0:
        named["shared.safetensors"] = taken.whole
    for name, tensors in named.items():
        save_file(tensors, folder / name)
    names = save_specific(folder, f"best-{rank:05d}", taken.best)
    return [*named, *names, *save_specific(folder, f"now-{rank:05d}", taken.now)]


def restore(folder: Path, learner: Learner, rank: int, ranks: int, patience: Mapping[int, int]) -> Position:
    """Put a checkpoint's state into a learner that has just been made.

    With another number of ranks than wrote it, each takes theta_i of its own domains, its rows of sharded tables, and
    Adam's moments of one of the ranks that were.

    Args:
        folder: a checkpoint, checked before.
        learner: of this rank.
        rank, ranks: this rank, and how many there are now.
        patience: of early stop, by phase.

    Returns:
        Where the run was.

    Raises:
        MamdrError: it is of another model.
    """
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    facts, device = state["ranks"], learner.shared.dense.device
    mine = facts[rank % len(facts)]
    whole = {name: tensor.to(device) for name, tensor in load_file(folder / "shared.safetensors").items()}
    tensors = whole | _sharded_rows(folder, learner, rank, ranks, len(facts))
    learner.shared = _shared(tensors, "now", learner.shared)
    stop = EarlyStop(patience[mine["phase"]], **(mine["stop"] | {"best": _number(mine["stop"]["best"])}))
    stop.shared = _shared(tensors, "best", learner.shared) if "best.dense" in tensors else None
    learner.outer.step_count = mine["outer_steps"]
    learner.outer.first, learner.outer.second = (_momenta(tensors, of) for of in ("first", "second"))
    _restore_own(folder, learner, mine, len(facts), rank)
    best, now = (SavedSpecific(sorted(folder.glob(f"{of}-*.safetensors")), device) for of in ("best", "now"))
    learner.specific.load(best, now)
    if rank == 0:  # figures of all ranks together, from here on
        learner.rows_descended = sum(fact["rows_descended"] for fact in facts)
        learner.engine.skipped = sum(fact["skipped_steps"] for fact in facts)
    learner.engine.waited = max(fact["waited_seconds"] for fact in facts)
    return Position(
        stop=stop,
        **{name: mine[name] for name in ("phase", "done", "rounds", "best_round")},
        inner_seconds=max(fact["inner_seconds"] for fact in facts),
        seconds=facts[0]["seconds"],
        curve=[Validation(**plain) for plain in facts[0]["curve"]] if rank == 0 else [],
    )


def _own(learner: Learner) -> dict[str, Tensor]:
    """A rank's own tensors by name."""
    uncertainty = learner.uncertainty
    tensors = {"s.values": uncertainty.values_n, "s.counts": uncertainty.counts_n}
    tensors |= {"s.first": uncertainty.moments.first, "s.second": uncertainty.moments.second}
    if learner.adam:
        moments = {"dense": learner.adam.dense} | {f"table.{n}": m for n, m in learner.adam.tables.items()}
        tensors |= {f"adam.first.{name}": own.first for name, own in moments.items()}
        tensors |= {f"adam.second.{name}": own.second for name, own in moments.items()}
    for domain, parts in learner.pending.items():
        tensors[f"pending.{domain}"] = torch.cat(parts) - int(learner.train.offsets[domain])
    return tensors


def _restore_own(folder: Path, learner: Learner, mine: dict[str, Any], wrote: int, rank: int) -> None:
    files = [folder / f"rank-{number:05d}.safetensors" for number in range(wrote)]
    device = learner.shared.dense.device
    learner.rounds_since_dr = mine["rounds_since_dr"]
    for file in files:
        with safe_open(file, "pt") as saved:
            met = saved.get_tensor("s.counts") > 0  # by the domain's owner alone
            for name, target_n in _own(learner).items():
                if name.startswith("s."):
                    target_n[met] = saved.get_tensor(name)[met].to(target_n.device)
            for name in saved.keys():  # noqa: SIM118 - not a mapping
                kind, _, domain = name.partition(".")
                if kind == "pending" and learner.train.counts[int(domain)]:
                    place = saved.get_tensor(name) + int(learner.train.offsets[int(domain)])
                    learner.pending[int(domain)] = [place.to(device)]
    if mine["adam_steps"] is not None:
        saved_own = load_file(files[rank % wrote])
        names = [name.removeprefix("adam.first.") for name in saved_own if name.startswith("adam.first.")]
        moments = {
            name: AdamMoments(*(saved_own[f"adam.{moment}.{name}"].to(device) for moment in ("first", "second")))
            for name in names
        }
        tables = {name.removeprefix("table."): own for name, own in moments.items() if name != "dense"}
        learner.adam = AdamState(moments["dense"], tables, mine["adam_steps"])


def _sharded_rows(folder: Path, learner: Learner, rank: int, ranks: int, wrote: int) -> dict[str, Tensor]:
    """This rank's rows rank, rank + ranks, ... of sharded tables, from the files of the ranks that wrote them."""
    rows: dict[str, Tensor] = {}
    device = learner.shared.dense.device
    for number in range(wrote):
        for name, part in load_file(folder / f"shared-{number:05d}.safetensors").items():
            table = learner.shared.tables[name.partition(".table.")[2]]
            own = torch.arange(rank, table.shape[0], ranks)
            here = own % wrote == number
            if name not in rows:
                rows[name] = part.new_empty(len(own), part.shape[1])
            rows[name][here] = part[own[here] // wrote]
    return {name: own.to(device) for name, own in rows.items()}


def _shared(tensors: Mapping[str, Tensor], of: str, like: Shared) -> Shared:
    _check_shape(tensors, f"{of}.dense", like.dense.shape)
    tables = {}
    for name, table in like.tables.items():
        _check_shape(tensors, f"{of}.table.{name}", (table if isinstance(table, Tensor) else table.own).shape)
        rows = tensors[f"{of}.table.{name}"]
        tables[name] = rows if isinstance(table, Tensor) else table.with_rows(rows)
    return Shared(tensors[f"{of}.dense"], tables)


def _check_shape(tensors: Mapping[str, Tensor], name: str, shape: torch.Size) -> None:
    if name not in tensors or tensors[name].shape != shape:
        raise MamdrError(f"the checkpoint is of another model: its {name} is not of the shape {list(shape)}")


def _momenta(tensors: Mapping[str, Tensor], of: str) -> Momenta | None:
    if f"{of}.dense" not in tensors:
        return None
    prefix = f"{of}.table."
    tables = {name.removeprefix(prefix): rows for name, rows in tensors.items() if name.startswith(prefix)}
    return Momenta(tensors[f"{of}.dense"], tables)


def _copy(tensor: Tensor) -> Tensor:
    """On the CPU, and sharing no memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
