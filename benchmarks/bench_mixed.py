"""The fit of the mixed model at production shape: seconds and memory of EM over 69,102 domains, without Spark.

    .venv/bin/python benchmarks/bench_mixed.py                    # ids alone: w_i is a bias
    .venv/bin/python benchmarks/bench_mixed.py --vectors 16       # w_i of 49 numbers: products, vectors, bias

The log has the shape of conf/production.yaml with fewer rows per domain: log-normal sizes of spread 1.5, users and
items in proportion. Prints the seconds of the fit (directions of products and EM) and of the leave-one-out logits of
all rows, and the peak memory of the process above that of the log itself.
"""

import argparse
import resource
import sys
import time

import numpy as np
import torch
from machine import machine
from recipe_sets import production_shape

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.config.features import Feature
from mamdr_core.config.mixed import MixedSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.datasets.world import draw_rows, make_world, published_vectors
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.models.tables import declare_features
from mamdr_core.parallel.collective import SingleProcess


def main() -> int:
    options = _parse()
    torch.set_num_threads(options.threads)
    log = SyntheticSettings(**production_shape(options.domains, options.rows), vectors=options.vectors)
    columns = _columns(log)
    sizes = {"user": log.users, "item": log.items, "domain": log.domains}
    of = ("user", "item") if options.vectors else ()
    features = tuple(
        Feature(name=f"{each}_vector", kind="vector", of=each, size=options.vectors, path="-") for each in of
    )
    frozen = {f"{each}_vector": _vectors(log, each) for each in of}
    inputs = declare_features(ModelSettings(embedding_dim=16, train_ids=not of), features, sizes)
    before = _peak()
    domains = columns.occupied.tolist()
    model = MixedModel(MixedSettings(), inputs.tables, frozen, inputs.numeric, sizes, domains, SingleProcess())
    started = time.perf_counter()
    sweeps = model.fit(columns)
    fitted = time.perf_counter()
    model.leave_one_out(columns)
    left_out = time.perf_counter()
    seconds = f"fit {fitted - started:.1f} s in {sweeps} sweeps, leave-one-out {left_out - fitted:.1f} s"
    memory = f"parameters {model.nbytes / 1e6:.0f} MB, peak {(_peak() - before) / 1e9:.2f} GB above {before / 1e9:.2f}"
    print(
        f"{len(columns):,} rows, {len(domains):,} domains, {len(model.design)} entries of w_i, {options.threads} "
        f"threads: {seconds}; {memory} ({machine()})"
    )
    return 0


def _columns(log: SyntheticSettings) -> Columns:
    world = make_world(log)
    rows = draw_rows(world, np.arange(int(world.offsets[-1])))
    order = np.argsort(rows.domain, kind="stable")
    ids = {"user": rows.user, "item": rows.item, "domain": rows.domain}
    counts = torch.from_numpy(np.bincount(rows.domain, minlength=log.domains))
    labels = torch.from_numpy(rows.label[order].astype(np.float32))
    indices = {name: torch.from_numpy(each[order].astype(np.int32) + 1) for name, each in ids.items()}
    return Columns(indices, torch.zeros(len(labels), 0), labels, offsets_of(counts))


def _vectors(log: SyntheticSettings, of: str) -> torch.Tensor:
    count = log.users if of == "user" else log.items
    vectors = torch.from_numpy(published_vectors(log, of, np.arange(count)))
    return torch.cat([torch.zeros(1, log.vectors), vectors])


def _peak() -> int:
    """Bytes of this process's peak resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--domains", type=int, default=69_102, help="default: 69,102")
    add("--rows", type=int, default=4_000_000, help="training rows; default: 4,000,000")
    add("--vectors", type=int, default=0, help="numbers of each user's and item's vector; default: 0, none")
    add("--threads", type=int, default=2, help="threads that fit domains; default: 2")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
