"""Memory of this machine, or of the container of this process if its limit is lower."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

UNLIMITED = 1 << 60
"""A container with a limit of at least this many bytes is unlimited: cgroup v1 reports a number near 2^63."""


def total_memory(root: Path = Path("/")) -> int:
    """Total memory of the machine, or the limit of the container if it is lower, in bytes.

    Args:
        root: of the file system; others than / are for tests.
    """
    machine: int = psutil.virtual_memory().total
    return min([machine, *(limit for limit, _ in _limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """Memory in bytes that can be allocated without swapping, on the machine and within the limit of the container.

    Args:
        root: of the file system; others than / are for tests.
    """
    machine: int = psutil.virtual_memory().available
    return max(0, min([machine, *(limit - used for limit, used in _limits(root))]))


def ranks_here() -> int:
    """Number of ranks that share this machine, as their launcher reports it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit of each control group of this process, and the bytes in use that the kernel cannot reclaim."""
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
    """Limits and bytes in use of a group and its parents; inside a container only the mount itself may exist."""
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
