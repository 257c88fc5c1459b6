"""Reports runs to MLflow: parameters, figures, curves, tags and files."""

import csv
import io
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from mamdr_core.config.training import TrackingSettings
from mamdr_core.training.tracking.tracking import EndedRun

STATUSES = {"ok": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
LONGEST = 5000
"""Maximum number of characters of a parameter or tag in MLflow."""
_SQLITE = "sqlite:///"


class MlflowExperiment:
    """An MLflow experiment, created if it does not exist.

    Raises:
        mlflow.exceptions.MlflowException: MLflow cannot be reached.
    """

    def __init__(self, settings: TrackingSettings) -> None:
        # Otherwise a new store logs every migration, and an unreachable server every retry.
        for name, level in {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3": logging.ERROR}.items():
            logging.getLogger(name).setLevel(level)
        self.client = MlflowClient(tracking_uri=settings.mlflow)
        found = self.client.get_experiment_by_name(settings.experiment)
        self.experiment: str = (
            found.experiment_id
            if found
            else self.client.create_experiment(settings.experiment, artifact_location=_artifacts(settings.mlflow))
        )

    def log(self, ended: EndedRun) -> None:
        """Record a run, replacing an earlier record."""
        row, client = ended.row, self.client
        if known := self._find(row["run_id"]):  # a run that was stopped and resumed
            client.delete_run(known)
        created = client.create_run(
            self.experiment, _milliseconds(row["started_at"]), self._tags(ended), run_name=row["run_id"]
        )
        run_id, now = created.info.run_id, _milliseconds(row["finished_at"])
        parameters = [Param(name, value[:LONGEST]) for name, value in ended.parameters.items()]
        metrics = [Metric(name, float(value), now, 0) for name, value in ended.scalars.items()]
        metrics += [Metric(name, value, now, number) for name, number, value in ended.points]
        for first in range(0, len(parameters), 100):  # MLflow's limits for one call
            client.log_batch(run_id, params=parameters[first : first + 100])
        for first in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics=metrics[first : first + 1000])
        if ended.figures:
            client.log_dict(run_id, dict(ended.figures), "metrics.json")
            client.log_text(run_id, _domains(ended), "domains.csv")
        client.log_text(run_id, row["config"], "config.yaml")
        client.set_terminated(run_id, STATUSES[row["status"]], now)

    def attach(self, run_id: str, name: str, text: str) -> None:
        """Add a file to a run.

        Raises:
            LookupError: MLflow has no such run.
        """
        known = self._find(run_id)
        if known is None:
            raise LookupError(f"it has no run {run_id}, so {name} was not added")
        self.client.log_text(known, text, name)

    def _find(self, run_id: str) -> str | None:
        return self._first(f"tags.`mamdr.run_id` = '{run_id}'")

    def _first(self, condition: str) -> str | None:
        runs = self.client.search_runs([self.experiment], condition, max_results=1)
        return runs[0].info.run_id if runs else None

    def _tags(self, ended: EndedRun) -> dict[str, str]:
        row = ended.row
        tags = {f"mamdr.{name}": row.get(name) for name in ("run_id", "parent_run_id", "experiment", "cell", "error")}
        tags |= {"mamdr.lake": ended.config.lake.root, "mamdr.code_version": row.get("code_version")}
        tags |= {"mamdr.ds": row.get("ds"), "mamdr.package": ended.figures.get("package")}
        tags |= {f"delta.{table}": version for table, version in row["input_versions"].items()}
        if row.get("experiment"):
            tags["mlflow.parentRunId"] = self._parent(row["experiment"])
        return {name: str(value)[:LONGEST] for name, value in tags.items() if value is not None}

    def _parent(self, experiment: str) -> str:
        """The MLflow run under which the runs of a comparison or sweep are shown."""
        name = experiment.replace("'", "")
        if known := self._first(f"tags.`mamdr.parent_of` = '{name}'"):
            return known
        created: str = self.client.create_run(self.experiment, run_name=name).info.run_id
        self.client.set_tag(created, "mamdr.parent_of", name)
        self.client.set_terminated(created)
        return created


def _artifacts(uri: str) -> str | None:
    """Folder of the files of a local store, next to it; MLflow would use the working folder of the job."""
    if not uri.startswith(_SQLITE):
        return None
    return str(Path(uri.removeprefix(_SQLITE)).absolute().parent / "mlflow-artifacts")


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _domains(ended: EndedRun) -> str:
    """CSV with one row per split and domain that has rows."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("split", "domain", "rows", "clicks", "auc", "logloss", "mean_prediction"))
    for split, measured in ended.metrics.items():
        for domain in measured.rows.nonzero().flatten().tolist():
            counts: list[Any] = [int(measured.rows[domain]), int(measured.clicks[domain])]
            figures = (measured.auc[domain], measured.logloss[domain], measured.mean_prediction[domain])
            writer.writerow((split, ended.domain_ids[domain], *counts, *map(float, figures)))
    return text.getvalue()
