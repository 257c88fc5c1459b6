"""The registry of model structures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.models.adasparse import AdaSparse
from mamdr_core.models.autoint import AutoInt
from mamdr_core.models.cgc import CGC
from mamdr_core.models.checking import check_structure
from mamdr_core.models.dcnv2 import DCNv2
from mamdr_core.models.deepfm import DeepFM
from mamdr_core.models.hamur import HAMUR
from mamdr_core.models.layers import tables_of
from mamdr_core.models.m3oe import M3oE
from mamdr_core.models.masknet import MaskNet
from mamdr_core.models.mlp import MLP
from mamdr_core.models.mmoe import MMOE
from mamdr_core.models.neurfm import NeurFM
from mamdr_core.models.pepnet import PEPNet
from mamdr_core.models.ple import PLE
from mamdr_core.models.pooling import PooledStructure
from mamdr_core.models.raw import RAW
from mamdr_core.models.shared_bottom import SharedBottom
from mamdr_core.models.star import STAR
from mamdr_core.models.tables import Inputs, declare_features, projected
from mamdr_core.models.wdl import WDL
from mamdr_core.runtime.plugins import Plugin, is_plugin, parse_options

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
    "dcnv2": DCNv2,
    "masknet": MaskNet,
    "pepnet": PEPNet,
    "adasparse": AdaSparse,
    "hamur": HAMUR,
    "m3oe": M3oE,
}


def declare_inputs(settings: ModelSettings, features: Sequence[Feature], sizes: Mapping[str, int]) -> Inputs:
    """The inputs of the structure `settings.name`: the declared features, and the tables of its weights.

    Args:
        settings: settings of the model.
        features: the declared features.
        sizes: vocabulary size by id column: "user", "item", "domain" and every categorical feature.

    Raises:
        ValueError: the structure is unknown; the message lists the known ones.
        MamdrError: the user's own structure cannot be imported, or does not declare the options.
    """
    inputs = declare_features(settings, features, sizes)
    with torch.device("meta"):  # shapes only: no memory is allocated
        module = _build(settings, projected(inputs))
    return replace(inputs, tables=inputs.tables + tables_of(module))


def build_model(settings: ModelSettings, inputs: Inputs, seed: int = 0) -> nn.Module:
    """Build the structure `settings.name` for these inputs, initialised from `seed`.

    With bags, sequences or projected vectors it is wrapped in a `PooledStructure`. A user's own structure is checked,
    see `mamdr_core.models.checking.check_structure`.

    Raises:
        ValueError: the name is unknown, and the message lists the known ones; or the inputs lack tables of the
            structure.
        MamdrError: the user's own structure cannot be imported, fails the check, or does not declare the options.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _build(settings, projected(inputs))
        if any(table.length or table.project for table in inputs.tables):
            module = PooledStructure(module, inputs)
    if missing := [table.name for table in tables_of(module) if table not in inputs.tables]:
        raise ValueError(f"inputs of {settings.name} lack tables {', '.join(missing)}: create them by declare_inputs")
    if is_plugin(settings.name):
        check_structure(settings.name, module, inputs)
    return module


def find_structure(name: str) -> type[nn.Module]:
    """The registered structure of that name, or the user's own structure.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
        MamdrError: the user's own structure cannot be imported, or is not a subclass of `torch.nn.Module`.
    """
    if is_plugin(name):
        found: type[nn.Module] = Plugin("model.name", name).load_class(nn.Module)
        return found
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; known: {', '.join(sorted(MODELS))}")
    return MODELS[name]


def _build(settings: ModelSettings, inputs: Inputs) -> nn.Module:
    """Call the structure's class with inputs, settings and, if it declares `Options`, options."""
    structure = find_structure(settings.name)
    options = parse_options("model.options", getattr(structure, "Options", None), settings.options)
    return structure(inputs, settings) if options is None else structure(inputs, settings, options)
