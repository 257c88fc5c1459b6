"""The memory of the machine, or of a container with a lower limit."""

import psutil
import pytest

from mamdr_core.runtime.host_memory import available_memory, ranks_here, total_memory

MB = 1 << 20
V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def in_container(root, version, limits, group):
    """A file system in which this process is in `group`, with limits in MB by group, a quarter used, 1 MB of cache."""
    mount, limit, usage, cache = version
    listed = root / "proc/self/cgroup"
    listed.parent.mkdir(parents=True)
    listed.write_text(f"0::{group}\n" if version is V2 else f"5:cpu:/\n4:memory:{group}\n")
    for name, size in limits.items():
        folder = root / mount / name.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text("max\n" if size is None else f"{size * MB}\n")
        (folder / usage).write_text(f"{(size or 0) * MB // 4}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{cache} {MB}\n")
    return root


@pytest.mark.parametrize("version", [V2, V1])
@pytest.mark.parametrize(
    ("limits", "group", "lowest"),
    [
        ({"/": 40}, "/", 40),
        ({"/": 40}, "/not/seen/from/inside", 40),
        ({"/": 40, "/pod": 20, "/pod/rank": 30}, "/pod/rank", 20),  # a group around it has the lowest limit
    ],
)
def test_the_lowest_limit_of_a_container_counts_and_its_cache_is_available(tmp_path, version, limits, group, lowest):
    root = in_container(tmp_path, version, limits, group)
    assert total_memory(root) == lowest * MB
    assert available_memory(root) == lowest * 3 // 4 * MB + MB


@pytest.mark.parametrize("limits", [{"/": None}, {"/": 1 << 43}, {}])
def test_without_a_limit_the_machine_counts(tmp_path, limits):
    root = in_container(tmp_path, V1 if None not in limits.values() else V2, limits, "/")
    assert total_memory(root) == psutil.virtual_memory().total
    assert available_memory(root) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_without_control_groups_the_machine_counts(tmp_path):
    assert total_memory(tmp_path) == psutil.virtual_memory().total


def test_the_launcher_reports_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert ranks_here() == 3
