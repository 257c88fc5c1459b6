"""A run of some domains of production's sizes, trained by the product's Trainer on one rank, timed by part."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from production_shape import inputs_of, with_fixed_vectors
from production_timing import Parts, products_rate, products_seconds

from mamdr_core.config.job_config import Config
from mamdr_core.config.training import CheckpointSettings
from mamdr_core.datasets.world import DAY, draw_rows, make_world
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.fast import FastEngine
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import build_model
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.building import make_store
from mamdr_core.training.checkpoint.checkpoints import CheckpointLocation, Checkpoints
from mamdr_core.training.package import publish_package, save_rank
from mamdr_core.training.trainer import Trainer

BLOCK = 1 << 20
CHECKPOINTS = 5
WARM_UP = 24
"""Domains, about, of the short run before, in which steps are compiled; the largest tenth is left out."""


def draw_columns(config: Config) -> tuple[Columns, Columns]:
    """Training and validation rows of the synthetic log."""
    log, split = config.synthetic, config.examples.split
    world = make_world(log)
    total = int(world.offsets[-1])
    blocks = [draw_rows(world, np.arange(first, min(first + BLOCK, total))) for first in range(0, total, BLOCK)]
    named = ("user", "item", "domain", "label", "time")
    rows = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in named}
    first_day = np.datetime64(log.first_day, "us").astype(np.int64)
    day = (rows["time"] - first_day) // DAY
    val, test = ((each - log.first_day).days for each in (split.val_from, split.test_from))
    return tuple(_columns(rows, np.flatnonzero(part), log.domains) for part in (day < val, (day >= val) & (day < test)))


def _columns(rows: dict[str, np.ndarray], part: np.ndarray, domains: int) -> Columns:
    order = part[np.argsort(rows["domain"][part], kind="stable")]
    ids = {name: torch.from_numpy((rows[name][order] + 1).astype(np.int32)) for name in ("user", "item", "domain")}
    counts = np.bincount(rows["domain"][order], minlength=domains)
    labels = torch.from_numpy(rows["label"][order].astype(np.float32))
    return Columns(ids, torch.zeros(len(order), 0), labels, offsets_of(torch.from_numpy(counts)))


def shortened(config: Config) -> Config:
    """One epoch of theta_S and one pass of DR at most, the fast engine, and checkpoints, the last of them after DR."""
    train = config.train
    stages = train.rounds_per_epoch + 1
    checkpoint = CheckpointSettings(minutes=0, rounds=max(1, stages // CHECKPOINTS), keep=train.checkpoint.keep)
    return replace(
        config, train=replace(train, epochs=1, dr=replace(train.dr, epochs=1), engine="fast", checkpoint=checkpoint)
    )


@dataclass
class Sample:
    """A run on one rank.

    Args:
        config: of the run.
        train, val: rows.
        device: where.
        compiles: run steps through torch.compile.
    """

    config: Config
    train: Columns
    val: Columns
    device: torch.device
    compiles: bool = True

    def __post_init__(self) -> None:
        config, inputs = self.config, inputs_of(self.config)
        settings, method = config.train, find_method(config.train.method)
        module = build_model(config.model, inputs, settings.seed)
        frozen = {table.name: torch.randn(table.rows, table.width) for table in inputs.tables if not table.trainable}
        tuned = (settings.on_nan, settings.precision, settings.group_memory)
        engine = FastEngine(module, inputs.tables, frozen, settings.batch_size, self.device, *tuned, self.compiles)
        shared = initial_shared(module, inputs.tables, settings.seed, self.device)
        self.learner = Learner(
            engine=engine,
            train=self.train,
            supports=None,
            shared=shared,
            specific=make_store(settings, shared.dense, self.train.occupied.tolist()),
            average=partial(mean_change, SingleProcess()),
            settings=method.settle(settings.learning),
            seed=settings.seed,
        )

    def warm_up(self) -> float:
        """Compile, in a run of a few domains that are not too large; returns the seconds."""
        started = time.perf_counter()
        counts = self.train.counts.numpy()
        small = np.argsort(counts)[: max(1, len(counts) * 9 // 10)]
        few = np.isin(np.arange(len(counts)), small[:: max(1, len(counts) // WARM_UP)])
        train, val = (part.take(_rows_of(part, few)) for part in (self.train, self.val))
        own = replace(
            self.learner,
            train=train,
            shared=self.learner.shared.copy(),
            specific=make_store(self.config.train, self.learner.shared.dense, train.occupied.tolist()),
        )
        short = replace(self.config.train, rounds_per_epoch=2)
        self.trainer(own, train, val, None, Parts(Clock()), replace(self.config, train=short)).train()
        self.learner.engine.waited = 0.0
        return time.perf_counter() - started

    def trainer(
        self, learner: Learner, train: Columns, val: Columns, folder: Path | None, parts: Parts, config: Config
    ) -> Trainer:
        """Trains a learner, timed."""
        settings = config.train
        place = CheckpointLocation(str(folder)) if folder else None
        return Trainer(
            settings=settings,
            learner=learner,
            method=replace(find_method(settings.method), **parts.updates()),
            counts_n=train.counts.numpy(),
            owned_n=np.ones(len(train.offsets) - 1, dtype=bool),
            collective=SingleProcess(),
            val=val.to(self.device),
            arrays=Arrays(),
            clock=parts.clock,
            checkpoints=Checkpoints(place, settings.checkpoint, SingleProcess(), StopRequest()),
        )

    def run(self, folder: Path) -> dict[str, object]:
        """Train, and write the package; returns figures."""
        warmed_up = self.warm_up()
        widths = [inputs_of(self.config).width, *self.config.model.hidden, 1]
        full = (1, self.config.train.batch_size)
        rates = [products_rate(full, widths, self.device)]
        parts, learner = Parts(Clock()), self.learner
        trainer = self.trainer(learner, self.train, self.val, folder / "checkpoints", parts, self.config)
        started = time.perf_counter()
        with parts.timing(learner):
            outcome = trainer.train()
        trained = time.perf_counter() - started
        checkpoints = sorted((folder / "checkpoints").iterdir(), key=lambda each: int(each.name))
        with parts.clock.phase("package"):
            saved = save_rank(str(folder / "package"), 0, learner.shared, learner.specific)
            publish_package(str(folder / "package"), str(folder / "complete"), saved, {})
        seconds = dict(parts.clock.seconds)
        rates.append(products_rate(full, widths, self.device))
        return {
            "domains": len(self.train.occupied),
            "rows": {"train": len(self.train), "val": len(self.val), "dn": parts.rows["dn"], "dr": parts.rows["dr"]},
            "largest": int(self.train.counts.max()),
            "warm_up": warmed_up,
            "compiled": dict(parts.compiled),
            "seconds": seconds,
            "waited": dict(parts.waited),
            "trained": trained,
            "rounds": outcome.rounds,
            "passes": outcome.dr_passes,
            "validations": {of: sum(point.phase == of for point in outcome.curve) for of in ("shared", "specific")},
            "aucs": [point.val_auc for point in outcome.curve],
            "parameters": len(learner.shared.dense),
            "steps": {of: sum(shapes.values()) for of, shapes in parts.shapes.items()},
            "padded": {of: sum(g * b * n for (g, b), n in shapes.items()) for of, shapes in parts.shapes.items()},
            "products": {of: products_seconds(shapes, widths, self.device) for of, shapes in parts.shapes.items()},
            "product_rates": rates,
            "theta_i_moved": dict(parts.moved),
            "checkpoints": parts.calls["checkpoint, written in the background"],
            "checkpoint_bytes": _size(checkpoints[-1]) if checkpoints else 0,
            "package_bytes": _size(folder / "complete"),
        }


def _rows_of(columns: Columns, of: np.ndarray) -> torch.Tensor:
    ends = zip(pairwise(columns.offsets.tolist()), of, strict=True)
    return torch.cat([torch.arange(first, last) for (first, last), wanted in ends if wanted])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def run_sample(
    config: Config, device: str, kinds: Sequence[str], compiles: bool = True
) -> dict[str, dict[str, object]]:
    """Runs with trained embeddings and with fixed vectors.

    Args:
        config: production's, of the sample's number of domains.
        device: where.
        kinds: trained, fixed.
        compiles: run steps through torch.compile.
    """
    train, val = draw_columns(config)
    figures = {}
    for kind in kinds:
        own = shortened(config if kind == "trained" else with_fixed_vectors(config))
        with tempfile.TemporaryDirectory(dir=own.train.scratch or None) as folder:
            figures[kind] = Sample(own, train.to(device), val, torch.device(device), compiles).run(Path(folder))
    return figures
