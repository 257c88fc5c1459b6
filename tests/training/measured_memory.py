"""One rank's training in a process that then prints what it needed, by the formula and by the kernel, in bytes.

python -m tests.training.measured_memory replicated|mapped|touched|vectors|statistics
"""

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config
from mamdr_core.config.learning import DRSettings
from mamdr_core.config.models import ModelSettings, STARSettings
from mamdr_core.config.training import CheckpointSettings, TrainSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.memory import keep_freed_memory
from mamdr_core.learning.methods import find_method
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.building import make_learner
from mamdr_core.training.checkpoint.checkpoints import Checkpoints
from mamdr_core.training.choices import Choices
from mamdr_core.training.memory_check import maps_state, shape_of
from mamdr_core.training.rank_memory import rank_memory
from mamdr_core.training.trainer import Trainer

TRAIN = TrainSettings(
    method="dn", batch_size=4096, epochs=1, rounds_per_epoch=4, validate_every=2, engine="eager",
    checkpoint=CheckpointSettings(minutes=0), dr=DRSettings(epochs=2, batch_size=4096, rows="touched"),
    table_memory=1.0,
)  # fmt: skip
MLP = ModelSettings(hidden=(8,))
STAR = ModelSettings(name="star", hidden=(1,), star=STARSettings(auxiliary=(1,), normalization="partitioned"))
RUNS = {  # settings, model, domains, rows, users, width of embeddings, size of trainable vectors of users
    "replicated": (TRAIN, MLP, 10, 100_000, 600_000, 16, 0),
    "mapped": (replace(TRAIN, table_memory=1e-6), MLP, 10, 100_000, 600_000, 16, 0),
    "touched": (replace(TRAIN, method="separate"), MLP, 40, 100_000, 60_000, 64, 0),
    "statistics": (replace(TRAIN, method="joint", batch_size=256), STAR, 24_000, 36_000, 50, 64, 0),
    "vectors": (
        replace(TRAIN, method="separate", dr=replace(TRAIN.dr, epochs=1, rows="none")),
        MLP,
        10,
        10_000,
        600_000,
        4,
        32,
    ),
}


def resident(name: str) -> int:
    """Bytes of VmRSS, of its peak, VmHWM, or of RssAnon: without what is mapped of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


@contextmanager
def peak_of_anonymous() -> Iterator[list[int]]:
    """Sample RssAnon in a block, as the kernel keeps no peak of it; the list's number is the largest."""
    peak, ends = [resident("RssAnon")], threading.Event()

    def sample() -> None:
        while not ends.is_set():
            peak[0] = max(peak[0], resident("RssAnon"))
            time.sleep(0.001)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        ends.set()
        sampler.join()


def random_rows(domains: int, rows: int, users: int) -> Columns:
    """Rows of equal domains."""
    domain = torch.arange(rows) * domains // rows
    ids = {"user": torch.randint(1, users + 1, (rows,)).int(), "item": torch.ones(rows).int()}
    return Columns(
        ids | {"domain": (domain + 1).int()},
        torch.zeros(rows, 0),
        torch.randint(0, 2, (rows,)).float(),
        offsets_of(torch.bincount(domain, minlength=domains)),
    )


def train(
    settings: TrainSettings, model: ModelSettings, domains: int, rows: int, users: int, width: int, size: int
) -> int:
    """Train; returns the bytes that the formula gives."""
    taste = Feature(name="taste", kind="vector", of="user", size=size, path="x", trainable=True) if size else None
    config = Config(train=settings, model=replace(model, embedding_dim=width), features=(taste,) if taste else ())
    columns = {split: random_rows(domains, size, users) for split, size in (("train", rows), ("val", 2000))}
    own, counts = np.ones(domains, dtype=np.bool_), {"train": columns["train"].counts.numpy()}
    sizes = {"user": users, "item": 1, "domain": domains}
    pinned = SimpleNamespace(sizes=sizes, counts=counts, domain_ids=("x",) * domains, numeric={})
    share = SimpleNamespace(
        vectors=lambda trainable: {"taste": torch.rand(users + 1, size)} if taste else {},
        vector_shapes=lambda trainable: {},
    )
    choices = Choices(torch.device("cpu"), "eager")
    one = SingleProcess()
    shape = shape_of(config, pinned, own, np.zeros_like(own), columns, columns["train"], one)
    maps = maps_state(settings, rank_memory(settings, shape, 1e12), choices.device)
    learner = make_learner(config, pinned, own, one, share, columns["train"], choices, maps_state=maps)
    checkpoints = Checkpoints(None, settings.checkpoint, one, StopRequest())
    trainer = Trainer(
        settings, learner, find_method(settings.method), counts["train"], own, one, columns["val"], Arrays(), Clock(),
        checkpoints,
    )  # fmt: skip
    trainer.train()
    needs = rank_memory(settings, shape, 1e12, maps_state=maps)
    print(needs.parts, file=sys.stderr)
    return needs.total


def main() -> None:
    """Print both figures as JSON; a small run first brings in what every process needs."""
    keep_freed_memory()  # as the fast engine does: a quarter of the CPU time
    run = RUNS[sys.argv[1]]
    train(*run[:2], 2, 300, 50, 4, run[-1])
    gc.collect()
    if sys.argv[1] == "mapped":  # what is mapped of files is cache
        before = resident("RssAnon")
        with peak_of_anonymous() as peak:
            needed = train(*run)
        print(json.dumps({"formula": needed, "measured": peak[0] - before}))
        return
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    needed = train(*run)
    print(json.dumps({"formula": needed, "measured": resident("VmHWM") - before}))


if __name__ == "__main__":
    main()
