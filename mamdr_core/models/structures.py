"""The model structures by name: one file each, one line here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from mamdr_core.features import Feature
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
from mamdr_core.models.settings import ModelSettings
from mamdr_core.models.shared_bottom import SharedBottom
from mamdr_core.models.star import STAR
from mamdr_core.models.tables import Inputs, as_seen, declare_features
from mamdr_core.models.wdl import WDL
from mamdr_core.plugins import Plugin, is_plugin, parse_options

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
    """The inputs of the structure `settings.name`: the declared features, and the tables that hold its weights.

    Args:
        settings: of the model.
        features: the declared features.
        sizes: vocabulary size by id column: "user", "item", "domain" and every categorical feature.

    Raises:
        ValueError: an unknown structure; the known ones are listed.
        MamdrError: a structure of the user's own that cannot be imported, or options that it does not declare.
    """
    inputs = declare_features(settings, features, sizes)
    with torch.device("meta"):  # shapes alone: nothing is drawn, nothing takes memory
        module = _make(settings, as_seen(inputs))
    return replace(inputs, tables=inputs.tables + tables_of(module))


def build_model(settings: ModelSettings, inputs: Inputs, seed: int = 0) -> nn.Module:
    """The structure `settings.name` for these inputs, initialised from `seed`.

    With bags, sequences or projected vectors it is wrapped by what pools and projects them (`PooledStructure`). A
    structure of the user's own is tried on two rows, see `mamdr_core.models.checking.check_structure`.

    Raises:
        ValueError: an unknown name, the known ones are listed; or inputs that lack tables of the structure.
        MamdrError: a structure of the user's own that cannot be imported or does not return a logit for each row, or
            options that it does not declare.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _make(settings, as_seen(inputs))
        if any(table.length or table.project for table in inputs.tables):
            module = PooledStructure(module, inputs)
    if missing := [table.name for table in tables_of(module) if table not in inputs.tables]:
        raise ValueError(f"inputs of {settings.name} lack tables {', '.join(missing)}: make them by declare_inputs")
    if is_plugin(settings.name):
        check_structure(settings.name, module, inputs)
    return module


def find_structure(name: str) -> type[nn.Module]:
    """The structure of that name, registered here or of the user's own.

    Raises:
        ValueError: there is none; the known ones are listed.
        MamdrError: one of the user's own cannot be imported, or is no class of `torch.nn.Module`.
    """
    if is_plugin(name):
        found: type[nn.Module] = Plugin("model.name", name).load_class(nn.Module)
        return found
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; known: {', '.join(sorted(MODELS))}")
    return MODELS[name]


def _make(settings: ModelSettings, inputs: Inputs) -> nn.Module:
    """Make a structure of (inputs, settings) or, where its class declares `Options`, of (inputs, settings, options)."""
    structure = find_structure(settings.name)
    options = parse_options("model.options", getattr(structure, "Options", None), settings.options)
    return structure(inputs, settings) if options is None else structure(inputs, settings, options)
