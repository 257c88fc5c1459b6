"""Damage to folders of saved files, drawn by hypothesis."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mamdr_core.training.files.manifest import MANIFEST, hash_files, write_manifest

odd = st.sampled_from(
    [None, True, -1, 0, 2**70, 0.5, float("nan"), "", "x", "../../etc/passwd", "/etc/passwd", "a\nb", "\ud800", [], {}]
) | st.recursive(st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2), max_leaves=4)
TYPES = [torch.float64, torch.int64, torch.uint8, torch.bool]
NAMES = ["..", "../outside", "/etc/hostname", "", ".", "a/b", "x" * 300, "a\nb", "\ud800", "best-x.safetensors", "now-"]


def damage(data: Any, folder: Path) -> str:
    """Damage a folder with a manifest in one drawn way; returns what was done."""
    kinds = [_flip, _truncate, _remove, _edit_manifest, _rename_in_manifest, _edit_json, _edit_tensors, _edit_header]
    kind = data.draw(st.sampled_from(kinds), label="kind")
    kind(data, folder)
    return str(kind.__name__)


def _file(data: Any, folder: Path, ending: str = "") -> Path:
    return data.draw(st.sampled_from(sorted(file for file in folder.iterdir() if file.name.endswith(ending))))


def _flip(data: Any, folder: Path) -> None:
    file = _file(data, folder)
    content = bytearray(file.read_bytes() or b"\0")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))


def _truncate(data: Any, folder: Path) -> None:
    file = _file(data, folder)
    content = file.read_bytes()
    file.write_bytes(content[: data.draw(st.integers(0, max(0, len(content) - 1)))])


def _remove(data: Any, folder: Path) -> None:
    file = _file(data, folder)
    file.unlink()
    if data.draw(st.booleans(), label="a folder in its place"):
        file.mkdir()


def _edit_manifest(data: Any, folder: Path) -> None:
    _replace_node(data, folder / MANIFEST)


def _rename_in_manifest(data: Any, folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    files = manifest["files"]
    name = data.draw(st.sampled_from(sorted(files)))
    facts = files.pop(name)
    outside = folder.parent / "outside"
    outside.write_bytes(b"secret")
    files[data.draw(st.sampled_from(NAMES) | st.text(max_size=5))] = data.draw(
        st.sampled_from([facts, {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}])
    )
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _edit_json(data: Any, folder: Path) -> None:
    """A JSON or YAML file of another content, under a manifest that agrees with it."""
    names = [file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".yaml") and file.name != MANIFEST]
    file = data.draw(st.sampled_from(names))
    if file.suffix == ".json" and data.draw(st.booleans(), label="node"):
        _replace_node(data, file)
    else:
        file.write_bytes(data.draw(st.binary(max_size=20) | st.sampled_from([b"[" * 100_000, b"[]", b"null", b"{}"])))
    _rewrite_manifest(folder)


def _edit_tensors(data: Any, folder: Path) -> None:
    """A tensor that is missing, or of another shape or type, under a manifest that agrees with it."""
    file = _file(data, folder, ".safetensors")
    tensors = load_file(file)
    if not tensors:
        return
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors.pop(name)
    changes = {
        "missing": lambda: None,
        "flat": lambda: tensor.flatten(),
        "shorter": lambda: torch.atleast_1d(tensor)[:-1].clone(),
        "deeper": lambda: tensor[None],
        "bytes": lambda: tensor.to(dtype=data.draw(st.sampled_from(TYPES))),
        "renamed": lambda: None,
    }
    change = data.draw(st.sampled_from(sorted(changes)))
    changed = changes[change]()
    if changed is not None:
        tensors[name] = changed.contiguous()
    if change == "renamed":
        others = st.text(max_size=5) | st.sampled_from(
            ["x.domain", "x.values", "a.owner", "theta_S.x", "early_stop.best"]
        )
        tensors[data.draw(others)] = tensor
    save_file(tensors, file)
    _rewrite_manifest(folder)


def _edit_header(data: Any, folder: Path) -> None:
    """A byte of a safetensors file's header, under a manifest that agrees with it."""
    file = _file(data, folder, ".safetensors")
    content = bytearray(file.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    content[data.draw(st.integers(0, length - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))
    _rewrite_manifest(folder)


def _replace_node(data: Any, file: Path) -> None:
    tree = json.loads(file.read_text())
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            visit(inner)

    visit(tree)
    holder, key = data.draw(st.sampled_from(places))
    if data.draw(st.booleans(), label="remove"):
        del holder[key]
    else:
        holder[key] = data.draw(odd)
    file.write_text(json.dumps(tree))


def _rewrite_manifest(folder: Path) -> None:
    write_manifest(folder, hash_files(folder, [file.name for file in folder.iterdir() if file.name != MANIFEST]))
