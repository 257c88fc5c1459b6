"""Generates docs/config.md from the docstrings of settings."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config, section_of
from mamdr_core.models.structures import MODELS

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def config_reference() -> str:
    """Content of docs/config.md: every key with its default and meaning."""
    head = (
        "# Config keys\n\nGenerated from the code by `python -m mamdr_core.config`; a test compares them.\n"
        "Precedence: defaults < `--config FILE` < `--set a.b=value`; of several `--config`, a later one overrides an "
        "earlier one.\n\n| key | default | meaning |\n|---|---|---|\n"
    )
    return head + "\n".join(_markdown_rows(Config, "")) + "\n"


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
