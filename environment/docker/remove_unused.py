"""Uninstall what no job needs from .venv: linters, tests' packages, the documentation's site, build tools.

The packages that jobs need are those of setup.cfg's extras in `EXTRAS`, and what these require in turn.

    .venv/bin/python environment/docker/remove_unused.py
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement

PROJECT = "mamdr"
EXTRAS = ("spark", "horovod", "compare", "export", "report", "tracking")


def normalize(name: str) -> str:
    """A distribution's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements_of(name: str, extras: frozenset[str]) -> list[Requirement]:
    """What a distribution requires on this machine, with some of its extras; nothing if it is not installed."""
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [
        each
        for each in found
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def needed(project: str, extras: frozenset[str]) -> set[str]:
    """Normalized names of a project, with some of its extras, and all that it requires."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(normalize(project), extras)]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += [(normalize(each.name), frozenset(each.extras)) for each in requirements_of(*one)]
    return {name for name, _ in seen}


def main() -> None:
    keep = needed(PROJECT, frozenset(EXTRAS))
    unused = sorted({normalize(each.name) for each in distributions()} - keep)
    subprocess.run(
        [f"{sys.prefix}/bin/uv", "--quiet", "pip", "uninstall", "--python", sys.executable, *unused], check=True
    )
    print(f"removed {len(unused)} packages that no job needs: {', '.join(unused)}")


if __name__ == "__main__":
    main()
