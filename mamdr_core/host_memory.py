"""The memory of this machine, or of the container that this process runs in where that has less."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

UNLIMITED = 1 << 60
"""Bytes from which a container's limit is none: version 1 of control groups writes a number near 2^63."""


def total_memory(root: Path = Path("/")) -> int:
    """Bytes of the machine's memory, or of the container's limit if it is lower.

    Args:
        root: of the file system; others than / are for tests.
    """
    machine: int = psutil.virtual_memory().total
    return min([machine, *(limit for limit, _ in _limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping, on the machine and within the container's limit.

    Args:
        root: of the file system; others than / are for tests.
    """
    machine: int = psutil.virtual_memory().available
    return max(0, min([machine, *(limit - used for limit, used in _limits(root))]))


def ranks_here() -> int:
    """Number of ranks that share this machine, as their launcher reports it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """The limit of each control group around this process, and the bytes in use that the kernel cannot drop."""
    listed = root / "proc/self/cgroup"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            yield from _groups(root / "sys/fs/cgroup", path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _groups(root / "sys/fs/cgroup/memory", path, names)


def _groups(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[tuple[int, int]]:
    """Limits and bytes in use of a group and those around it; inside a container only the mount itself may be there."""
    limit, usage, cache = names
    inner = mount / path.lstrip("/")
    for group in (inner, *inner.parents):
        try:
            found = int((group / limit).read_text(encoding="utf-8"))
            used = int((group / usage).read_text(encoding="utf-8"))
            counted = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):  # no such group, or "max"
            found, used, counted = UNLIMITED, 0, {}
        if found < UNLIMITED:
            yield found, used - int(counted.get(cache, 0))
        if group == mount:
            return
