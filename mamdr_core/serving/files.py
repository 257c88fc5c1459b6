"""The files of an exported run: written for torch and ONNX, compared with the run's predictions, and timed."""

import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from mamdr_core.serving.network import ServedNetwork
from mamdr_core.serving.scorer import Scorer
from mamdr_core.serving.served import Served
from mamdr_core.shards.filling import standardise
from schemas import weights_of

TORCH_FILE, ONNX_FILE = "model.pt2", "model.onnx"
ROWS = 500
"""Rows of a request whose latency is measured."""
CALLS = 200
"""Measured requests."""

Call = Callable[[dict[str, Tensor], Tensor], Tensor]
"""The function of a loaded file: (features, domain) to probabilities."""


def write_files(network: ServedNetwork, served: Served, folder: Path, onnx: bool) -> dict[str, Call]:
    """Write model.pt2 and, if `onnx`, model.onnx; returns the function of each file, loaded again, by file name."""
    features, domain = draw_request(served, 8), torch.tensor([0])
    rows = torch.export.Dim("rows", min=1)
    shapes = {"features": {name: {0: rows} for name in features}, "domain": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about torch's internals, which users cannot fix
        program = torch.export.export(network, (features, domain), dynamic_shapes=shapes)
        torch.export.save(program, folder / TORCH_FILE)
        called: dict[str, Call] = {TORCH_FILE: torch.export.load(folder / TORCH_FILE).module()}
        if onnx:
            called[ONNX_FILE] = _write_onnx(program, [*features, "domain"], folder / ONNX_FILE)
    return called


def _write_onnx(program: ExportedProgram, names: Sequence[str], file: Path) -> Call:
    """Convert the exported program; above ONNX's limit of 2 GB the values are in a second file, model.onnx.data."""
    import onnxruntime  # slow to import, and needed only here

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not needed
    made = torch.onnx.export(program, dynamo=True, input_names=names, output_names=["score"], verbose=False)
    assert made is not None
    made.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def call(features: dict[str, Tensor], domain: Tensor) -> Tensor:
        (score,) = session.run(None, {name: value.numpy() for name, value in (features | {"domain": domain}).items()})
        return torch.from_numpy(score)

    return call


def draw_request(served: Served, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Random features of a request to `ServedNetwork`, some of them unknown or missing."""
    random = np.random.default_rng(seed)
    lengths = _lengths(served)
    ids = {
        name: torch.from_numpy(random.integers(-1, size + 1, (rows, lengths[name]) if name in lengths else rows))
        for name, size in served.sizes.items()
        if name != "domain"
    }
    for name in lengths:
        ids[name][:: max(2, rows // 3)] = -1  # rows without ids
    weights = {
        weights_of(feature.name): torch.from_numpy(random.random((rows, feature.length), dtype=np.float32))
        for feature in served.features
        if feature.weights
    }
    numeric = {}
    for name, (mean, deviation) in served.numeric.items():
        values = random.normal(mean, deviation, rows).astype(np.float32)
        values[:: max(2, rows // 3)] = np.nan
        numeric[name] = torch.from_numpy(values)
    return {**ids, **weights, **numeric}


def compare(call: Call, scorer: Scorer, served: Served, domains: Sequence[int]) -> float:
    """Largest difference between the probabilities of a file and of the run.

    Args:
        call: the file's function.
        scorer: predicts with the run's parameters.
        served: the run.
        domains: indices of the domains in which requests are drawn; -1 is an unknown domain.
    """
    differences = []
    for domain in domains:
        features = draw_request(served, ROWS, seed=domain + 1)
        indices = {name: _known(features[name], size) for name, size in served.sizes.items() if name != "domain"}
        indices["domain"] = np.full(ROWS, domain, dtype=np.int32)
        numeric = [standardise(features[name].numpy(), *moments) for name, moments in served.numeric.items()]
        numeric_BK = np.stack(numeric, 1).astype(np.float32) if numeric else np.zeros((ROWS, 0), np.float32)
        weights = {
            feature.name: features[weights_of(feature.name)].numpy() * (indices[feature.name] >= 0)
            for feature in served.features
            if feature.weights
        }
        with torch.no_grad():
            difference = call(features, torch.tensor([domain])) - scorer.predict(indices, numeric_BK, weights).sigmoid()
        differences.append(float(difference.abs().max()))
    return max(differences)


def _lengths(served: Served) -> dict[str, int]:
    """The length of each bag and sequence."""
    return {feature.name: feature.length for feature in served.features if feature.has_several_ids}


def _known(index_B: Tensor, size: int) -> Any:
    return torch.where(index_B < size, index_B, -1).int().numpy()


def measure_latency(call: Call, served: Served, domain: int) -> dict[str, float]:
    """Milliseconds of a request of ROWS items in one domain, on one thread: median and p99 of CALLS."""
    features, domain_1 = draw_request(served, ROWS), torch.tensor([domain])
    threads, milliseconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(CALLS + 10):
                started = time.perf_counter()
                call(features, domain_1)
                milliseconds.append((time.perf_counter() - started) * 1e3)
    finally:
        torch.set_num_threads(threads)
    measured = sorted(milliseconds[10:])  # the first calls warm up
    return {"median": round(statistics.median(measured), 3), "p99": round(measured[int(len(measured) * 0.99)], 3)}


def signature_of(served: Served) -> dict[str, Any]:
    """The inputs and outputs of an exported file, as written to signature.json."""
    lengths = _lengths(served)
    ids = {
        name: {
            "type": "int64",
            "shape": ["rows", lengths[name]] if name in lengths else ["rows"],
            "known": f"0 to {size - 1}; any other: {'none' if name in lengths else 'unknown'}",
        }
        for name, size in served.sizes.items()
        if name != "domain"
    }
    weights = {
        weights_of(feature.name): {"type": "float32", "shape": ["rows", feature.length]}
        for feature in served.features
        if feature.weights
    }
    numeric = {name: {"type": "float32", "shape": ["rows"], "missing": "NaN"} for name in served.numeric}
    domain = {"type": "int64", "shape": [1], "known": f"0 to {served.sizes['domain'] - 1}; any other: a new domain"}
    return {
        "run_id": served.run_id,
        "features": {**ids, **weights, **numeric},
        "domain": domain,
        "score": {"type": "float32", "shape": ["rows"], "meaning": "probability of a click"},
    }
