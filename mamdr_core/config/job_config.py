"""The configuration of a job: defaults < YAML files < --set; every key is declared and documented.

`python -m mamdr_core.config` prints docs/config.md.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from mamdr_core.config.datasets import ConvertSettings, SyntheticSettings
from mamdr_core.config.engine import MetricsSettings
from mamdr_core.config.experiments import CompareSettings, ConflictSettings, ImportanceSettings, SweepSettings
from mamdr_core.config.features import Feature, problems_between_features
from mamdr_core.config.lake import (
    ExamplesSettings,
    ForgetSettings,
    InputSettings,
    LakeSettings,
    MaintainSettings,
    QualitySettings,
    StatsSettings,
)
from mamdr_core.config.models import ModelSettings
from mamdr_core.config.promotion import GateSettings, PromoteSettings
from mamdr_core.config.reports import ReportSettings
from mamdr_core.config.secrets import refuse_secrets, without_secrets
from mamdr_core.config.serving import ExportSettings, ScoreSettings
from mamdr_core.config.settings import settings
from mamdr_core.config.training import EvaluateSettings, TrackingSettings, TrainSettings
from mamdr_core.config.yaml_values import check_plain, one_line, parse_yaml, shorten
from mamdr_core.runtime.errors import MamdrError


@settings
class Config:
    """The configuration of all jobs; each job uses some of its sections."""

    lake: LakeSettings = field(default_factory=LakeSettings)
    """Location of the tables."""
    input: InputSettings = field(default_factory=InputSettings)
    """The raw log."""
    quality: QualitySettings = field(default_factory=QualitySettings)
    """Quality checks that a load must pass to be published (ingest_clicks)."""
    synthetic: SyntheticSettings | None = None
    """Synthetic logs (generate_logs); if declared, train_mamdr generates them for an empty lake."""
    convert: ConvertSettings = field(default_factory=ConvertSettings)
    """Public data sets of the paper (convert_amazon, convert_taobao)."""
    features: tuple[Feature, ...] = ()
    """Features beyond the ids of user, item and domain."""
    examples: ExamplesSettings = field(default_factory=ExamplesSettings)
    """Encoding of clicks as examples (build_examples)."""
    stats: StatsSettings = field(default_factory=StatsSettings)
    """Statistics (domain_stats)."""
    maintain: MaintainSettings = field(default_factory=MaintainSettings)
    """Compaction and removal of old files (maintain_lake)."""
    forget: ForgetSettings = field(default_factory=ForgetSettings)
    """Removal of users' rows (forget_users)."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """Model structure."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """Training."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    """MLflow and TensorBoard (train_mamdr, compare_methods, sweep)."""
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    """Evaluation (evaluate)."""
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    """Metrics of trained models (train_mamdr, evaluate, gate)."""
    gate: GateSettings = field(default_factory=GateSettings)
    """Promotion gate: limits that a run must meet to be promoted (gate)."""
    promote: PromoteSettings = field(default_factory=PromoteSettings)
    """Promotion of a run to serve (promote)."""
    score: ScoreSettings = field(default_factory=ScoreSettings)
    """Batch predictions (score)."""
    export: ExportSettings = field(default_factory=ExportSettings)
    """Export of a run as one portable file (export_model)."""
    compare: CompareSettings = field(default_factory=CompareSettings)
    """Comparison of methods and models (compare_methods)."""
    sweep: SweepSettings = field(default_factory=SweepSettings)
    """Grid or search over settings (sweep)."""
    conflict: ConflictSettings = field(default_factory=ConflictSettings)
    """Conflict between domains' gradients (conflict)."""
    importance: ImportanceSettings = field(default_factory=ImportanceSettings)
    """Contribution of each feature to the AUC (feature_importance)."""
    report: ReportSettings = field(default_factory=ReportSettings)
    """Report of a run (report)."""

    def __post_init__(self) -> None:
        groups = ["user", *(feature.name for feature in self.features if feature.kind == "categorical")]
        if self.metrics.group not in groups:
            raise ValueError(f"metrics.group is {self.metrics.group!r}, expected one of {', '.join(groups)}")
        for message in problems_between_features(self.features, self.examples.users.buckets):
            raise ValueError(message)


_ADAPTER = TypeAdapter(Config)


def load_config(paths: str | Sequence[str] | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read YAML files and apply overrides.

    Args:
        paths: one or several YAML files; a later one overrides an earlier one key by key, but lists as a whole; None:
            only the defaults.
        overrides: overrides of the form `a.b=value`, with the value in YAML.

    Raises:
        MamdrError: an unreadable file, an unknown key (the nearest known one is named) or a value of the wrong type.

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
            raise MamdrError(f"--set {one_line(override)[:80]}: expected a.b=value")
        _assign(values, key.strip(), parse_yaml(text, one_line(f"--set {key}")))
    return parse_config(values)


def parse_config(values: dict[str, Any]) -> Config:
    """Convert a tree of values to a Config.

    Raises:
        MamdrError: an unknown key, a value of the wrong type, or a URL with credentials; the message names the key.
    """
    check_plain(values, "config")
    _check_keys(Config, values, "")
    refuse_secrets(values)
    try:
        config = _ADAPTER.validate_python(values)
    except ValidationError as error:
        # A key of several types fails once for each; the intended type is the one that fails deepest.
        found = max(error.errors(), key=lambda each: len(each["loc"]))
        where = ".".join(str(part) for part in found["loc"]) or "config"
        message = found["msg"].removeprefix("Value error, ")
        hidden = found["type"] == "value_error" or "options" in found["loc"]  # options may be secret
        got = "" if hidden else f", got {shorten(found['input'])}"
        raise MamdrError(one_line(f"{where}: {message}{got}")) from None
    check_plain(plain_config(config), "config")  # a key may have converted text to a number
    return config


def with_values(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with some keys changed.

    Raises:
        MamdrError: an unknown key or a value of the wrong type.

    Example:
        >>> with_values(Config(), {"train.dr.k": 5}).train.dr.k
        5
    """
    values = plain_config(config)
    for key, value in changes.items():
        _assign(values, key, value)
    return parse_config(values)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML with masked secrets; `load_config` reads back all else unchanged."""
    return yaml.safe_dump(without_secrets(plain_config(config)), sort_keys=False, allow_unicode=True)


def plain_config(config: Config) -> dict[str, Any]:
    """The resolved configuration as a tree of plain values, which `parse_config` reads back."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise MamdrError(f"--config {path}: not a text file in UTF-8") from None
    except (OSError, ValueError) as error:
        raise MamdrError(f"--config {path}: cannot be read ({getattr(error, 'strerror', error)})") from None
    values = parse_yaml(text, f"--config {path}")
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


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise MamdrError(one_line(f"{key}: {parent} is a value, not a section"))
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
            raise MamdrError(one_line(f"unknown config key {prefix}{key}{hint}"))
        if section := section_of(types[key]):
            _check_keys(section, value, f"{prefix}{key}.")
        elif key == "features" and isinstance(value, list):
            for number, feature in enumerate(value):
                _check_keys(Feature, feature, f"features.{number}.")


def _known_keys(cls: type, prefix: str) -> Iterator[str]:
    for name, kind in get_type_hints(cls).items():
        yield f"{prefix}{name}"
        if section := section_of(kind):
            yield from _known_keys(section, f"{prefix}{name}.")


def section_of(kind: Any) -> type | None:
    """The settings class of a key, which may be optional; None: the key is not a section."""
    if get_origin(kind) in (tuple, dict):
        return None
    return next((part for part in (kind, *get_args(kind)) if isinstance(part, type) and is_dataclass(part)), None)
