"""The files of an exported run: written for torch and for ONNX, compared with our own predictions, and timed."""

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
"""Rows of a request whose latency is stated."""
CALLS = 200

Call = Callable[[dict[str, Tensor], Tensor], Tensor]
"""A file that has been loaded: (features, domain) to probabilities."""


def write_files(network: ServedNetwork, served: Served, folder: Path, onnx: bool) -> dict[str, Call]:
    """Write model.pt2 and, if asked for, model.onnx, and load them again; by name, what calls them."""
    features, domain = draw_request(served, 8), torch.tensor([0])
    rows = torch.export.Dim("rows", min=1)
    shapes = {"features": {name: {0: rows} for name in features}, "domain": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own code; nothing that a user can mend
        program = torch.export.export(network, (features, domain), dynamic_shapes=shapes)
        torch.export.save(program, folder / TORCH_FILE)
        called: dict[str, Call] = {TORCH_FILE: torch.export.load(folder / TORCH_FILE).module()}
        if onnx:
            called[ONNX_FILE] = _write_onnx(program, [*features, "domain"], folder / ONNX_FILE)
    return called


def _write_onnx(program: ExportedProgram, names: Sequence[str], file: Path) -> Call:
    """Through the exported program; beyond ONNX's 2 GB the values lie in a second file, model.onnx.data."""
    import onnxruntime  # as large as torch's own start, and needed here alone

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
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
    """Features of a request as `ServedNetwork` takes them, some unknown or missing."""
    random = np.random.default_rng(seed)
    lengths = _lengths(served)
    ids = {
        name: torch.from_numpy(random.integers(-1, size + 1, (rows, lengths[name]) if name in lengths else rows))
        for name, size in served.sizes.items()
        if name != "domain"
    }
    for name in lengths:
        ids[name][:: max(2, rows // 3)] = -1  # rows without any
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
    """The largest difference of a probability from ours, over requests in some domains (-1: an unknown one)."""
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
    """Ids of a row by bag and sequence."""
    return {feature.name: feature.length for feature in served.features if feature.has_several_ids}


def _known(index_B: Tensor, size: int) -> Any:
    return torch.where(index_B < size, index_B, -1).int().numpy()


def measure_latency(call: Call, served: Served, domain: int) -> dict[str, float]:
    """Milliseconds of a request of ROWS items in one domain, on one thread: median and p99 of CALLS."""
    features, asked = draw_request(served, ROWS), torch.tensor([domain])
    threads, taken = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(CALLS + 10):
                started = time.perf_counter()
                call(features, asked)
                taken.append((time.perf_counter() - started) * 1e3)
    finally:
        torch.set_num_threads(threads)
    measured = sorted(taken[10:])  # without the first, which warm up
    return {"median": round(statistics.median(measured), 3), "p99": round(measured[int(len(measured) * 0.99)], 3)}


def signature_of(served: Served) -> dict[str, Any]:
    """What a file takes and gives, for whoever serves it."""
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
