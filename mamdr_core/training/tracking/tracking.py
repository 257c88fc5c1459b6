"""Reports a run to MLflow and TensorBoard after it has ended; errors of these trackers do not fail the run."""

import importlib.util
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mamdr_core.config.differences import flat_keys
from mamdr_core.config.job_config import Config, plain_config
from mamdr_core.config.training import TrackingSettings
from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.curve import Validation

logger = logging.getLogger(__name__)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Reported quantiles of AUC over domains."""
_SECTIONS = ("features", "examples", "model", "train")
"""Sections of the config that are reported as parameters; others contain paths, and options with credentials."""
_BOUNDS = {
    # By default MLflow retries for minutes, reports its use over the network, and prints addresses to stdout.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Defaults of environment variables of MLflow's client."""


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended.

    Attributes:
        row: its row in training_runs.
        domain_ids: id of each domain.
        figures: its figures; empty if it failed.
        curve: its validations in order.
    """

    row: Mapping[str, Any]
    config: Config
    domain_ids: Sequence[str]
    figures: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, DomainMetrics] = field(default_factory=dict)
    curve: Sequence[Validation] = ()

    @property
    def parameters(self) -> dict[str, str]:
        """Config keys of the run with their values as JSON."""
        plain = plain_config(self.config)
        flat = flat_keys({name: plain[name] for name in _SECTIONS})
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in flat}

    @property
    def scalars(self) -> dict[str, float]:
        """Numeric figures, seconds by phase, NDCG and hit rate by cutoff, and quantiles of AUC by split."""
        numbers = {name: value for name, value in self.figures.items() if isinstance(value, int | float)}
        phases = {f"seconds/{phase}": value for phase, value in self.figures.get("seconds", {}).items()}
        by_cutoff = {
            f"{name}_at_{k}": value
            for name in ("test_ndcg", "test_hit_rate")
            for k, value in (self.figures.get(name) or {}).items()
            if value is not None
        }
        return numbers | phases | by_cutoff | self._quantiles()

    @property
    def points(self) -> list[tuple[str, int, float]]:
        """Points of the curve: name, round or pass, and value."""
        named = [
            (f"{point.phase}/{name}", point.round, value)
            for point in self.curve
            for name, value in (("val_auc", point.val_auc), ("weighted_val_auc", point.weighted_val_auc))
        ]
        return [(name, number, value) for name, number, value in named if value is not None]

    def aucs(self, split: str) -> torch.Tensor:
        """AUC of the domains for which it is defined, float64."""
        auc = self.metrics[split].auc
        return auc[~auc.isnan()]

    def _quantiles(self) -> dict[str, float]:
        known = {split: self.aucs(split) for split in self.metrics}
        return {
            f"{split}/auc_p{round(100 * quantile):02d}": float(aucs.quantile(quantile))
            for split, aucs in known.items()
            if len(aucs)
            for quantile in QUANTILES
        }


def check_trackers(settings: TrackingSettings) -> None:
    """Check before a run that the packages of the configured trackers are installed.

    Raises:
        MamdrError: a package is not installed.
    """
    for package in ("mlflow", "tensorboard"):  # named after their keys
        if getattr(settings, package) and importlib.util.find_spec(package) is None:
            raise MamdrError(
                f"tracking.{package} is set, but {package} is not installed: "
                "pip install 'mamdr[tracking]', or leave the key empty"
            )


def track_run(ended: EndedRun) -> None:
    """Report a run to the configured trackers in bounded time; errors are logged as warnings."""
    settings = ended.config.tracking
    if settings.mlflow:
        _attempt(settings, f"MLflow at {settings.mlflow}", lambda: _mlflow(settings).log(ended))
    if settings.tensorboard:
        _attempt(settings, f"TensorBoard in {settings.tensorboard}", lambda: _write_events(settings.tensorboard, ended))


def attach(settings: TrackingSettings, run_id: str, name: str, text: str) -> None:
    """Add a file, such as a report, to a run in MLflow; errors are logged as warnings."""
    if settings.mlflow:
        _attempt(settings, f"MLflow at {settings.mlflow}", lambda: _mlflow(settings).attach(run_id, name, text))


def _mlflow(settings: TrackingSettings) -> Any:
    for name, value in _BOUNDS.items():
        os.environ.setdefault(name, value)
    # An optional dependency, which takes seconds to import.
    from mamdr_core.training.tracking.mlflow_tracker import MlflowExperiment

    return MlflowExperiment(settings)


def _write_events(folder: str, ended: EndedRun) -> None:
    from mamdr_core.training.tracking.tensorboard_tracker import write_events  # likewise

    write_events(Path(folder), ended)


def _attempt(settings: TrackingSettings, where: str, action: Callable[[], None]) -> None:
    """Run the action in a thread that is abandoned after a limit: timeouts of clients do not bound all calls."""
    problems: list[str] = []

    def run() -> None:
        try:
            action()
        except Exception as error:
            problems.append(" ".join(str(error).split())[:300] or type(error).__name__)

    thread = threading.Thread(target=run, name="tracking", daemon=True)
    thread.start()
    thread.join(settings.seconds)
    if thread.is_alive():
        problems.append(f"not finished after {settings.seconds:g} s (tracking.seconds)")
    if problems:
        logger.warning("could not report to %s, which does not affect the run: %s", where, problems[0])
