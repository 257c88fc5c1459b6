"""theta_i of many domains in safetensors files, written by groups and read back one domain at a time.

A file holds "domains" int64 [m] ascending, "dense" [m, P], and by embedding table "<name>.owner" int64 [U] ascending,
"<name>.ids" [U] and "<name>.values" [U, D].
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.engine.specific_store import READ_DOMAINS, Stored
from mamdr_core.heartbeat import beat

PART_BYTES = 1 << 29
"""Dense parameters of a file, about; a file's content is in memory while it is written."""


def save_specific(folder: Path, name: str, specific: Stored) -> list[str]:
    """Write theta_i of some domains to `<name>-<part>.safetensors`; returns the names of the files."""
    domains = list(specific)
    each = max(1, PART_BYTES // max(1, specific.vector_bytes))
    names = []
    for first in range(0, len(domains), each):
        beat()
        names.append(f"{name}-{first // each:05d}.safetensors")
        save_file(_packed(specific, domains[first : first + each]), folder / names[-1])
    return names


def _packed(specific: Stored, domains: Sequence[int]) -> dict[str, Tensor]:
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
    """theta_i by domain as files hold it; a domain's values are read when they are asked for.

    Args:
        files: as `save_specific` wrote them.
        device: where values are wanted.
    """

    def __init__(self, files: Sequence[Path], device: torch.device | str = "cpu") -> None:
        self._device = device
        self._files = [safe_open(file, "pt") for file in files]
        self._place: dict[int, tuple[int, int]] = {}
        self._rows: dict[int, dict[str, slice]] = {}
        for number, file in enumerate(self._files):
            domains = file.get_tensor("domains").tolist()
            self._place |= {domain: (number, row) for row, domain in enumerate(domains)}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                table, _, part = key.rpartition(".")
                if part == "owner":
                    self._place_rows(table, file.get_tensor(key))

    def _place_rows(self, table: str, owner_U: Tensor) -> None:
        """Note where each domain's rows of a table are in its file."""
        domains, counts = owner_U.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        for domain, start, stop in zip(domains.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True):
            self._rows.setdefault(domain, {})[table] = slice(start, stop)

    def __getitem__(self, domain: int) -> Change:
        """A domain's theta_i."""
        number, row = self._place[domain]
        file = self._files[number]

        def read(name: str, rows: slice) -> Tensor:
            values: Tensor = file.get_slice(name)[rows]
            return values.to(self._device)

        dense = read("dense", slice(row, row + 1))[0]
        tables = self._rows.get(domain, {})
        return Change(
            dense,
            {table: Rows(read(f"{table}.ids", own), read(f"{table}.values", own)) for table, own in tables.items()},
        )

    def read_groups(self, domains: Sequence[int]) -> Iterator[dict[int, Change]]:
        """theta_i of some domains at a time, in the order of the files; consecutive ones are read at once.

        Args:
            domains: distinct, of those that the files hold.
        """
        ordered = sorted(domains, key=self._place.__getitem__)
        for first in range(0, len(ordered), READ_DOMAINS):
            part = ordered[first : first + READ_DOMAINS]
            number_G, row_G = np.array([self._place[domain] for domain in part]).T
            begins = np.flatnonzero((np.diff(row_G, prepend=-2) != 1) | (np.diff(number_G, prepend=-1) != 0))
            stretches = [
                self._files[number].get_slice("dense")[row : row + size].to(self._device)
                for number, row, size in zip(
                    number_G[begins].tolist(),
                    row_G[begins].tolist(),
                    np.diff([*begins, len(part)]).tolist(),
                    strict=True,
                )
            ]
            dense = chain.from_iterable(stretches)
            yield {
                domain: Change(dense_P, dict(self._rows.get(domain, {})))
                for domain, dense_P in zip(part, dense, strict=True)
            }

    def __iter__(self) -> Iterator[int]:
        """The domains."""
        return iter(self._place)

    def __len__(self) -> int:
        """Number of domains."""
        return len(self._place)
