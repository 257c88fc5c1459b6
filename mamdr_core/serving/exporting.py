"""The job export_model: a run as one portable file, for torch and for ONNX."""

import json
import logging
import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from torch import Tensor

from mamdr_core.config.job_config import Config
from mamdr_core.config.yaml_values import one_line
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.lake.core.tables import Lake
from mamdr_core.models.structures import declare_inputs
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.serving.files import ROWS, compare, measure_latency, signature_of, write_files
from mamdr_core.serving.network import ServedNetwork, domain_tables
from mamdr_core.serving.opening import find_served, read_vectors
from mamdr_core.serving.scorer import Scorer
from mamdr_core.serving.served import Served
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.package import load_shared

logger = logging.getLogger(__name__)

CHECKED_DOMAINS = 8
SIGNATURE = "signature.json"
TOLERANCE = 1e-5
"""Largest accepted difference between the probabilities of a file and of the run."""


def export_model(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Write a run as files that need neither this code nor a lake, and verify their predictions.

    Returns:
        run_id, folder, files (name to bytes), domains (with parameters in the file), gb (of parameters), rows (of a
        request), latency_ms (by file: median and p99 of a request, one thread), largest_difference (by file, between
        its probabilities and the run's).

    Raises:
        MamdrError: the run or its package does not exist, the folder holds other files, the parameters exceed
            `export.max_gb`, a named domain has no theta_i, or theta_i holds rows of users or items.
    """
    lake = Lake(spark, config.lake)
    served = find_served(lake, config.export.run_id)
    vectors = read_vectors(lake, served, config.train)
    specific = _select_specific(lake, served, config.export.domains)
    with fetched(as_path(served.folder), "model package", only="shared") as package:
        shared = load_shared(package)
    mixed = served.mixed(served.engine(vectors))
    gb = _check_size(served, shared, specific, vectors, mixed.nbytes if mixed else 0, config.export.max_gb)
    folder = _check_folder(lake, config, served.run_id)
    network = ServedNetwork(served, shared, specific, vectors, mixed, served.calibration()).eval()
    staging = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        called = write_files(network, served, staging, config.export.onnx)
        scorer = Scorer(served, vectors, specific)
        domains = [-1, *islice(sorted(scorer.domains), CHECKED_DOMAINS)]
        differences = {name: compare(call, scorer, served, domains) for name, call in called.items()}
        if not max(differences.values()) <= TOLERANCE:
            raise RuntimeError(f"predictions of the exported files differ from those of the run: {differences}")
        latency = {name: measure_latency(call, served, domains[-1]) for name, call in called.items()}
        (staging / SIGNATURE).write_text(json.dumps(signature_of(served), indent=1), encoding="utf-8")
        _replace_folder(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    logger.info("exported run %s to %s", served.run_id, folder)
    return {
        "run_id": served.run_id,
        "folder": str(folder),
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
        "domains": len(scorer.domains),
        "gb": round(gb, 6),
        "rows": ROWS,
        "latency_ms": latency,
        "largest_difference": differences,
    }


def _select_specific(lake: Lake, served: Served, ids: tuple[str, ...]) -> Mapping[int, Change]:
    """theta_i of the named domains, or of all domains that have one."""
    specific = served.specific()
    if not ids:
        return specific
    if served.has_mixed:
        raise MamdrError(
            f"export.domains: run {served.run_id} has a mixed model, which is exported whole: unset export.domains"
        )
    found = lake.read("domains").where(F.col("id").isin(*ids)).select("id", "index").collect()
    index = {row["id"]: row["index"] for row in found}
    if missing := [name for name in ids if index.get(name, -1) not in specific]:
        raise MamdrError(f"export.domains: run {served.run_id} has no theta_i of {', '.join(missing)}: remove them")
    return {index[name]: specific[index[name]] for name in ids}


def _check_size(
    served: Served,
    shared: Shared,
    specific: Mapping[int, Change],
    vectors: Mapping[str, Tensor],
    mixed_bytes: int,
    most: float,
) -> float:
    """Size of the file's parameters in GB; checked against `most`."""
    inputs = declare_inputs(served.config.model, served.features, served.sizes)
    others = shared.tables.keys() - domain_tables(inputs.tables)
    first = next(iter(specific.values()), None)
    if first is not None and (held := others & first.rows.keys()):
        raise MamdrError(
            f"run {served.run_id}: theta_i holds rows of {', '.join(sorted(held))} (train.dr.rows: touched, or "
            f"the method {served.config.train.method}), which cannot be exported: score with jobs/score.py, or "
            "train with train.dr.rows=none"
        )
    tables = sum(table.shape[0] * table.shape[1] * 4 for table in shared.tables.values())
    fixed = sum(vectors_VD.nbytes for vectors_VD in vectors.values())
    gb = (shared.dense.nbytes * (len(specific) + 2) + tables + fixed + mixed_bytes) / 1e9
    if gb > most:
        raise MamdrError(
            f"run {served.run_id} takes {gb:.3g} GB with theta_i of {len(specific)} domains, and export.max_gb is "
            f"{most:g}: raise it, list the domains to include (export.domains), or serve from the package "
            "(docs/serving.md)"
        )
    return gb


def _check_folder(lake: Lake, config: Config, run_id: str) -> Path:
    """The folder to write: new, empty, or an earlier export."""
    if not config.export.folder and "://" in lake.root:
        raise MamdrError(f"lake.root {lake.root} is no local folder: set export.folder")
    folder = Path(config.export.folder or lake.path_of("exports", run_id)).resolve()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / SIGNATURE).is_file())):
        raise MamdrError(
            f"export.folder: {one_line(folder)} holds files that export_model did not write: choose another folder"
        )
    return folder


def _replace_folder(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; an existing folder of that name is removed last."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
