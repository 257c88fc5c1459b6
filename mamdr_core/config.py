"""The configuration of a run: defaults < YAML files < --set, every key known and documented.

`python -m mamdr_core.config` prints docs/config.md.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from mamdr_core.comparing.settings import CompareSettings, ConflictSettings, SweepSettings
from mamdr_core.datasets.settings import ConvertSettings, SyntheticSettings
from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.lake.settings import (
    ExamplesSettings,
    InputSettings,
    LakeSettings,
    MaintainSettings,
    QualitySettings,
    StatsSettings,
)
from mamdr_core.models.settings import ModelSettings
from mamdr_core.secrets import refuse_secrets, without_secrets
from mamdr_core.settings import settings
from mamdr_core.training.settings import EvaluateSettings, TrainSettings


@settings
class Config:
    """Everything that a job reads; each job uses its own sections."""

    lake: LakeSettings = field(default_factory=LakeSettings)
    """Where the tables lie."""
    input: InputSettings = field(default_factory=InputSettings)
    """The raw log."""
    quality: QualitySettings = field(default_factory=QualitySettings)
    """What a load must be like to be published (ingest_clicks)."""
    synthetic: SyntheticSettings | None = None
    """Synthetic logs (generate_logs); where this is declared, train_mamdr makes them for an empty lake."""
    convert: ConvertSettings = field(default_factory=ConvertSettings)
    """The paper's public sources (convert_amazon, convert_taobao)."""
    features: tuple[Feature, ...] = ()
    """Features beyond the ids of user, item and domain."""
    examples: ExamplesSettings = field(default_factory=ExamplesSettings)
    """From clicks to examples (build_examples)."""
    stats: StatsSettings = field(default_factory=StatsSettings)
    """Statistics (domain_stats)."""
    maintain: MaintainSettings = field(default_factory=MaintainSettings)
    """Compaction and removal of old files (maintain_lake)."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """Model structure."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """Training."""
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    """Evaluation (evaluate)."""
    compare: CompareSettings = field(default_factory=CompareSettings)
    """Comparison of methods and models (compare_methods)."""
    sweep: SweepSettings = field(default_factory=SweepSettings)
    """Settings tried on a grid or searched (sweep)."""
    conflict: ConflictSettings = field(default_factory=ConflictSettings)
    """Conflict between domains' gradients (conflict)."""


_ADAPTER = TypeAdapter(Config)


def load_config(paths: str | Sequence[str] | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read YAML files and apply overrides.

    Args:
        paths: YAML file, or several: a later one overrides an earlier one key by key, lists whole; None for the
            defaults alone.
        overrides: `a.b=value` each, the value in YAML.

    Raises:
        MamdrError: an unreadable file, an unknown key (the nearest known one is named) or a value of the wrong kind.

    Example:
        >>> load_config(overrides=["train.dr.k=5"]).train.dr.k
        5
    """
    values: dict[str, Any] = {}
    for path in [paths] if isinstance(paths, str) else paths or ():
        values = _merge(values, _read_yaml(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise MamdrError(f"--set {override}: expected a.b=value")
        _assign(values, key.strip(), _parse_yaml(text, f"--set {key}"))
    return parse_config(values)


def parse_config(values: dict[str, Any]) -> Config:
    """Check a tree of values and make it a Config.

    Raises:
        MamdrError: an unknown key, a value of the wrong kind, or a URL with credentials, with its path.
    """
    _check_keys(Config, values, "")
    refuse_secrets(values)
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        # A key of several kinds fails once for each; the kind that was meant is the one that fails deepest.
        found = max(error.errors(), key=lambda each: len(each["loc"]))
        where = ".".join(str(part) for part in found["loc"]) or "config"
        raise MamdrError(f"{where}: {found['msg'].removeprefix('Value error, ')}") from None


def with_values(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with some keys changed.

    Raises:
        MamdrError: an unknown key or a value of the wrong kind.

    Example:
        >>> with_values(Config(), {"train.dr.k": 5}).train.dr.k
        5
    """
    values = plain_config(config)
    for key, value in changes.items():
        _assign(values, key, value)
    return parse_config(values)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML, secrets hidden; `load_config` reads it back, equal but for them."""
    return yaml.safe_dump(without_secrets(plain_config(config)), sort_keys=False, allow_unicode=True)


def plain_config(config: Config) -> dict[str, Any]:
    """The resolved configuration as a tree of what JSON and YAML know; `parse_config` makes it a Config again."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise MamdrError(f"--config {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise MamdrError(f"--config {path}: not a text file in UTF-8") from None
    values = _parse_yaml(text, f"--config {path}")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise MamdrError(f"--config {path}: expected keys and values, got {type(values).__name__}")
    return values


def _merge(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in over.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own text would show the line, which may hold a password.
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise MamdrError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or 'unreadable'}{line})") from None


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise MamdrError(f"{key}: {parent} holds a value, not a section")
    values[leaf] = value


def _check_keys(cls: type, values: object, prefix: str) -> None:
    if not isinstance(values, dict):
        return
    types = get_type_hints(cls)
    for key, value in values.items():
        if key not in types:
            known = list(_known_keys(Config, ""))
            near = difflib.get_close_matches(f"{prefix}{key}", known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(types)}"
            raise MamdrError(f"unknown config key {prefix}{key}{hint}")
        if section := _section(types[key]):
            _check_keys(section, value, f"{prefix}{key}.")
        elif key == "features" and isinstance(value, list):
            for number, feature in enumerate(value):
                _check_keys(Feature, feature, f"features.{number}.")


def _known_keys(cls: type, prefix: str) -> Iterator[str]:
    for name, kind in get_type_hints(cls).items():
        yield f"{prefix}{name}"
        if section := _section(kind):
            yield from _known_keys(section, f"{prefix}{name}.")


def _section(kind: Any) -> type | None:
    """The settings class of a key that is a section, declared or optional."""
    if get_origin(kind) in (tuple, dict):
        return None
    return next((part for part in (kind, *get_args(kind)) if isinstance(part, type) and is_dataclass(part)), None)


def _markdown_rows(cls: Any, prefix: str) -> Iterator[str]:
    described = TypeAdapter(cls).json_schema()["properties"]
    types = get_type_hints(cls)
    for item in fields(cls):
        kind = types[item.name]
        if section := _section(kind):
            yield from _markdown_rows(section, f"{prefix}{item.name}.")
            continue
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        shown = "required" if default is MISSING else f"`{_plain(default)}`"
        text = " ".join(described[item.name].get("description", "").split()).replace("|", "\\|")
        yield f"| `{prefix}{item.name}` | {shown} | {text} |"
        if item.name == "features":
            yield from _markdown_rows(Feature, "features[].")


def _plain(value: Any) -> str:
    return yaml.safe_dump(_ADAPTER_ANY.dump_python(value, mode="json"), default_flow_style=True).split("\n")[0]


_ADAPTER_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def config_reference() -> str:
    """docs/config.md: every key with its default and meaning."""
    head = (
        "# Config keys\n\nMade by `python -m mamdr_core.config` from the code; a test keeps it so.\n"
        "Precedence: defaults < `--config FILE` < `--set a.b=value`; of several `--config`, a later one overrides an "
        "earlier one.\n\n| key | default | meaning |\n|---|---|---|\n"
    )
    return head + "\n".join(_markdown_rows(Config, "")) + "\n"


if __name__ == "__main__":
    print(config_reference(), end="")
