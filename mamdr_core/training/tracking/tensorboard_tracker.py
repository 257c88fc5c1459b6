"""Reports runs to TensorBoard: curves, figures, the distribution of AUC over domains, and the config."""

import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from mamdr_core.training.tracking.tracking import EndedRun


def write_events(folder: Path, ended: EndedRun) -> None:
    """Write the event file of a run to `<folder>/<run_id>`, replacing an earlier one."""
    own = folder / str(ended.row["run_id"])
    shutil.rmtree(own, ignore_errors=True)
    last = int(ended.figures.get("rounds", 0))
    with SummaryWriter(str(own)) as writer:
        for name, number, value in ended.points:
            writer.add_scalar(name, value, number)
        for name, value in ended.scalars.items():
            writer.add_scalar(name if "/" in name else f"figures/{name}", float(value), last)
        for split in ended.metrics:
            if len(aucs := ended.aucs(split)):
                writer.add_histogram(f"{split}/domain_auc", aucs, last)
        versions = "".join(f"- {table}: version {version}\n" for table, version in ended.row["input_versions"].items())
        writer.add_text("inputs", versions)
        writer.add_text("parameters", _table(ended.parameters))
        if ended.row.get("error"):
            writer.add_text("error", str(ended.row["error"]))


def _table(parameters: dict[str, str]) -> str:
    rows = "".join(f"| {name} | {value} |\n" for name, value in parameters.items())
    return f"| key | value |\n|---|---|\n{rows}"
