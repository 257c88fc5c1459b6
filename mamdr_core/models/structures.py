"""The model structures by name: one file each, one line here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from mamdr_core.features import Feature
from mamdr_core.models.autoint import AutoInt
from mamdr_core.models.cgc import CGC
from mamdr_core.models.deepfm import DeepFM
from mamdr_core.models.layers import tables_of
from mamdr_core.models.mlp import MLP
from mamdr_core.models.mmoe import MMOE
from mamdr_core.models.neurfm import NeurFM
from mamdr_core.models.ple import PLE
from mamdr_core.models.raw import RAW
from mamdr_core.models.settings import ModelSettings
from mamdr_core.models.shared_bottom import SharedBottom
from mamdr_core.models.star import STAR
from mamdr_core.models.tables import Inputs, declare_features
from mamdr_core.models.wdl import WDL

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "wdl": WDL,
    "neurfm": NeurFM,
    "autoint": AutoInt,
    "deepfm": DeepFM,
    "shared_bottom": SharedBottom,
    "mmoe": MMOE,
    "cgc": CGC,
    "ple": PLE,
    "star": STAR,
    "raw": RAW,
}


def declare_inputs(settings: ModelSettings, features: Sequence[Feature], sizes: Mapping[str, int]) -> Inputs:
    """The inputs of the structure `settings.name`: the declared features, and the tables that hold its weights.

    Args:
        settings: of the model.
        features: the declared features.
        sizes: vocabulary size by id column: "user", "item", "domain" and every categorical feature.

    Raises:
        ValueError: an unknown structure; the known ones are listed.
    """
    inputs = declare_features(settings, features, sizes)
    with torch.device("meta"):  # shapes alone: nothing is drawn, nothing takes memory
        module = _find(settings.name)(inputs, settings)
    return replace(inputs, tables=inputs.tables + tables_of(module))


def build_model(settings: ModelSettings, inputs: Inputs, seed: int = 0) -> nn.Module:
    """The structure `settings.name` for these inputs, initialised from `seed`.

    Raises:
        ValueError: an unknown name, the known ones are listed; or inputs that lack tables of the structure.
    """
    structure = _find(settings.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = structure(inputs, settings)
    if missing := [table.name for table in tables_of(module) if table not in inputs.tables]:
        raise ValueError(f"inputs of {settings.name} lack tables {', '.join(missing)}: make them by declare_inputs")
    return module


def _find(name: str) -> type[nn.Module]:
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; known: {', '.join(sorted(MODELS))}")
    return MODELS[name]
