"""Generates docs/config.md from the docstrings of settings."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config, section_of
from mamdr_core.models.structures import MODELS

MAIN_KEYS = (
    "lake.root",
    "input.path",
    "input.format",
    "input.columns.user",
    "input.columns.item",
    "input.columns.domain",
    "input.columns.label",
    "input.columns.event_time",
    "features",
    "examples.split.kind",
    "examples.negatives.kind",
    "examples.until",
    "examples.days",
    "model.name",
    "model.embedding_dim",
    "model.hidden",
    "train.method",
    "train.ranks",
    "train.epochs",
    "train.warm_start",
)
"""Keys that a first configuration sets; the reference lists them first."""

HEAD = """# Config keys

Generated from the code by `python -m mamdr_core.config`; a test compares them.
Precedence: defaults < `--config FILE` < `--set a.b=value`; of several `--config`, a later one overrides an earlier one.

Start with these keys. All others are [advanced](#all-keys): their defaults suit most logs.
"""

_TABLE = "\n| key | default | meaning |\n|---|---|---|\n"
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def config_reference() -> str:
    """Content of docs/config.md: every key with its default and meaning, the main ones first."""
    rows = list(_markdown_rows(Config, ""))
    by_key = {row.split("`")[1]: row for row in rows}
    main = "\n".join(by_key[key] for key in MAIN_KEYS)
    return f"{HEAD}{_TABLE}{main}\n\n## All keys\n{_TABLE}" + "\n".join(rows) + "\n"


def _markdown_rows(cls: Any, prefix: str) -> Iterator[str]:
    described = TypeAdapter(cls).json_schema()["properties"]
    types = get_type_hints(cls)
    for item in fields(cls):
        kind = types[item.name]
        if section := section_of(kind):
            yield from _markdown_rows(section, f"{prefix}{item.name}.")
            continue
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        shown = "required" if default is MISSING else f"`{_plain(default)}`"
        text = " ".join(described[item.name].get("description", "").split()).replace("|", "\\|")
        yield f"| `{prefix}{item.name}` | {shown} | {text} |"
        if f"{prefix}{item.name}" == "features":
            yield from _markdown_rows(Feature, "features[].")
        if f"{prefix}{item.name}" == "model.options":
            for name, structure in MODELS.items():
                if declared := getattr(structure, "Options", None):
                    yield from _markdown_rows(declared, f"model.options[{name}].")


def _plain(value: Any) -> str:
    return yaml.safe_dump(_ANYTHING.dump_python(value, mode="json"), default_flow_style=True).split("\n")[0]


if __name__ == "__main__":
    print(config_reference(), end="")
