"""Protocol of objects whose state is checkpointed, and restored on any number of ranks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mamdr_core.runtime.errors import MamdrError

T = TypeVar("T")


@dataclass(frozen=True)
class DomainRows:
    """Values of domains: row r of `values` [R, ...] belongs to the domain with index `domain_R[r]`, int64 [R].

    A domain may have any number of rows; a restart keeps their order.
    """

    domain_R: Tensor
    values: Tensor


@dataclass(frozen=True)
class State:
    """State of an object on one rank; the group of a value decides which rank restores it on another number of ranks.

    Attributes:
        counters: integers >= 0 of this rank; a rank restores those of one of the ranks that wrote.
        same: tensors that are equal on all ranks.
        rows: this rank's rows r, r + W, ... of tables whose row r belongs to rank r mod W: [rows, width].
        domains: values of this rank's domains; the new owner of a domain restores them.
        own: tensors of this rank; a rank restores those of the same rank as `counters`.
        constant: names of tensors in `same` and `rows` that the object may replace but never changes in place, so that
            a snapshot does not need to copy them.
        name: path of the object within the saved state, for error messages.

    Example:
        >>> whole = State.join({"outer": State(counters={"steps": 3}), "inner": State()})
        >>> whole.counters
        {'outer.steps': 3}
        >>> whole.part("outer").counter("steps")
        3
    """

    counters: dict[str, int] = field(default_factory=dict)
    same: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    domains: dict[str, DomainRows] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()
    name: str = ""

    @classmethod
    def join(cls, parts: "Mapping[str, State]") -> "State":
        """One state of several objects; a value is named "<part>.<name>"."""
        return cls(
            counters=_prefixed({name: part.counters for name, part in parts.items()}),
            same=_prefixed({name: part.same for name, part in parts.items()}),
            rows=_prefixed({name: part.rows for name, part in parts.items()}),
            domains=_prefixed({name: part.domains for name, part in parts.items()}),
            own=_prefixed({name: part.own for name, part in parts.items()}),
            constant=frozenset(f"{name}.{own}" for name, part in parts.items() for own in part.constant),
        )

    def part(self, name: str) -> "State":
        """The state of one of the joined objects; empty if there is none of that name."""
        prefix = f"{name}."
        return State(
            counters=_of_part(self.counters, prefix),
            same=_of_part(self.same, prefix),
            rows=_of_part(self.rows, prefix),
            domains=_of_part(self.domains, prefix),
            own=_of_part(self.own, prefix),
            name=f"{self.name}{prefix}",
        )

    def is_empty(self) -> bool:
        """Whether the state has no values."""
        return not (self.counters or self.same or self.rows or self.domains or self.own)

    def counter(self, name: str) -> int:
        """The value of a counter.

        Raises:
            MamdrError: there is none of that name.
        """
        if name not in self.counters:
            raise MamdrError(f"the saved state is of another model: it has no counter {self.name}{name}")
        return self.counters[name]

    def tensor(self, group: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
        """A tensor from a group of this state, on the device of `like`.

        Raises:
            MamdrError: there is none of that name, or it has another shape or type than `like`.
        """
        found = group.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            wanted = f"{str(like.dtype).removeprefix('torch.')} of the shape {list(like.shape)}"
            raise MamdrError(f"the saved state is of another model: its {self.name}{name} is not {wanted}")
        return found.to(like.device)

    def domains_of(self, name: str) -> list[int]:
        """Domains with values of that name, ascending."""
        found = self.domains.get(name)
        return [] if found is None else found.domain_R.unique().tolist()

    def domain_rows(self, name: str, like: Tensor) -> DomainRows:
        """Values of domains; empty if there are none of that name.

        Args:
            name: name of the values.
            like: tensor with the shape, type and device of a row.

        Raises:
            MamdrError: the rows have another shape or type than `like`.
        """
        found = self.domains.get(name)
        if found is None:
            return DomainRows(torch.zeros(0, dtype=torch.long), like.new_zeros(0, *like.shape))
        if found.values.shape[1:] != like.shape or found.values.dtype != like.dtype:
            raise MamdrError(
                f"the saved state is of another model: {self.name}{name} has rows of another shape or type"
            )
        return DomainRows(found.domain_R, found.values.to(like.device))


class Stateful(Protocol):
    """An object whose state is checkpointed.

    A later `load_state_dict` may run on another number of ranks; the groups of `State` decide which rank restores which
    values.
    """

    def state_dict(self) -> State:
        """The state; its tensors may be those of the object, and are copied before the object changes.

        All ranks have the same names in every group except `domains`.
        """

    def load_state_dict(self, state: State) -> None:
        """Restore a state into a newly created object.

        Raises:
            MamdrError: the state is of another model.
        """


def _prefixed(groups: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    return {f"{part}.{name}": value for part, group in groups.items() for name, value in group.items()}


def _of_part(group: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in group.items() if name.startswith(prefix)}
