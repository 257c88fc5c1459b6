"""Manifests: sizes and hashes of the files of a folder, written last, without which the folder is not valid."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mamdr_core.config.yaml_values import one_line
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.heartbeat import beat

MANIFEST = "manifest.json"

FileHashes = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256 by file name."""


def write_texts(folder: Path, texts: Mapping[str, str]) -> FileHashes:
    """Write small text files; returns their hashes."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return hash_files(folder, texts)


def hash_files(folder: Path, names: Iterable[str]) -> FileHashes:
    """Flush files of a folder to disk and compute their sizes and hashes."""
    facts = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
            facts[name] = (os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest())
        beat()
    return facts


def write_manifest(folder: Path, facts: FileHashes) -> None:
    """Write the manifest, which makes the folder valid; files that it does not list do not belong to it."""
    listed = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(facts.items())}
    aside = folder / f".{MANIFEST}"
    aside.write_text(json.dumps({"format": 1, "files": listed}, indent=1), encoding="utf-8")
    hash_files(folder, [aside.name])
    aside.rename(folder / MANIFEST)
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Flush the list of a folder's files to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        MamdrError: it does not.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MamdrError(f"{file} cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise MamdrError(f"{file} is damaged: it does not contain a JSON object")
    return found


def check_integrity(folder: Path, kind: str, only: str | tuple[str, ...] = "") -> list[str]:
    """Check the files of a folder against its manifest; returns their names.

    Args:
        kind: what the folder is, for error messages.
        only: prefix, or prefixes, of the files to check and return.

    Raises:
        MamdrError: there is no manifest, it names something outside the folder, or a file is missing or damaged; the
            message names it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {name: (facts["bytes"], facts["sha256"]) for name, facts in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MamdrError(f"{folder} is not a {kind}: its {MANIFEST} cannot be read ({one_line(error)})") from None
    for name, expected in listed.items():
        if not re.fullmatch(r"\w[\w.-]{0,200}", name, re.ASCII):
            raise MamdrError(one_line(f"{kind} {folder}: {MANIFEST} names {name!r}, which is not a file of the folder"))
        if name.startswith(only):
            _check_file(folder, name, expected, kind)
    return sorted(name for name in listed if name.startswith(only))


def _check_file(folder: Path, name: str, expected: tuple[int, str], kind: str) -> None:
    file = folder / name
    try:
        if file.is_symlink() or not file.is_file():
            raise MamdrError(f"{kind} {folder}: file {name} is missing")
        intact = file.stat().st_size == expected[0] and hash_files(folder, [name])[name] == expected
    except OSError as error:
        raise MamdrError(f"{kind} {folder}: file {name} cannot be read ({error.strerror})") from None
    if not intact:
        raise MamdrError(f"{kind} {folder}: file {name} is damaged (its hash differs from the manifest)")
