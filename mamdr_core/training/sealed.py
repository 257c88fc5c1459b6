"""Folders of files under a manifest of sizes and hashes, which is written last: complete and intact, or not valid."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mamdr_core.errors import MamdrError
from mamdr_core.heartbeat import beat
from mamdr_core.yaml_values import one_line

MANIFEST = "manifest.json"

Facts = dict[str, tuple[int, str]]
"""By name of a file, its bytes and SHA-256."""


def write_texts(folder: Path, texts: Mapping[str, str]) -> Facts:
    """Write small text files; returns their facts."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return facts_of(folder, texts)


def facts_of(folder: Path, names: Iterable[str]) -> Facts:
    """Flush some files of a folder to disk, and measure them."""
    facts = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
            facts[name] = (os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest())
        beat()
    return facts


def seal(folder: Path, facts: Facts) -> None:
    """Write the manifest, by which the folder becomes valid; files that it does not name are no part of it."""
    listed = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(facts.items())}
    aside = folder / f".{MANIFEST}"
    aside.write_text(json.dumps({"format": 1, "files": listed}, indent=1), encoding="utf-8")
    facts_of(folder, [aside.name])
    aside.rename(folder / MANIFEST)
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Have the disk know which files a folder holds."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def check(folder: Path, kind: str, only: str | tuple[str, ...] = "") -> list[str]:
    """The names of a folder's files, each found to be as its manifest says.

    Args:
        folder: to check.
        kind: what it should be, for the error.
        only: how the names of those begin that matter; one or several beginnings.

    Raises:
        MamdrError: it has no manifest, or one that names something outside the folder, or a file is missing or damaged
            (it is named).
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {name: (facts["bytes"], facts["sha256"]) for name, facts in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MamdrError(f"{folder} is not a {kind}: its {MANIFEST} cannot be read ({one_line(error)})") from None
    for name, expected in listed.items():
        if not re.fullmatch(r"\w[\w.-]{0,200}", name, re.ASCII):
            raise MamdrError(one_line(f"{kind} {folder}: its {MANIFEST} names {name!r}, which is no file of it"))
        if name.startswith(only):
            _check_file(folder, name, expected, kind)
    return sorted(name for name in listed if name.startswith(only))


def _check_file(folder: Path, name: str, expected: tuple[int, str], kind: str) -> None:
    file = folder / name
    try:
        if file.is_symlink() or not file.is_file():
            raise MamdrError(f"{kind} {folder}: file {name} is missing")
        intact = file.stat().st_size == expected[0] and facts_of(folder, [name])[name] == expected
    except OSError as error:
        raise MamdrError(f"{kind} {folder}: file {name} cannot be read ({error.strerror})") from None
    if not intact:
        raise MamdrError(f"{kind} {folder}: file {name} is damaged (its hash is not the manifest's)")
