"""theta_i of many domains in safetensors files, which are read by domain or in groups of domains.

A file contains "domains" int64 [m] ascending, "dense" [m, P], and for each embedding table "<name>.owner" int64 [U]
ascending (the domain of each row), "<name>.ids" [U] and "<name>.values" [U, D].
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.engine.specific_store import SpecificValues, group_size
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.heartbeat import beat

PART_BYTES = 1 << 29
"""Approximate size of the dense parameters of a file; its content is in memory while it is written."""


def save_specific(folder: Path, name: str, specific: SpecificValues) -> list[str]:
    """Write theta_i of some domains to `<name>-<part>.safetensors`; returns the names of the files."""
    domains = list(specific)
    each = max(1, PART_BYTES // max(1, specific.vector_bytes))
    names = []
    for first in range(0, len(domains), each):
        beat()
        names.append(f"{name}-{first // each:05d}.safetensors")
        save_file(_packed(specific, domains[first : first + each]), folder / names[-1])
    return names


def _packed(specific: SpecificValues, domains: Sequence[int]) -> dict[str, Tensor]:
    changes = {domain: specific[domain] for domain in domains}
    rows = {domain: change.rows for domain, change in changes.items()}
    packed = {"domains": torch.tensor(domains), "dense": torch.stack([change.dense for change in changes.values()])}
    for table in sorted({name for own in rows.values() for name in own}):
        having = {domain: rows[domain][table] for domain in domains if table in rows[domain]}
        packed[f"{table}.owner"] = torch.cat([torch.full_like(own.ids, d) for d, own in having.items()]).cpu()
        packed[f"{table}.ids"] = torch.cat([own.ids for own in having.values()]).cpu()
        packed[f"{table}.values"] = torch.cat([own.values for own in having.values()]).cpu()
    return packed


class SavedSpecific(Mapping[int, Change]):
    """theta_i by domain, read from files on demand.

    Args:
        files: files written by `save_specific`.
        size: number of dense parameters P; None: not checked.

    Raises:
        MamdrError: a file is of another model.
    """

    def __init__(self, files: Sequence[Path], device: torch.device | str = "cpu", size: int | None = None) -> None:
        self._device = device
        self._files = [safe_open(file, "pt") for file in files]
        self._place: dict[int, tuple[int, int]] = {}
        self._rows: dict[int, dict[str, slice]] = {}
        for number, file in enumerate(self._files):
            domains = file.get_tensor("domains").tolist()
            shape = file.get_slice("dense").get_shape()
            if shape != [len(domains), shape[-1] if size is None else size]:
                raise MamdrError(f"{files[number]} is of another model: theta_i of {len(domains)} domains has {shape}")
            self._place |= {domain: (number, row) for row, domain in enumerate(domains)}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                table, _, part = key.rpartition(".")
                if part == "owner":
                    owner_U = file.get_tensor(key)
                    rows = [file.get_slice(f"{table}.{of}").get_shape()[0] for of in ("ids", "values")]
                    if rows != [len(owner_U)] * 2:
                        raise MamdrError(f"{files[number]} is damaged: rows of table {table} are missing")
                    self._place_rows(table, owner_U)

    def _place_rows(self, table: str, owner_U: Tensor) -> None:
        """Record which rows of a table in its file belong to each domain."""
        domains, counts = owner_U.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        for domain, start, stop in zip(domains.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True):
            self._rows.setdefault(domain, {})[table] = slice(start, stop)

    def __getitem__(self, domain: int) -> Change:
        number, row = self._place[domain]
        return self._read([domain], number, row)[domain]

    def read_groups(self, domains: Sequence[int]) -> Iterator[dict[int, Change]]:
        """theta_i of distinct domains in groups, in the order of the files; consecutive domains are read together."""
        ordered = sorted(domains, key=self._place.__getitem__)
        vector_bytes = 4 * self._files[0].get_slice("dense").get_shape()[1] if ordered else 0
        size = group_size(torch.device(self._device).type, vector_bytes)
        for first in range(0, len(ordered), size):
            part = ordered[first : first + size]
            places = [self._place[domain] for domain in part]
            follows = [(number, row + 1) == after for (number, row), after in pairwise(places)]
            begins = [0, *(place + 1 for place, is_next in enumerate(follows) if not is_next)]
            group: dict[int, Change] = {}
            for begin, end in pairwise([*begins, len(part)]):
                group |= self._read(part[begin:end], *places[begin])
            yield group

    def _read(self, domains: Sequence[int], number: int, row: int) -> dict[int, Change]:
        """theta_i of consecutive domains of file `number`, from row `row`."""

        def read(name: str, start: int, stop: int) -> Tensor:
            values: Tensor = self._files[number].get_slice(name)[start:stop]
            return values.to(self._device)

        dense = read("dense", row, row + len(domains))
        found = {domain: Change(dense_P) for domain, dense_P in zip(domains, dense, strict=True)}
        for table in {name for domain in domains for name in self._rows.get(domain, ())}:
            own = {domain: self._rows[domain][table] for domain in domains if table in self._rows.get(domain, ())}
            first, last = next(iter(own.values())).start, next(reversed(own.values())).stop
            ids, values = (read(f"{table}.{of}", first, last) for of in ("ids", "values"))
            for domain, rows in own.items():
                places = slice(rows.start - first, rows.stop - first)
                found[domain].rows[table] = Rows(ids[places], values[places])
        return found

    def __contains__(self, domain: object) -> bool:
        """Whether the files contain theta_i of a domain, without reading it."""
        return domain in self._place

    def __iter__(self) -> Iterator[int]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)
