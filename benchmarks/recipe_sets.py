"""The data sets and methods of bench_recipe.py, and the configuration of each.

The seed of a run is that of training. The seed of the generator and of the split is 0 for every run or, for final
figures, 100 + seed, on which no choice was ever made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mamdr_core.config.job_config import Config, load_config, plain_config, with_values

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
FIRST_FINAL_WORLD = 100

SETTINGS: dict[str, Any] = {
    "model.embedding_dim": 16,
    "model.hidden": [64, 32],
    "train.ranks": 1,
    "train.batch_size": 512,
    "train.dr.rows": "touched",
}
"""What all runs have in common, as in conf/recipe.yaml."""

ONE_PASS: dict[str, Any] = {"train.epochs": 1, "train.dr.epochs": 1}
"""Every row is read once by theta_S, and once more by the theta_i of a method that trains them afterwards."""

PRODUCTION_ROWS = 489_852_853
"""Of conf/production.yaml, which its users and items are in proportion to."""


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        conf: its file in conf/.
        values: config keys over the file.
        limits: config keys over those of the method.
        lake: the set whose lake it shares, as its examples are the same; empty: its own.
        plain: the set with the same rows without what this set adds; empty: it adds nothing.
    """

    conf: str
    values: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    lake: str = ""
    plain: str = ""


@dataclass(frozen=True)
class Method:
    """A learning method with its settings.

    Attributes:
        name: train.method.
        values: config keys; only those of `train` and `model`.
        model: model.name.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    model: str = "mlp"


def _vectors(**synthetic: Any) -> DataSet:
    return DataSet("synthetic", {f"synthetic.{key}": value for key, value in synthetic.items()})


def _history(plain: str, values: Mapping[str, Any] | None = None) -> dict[str, DataSet]:
    """Sets with the newest 50 items that the user clicked before the row, in all years: `ds` begins a year there.

    Args:
        plain: the set without it.
        values: config keys of that set.
    """
    kind = {"name": "clicked", "kind": "sequence", "history": True, "table": "item", "length": 50}
    lake = f"{plain}_history"

    def pooled(pooling: str) -> DataSet:
        features = [{**kind, "history_days": 7_300, "pooling": pooling}]
        return DataSet(plain.partition("_")[0], {**(values or {}), "features": features}, lake=lake, plain=plain)

    return {lake: pooled("mean"), f"{lake}_din": pooled("attention")}


def _weighted(conf: str, weight: str) -> DataSet:
    return DataSet(conf, {"input.columns.weight": weight}, plain=conf)


def production_shape(domains: int, rows: int) -> dict[str, Any]:
    """The keys of `synthetic` for conf/production.yaml with fewer rows, and users and items in proportion."""
    shape = plain_config(load_config(str(CONF / "production.yaml")))["synthetic"]
    ids = {of: max(1, round(shape[of] * rows / PRODUCTION_ROWS)) for of in ("users", "items")}
    return {"rows": rows, "domains": domains, "size_spread": 1.5, "ctr": 0.047, **ids}


def _production(domains: int, rows_a_domain: int) -> DataSet:
    shape = production_shape(domains, domains * rows_a_domain)
    values = {f"synthetic.{key}": value for key, value in shape.items()}
    return DataSet("production", {**values, "model.dropout": 0.0}, ONE_PASS)


SETS: dict[str, DataSet] = {
    "amazon5": DataSet("amazon5"),
    "ciao": DataSet("ciao"),
    "ciao_positives": DataSet("ciao_positives"),
    "conflict_0": _vectors(conflict=0.0),
    "conflict_0.5": _vectors(conflict=0.5),
    "conflict_1": _vectors(conflict=1.0),
    "rotated_0.5": _vectors(conflict=0.5, rotate=True),
    "rotated_1": _vectors(conflict=1.0, rotate=True),
    # No model class is the true model (docs/synthetic.md); effects of ids can only be learned from trained ids.
    "mixed_world": DataSet(
        "synthetic",
        {
            "synthetic.rotate": True,
            "synthetic.rank": 2,
            "synthetic.user_effect": 0.5,
            "synthetic.item_effect": 0.5,
            "synthetic.pair_effect": 0.5,
            "synthetic.position_effect": 0.5,
            "model.train_ids": True,
        },
    ),
    "ids_alone": DataSet("synthetic", {"synthetic.vectors": 0, "features": [], "model.train_ids": True}),
    "production_small": _production(domains=69_102, rows_a_domain=50),
    # 18 of 21 days are trained on: 6,079 training rows a domain are about 7,088 rows.
    "production": _production(domains=691, rows_a_domain=7_088),
    # AUC on the next day, under a taste that changes from day to day.
    "days": DataSet(
        "synthetic",
        {
            "synthetic.days": 10,
            "synthetic.drift": 0.05,
            "examples.split": {"kind": "time", "val_from": "2026-01-09", "test_from": "2026-01-10"},
        },
    ),
}
"""By name: the sets that a comparison has unless it names others."""


GIVEN_LOG = "{}_given_log"
"""Folder of a log in --folder with a column `fold`, which given_splits.py writes, by file in conf/."""

GIVEN = {"examples.split.kind": "given", "input.columns.split": "fold"}

VARIANTS: dict[str, DataSet] = {
    # Clicks weigh as much as the rows without a click; and by a column of the log.
    "amazon5_balanced": _weighted("amazon5", "3"),
    "amazon5_weighted": _weighted("amazon5", "overall / 5"),
    "ciao_balanced": _weighted("ciao", "if(score >= 4, 1, 4)"),
    "ciao_weighted": _weighted("ciao", "helpfulness"),
    **_history("amazon5"),
    **_history("ciao"),
    "amazon5_given": DataSet("amazon5", GIVEN),
    "ciao_given": DataSet("ciao", GIVEN),
    **_history("amazon5_given", GIVEN),
    **_history("ciao_given", GIVEN),
}
"""Real logs with weights, histories or given splits, by name; these run only where they are named."""

NAMED_SETS = SETS | VARIANTS
"""All of them, by name."""


def _train_of(conf: str) -> dict[str, Any]:
    """The keys of `train` that a file of conf/ sets, method and ranks aside, by their dotted names."""
    found: dict[str, Any] = {}

    def flatten(prefix: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                flatten(f"{prefix}.{key}", value)
            else:
                found[f"{prefix}.{key}"] = value

    flatten("train", yaml.safe_load((CONF / f"{conf}.yaml").read_text())["train"])
    return {key: value for key, value in found.items() if key not in ("train.method", "train.ranks")}


METHODS: dict[str, Method] = {
    "joint": Method("joint"),
    "joint_products": Method("joint", model="neurfm"),
    "finetune": Method("finetune", {"train.dr.k": 0, "train.dr.gamma": 0.27}),
    "finetune_1": Method("finetune", {"train.dr.k": 0, "train.dr.gamma": 1.0}),
    "alternate": Method("alternate"),
    "dn": Method("dn"),
    "dn_sgd": Method("dn", {"train.outer.optimizer": "sgd", "train.outer.beta": 0.7}),
    "dn_sgd_1": Method("dn", {"train.outer.optimizer": "sgd", "train.outer.beta": 1.0}),
    "dn_nesterov": Method("dn", {"train.outer.optimizer": "nesterov", "train.outer.beta": 0.5}),
    "dn_slices_128": Method("dn", {"train.smallest_slice": 128}),
    "dn_slices_512": Method("dn", {"train.smallest_slice": 512}),
    "dr": Method("dr"),
    "mamdr_paper": Method("mamdr", _train_of("paper")),
    "mamdr": Method("mamdr"),
    "mixed": Method("mixed"),
    "mixed_deepfm": Method("mixed", model="deepfm"),
}
"""By label: the rows of the table."""

OPTIONS: dict[str, dict[str, Any]] = {
    "warmup": {"train.lr_schedule.warmup_rounds": 32},
    "cosine": {"train.lr_schedule.decay": "cosine", "train.lr_schedule.decay_rounds": 512},
    "cosine_192": {"train.lr_schedule.decay": "cosine", "train.lr_schedule.decay_rounds": 192},
    "cosine_both": {
        "train.lr_schedule.decay": "cosine",
        "train.lr_schedule.decay_rounds": 512,
        "train.lr_schedule.rates": "both",
    },
    "clip": {"train.inner.clip_norm": 1.0},
    "clip_0.1": {"train.inner.clip_norm": 0.1},
    "weight_decay": {"train.inner.weight_decay": 0.01},
    "weight_decay_1": {"train.inner.weight_decay": 1.0},
    "embedding_l2": {"train.inner.embedding_l2": 1e-5},
    "embedding_l2_1e-3": {"train.inner.embedding_l2": 1e-3},
    "embedding_l2_1e-2": {"train.inner.embedding_l2": 1e-2},
    "sparse_adagrad": {"train.inner.sparse_optimizer": "adagrad", "train.inner.sparse_lr": 0.02},
    "sparse_lr": {"train.inner.sparse_lr": 3e-3},
    "platt": {"train.calibration": "platt"},
    "isotonic": {"train.calibration": "isotonic"},
}
"""By name: training options, one at a time; the label of a method with one is METHOD+OPTION."""

METHODS_WITH_OPTIONS = {
    f"{label}+{name}": replace(METHODS[label], values={**METHODS[label].values, **values})
    for label in ("joint", "dn", "mamdr", "mixed")
    for name, values in OPTIONS.items()
}
"""Methods with one training option more, by label."""

STRUCTURES: dict[str, Method] = {
    f"{model}_{method}": Method(method, model=model)
    for model in ("dcnv2", "masknet", "pepnet", "adasparse", "hamur", "m3oe", "star", "ple")
    for method in ("joint", "dn", "mixed")
} | {
    f"star_partitioned_{method}": Method(method, {"model.star.normalization": "partitioned"}, "star")
    for method in ("joint", "dn", "mixed")
}
"""Structures under the baseline, DN and the default method, by label; these run only where they are named."""

NAMED = METHODS | METHODS_WITH_OPTIONS | STRUCTURES
"""All of them, by label."""

BASELINE = "joint"


def world_of(seed: int, final: bool) -> int:
    """The seed of the generator and of the split for a run's seed."""
    return FIRST_FINAL_WORLD + seed if final else 0


def config_of(name: str, world: int, scale: float, folder: Path) -> Config:
    """The configuration of a set: its own lake and logs, and settings that all methods have in common.

    Args:
        name: of `NAMED_SETS`.
        world: seed of the generator and of the split.
        scale: share of the rows, domains, users and items of synthetic logs.
        folder: of lakes and logs.
    """
    data = NAMED_SETS[name]
    config = with_values(load_config(str(CONF / f"{data.conf}.yaml")), {**SETTINGS, **data.values})
    own = folder / f"{data.lake or name}-{world}-{scale:g}"
    changes: dict[str, Any] = {"lake.root": str(own / "lake"), "examples.seed": world}
    if config.synthetic is None:
        path = ROOT / config.input.path
        if config.examples.split.kind == "given":
            path = folder / GIVEN_LOG.format(data.conf) / path.name
        return with_values(config, changes | {"input.path": str(path.resolve())})
    changes |= {"input.path": str(own / "raw"), "synthetic.seed": world}
    changes |= {
        f"synthetic.{key}": max(1, round(getattr(config.synthetic, key) * scale))
        for key in ("rows", "domains", "users", "items")
    }
    features = plain_config(config)["features"]
    changes["features"] = [{**each, "path": str(own / "raw_vectors" / f"{each['of']}s")} for each in features]
    return with_values(config, changes)


def waves_of(labels: list[str]) -> list[dict[str, Method]]:
    """Methods by label in groups that one comparison can run, as it knows rows by their model and method alone."""
    waves: list[dict[str, Method]] = []
    for label in labels:
        method = NAMED[label]
        pair = (method.model, method.name)
        free = (wave for wave in waves if pair not in [(each.model, each.name) for each in wave.values()])
        wave = next(free, None)
        if wave is None:
            waves.append(wave := {})
        wave[label] = method
    return waves
